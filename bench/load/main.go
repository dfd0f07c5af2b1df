// Command load is both ends of a measured proxy, in one thread: it sends the requests and it is the upstream.
//
// One thread, because both ends share one core and must leave the proxy as the only bottleneck: an epoll loop that
// serves the upstream's sockets between two writes of the caller's needs no context switch of its own, and it can
// spin for exact send times without starving the upstream.
//
// It reads one order (a JSON line) at a time from standard input and answers each with one JSON line.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
)

// order is one line of standard input.
type order struct {
	Op      string  `json:"op"`      // closed, open, download, upload, hold, release, first, tokens
	Target  string  `json:"target"`  // host:port of the proxy, or of the upstream itself
	Direct  bool    `json:"direct"`  // send the real credential: nobody in between will add it
	Conns   int     `json:"conns"`   // caller connections
	Rate    int     `json:"rate"`    // open: requests per second
	Seconds float64 `json:"seconds"` // closed, open: how long; first: how long to keep trying
	Sleeps  bool    `json:"sleeps"`  // closed: let the core go idle while there is nothing to do
	Varied  bool    `json:"varied"`  // closed: no head is the same twice
	Bytes   int64   `json:"bytes"`   // download, upload: body size
	// Behind a forward proxy:
	Others []string `json:"others"` // closed, absolute: replicas of the proxy; connections are spread over it and them
	Via    string   `json:"via"`    // absolute, connect, bridge; "": the target is a sidecar
	Origin string   `json:"origin"` // host:port that is asked for
	More   []string `json:"more"`   // bridge: further ones, in turn
	Fresh  bool     `json:"fresh"`  // bridge: a new connection for each request
	CA     string   `json:"ca"`     // bridge: the file with the proxy's CA
}

func main() {
	pki := flag.String("pki", "", "write a CA, a certificate for 127.0.0.1 and a token into this directory, and end")
	tlsDir := flag.String("tls", "", "directory with the TLS upstream's certificate")
	workloadAPI := flag.String("workload-api", "", "serve only a SPIFFE Workload API on this Unix socket")
	token := flag.String("token", "", "file with the credential every request must bring to the upstream")
	flag.Parse()
	var err error
	switch {
	case *pki != "":
		err = writePKI(*pki)
	case *workloadAPI != "":
		err = serveWorkloadAPI(*workloadAPI, readCredential(*token))
	default:
		runtime.GOMAXPROCS(1)
		err = obey(readCredential(*token), *tlsDir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// readCredential returns the Authorization value that proves a proxy did its work.
func readCredential(path string) []byte {
	raw, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "load: --token:", err)
		os.Exit(2)
	}
	return []byte("Bearer " + strings.TrimSpace(string(raw)))
}

// obey carries out orders until standard input ends.
func obey(credential []byte, tlsDir string) error {
	turns, err := newLoop()
	if err != nil {
		return err
	}
	address, err := listenOrigin(turns, credential)
	if err != nil {
		return err
	}
	tlsAddress, err := listenTLSOrigin(turns, credential, tlsDir)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.Encode(map[string]string{"upstream": address, "tls_upstream": tlsAddress})
	rig := &rig{loop: turns, credential: string(credential)}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		result, err := rig.carryOut(o)
		if err != nil {
			result = map[string]any{"error": err.Error()}
		}
		out.Encode(result)
	}
	return lines.Err()
}

// rig is what outlives one order: the loop, the credential, and the connections of the last hold.
type rig struct {
	loop       *loop
	credential string
	held       []*caller
}

func (r *rig) carryOut(o order) (map[string]any, error) {
	if o.Target != "" {
		if _, err := net.ResolveTCPAddr("tcp4", o.Target); err != nil {
			return nil, err
		}
	}
	switch {
	case o.Via == viaConnect && o.Op == "closed":
		return r.tunnels(o)
	case o.Via == viaConnect && o.Op == "download":
		return r.throughTunnel(o)
	case o.Via == viaConnect && o.Op == "hold":
		return r.holdTunnels(o)
	case o.Via == viaBridge && o.Op == "closed":
		return r.bridges(o)
	case o.Via == viaBridge && o.Op == "download":
		return r.throughBridge(o)
	}
	switch o.Op {
	case "tokens":
		return map[string]any{"tokens": tokens}, nil
	case "closed":
		return r.closed(o)
	case "open":
		return r.open(o)
	case "download":
		return r.download(o)
	case "upload":
		return r.upload(o)
	case "hold":
		return r.hold(o)
	case "release":
		return r.release()
	case "first":
		return r.first(o)
	}
	return nil, fmt.Errorf("unknown op %q", o.Op)
}
