package main

// The caller's end of one connection: one request out, one whole response back, then its owner is told.

import (
	"bytes"
	"fmt"
	"syscall"
)

type caller struct {
	loop    *loop
	fd      int
	request []byte
	asker   *asker              // writes each request anew; nil: the same one again and again
	done    func(*caller) error // called at the end of each response
	in      []byte
	have    int
	left    int64 // response body bytes still to come; -1 while reading the head
	out     []byte
	upload  int64 // request body bytes still to write
	sentAt  int64 // nanoseconds; in the open loop the time the request was due, not the time it left
}

func newCaller(l *loop, target string, request []byte, done func(*caller) error) (*caller, error) {
	fd, err := dial(target)
	if err != nil {
		return nil, err
	}
	c := &caller{loop: l, fd: fd, request: request, done: done, in: make([]byte, 16384), left: -1}
	return c, l.add(fd, c)
}

func (c *caller) close() { c.loop.remove(c.fd) }

// send starts the next request; at is when it is deemed to start.
func (c *caller) send(at int64) error {
	c.sentAt = at
	if c.asker != nil {
		c.request = c.asker.next()
	}
	n, err := write(c.fd, c.request)
	if err == nil && n == len(c.request) && c.upload == 0 {
		return nil
	}
	if err != nil && err != errAgain {
		return fmt.Errorf("caller cannot write: %w", err)
	}
	c.out = c.request[n:]
	return c.pump()
}

func (c *caller) pump() error {
	for len(c.out) > 0 || c.upload > 0 {
		piece := c.out
		if len(piece) == 0 {
			piece = filler[:min(c.upload, int64(len(filler)))]
		}
		n, err := write(c.fd, piece)
		if err == errAgain {
			return c.loop.want(c.fd, syscall.EPOLLIN|syscall.EPOLLOUT)
		}
		if err != nil {
			return fmt.Errorf("caller cannot write: %w", err)
		}
		if len(c.out) > 0 {
			c.out = c.out[n:]
		} else {
			c.upload -= int64(n)
		}
	}
	return c.loop.want(c.fd, syscall.EPOLLIN)
}

func (c *caller) ready(events uint32) error {
	if events&syscall.EPOLLOUT != 0 {
		if err := c.pump(); err != nil {
			return err
		}
	}
	if events&^syscall.EPOLLOUT == 0 {
		return nil
	}
	var n int
	var err error
	if c.left > int64(len(c.in)) {
		n, err = discard(c.fd, c.left)
	} else {
		n, err = read(c.fd, c.in[c.have:])
	}
	if err == errAgain {
		return nil
	}
	if err != nil || n == 0 {
		return fmt.Errorf("the proxy closed a caller's connection (read: %d, %v)", n, err)
	}
	if c.left < 0 {
		return c.head(n)
	}
	return c.body(int64(n))
}

func (c *caller) head(n int) error {
	c.have += n
	end := bytes.Index(c.in[:c.have], headEnd)
	if end < 0 {
		return nil
	}
	head := c.in[:end]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("not a 200: %.300q", c.in[:c.have])
	}
	if c.asker != nil && !bytes.Contains(head, c.asker.sent.id) {
		return fmt.Errorf("the answer to another request than %s: %.300q", c.asker.sent.id, head)
	}
	if c.left = contentLength(head); c.left < 0 {
		return fmt.Errorf("no Content-Length: %.300q", head)
	}
	rest := int64(c.have - end - len(headEnd))
	c.have = 0
	return c.body(rest)
}

func (c *caller) body(n int64) error {
	if c.left -= n; c.left > 0 {
		return nil
	}
	if c.left < 0 {
		return fmt.Errorf("%d bytes after the response", -c.left)
	}
	c.left = -1
	return c.done(c)
}
