package main

// The same upstream behind TLS. crypto/tls wants to block, so each connection has a goroutine; but its bytes come from
// the epoll loop and it runs when the loop steps aside, on the same thread: like the plain upstream it never sleeps.

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
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
		go answerTLS(tls.Server(pipe, config), credential)
		return l.add(fd, pipe)
	})
}

// answerTLS answers one request at a time: small, a long download, or a counted upload.
func answerTLS(conn net.Conn, credential []byte) {
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
		head, rest := in[:end], int64(have-end-len(headEnd))
		have = 0
		out, download := smallAnswer, int64(0)
		line := head[:bytes.IndexByte(head, '\r')]
		if !bytes.Contains(head, credential) {
			out = deniedAnswer
		} else if bytes.HasPrefix(line, []byte("POST ")) {
			size := contentLength(head)
			if _, err := io.CopyN(io.Discard, conn, size-rest); err != nil {
				return
			}
			received := fmt.Sprintf(`{"received":%d}`, size)
			out = []byte(answer("200 OK", "application/json", int64(len(received))) + received)
		} else if _, size, found := bytes.Cut(line, []byte("/stream/")); found {
			digits, _, _ := bytes.Cut(size, []byte(" "))
			if download, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
				return
			}
			out = []byte(answer("200 OK", "application/octet-stream", download))
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
		for download > 0 {
			piece := filler[:min(download, int64(len(filler)))]
			if _, err := conn.Write(piece); err != nil {
				return
			}
			download -= int64(len(piece))
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
