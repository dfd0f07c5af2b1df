// Package wire is what the agent and its authority say to each other: JSON over HTTP on a private unix socket.
//
// It stands where SPIRE has its server API (gRPC with mTLS). No test looks at it: the Workload API is what a workload sees.
package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Entry says which SPIFFE ID a caller with all of these selectors gets, and how its JWT-SVIDs are made.
type Entry struct {
	ID        string   `json:"id"`
	SpiffeID  string   `json:"spiffe_id"`
	Selectors []string `json:"selectors"`
	TTL       int64    `json:"jwt_ttl_s"`
	Hint      string   `json:"hint"`
	CreatedAt int64    `json:"created_at"`
}

// Matches reports whether each selector of the entry is among the caller's.
func (e Entry) Matches(caller map[string]bool) bool {
	for _, selector := range e.Selectors {
		if !caller[selector] {
			return false
		}
	}
	return len(e.Selectors) > 0
}

// Order asks for one signature.
type Order struct {
	EntryID  string   `json:"entry_id"`
	Audience []string `json:"audience"`
}

// SVID is a signed token with its bounds in Unix seconds, as the authority counted them.
type SVID struct {
	Token     string `json:"token"`
	IssuedAt  int64  `json:"issued_at"`
	ExpiresAt int64  `json:"expires_at"`
}

// State is all that an agent keeps in step with: the trust domain, its JWKS, the entries.
type State struct {
	TrustDomain string          `json:"trust_domain"`
	Bundle      json.RawMessage `json:"bundle"`
	Entries     []Entry         `json:"entries"`
}

const limitBytes = 1 << 20

// Dial returns a client whose every request goes to the unix socket, on a connection of its own.
func Dial(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(call context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(call, "unix", socket)
		},
	}}
}

// Ask sends one request with a JSON body (nil: none) and decodes the JSON answer into answer (nil: thrown away).
func Ask(call context.Context, client *http.Client, method, path string, body, answer any) error {
	var sent io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(call, method, "http://authority"+path, sent)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, limitBytes))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("authority answered %d: %s", response.StatusCode, strings.TrimSpace(string(read)))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(read, answer)
}
