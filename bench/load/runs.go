package main

// The orders: closed loop, open loop, streams, idle connections, first answer.

import (
	"fmt"
	"math/rand"
	"slices"
	"time"
)

const placeholder = "Bearer unused"

func now() int64 { return int64(time.Since(started)) }

var started = time.Now()

func (r *rig) authorization(o order) string {
	if o.Direct {
		return r.credential
	}
	return placeholder
}

func (r *rig) callers(o order, done func(*caller) error) ([]*caller, error) {
	target, host := place(o, "/v1/models/bench-small")
	get := request("GET", target, host, r.authorization(o), "")
	all := make([]*caller, 0, o.Conns)
	for number := range o.Conns {
		address := o.Target
		if replica := number % (len(o.Others) + 1); replica > 0 {
			address = o.Others[replica-1]
		}
		c, err := newCaller(r.loop, address, get, done)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		if o.Varied {
			c.asker = newAsker(number, o.Target, r.authorization(o))
		}
		all = append(all, c)
	}
	return all, nil
}

func closeAll(all []*caller) {
	for _, c := range all {
		c.close()
	}
}

// closed keeps every connection busy: the next request leaves when the answer is in. It measures capacity.
func (r *rig) closed(o order) (map[string]any, error) {
	requests, spent := 0, make([]int64, 0, 1<<20)
	all, err := r.callers(o, func(c *caller) error {
		requests++
		t := now()
		spent = append(spent, t-c.sentAt)
		return c.send(t)
	})
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	r.loop.sleeps = o.Sleeps
	defer func() { r.loop.sleeps = false }()
	begin := now()
	end := begin + int64(o.Seconds*1e9)
	for _, c := range all {
		if err := c.send(now()); err != nil {
			return nil, err
		}
	}
	for now() < end {
		if err := r.loop.step(); err != nil {
			return nil, err
		}
	}
	took := float64(now()-begin) / 1e9
	if requests < o.Conns {
		return nil, fmt.Errorf("only %d answers on %d connections in %.1f s", requests, o.Conns, took)
	}
	answer := quantiles(spent)
	answer["requests"], answer["seconds"] = requests, took
	return answer, nil
}

// open sends on a schedule that knows nothing of the answers (Poisson, the same one for every proxy), and counts
// each latency from the instant the request was due: a stall is charged to every request it delays.
func (r *rig) open(o order) (map[string]any, error) {
	gaps := rand.New(rand.NewSource(1))
	spent := make([]int64, 0, int(float64(o.Rate)*o.Seconds*1.2)+1024)
	var idle []*caller
	var due []int64 // requests whose time came while every connection was busy
	all, err := r.callers(o, func(c *caller) error {
		spent = append(spent, now()-c.sentAt)
		if len(due) > 0 {
			at := due[0]
			due = due[1:]
			return c.send(at)
		}
		idle = append(idle, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	idle = append(idle, all...)
	begin := now()
	end := begin + int64(o.Seconds*1e9)
	sent := 0
	for next := begin; next < end; {
		for t := now(); next <= t && next < end; next += int64(gaps.ExpFloat64() * 1e9 / float64(o.Rate)) {
			sent++
			if len(idle) == 0 {
				due = append(due, next)
				continue
			}
			c := idle[len(idle)-1]
			idle = idle[:len(idle)-1]
			if err := c.send(next); err != nil {
				return nil, err
			}
		}
		if err := r.loop.step(); err != nil {
			return nil, err
		}
	}
	if err := r.loop.until(func() bool { return len(spent) == sent }, 20*time.Second); err != nil {
		return nil, fmt.Errorf("%d of %d answered: %w", len(spent), sent, err)
	}
	answer := quantiles(spent)
	answer["requests"], answer["seconds"] = sent, o.Seconds
	return answer, nil
}

// quantiles gives p50, p99 and the maximum in microseconds.
func quantiles(spent []int64) map[string]any {
	slices.Sort(spent)
	at := func(q float64) float64 { return float64(spent[int(q*float64(len(spent)-1))]) / 1e3 }
	return map[string]any{"p50_us": at(0.50), "p99_us": at(0.99), "max_us": at(1)}
}

func (r *rig) download(o order) (map[string]any, error) {
	return r.stream(o, request("GET", fmt.Sprintf("/stream/%d", o.Bytes), o.Target, r.authorization(o), ""), 0)
}

func (r *rig) upload(o order) (map[string]any, error) {
	more := fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", o.Bytes)
	return r.stream(o, request("POST", "/v1/files", o.Target, r.authorization(o), more), o.Bytes)
}

// stream carries one exchange with one long body.
func (r *rig) stream(o order, head []byte, upload int64) (map[string]any, error) {
	finished := false
	c, err := newCaller(r.loop, o.Target, head, func(*caller) error { finished = true; return nil })
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.upload = upload
	begin := now()
	if err := c.send(begin); err != nil {
		return nil, err
	}
	if err := r.loop.until(func() bool { return finished }, 5*time.Minute); err != nil {
		return nil, err
	}
	return map[string]any{"bytes": o.Bytes, "seconds": float64(now()-begin) / 1e9}, nil
}

// hold opens connections, has one request answered on each, and leaves them open and idle.
func (r *rig) hold(o order) (map[string]any, error) {
	answered := 0
	one := o
	one.Conns = 1
	for range o.Conns {
		was := answered
		c, err := r.callers(one, func(*caller) error { answered++; return nil })
		if err != nil {
			return nil, err
		}
		r.held = append(r.held, c...)
		if err := c[0].send(now()); err != nil {
			return nil, err
		}
		if err := r.loop.until(func() bool { return answered > was }, 10*time.Second); err != nil {
			return nil, err
		}
	}
	return map[string]any{"held": len(r.held)}, nil
}

func (r *rig) release() (map[string]any, error) {
	closeAll(r.held)
	r.held = nil
	return map[string]any{"held": 0}, nil
}

// first tries once a millisecond until the target answers a request with 200.
func (r *rig) first(o order) (map[string]any, error) {
	var last error
	o.Conns = 1
	for deadline := now() + int64(o.Seconds*1e9); now() < deadline; time.Sleep(time.Millisecond) {
		answered := false
		all, err := r.callers(o, func(*caller) error { answered = true; return nil })
		if err == nil {
			if err = all[0].send(now()); err == nil {
				err = r.loop.until(func() bool { return answered }, 5*time.Second)
			}
			closeAll(all)
		}
		if err == nil {
			return map[string]any{"answered": true}, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no answer in %.0f s: %w", o.Seconds, last)
}
