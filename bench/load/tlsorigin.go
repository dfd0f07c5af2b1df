package main

// The same upstream behind TLS. crypto/tls wants to block, so each connection has a goroutine; but its bytes come from
// the epoll loop and it runs when the loop steps aside, on the same thread: like the plain upstream it never sleeps.

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// listenTLSOrigin opens it on a free loopback port and returns its address.
func listenTLSOrigin(l *loop, credential []byte, directory string) (string, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "leaf.pem"), filepath.Join(directory, "leaf.key"))
	if err != nil {
		return "", err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	return listenWith(l, func(fd int) error {
		pipe := &loopConn{loop: l, fd: fd, arrived: make(chan struct{}, 1), chunk: make([]byte, 16384)}
		go answerSmall(tls.Server(pipe, config), credential)
		return l.add(fd, pipe)
	})
}

func answerSmall(conn net.Conn, credential []byte) {
	defer conn.Close()
	in, have := make([]byte, 16384), 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		end := bytes.Index(in[:have], headEnd)
		if end < 0 {
			continue
		}
		out := smallAnswer
		if !bytes.Contains(in[:end], credential) {
			out = deniedAnswer
		}
		have = 0
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// loopConn is a net.Conn whose Read waits for the loop. Both run on one thread: no lock.
type loopConn struct {
	loop    *loop
	fd      int
	chunk   []byte
	unread  []byte
	arrived chan struct{}
	ended   bool
}

func (c *loopConn) ready(uint32) error {
	n, err := read(c.fd, c.chunk)
	if err == errAgain {
		return nil
	}
	if err != nil || n == 0 {
		c.ended = true
	} else {
		c.unread = append(c.unread, c.chunk[:n]...)
	}
	c.loop.stepAside = true
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	if c.ended {
		c.loop.remove(c.fd)
	}
	return nil
}

func (c *loopConn) Read(p []byte) (int, error) {
	for len(c.unread) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		<-c.arrived
	}
	n := copy(p, c.unread)
	c.unread = c.unread[:copy(c.unread, c.unread[n:])]
	return n, nil
}

func (c *loopConn) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		if c.ended {
			return sent, io.ErrClosedPipe
		}
		n, err := write(c.fd, p[sent:])
		if err == errAgain {
			runtime.Gosched()
			continue
		}
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func (c *loopConn) Close() error {
	if !c.ended {
		c.ended = true
		c.loop.remove(c.fd)
	}
	return nil
}

func (c *loopConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *loopConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *loopConn) SetDeadline(time.Time) error      { return syscall.ENOSYS }
func (c *loopConn) SetReadDeadline(time.Time) error  { return syscall.ENOSYS }
func (c *loopConn) SetWriteDeadline(time.Time) error { return syscall.ENOSYS }
