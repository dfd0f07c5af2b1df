package main

// The upstream: small answers, long downloads, counted uploads; 401 to a request without the injected credential.

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// listenOrigin opens the upstream on a free loopback port and returns its address.
func listenOrigin(l *loop, credential []byte) (string, error) {
	return listenWith(l, func(fd int) error {
		return l.add(fd, &originConn{loop: l, credential: credential, fd: fd, in: make([]byte, 16384)})
	})
}

// listenWith has welcome called with each accepted socket.
func listenWith(l *loop, welcome func(fd int) error) (string, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return "", err
	}
	door := &door{fd: int(file.Fd()), welcome: welcome, kept: []any{file, listener}}
	if err := syscall.SetNonblock(door.fd, true); err != nil {
		return "", err
	}
	return listener.Addr().String(), l.add(door.fd, door)
}

// door accepts; it keeps the listener's Go owners, whose finalizers would close it.
type door struct {
	fd      int
	welcome func(fd int) error
	kept    []any
}

func (d *door) ready(uint32) error {
	for {
		fd, _, err := syscall.Accept4(d.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err == syscall.EAGAIN {
			return nil
		}
		if err != nil {
			return err
		}
		if err := prepare(fd); err != nil {
			return err
		}
		if err := d.welcome(fd); err != nil {
			return err
		}
	}
}

// originConn is one proxy connection; it is reading a head, dropping an upload, or writing a download.
type originConn struct {
	loop       *loop
	credential []byte
	fd         int
	in         []byte
	have       int
	upload     int64 // bytes still to drop
	uploaded   int64 // bytes of this upload in all
	download   int64 // bytes still to write
	out        []byte
	replier    *replier // once a changing answer was asked for
	reply      []byte   // what it answers when the upload is in
}

// A token endpoint: whatever it is asked, the answer is the credential.
const tokenPath = " /oauth/token "

var tokens int // how many were given out

func tokenAnswer(credential []byte) []byte {
	body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, bytes.TrimPrefix(credential, []byte("Bearer ")))
	return []byte(answer("200 OK", "application/json", int64(len(body))) + body)
}

var filler = make([]byte, 256<<10)

func (c *originConn) ready(events uint32) error {
	if events&syscall.EPOLLOUT != 0 {
		return c.pump()
	}
	var n int
	var err error
	if c.upload > 0 {
		n, err = discard(c.fd, c.upload)
	} else {
		n, err = read(c.fd, c.in[c.have:])
	}
	if err == errAgain {
		return nil
	}
	if err != nil || n == 0 {
		c.loop.remove(c.fd) // the proxy's right: an idle connection may close
		return nil
	}
	if c.upload > 0 {
		return c.drop(int64(n))
	}
	c.have += n
	return c.head()
}

func (c *originConn) head() error {
	end := bytes.Index(c.in[:c.have], headEnd)
	if end < 0 {
		if c.have == len(c.in) {
			return fmt.Errorf("upstream got a head over %d bytes", len(c.in))
		}
		return nil
	}
	head, rest := c.in[:end], int64(c.have-end-len(headEnd))
	c.have = 0
	line := head[:bytes.IndexByte(head, '\r')]
	if bytes.Contains(line, []byte(tokenPath)) {
		tokens++
		c.uploaded, c.reply = contentLength(head), tokenAnswer(c.credential)
		c.upload = c.uploaded
		return c.drop(rest)
	}
	if !bytes.Contains(head, c.credential) {
		return c.send(deniedAnswer, 0)
	}
	if bytes.Contains(line, []byte(varies)) {
		if c.replier == nil {
			c.replier = newReplier()
		}
		reply, err := c.replier.reply(head)
		if err != nil {
			return err
		}
		if line[0] == 'G' {
			return c.send(reply, 0)
		}
		c.reply = reply
	}
	if bytes.HasPrefix(head, []byte("POST ")) {
		c.uploaded = contentLength(head)
		if c.uploaded < 0 {
			return fmt.Errorf("upstream got an upload without Content-Length: %.80q", head)
		}
		c.upload = c.uploaded
		return c.drop(rest)
	}
	if _, size, found := bytes.Cut(line, []byte("/stream/")); found {
		digits, _, _ := bytes.Cut(size, []byte(" "))
		n, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			return err
		}
		return c.send([]byte(answer("200 OK", "application/octet-stream", n)), n)
	}
	return c.send(smallAnswer, 0)
}

func (c *originConn) drop(n int64) error {
	if c.upload -= n; c.upload > 0 {
		return nil
	}
	if c.reply != nil {
		reply := c.reply
		c.reply = nil
		return c.send(reply, 0)
	}
	received := fmt.Sprintf(`{"received":%d}`, c.uploaded)
	return c.send([]byte(answer("200 OK", "application/json", int64(len(received)))+received), 0)
}

func (c *originConn) send(head []byte, download int64) error {
	n, err := write(c.fd, head)
	if err == nil && n == len(head) && download == 0 {
		return nil // the whole answer in one call: every small request
	}
	if err != nil && err != errAgain {
		c.loop.remove(c.fd)
		return nil
	}
	c.out, c.download = head[n:], download
	return c.pump()
}

// pump writes until the socket is full, and asks to be called again while anything is left.
func (c *originConn) pump() error {
	for len(c.out) > 0 || c.download > 0 {
		piece := c.out
		if len(piece) == 0 {
			piece = filler[:min(c.download, int64(len(filler)))]
		}
		n, err := write(c.fd, piece)
		if err == errAgain {
			return c.loop.want(c.fd, syscall.EPOLLOUT)
		}
		if err != nil {
			c.loop.remove(c.fd)
			return nil
		}
		if len(c.out) > 0 {
			c.out = c.out[n:]
		} else {
			c.download -= int64(n)
		}
	}
	return c.loop.want(c.fd, syscall.EPOLLIN)
}
