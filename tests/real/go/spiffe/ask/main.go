// Command spiffe-ask is the official Go client on the command line, as `spire-agent api` is: one question, one JSON answer.
//
//	spiffe-ask fetch  -socket unix:///path -audience A [-spiffe-id ID]    the JWT-SVIDs that the Workload API gives this process
//	spiffe-ask bundle -socket unix:///path                                the JWT bundles by trust domain
//	spiffe-ask verify -bundle FILE -trust-domain T -audience A < token    what go-spiffe makes of a token, offline
//	spiffe-ask judge -bundle FILE -trust-domain T -audience A < tokens    the same for one token a line, one JSON line each, until EOF
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// seen is one JWT-SVID as the official library reads it.
type seen struct {
	SpiffeID string         `json:"spiffe_id"`
	Token    string         `json:"token"`
	Hint     string         `json:"hint"`
	Audience []string       `json:"audience"`
	Expiry   int64          `json:"expiry"`
	Claims   map[string]any `json:"claims"`
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("say fetch, bundle, verify or judge"))
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	socket := flags.String("socket", "", "address of the Workload API, unix:///path or tcp://IP:port")
	audience := flags.String("audience", "", "audience")
	spiffeID := flags.String("spiffe-id", "", "ask for this identity only")
	bundleFile := flags.String("bundle", "", "JWKS file")
	trustDomain := flags.String("trust-domain", "", "trust domain of the bundle")
	timeout := flags.Duration("timeout", 10*time.Second, "deadline")
	_ = flags.Parse(os.Args[2:])
	call, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	var answer any
	var err error
	switch os.Args[1] {
	case "fetch":
		answer, err = fetch(call, *socket, *audience, *spiffeID)
	case "bundle":
		answer, err = bundle(call, *socket)
	case "verify":
		answer, err = verify(*bundleFile, *trustDomain, *audience)
	case "judge":
		if err := judge(*bundleFile, *trustDomain, *audience); err != nil {
			fail(err)
		}
		return
	default:
		err = fmt.Errorf("%q is none of fetch, bundle, verify, judge", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

// fail says the error on stderr, its gRPC code first where it has one ("Unknown" elsewhere).
func fail(err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", status.Code(err), err)
	os.Exit(1)
}

func fetch(call context.Context, socket, audience, spiffeID string) ([]seen, error) {
	params := jwtsvid.Params{Audience: audience}
	if spiffeID != "" {
		id, err := spiffeid.FromString(spiffeID)
		if err != nil {
			return nil, err
		}
		params.Subject = id
	}
	svids, err := workloadapi.FetchJWTSVIDs(call, params, workloadapi.WithAddr(socket))
	if err != nil {
		return nil, err
	}
	found := []seen{}
	for _, svid := range svids {
		found = append(found, look(svid))
	}
	return found, nil
}

func bundle(call context.Context, socket string) (map[string]json.RawMessage, error) {
	set, err := workloadapi.FetchJWTBundles(call, workloadapi.WithAddr(socket))
	if err != nil {
		return nil, err
	}
	found := map[string]json.RawMessage{}
	for _, one := range set.Bundles() {
		encoded, err := one.Marshal()
		if err != nil {
			return nil, err
		}
		found[one.TrustDomain().Name()] = encoded
	}
	return found, nil
}

func verify(file, trustDomain, audience string) (seen, error) {
	keys, err := load(file, trustDomain)
	if err != nil {
		return seen{}, err
	}
	token, err := io.ReadAll(bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)))
	if err != nil {
		return seen{}, err
	}
	svid, err := jwtsvid.ParseAndValidate(strings.TrimSpace(string(token)), keys, []string{audience})
	if err != nil {
		return seen{}, err
	}
	return look(svid), nil
}

// verdict is seen, or why not.
type verdict struct {
	Error string `json:"error,omitempty"`
	*seen
}

// judge reads the bundle file again before each token, so a rotated key is known as soon as the file has it.
func judge(file, trustDomain, audience string) error {
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		keys, err := load(file, trustDomain)
		if err != nil {
			return err
		}
		var answer verdict
		svid, err := jwtsvid.ParseAndValidate(lines.Text(), keys, []string{audience})
		if err == nil {
			one := look(svid)
			answer.seen = &one
		} else {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func load(file, trustDomain string) (*jwtbundle.Bundle, error) {
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, err
	}
	return jwtbundle.Load(domain, file)
}

func look(svid *jwtsvid.SVID) seen {
	return seen{
		SpiffeID: svid.ID.String(),
		Token:    svid.Marshal(),
		Hint:     svid.Hint,
		Audience: svid.Audience,
		Expiry:   svid.Expiry.Unix(),
		Claims:   svid.Claims,
	}
}
