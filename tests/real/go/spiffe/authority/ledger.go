package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"robin.test/real/spiffe/wire"
)

type (
	entry = wire.Entry
	order = wire.Order
)

// defaultTTL is SPIRE's for JWT-SVIDs.
const defaultTTL = 5 * time.Minute

// written is the file: entries, keys in PKCS#8 by key ID, and which of them signs.
type written struct {
	Entries map[string]entry  `json:"entries"`
	Keys    map[string][]byte `json:"keys"`
	Signing string            `json:"signing"`
}

// ledger is the file in memory, and the only door to it.
type ledger struct {
	path        string
	trustDomain spiffeid.TrustDomain
	lock        sync.Mutex
	written     written
	keys        map[string]*ecdsa.PrivateKey
}

func openLedger(path, trustDomain string) (*ledger, error) {
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, err
	}
	l := &ledger{
		path:        path,
		trustDomain: domain,
		written:     written{Entries: map[string]entry{}, Keys: map[string][]byte{}},
		keys:        map[string]*ecdsa.PrivateKey{},
	}
	read, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, err = l.rotate()
		return l, err
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(read, &l.written); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for kid, der := range l.written.Keys {
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("%s: key %s: %w", path, kid, err)
		}
		key, ok := parsed.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("%s: key %s is a %T", path, kid, parsed)
		}
		l.keys[kid] = key
	}
	return l, nil
}

// save replaces the file; the lock is held.
func (l *ledger) save() error {
	encoded, err := json.Marshal(l.written)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path+".new", encoded, 0o600); err != nil {
		return err
	}
	return os.Rename(l.path+".new", l.path)
}

func (l *ledger) state() (wire.State, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	public := map[string]crypto.PublicKey{}
	for kid, key := range l.keys {
		public[kid] = key.Public()
	}
	bundle, err := jwtbundle.FromJWTAuthorities(l.trustDomain, public).Marshal()
	if err != nil {
		return wire.State{}, err
	}
	state := wire.State{TrustDomain: l.trustDomain.Name(), Bundle: bundle, Entries: []entry{}}
	for _, e := range l.written.Entries {
		state.Entries = append(state.Entries, e)
	}
	return state, nil
}

func (l *ledger) create(wanted entry) (entry, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	id, err := spiffeid.FromString(wanted.SpiffeID)
	if err != nil {
		return entry{}, err
	}
	if !id.MemberOf(l.trustDomain) || id.Path() == "" {
		return entry{}, fmt.Errorf("%s is not a workload of %s", id, l.trustDomain)
	}
	if len(wanted.Selectors) == 0 || wanted.TTL < 0 {
		return entry{}, errors.New("an entry needs a selector, and a lifetime that is not negative")
	}
	if wanted.ID == "" {
		wanted.ID = rand.Text()
	}
	if _, taken := l.written.Entries[wanted.ID]; taken {
		return entry{}, fmt.Errorf("entry %s exists", wanted.ID)
	}
	wanted.CreatedAt = time.Now().Unix()
	l.written.Entries[wanted.ID] = wanted
	return wanted, l.save()
}

func (l *ledger) remove(id string) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	if _, known := l.written.Entries[id]; !known {
		return fmt.Errorf("no entry %s", id)
	}
	delete(l.written.Entries, id)
	return l.save()
}

// rotate makes a key and signs with it from now on; the older keys stay in the bundle until they are forgotten.
func (l *ledger) rotate() (string, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	kid := rand.Text()
	l.keys[kid], l.written.Keys[kid], l.written.Signing = key, der, kid
	return kid, l.save()
}

func (l *ledger) forget(kid string) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	if _, known := l.keys[kid]; !known || kid == l.written.Signing {
		return fmt.Errorf("key %s is unknown, or signs", kid)
	}
	delete(l.keys, kid)
	delete(l.written.Keys, kid)
	return l.save()
}

func (l *ledger) sign(wanted order) (wire.SVID, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	registered, known := l.written.Entries[wanted.EntryID]
	if !known {
		return wire.SVID{}, fmt.Errorf("entry %s not found or not authorized", wanted.EntryID)
	}
	lifetime := time.Duration(registered.TTL) * time.Second
	if lifetime == 0 {
		lifetime = defaultTTL
	}
	now := time.Now()
	expires := now.Add(lifetime)
	kid := l.written.Signing
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: l.keys[kid], KeyID: kid}},
		new(jose.SignerOptions).WithType("JWT"),
	)
	if err != nil {
		return wire.SVID{}, err
	}
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"sub": registered.SpiffeID,
		"aud": wanted.Audience,
		"exp": expires.Unix(),
		"iat": now.Unix(),
	}).Serialize()
	return wire.SVID{Token: token, IssuedAt: now.Unix(), ExpiresAt: expires.Unix()}, err
}
