package main

// Heads that are never the same twice, as SDKs and their upstreams write them: ids, lengths and counters change in
// place, in text laid out once, so that a changing head costs the load hardly more than a repeated one.
//
// The upstream echoes the caller's request id, and the caller looks for it in the answer: a proxy that remembers
// heads and mixes up two of them fails its turn.

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

const (
	varies       = "/v1/threads/" // a target with this in it is answered with a changing head
	idMark       = "req_"
	longest      = 900 // bytes of body: a length has three digits
	shortest     = 200
	getsPerPost  = 3
	fewestLeft   = 1000 // of the rate limit, so that the field always has four digits
	rateLimit    = 10000
	dateLayout   = "Mon, 02 Jan 2006 15:04:05 GMT"
	hexDigits    = "0123456789abcdef"
	idDigits     = "########################"
	uuidDigits   = "########-####-####-####-############"
	parentDigits = "00-################################-################-01"
)

// random is splitmix64: enough for ids that do not repeat.
type random uint64

// What lasts longer than a connection, without a lock: there is one thread.
var (
	seeds   random // no order repeats the ids of the one before
	lengths random
	replies int // one account, one rate limit
)

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill writes hexadecimal digits.
func (r *random) fill(places [][]byte) {
	for _, place := range places {
		for i, bits := 0, uint64(0); i < len(place); i, bits = i+1, bits>>4 {
			if i&15 == 0 {
				bits = r.next()
			}
			place[i] = hexDigits[bits&15]
		}
	}
}

func (r *random) between(least, most int) int { return least + int(r.next()%uint64(most-least+1)) }

// message is one head with the places in it that change, and the longest body it may have.
type message struct {
	text   []byte
	head   int      // its length
	ids    [][]byte // the runs of #
	id     []byte   // the request's id
	length []byte
}

func newMessage(lines ...string) *message {
	text := []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
	m := &message{head: len(text)}
	m.text = append(text, `{"role":"user","content":"`...)
	m.text = append(m.text, strings.Repeat("tell me more ", longest/13)...)
	head := m.text[:m.head]
	for i := 0; i < len(head); i++ {
		begin := i
		for head[i] == '#' {
			i++
		}
		if i > begin {
			m.ids = append(m.ids, head[begin:i])
		}
	}
	if at := bytes.Index(head, []byte(idMark)); at >= 0 {
		m.id = head[at : at+len(idMark)+len(idDigits)]
	}
	m.length = m.after("Content-Length: ", 3)
	return m
}

// after is the place of a field's value; nil when there is no such field.
func (m *message) after(name string, length int) []byte {
	at := bytes.Index(m.text[:m.head], []byte(name))
	if at < 0 {
		return nil
	}
	return m.text[at+len(name) : at+len(name)+length]
}

// sized returns the message with so many bytes of body.
func (m *message) sized(body int) []byte {
	decimal(m.length, body)
	return m.text[:m.head+body]
}

// decimal fills all of place.
func decimal(place []byte, n int) {
	for i := len(place) - 1; i >= 0; i-- {
		place[i] = byte('0' + n%10)
		n /= 10
	}
}

// asker writes one connection's requests: three GETs, one POST, and again.
type asker struct {
	random random
	turn   int
	get    *message
	post   *message
	sent   *message
}

func newAsker(number int, host, authorization string) *asker {
	every := []string{
		"Host: " + host,
		"Accept: application/json",
		"Accept-Encoding: gzip, deflate",
		"Connection: keep-alive",
		"User-Agent: OpenAI/Python 1.51.0",
		"X-Stainless-Lang: python",
		"X-Stainless-Package-Version: 1.51.0",
		"traceparent: " + parentDigits,
		"X-Request-Id: " + idMark + idDigits,
		"Authorization: " + authorization,
	}
	target := varies + "thread_" + idDigits + "/messages"
	get := append([]string{"GET " + target + "?limit=20 HTTP/1.1"}, every...)
	post := append([]string{"POST " + target + " HTTP/1.1"}, every...)
	post = append(post, "Idempotency-Key: stainless-python-retry-"+uuidDigits, "Content-Type: application/json", "Content-Length: 000")
	return &asker{random: random(seeds.next()), turn: number, get: newMessage(get...), post: newMessage(post...)}
}

func (a *asker) next() []byte {
	a.turn++
	a.sent = a.get
	if a.turn%(getsPerPost+1) == 0 {
		a.sent = a.post
	}
	a.random.fill(a.sent.ids)
	if a.sent == a.get {
		return a.get.text[:a.get.head]
	}
	return a.post.sized(a.random.between(shortest, longest-1))
}

// replier writes one upstream connection's answers.
type replier struct {
	*message
	date, spent, left []byte
	second            int64
}

func newReplier() *replier {
	m := newMessage(
		"HTTP/1.1 200 OK",
		"Date: "+dateLayout,
		"Content-Type: application/json",
		"Content-Length: 000",
		"Server: bench",
		"Cache-Control: no-store",
		"X-Request-Id: "+idMark+idDigits,
		"OpenAI-Processing-Ms: 000",
		fmt.Sprint("X-RateLimit-Limit-Requests: ", rateLimit),
		"X-RateLimit-Remaining-Requests: 0000",
		"Strict-Transport-Security: max-age=31536000",
	)
	return &replier{
		message: m, date: m.after("Date: ", len(dateLayout)),
		spent: m.after("Processing-Ms: ", 3), left: m.after("Remaining-Requests: ", 4),
	}
}

// reply answers the request with this head; it errs when the head has lost its id.
func (r *replier) reply(head []byte) ([]byte, error) {
	at := bytes.Index(head, []byte(idMark))
	if at < 0 || len(head) < at+len(r.id) {
		return nil, fmt.Errorf("upstream got a request without its id: %.300q", head)
	}
	copy(r.id, head[at:])
	if second := now() / 1e9; second != r.second {
		r.second = second
		copy(r.date, time.Now().UTC().Format(dateLayout))
	}
	replies++
	decimal(r.left, rateLimit-1-replies%(rateLimit-fewestLeft))
	decimal(r.spent, lengths.between(100, 999))
	return r.sized(lengths.between(shortest, longest-1)), nil
}
