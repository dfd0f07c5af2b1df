package main

// The epoll loop: level-triggered, one thread, raw system calls that skip the Go scheduler.

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// endpoint is one socket's owner; ready is called when the loop sees events for it.
type endpoint interface{ ready(events uint32) error }

type loop struct {
	epoll  int
	owners []endpoint // by file descriptor
	events [256]syscall.EpollEvent
	sleeps bool
	// Set once a TLS connection was fed: its goroutine runs only when the loop lets it.
	stepAside bool
}

var errAgain = errors.New("would block")

func newLoop() (*loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &loop{epoll: fd, owners: make([]endpoint, 65536)}, err
}

func (l *loop) add(fd int, owner endpoint) error {
	l.owners[fd] = owner
	return syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

func (l *loop) want(fd int, events uint32) error {
	return syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_MOD, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *loop) remove(fd int) {
	if l.owners[fd] != nil {
		l.owners[fd] = nil
		syscall.Close(fd)
	}
}

// turn waits at most timeoutMs (0 = only look) and lets every ready owner act.
func (l *loop) turn(timeoutMs int) error {
	r, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])),
		uintptr(len(l.events)), uintptr(timeoutMs), 0, 0)
	n, err := result(r, e)
	if err == errAgain {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range l.events[:n] {
		event := &l.events[i]
		if owner := l.owners[event.Fd]; owner != nil {
			if err := owner.ready(event.Events); err != nil {
				return err
			}
		}
	}
	return nil
}

// step is one turn of a running measurement. As a rule it never sleeps: to wake a sleeping core costs whoever writes to
// it many microseconds (in a virtual machine above all), and a slow proxy would pay that on each write while a fast one,
// which keeps us busy, would not. An order may ask for the other way: then it sleeps whenever there is nothing to do.
func (l *loop) step() error {
	timeoutMs := 0
	if l.sleeps {
		timeoutMs = 100
	}
	err := l.turn(timeoutMs)
	if l.stepAside {
		runtime.Gosched()
	}
	return err
}

// until turns the loop till done says so; it gives up after limit without the end in sight.
func (l *loop) until(done func() bool, limit time.Duration) error {
	for deadline := time.Now().Add(limit); !done(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("no end within %s", limit)
		}
		if err := l.step(); err != nil {
			return err
		}
	}
	return nil
}

// read returns 0 at the end of the stream and errAgain when there is nothing now.
func read(fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, e)
}

// discard drops up to limit received bytes inside the kernel, so that counting a stream costs no copy.
func discard(fd int, limit int64) (int, error) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), 0, uintptr(min(limit, 1<<20)), syscall.MSG_TRUNC, 0, 0)
	return result(n, e)
}

func write(fd int, p []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return result(n, e)
}

func result(n uintptr, e syscall.Errno) (int, error) {
	switch e {
	case 0:
		return int(n), nil
	case syscall.EAGAIN, syscall.EINTR:
		return 0, errAgain
	}
	return 0, e
}

// dial connects a non-blocking socket to host:port on IPv4.
func dial(target string) (int, error) {
	address, err := net.ResolveTCPAddr("tcp4", target)
	if err != nil {
		return 0, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	peer := &syscall.SockaddrInet4{Port: address.Port}
	copy(peer.Addr[:], address.IP.To4())
	if err := syscall.Connect(fd, peer); err != nil {
		syscall.Close(fd)
		return 0, err
	}
	return fd, prepare(fd)
}

func prepare(fd int) error {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	return syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
}
