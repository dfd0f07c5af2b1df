// Go's net/http as a program uses it: the default client and BASE_URL, nothing else. One JSON object a line for each step.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"time"
)

var base = os.Getenv("BASE_URL")

func tell(step string, got any) {
	line, err := json.Marshal(map[string]any{"step": step, "got": got})
	must(err)
	fmt.Println(string(line))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, []byte) {
	request, err := http.NewRequest(method, base+path, body)
	must(err)
	request.Header.Set("Authorization", "Bearer "+os.Getenv("PLACEHOLDER"))
	if change != nil {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	must(err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	must(err)
	return response, content
}

type echo struct {
	Target   string      `json:"target"`
	Fields   [][2]string `json:"fields"`
	Trailers [][2]string `json:"trailers"`
	Body     struct {
		Bytes  int    `json:"bytes"`
		Sha256 string `json:"sha256"`
	} `json:"body"`
}

func echoed(method, path string, body io.Reader, change func(*http.Request)) echo {
	_, content := ask(method, path, body, change)
	var seen echo
	must(json.Unmarshal(content, &seen))
	return seen
}

// endless gives bytes for as long as they are read, one reader at a time.
type endless struct{ left int }

func (e *endless) Read(into []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	count := min(len(into), e.left)
	for at := range into[:count] {
		into[at] = byte(at)
	}
	e.left -= count
	return count, nil
}

func bodies() {
	tell("get", echoed("GET", "/echo?x=%2F", nil, nil).Target)
	whole := bytes.Repeat([]byte("go"), 1_500_000)
	sum := sha256.Sum256(whole)
	posted := echoed("POST", "/echo", bytes.NewReader(whole), nil)
	tell("post", []any{posted.Body.Bytes, posted.Body.Sha256 == hex.EncodeToString(sum[:])})
	tell("chunked", echoed("PUT", "/echo", &endless{left: 5_000_000}, nil).Body.Bytes)
	trailed := echoed("POST", "/echo", io.NopCloser(strings.NewReader("summed")), func(request *http.Request) {
		request.Trailer = http.Header{"X-Sum": {"7"}}
		request.ContentLength = -1
	})
	tell("trailers up", trailed.Trailers)
	response, content := ask("GET", "/trailers", nil, nil)
	tell("trailers down", []string{string(content), response.Trailer.Get("X-Sum")})
	_, plain := ask("GET", "/gzip", nil, nil)
	tell("gzip", string(plain[:11]))
	_, large := ask("GET", "/large", nil, nil)
	tell("large", len(large))
	_, rest := ask("GET", "/until-close", nil, nil)
	tell("until close", len(rest))
	part, middle := ask("GET", "/large", nil, func(request *http.Request) { request.Header.Set("Range", "bytes=10-19") })
	tell("range", []any{part.StatusCode, hex.EncodeToString(middle)})
	head, none := ask("HEAD", "/large", nil, nil)
	tell("head", []any{head.ContentLength, len(none)})
	tell("redirect", echoed("POST", "/redirect?status=307&to=/echo%3Fmoved", strings.NewReader("again"), nil).Target)
	unchanged, _ := ask("GET", "/status?is=304", nil, nil)
	tell("bodiless", unchanged.StatusCode)
}

func expectations() {
	var got []int
	trace := &httptrace.ClientTrace{
		Got100Continue: func() { got = append(got, 100) },
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { got = append(got, code); return nil },
	}
	traced := func(request *http.Request) {
		*request = *request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
	}
	http.DefaultTransport.(*http.Transport).ExpectContinueTimeout = 30 * time.Second
	seen := echoed("PUT", "/echo", &endless{left: 100_000}, func(request *http.Request) {
		traced(request)
		request.Header.Set("Expect", "100-continue")
	})
	tell("expect", []any{got, seen.Body.Bytes})
	got = nil
	ask("GET", "/hints", nil, traced)
	tell("hints", got)
	// Less than the 16 MiB that a lingering close takes: what is sent beyond that may meet a reset that overtakes the response.
	refused, why := ask("PUT", "/refuse-early", &endless{left: 10_000_000}, nil)
	tell("early", []any{refused.StatusCode, string(why)})
}

func connections() {
	reused := 0
	trace := &httptrace.ClientTrace{GotConn: func(conn httptrace.GotConnInfo) {
		if conn.Reused {
			reused++
		}
	}}
	for range 20 {
		ask("GET", "/echo", nil, func(request *http.Request) {
			*request = *request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
		})
	}
	tell("reused", reused >= 19)
	var waiting sync.WaitGroup
	right := make([]bool, 100)
	for number := range right {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			target := fmt.Sprintf("/echo?%d", number)
			right[number] = echoed("GET", target, nil, nil).Target == target
		}()
	}
	waiting.Wait()
	all := true
	for _, one := range right {
		all = all && one
	}
	tell("concurrent", all)
}

func streams() {
	_, paused := ask("GET", "/paused", nil, nil)
	tell("paused", string(paused))
	leaving, leave := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(leaving, "GET", base+"/endless", nil)
	must(err)
	response, err := http.DefaultClient.Do(request)
	must(err)
	count, err := io.ReadFull(response.Body, make([]byte, 100_000))
	must(err)
	leave()
	response.Body.Close()
	tell("left", count)
	last, _ := ask("GET", "/echo", nil, nil)
	tell("last", last.StatusCode)
}

func main() {
	bodies()
	expectations()
	connections()
	streams()
}
