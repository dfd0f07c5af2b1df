package main

// The caller's end behind a forward proxy: absolute-form requests, CONNECT tunnels, and TLS inside of a CONNECT.
//
// Tunnels are raw sockets of the epoll loop, as all other callers. What speaks TLS has a goroutine each, fed by the
// loop on the one thread, as the TLS upstream is.

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"
)

const (
	viaAbsolute = "absolute" // the target is a whole URL
	viaConnect  = "connect"  // a tunnel for each connection
	viaBridge   = "bridge"   // TLS inside of a tunnel, which the proxy opens
	roomForHead = 16384
)

// place is the target and the Host of a request for path.
func place(o order, path string) (string, string) {
	if o.Via == viaAbsolute {
		return "http://" + o.Origin + path, o.Origin
	}
	if o.Origin != "" {
		return path, o.Origin
	}
	return path, o.Target
}

func connectHead(origin string) []byte {
	return []byte("CONNECT " + origin + " HTTP/1.1\r\nHost: " + origin + "\r\nUser-Agent: bench\r\n\r\n")
}

// accepted reads the answer to a CONNECT; done when its head is whole.
func accepted(in []byte) (done bool, err error) {
	end := bytes.Index(in, headEnd)
	if end < 0 {
		return false, nil
	}
	if line := in[:bytes.IndexByte(in, '\r')]; !bytes.Contains(line, []byte(" 200")) {
		return false, fmt.Errorf("CONNECT was refused: %.200q", in)
	}
	if end+len(headEnd) != len(in) {
		return false, fmt.Errorf("bytes behind the answer to a CONNECT: %.200q", in)
	}
	return true, nil
}

// opener asks for a tunnel and gives its socket away when it is there.
type opener struct {
	loop *loop
	fd   int
	in   []byte
	then func(fd int) error
}

func (p *opener) ready(uint32) error {
	piece := make([]byte, 4096)
	n, err := read(p.fd, piece)
	if err == errAgain {
		return nil
	}
	if err != nil || n == 0 {
		return fmt.Errorf("the proxy closed a CONNECT (read: %d, %v)", n, err)
	}
	p.in = append(p.in, piece[:n]...)
	done, err := accepted(p.in)
	if err != nil || !done {
		return err
	}
	return p.then(p.fd)
}

func (r *rig) openTunnel(o order, then func(fd int) error) (int, error) {
	fd, err := dial(o.Target)
	if err != nil {
		return 0, err
	}
	if err := r.loop.add(fd, &opener{loop: r.loop, fd: fd, then: then}); err != nil {
		return 0, err
	}
	head := connectHead(o.Origin)
	if n, err := write(fd, head); err != nil || n != len(head) {
		return 0, fmt.Errorf("caller cannot write a CONNECT (%d, %v)", n, err)
	}
	return fd, nil
}

// inTunnel is a caller on a socket whose tunnel is open.
func (r *rig) inTunnel(fd int, request []byte, done func(*caller) error) *caller {
	c := &caller{loop: r.loop, fd: fd, request: request, done: done, in: make([]byte, roomForHead), left: -1}
	r.loop.owners[fd] = c
	return c
}

// tunnels opens one tunnel after the other on each of its places, with one request in each.
func (r *rig) tunnels(o order) (map[string]any, error) {
	count, spent := 0, make([]int64, 0, 1<<18)
	get := request("GET", "/v1/models/bench-small", o.Origin, r.credential, "")
	open := map[int]bool{}
	end := now() + int64(o.Seconds*1e9)
	var again func() error
	again = func() error {
		if now() >= end {
			return nil
		}
		began := now()
		fd, err := r.openTunnel(o, func(fd int) error {
			return r.inTunnel(fd, get, func(c *caller) error {
				count++
				spent = append(spent, now()-began)
				delete(open, c.fd)
				c.close()
				return again()
			}).send(now())
		})
		if err == nil {
			open[fd] = true
		}
		return err
	}
	defer func() {
		for fd := range open {
			r.loop.remove(fd)
		}
	}()
	begin := now()
	for range o.Conns {
		if err := again(); err != nil {
			return nil, err
		}
	}
	if err := r.loop.until(func() bool { return now() >= end && len(open) == 0 }, time.Duration(o.Seconds*1e9)+20*time.Second); err != nil {
		return nil, err
	}
	if count < o.Conns {
		return nil, fmt.Errorf("only %d tunnels", count)
	}
	answer := quantiles(spent)
	answer["requests"], answer["seconds"] = count, float64(now()-begin)/1e9
	return answer, nil
}

