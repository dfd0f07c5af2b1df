package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"

	"robin.test/real/spiffe/wire"
)

// vault keeps one JWT-SVID for each SPIFFE ID and set of audiences, and renews it in its second half of life.
type vault struct {
	client *http.Client
	lock   sync.Mutex
	svids  map[string]wire.SVID
}

func newVault(client *http.Client) *vault {
	return &vault{client: client, svids: map[string]wire.SVID{}}
}

// fetch answers from the vault in a token's first half of life, else asks the authority; while that fails, an unexpired old
// token is the answer.
func (v *vault) fetch(call context.Context, entry wire.Entry, audience []string) (string, error) {
	sorted := append([]string(nil), audience...)
	sort.Strings(sorted)
	key := entry.SpiffeID + "\x00" + strings.Join(sorted, "\x00")
	v.lock.Lock()
	held, have := v.svids[key]
	v.lock.Unlock()
	now := time.Now()
	if have && !renewable(held, now) {
		return held.Token, nil
	}
	bounded, cancel := context.WithTimeout(call, rpcTimeout)
	defer cancel()
	var fresh wire.SVID
	err := wire.Ask(bounded, v.client, http.MethodPost, "/sign", wire.Order{EntryID: entry.ID, Audience: audience}, &fresh)
	switch {
	case err == nil:
		v.lock.Lock()
		v.svids[key] = fresh
		v.lock.Unlock()
		return fresh.Token, nil
	case !have:
		return "", fmt.Errorf("failed to fetch JWT SVID: %w", err)
	case expired(held, now):
		return "", fmt.Errorf("unable to renew JWT for %q (err=%w)", entry.SpiffeID, err)
	default:
		log.Printf("Unable to renew JWT; returning cached copy: %v", err)
		return held.Token, nil
	}
}

func expired(svid wire.SVID, now time.Time) bool {
	return !now.Before(time.Unix(svid.ExpiresAt, 0))
}

func renewable(svid wire.SVID, now time.Time) bool {
	begin, end := time.Unix(svid.IssuedAt, 0), time.Unix(svid.ExpiresAt, 0)
	return end.Sub(now) <= end.Sub(begin)/2
}
