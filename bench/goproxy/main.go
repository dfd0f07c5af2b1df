// Command goproxy is what a Go programmer would write instead of Robin: httputil.ReverseProxy, a token file read on
// every request, an Authorization header set, and one JSON access line per exchange.
//
// Tuned as an attentive author would: keep-alive to the upstream wide enough for the load, pooled copy buffers,
// no coalescing timer on streams, a buffered log.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on")
	upstream := flag.String("upstream", "", "URL of the upstream")
	tokenFile := flag.String("token-file", "", "file with the bearer token")
	caFile := flag.String("ca-file", "", "PEM bundle that replaces the system roots")
	accessLog := flag.String("access-log", "/dev/null", "file for the access log")
	flag.Parse()

	target, err := url.Parse(*upstream)
	check(err)
	sink, err := os.OpenFile(*accessLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	check(err)
	transport := &http.Transport{
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, DisableCompression: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	if *caFile != "" {
		roots := x509.NewCertPool()
		pem, err := os.ReadFile(*caFile)
		check(err)
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    &buffers{sync.Pool{New: func() any { return make([]byte, 64<<10) }}},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			token, err := os.ReadFile(*tokenFile)
			if err != nil {
				r.Out.Header.Del("Authorization")
				return
			}
			r.Out.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
		},
	}
	check(http.ListenAndServe(*listen, logged(proxy, newLines(sink))))
}

func check(err error) {
	if err != nil {
		log.Fatal("goproxy: ", err)
	}
}

// buffers lends copy buffers, so that a request does not allocate one.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return b.pool.Get().([]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(p) } //nolint:staticcheck // the interface wants a slice

// logged writes one line per exchange.
func logged(next http.Handler, to *lines) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &answer{ResponseWriter: w, status: 200}
		next.ServeHTTP(seen, r)
		to.exchange(start, r, seen)
	})
}

type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) { a.status = status; a.ResponseWriter.WriteHeader(status) }
func (a *answer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// lines is a buffered JSON log that is flushed once a second.
type lines struct {
	mu  sync.Mutex
	out *bufio.Writer
	row []byte
}

func newLines(f *os.File) *lines {
	l := &lines{out: bufio.NewWriterSize(f, 64<<10)}
	go func() {
		for range time.Tick(time.Second) {
			l.mu.Lock()
			l.out.Flush()
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *lines) exchange(start time.Time, r *http.Request, seen *answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := append(l.row[:0], `{"ts":"`...)
	row = start.UTC().AppendFormat(row, time.RFC3339Nano)
	row = append(row, `","event":"exchange","method":`...)
	row = strconv.AppendQuote(row, r.Method)
	row = append(row, `,"path":`...)
	row = strconv.AppendQuote(row, r.URL.Path)
	row = append(row, `,"status":`...)
	row = strconv.AppendInt(row, int64(seen.status), 10)
	row = append(row, `,"bytes_out":`...)
	row = strconv.AppendInt(row, seen.bytes, 10)
	row = append(row, `,"duration_s":`...)
	row = strconv.AppendFloat(row, time.Since(start).Seconds(), 'f', 6, 64)
	l.row = append(row, "}\n"...)
	l.out.Write(l.row)
}