// throughTunnel carries one long body down a tunnel.
func (r *rig) throughTunnel(o order) (map[string]any, error) {
	finished, opened := false, int64(0)
	head := request("GET", fmt.Sprintf("/stream/%d", o.Bytes), o.Origin, r.credential, "")
	fd, err := r.openTunnel(o, func(fd int) error {
		opened = now()
		return r.inTunnel(fd, head, func(*caller) error { finished = true; return nil }).send(opened)
	})
	if err != nil {
		return nil, err
	}
	defer r.loop.remove(fd)
	if err := r.loop.until(func() bool { return finished }, 5*time.Minute); err != nil {
		return nil, err
	}
	return map[string]any{"bytes": o.Bytes, "seconds": float64(now()-opened) / 1e9}, nil
}

// holdTunnels opens tunnels and leaves them idle, after one request in each.
func (r *rig) holdTunnels(o order) (map[string]any, error) {
	get := request("GET", "/v1/models/bench-small", o.Origin, r.credential, "")
	for range o.Conns {
		answered := false
		_, err := r.openTunnel(o, func(fd int) error {
			c := r.inTunnel(fd, get, func(*caller) error { answered = true; return nil })
			r.held = append(r.held, c)
			return c.send(now())
		})
		if err != nil {
			return nil, err
		}
		if err := r.loop.until(func() bool { return answered }, 20*time.Second); err != nil {
			return nil, err
		}
	}
	return map[string]any{"held": len(r.held)}, nil
}

// bridged is the caller's end of TLS that a proxy opens: the requests of one connection after the other.
type bridged struct {
	rig     *rig
	order   order
	origins []string // taken in turn
	config  *tls.Config
	pipe    *loopConn
	conn    *tls.Conn
	head    []byte // the request, for the origin of this connection
	in      []byte
}

func (r *rig) newBridged(o order, number int) (*bridged, error) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, err
	}
	roots.AppendCertsFromPEM(pem)
	origins := append([]string{o.Origin}, o.More...)
	for range number % len(origins) {
		origins = append(origins[1:], origins[0])
	}
	return &bridged{rig: r, order: o, origins: origins, config: &tls.Config{RootCAs: roots}, in: make([]byte, 256<<10)}, nil
}

// open connects, asks for the tunnel and makes the handshake with the proxy's own certificate.
func (b *bridged) open() error {
	origin := b.origins[0]
	b.origins = append(b.origins[1:], origin)
	fd, err := dial(b.order.Target)
	if err != nil {
		return err
	}
	b.pipe = &loopConn{loop: b.rig.loop, fd: fd, arrived: make(chan struct{}, 1), chunk: make([]byte, 16384)}
	if err := b.rig.loop.add(fd, b.pipe); err != nil {
		return err
	}
	if _, err := b.pipe.Write(connectHead(origin)); err != nil {
		return err
	}
	for have := 0; ; {
		n, err := b.pipe.Read(b.in[have:roomForHead])
		if err != nil {
			return fmt.Errorf("the proxy closed a CONNECT: %w", err)
		}
		have += n
		done, err := accepted(b.in[:have])
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	authorization := placeholder
	if b.order.Direct {
		authorization = b.rig.credential
	}
	path := "/v1/models/bench-small"
	if b.order.Bytes > 0 {
		path = fmt.Sprintf("/stream/%d", b.order.Bytes)
	}
	b.head = request("GET", path, origin, authorization, "")
	config := b.config.Clone()
	config.ServerName = origin[:bytes.LastIndexByte([]byte(origin), ':')]
	b.conn = tls.Client(b.pipe, config)
	return b.conn.Handshake()
}

func (b *bridged) close() {
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	} else if b.pipe != nil {
		b.pipe.Close()
	}
}

