package main

import (
	"context"
	"log"
	"net/http"
	"sort"
	"sync"
	"time"

	"robin.test/real/spiffe/wire"
)

// rpcTimeout is SPIRE's for a call from the agent to its server.
const rpcTimeout = 30 * time.Second

// mirror is the agent's copy of the authority's state, as of the last sync that worked.
type mirror struct {
	client  *http.Client
	every   time.Duration
	lock    sync.Mutex
	current wire.State
	changed chan struct{}
}

func newMirror(client *http.Client, every time.Duration) *mirror {
	return &mirror{client: client, every: every, changed: make(chan struct{})}
}

// untilFirstSync tries for ever: the Workload API is not served before. It is false when the agent was told to stop first.
func (m *mirror) untilFirstSync(call context.Context) bool {
	for m.sync(call) != nil {
		if !m.pause(call) {
			return false
		}
	}
	return true
}

func (m *mirror) run(call context.Context) {
	for m.pause(call) {
		_ = m.sync(call)
	}
}

func (m *mirror) pause(call context.Context) bool {
	select {
	case <-time.After(m.every):
		return true
	case <-call.Done():
		return false
	}
}

func (m *mirror) sync(call context.Context) error {
	bounded, cancel := context.WithTimeout(call, rpcTimeout)
	defer cancel()
	var fresh wire.State
	if err := wire.Ask(bounded, m.client, http.MethodGet, "/state", nil, &fresh); err != nil {
		log.Printf("Synchronize failed: %v", err)
		return err
	}
	sort.Slice(fresh.Entries, func(i, j int) bool { return fresh.Entries[i].ID < fresh.Entries[j].ID })
	m.lock.Lock()
	defer m.lock.Unlock()
	m.current = fresh
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

// look tells the state, and the channel that closes when there is a later one.
func (m *mirror) look() (wire.State, <-chan struct{}) {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.current, m.changed
}

// matching lists the caller's entries by entry ID; of those that share a hint only the oldest.
func (m *mirror) matching(selectors map[string]bool) []wire.Entry {
	state, _ := m.look()
	var found []wire.Entry
	oldest := map[string]wire.Entry{}
	for _, entry := range state.Entries {
		if !entry.Matches(selectors) {
			continue
		}
		found = append(found, entry)
		held, seen := oldest[entry.Hint]
		if !seen || entry.CreatedAt < held.CreatedAt {
			oldest[entry.Hint] = entry
		}
	}
	var kept []wire.Entry
	for _, entry := range found {
		if entry.Hint == "" || oldest[entry.Hint].ID == entry.ID {
			kept = append(kept, entry)
		}
	}
	return kept
}