// exchange sends one request and reads its whole response; it returns the length of the body.
func (b *bridged) exchange() (int64, error) {
	if _, err := b.conn.Write(b.head); err != nil {
		return 0, err
	}
	have, left, length := 0, int64(-1), int64(0)
	for left != 0 {
		n, err := b.conn.Read(b.in[have:])
		if err != nil {
			return 0, fmt.Errorf("the proxy closed a bridge: %w", err)
		}
		if left < 0 {
			have += n
			end := bytes.Index(b.in[:have], headEnd)
			if end < 0 {
				continue
			}
			if !bytes.HasPrefix(b.in[:end], []byte("HTTP/1.1 200 ")) {
				return 0, fmt.Errorf("not a 200: %.300q", b.in[:have])
			}
			if length = contentLength(b.in[:end]); length < 0 {
				return 0, fmt.Errorf("no Content-Length: %.300q", b.in[:have])
			}
			left, n, have = length, have-end-len(headEnd), 0
		}
		if left -= int64(n); left < 0 {
			return 0, fmt.Errorf("%d bytes after the response", -left)
		}
	}
	return length, nil
}

// bridges keeps every place busy, with requests on one connection or, if the order says so, on a new one each.
func (r *rig) bridges(o order) (map[string]any, error) {
	count, running, ended := 0, 0, false
	spent := make([]int64, 0, 1<<18)
	var failed error
	all := make([]*bridged, 0, o.Conns)
	for number := range o.Conns {
		b, err := r.newBridged(o, number)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	fail := func(err error) { // the first one counts: those that follow come of the end
		if failed == nil {
			failed = err
		}
	}
	begin := now()
	end := begin + int64(o.Seconds*1e9)
	r.loop.stepAside = true
	for _, b := range all {
		running++
		go func() {
			defer func() { b.close(); running-- }()
			for now() < end && failed == nil {
				at := now()
				if b.conn == nil {
					if err := b.open(); err != nil {
						fail(err)
						return
					}
				}
				if _, err := b.exchange(); err != nil {
					fail(err)
					return
				}
				if o.Fresh {
					b.close()
				}
				if now() < end {
					count++
					spent = append(spent, now()-at)
				}
			}
			ended = true
		}()
	}
	for (now() < end || !ended) && failed == nil {
		if err := r.loop.step(); err != nil {
			fail(err)
		}
	}
	took := float64(min(now(), end)-begin) / 1e9
	for _, b := range all {
		if failed != nil && b.pipe != nil {
			b.pipe.Close()
			select {
			case b.pipe.arrived <- struct{}{}:
			default:
			}
		}
	}
	if err := r.loop.until(func() bool { return running == 0 }, 20*time.Second); err != nil && failed == nil {
		failed = err
	}
	if failed != nil {
		return nil, failed
	}
	if count < o.Conns {
		return nil, fmt.Errorf("only %d answers on %d places in %.1f s", count, o.Conns, took)
	}
	answer := quantiles(spent)
	answer["requests"], answer["seconds"] = count, took
	return answer, nil
}

// throughBridge carries one long body down a bridge.
func (r *rig) throughBridge(o order) (map[string]any, error) {
	b, err := r.newBridged(o, 0)
	if err != nil {
		return nil, err
	}
	finished, opened, failed := false, int64(0), error(nil)
	r.loop.stepAside = true
	go func() {
		defer func() { b.close(); finished = true }()
		if failed = b.open(); failed == nil {
			opened = now()
			_, failed = b.exchange()
		}
	}()
	if err := r.loop.until(func() bool { return finished }, 5*time.Minute); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	return map[string]any{"bytes": o.Bytes, "seconds": float64(now()-opened) / 1e9}, nil
}
