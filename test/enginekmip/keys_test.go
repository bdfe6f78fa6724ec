// Package enginekmip tests the bundled engine together with the KMIP server,
// over mutual TLS, with a key plane in memory. Neither of the two rooms may know
// the other, so that their meeting is tested here.
package enginekmip

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/engine"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

// plane is a key plane in memory for one node, with faults.
type plane struct {
	mu      sync.Mutex
	made    []keys.KeyID
	held    map[keys.KeyID]*held
	got     []keys.KeyID
	polls   int
	refuses error // Get and Release answer this
}

type held struct {
	meta  kmip.Meta
	key   secret.Bytes
	state keys.State
}

func (p *plane) with(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// find locks nothing; it is for callers that have.
func (p *plane) find(id keys.KeyID) (*held, error) {
	h := p.held[id]
	switch {
	case h == nil:
		return nil, kmip.ErrUnknown
	case !h.state.Readable():
		return nil, kmip.ErrNotFound
	}
	return h, nil
}

func (p *plane) add(meta kmip.Meta, key secret.Bytes) keys.KeyID {
	id := keys.NewKeyID()
	p.held[id] = &held{meta: meta, key: key, state: keys.StatePreActive}
	p.made = append(p.made, id)
	return id
}

func (p *plane) Create(_ context.Context, _ kmip.Principal, meta kmip.Meta) (keys.KeyID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.add(meta, secret.Random(32)), nil
}

func (p *plane) Register(_ context.Context, _ kmip.Principal, o kmip.Object) (keys.KeyID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.add(o.Meta, o.Material.Clone()), nil
}

func (p *plane) Activate(_ context.Context, _ kmip.Principal, id keys.KeyID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, err := p.find(id)
	if err == nil {
		h.state = keys.StateActive
	}
	return err
}

func (p *plane) Get(_ context.Context, _ kmip.Principal, id keys.KeyID) (kmip.Object, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, id)
	if p.refuses != nil {
		return kmip.Object{}, p.refuses
	}
	h, err := p.find(id)
	if err != nil {
		return kmip.Object{}, err
	}
	return kmip.Object{Meta: h.meta, Material: h.key.Clone()}, nil
}

func (p *plane) Release(context.Context, kmip.Principal, keys.KeyID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuses
}

func (p *plane) Attributes(_ context.Context, _ kmip.Principal, id keys.KeyID) (kmip.Attributes, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polls++
	h, err := p.find(id)
	if err != nil {
		return kmip.Attributes{}, err
	}
	return kmip.Attributes{Meta: h.meta, State: h.state, Created: time.Now()}, nil
}

func (p *plane) Locate(context.Context, kmip.Principal, string) ([]keys.KeyID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.made)
	slices.Reverse(out)
	return out, nil
}

// newest is the key that was made last, and how many were made.
func (p *plane) newest(t *testing.T) (keys.KeyID, int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.made) == 0 {
		t.Fatal("no key was made")
	}
	return p.made[len(p.made)-1], len(p.made)
}

// agent is the KMIP server beside a node, and the node's way to it.
type agent struct {
	plane       *plane
	fingerprint string
	addr        string
	dir         string
	config      kmip.Config
	stop        func()
}

// Admit implements kmip.Admission: one node is known.
func (a *agent) Admit(fingerprint string) (kmip.Principal, bool) {
	return kmip.Principal{Node: nodeID}, fingerprint == a.fingerprint
}

func authority(t *testing.T, kind pki.Kind) *pki.Authority {
	t.Helper()
	cert, key, err := pki.NewAuthority(kind, "65a0f0c2e4b0a1b2c3d4e5f6", time.Now())
	must(t, err)
	a, err := pki.LoadAuthority(kind, cert, key)
	must(t, err)
	return a
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{plane: &plane{held: map[keys.KeyID]*held{}}, addr: "127.0.0.1:0", dir: t.TempDir()}
	servers, clients := authority(t, pki.KindKMIPServer), authority(t, pki.KindKMIPClient)
	keeper, err := pki.OpenKeeper(t.Context(), pki.KeeperConfig{
		Kind: pki.KindKMIPServer, CAs: servers.CertificatePEM(), Use: pki.AsServer, File: filepath.Join(a.dir, "server.pem"),
		Signer: pki.SignerFunc(func(_ context.Context, csr []byte) ([]byte, error) {
			return servers.Sign(csr, pki.Leaf{CommonName: "agent", Server: true, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
		}),
	})
	must(t, err)
	keyPEM, csr, err := pki.NewKey()
	must(t, err)
	leaf, err := clients.Sign(csr, pki.Leaf{CommonName: "node", Client: true}, time.Now())
	must(t, err)
	must(t, pki.WriteCombined(filepath.Join(a.dir, "node.pem"), keyPEM, leaf))
	must(t, pki.WriteCertificates(filepath.Join(a.dir, "ca.pem"), servers.CertificatePEM()))
	a.fingerprint = pki.Fingerprint(leaf)
	a.config = kmip.Config{
		Keeper: keeper, ClientCAs: clients.CertificatePEM(), Admission: a, Keys: a.plane,
		Logger: slog.New(slog.DiscardHandler),
	}
	a.start(t)
	t.Cleanup(func() { a.stop() })
	return a
}

// start listens, at the same address as before.
func (a *agent) start(t *testing.T) {
	t.Helper()
	a.config.Addr = a.addr
	server, err := kmip.NewServer(a.config)
	must(t, err)
	a.addr = server.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("KMIP server: %v", err)
		}
	})
}

// encryption is what a node is told about its key.
func (a *agent) encryption(t *testing.T) engine.Encryption {
	t.Helper()
	host, port, err := net.SplitHostPort(a.addr)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	return engine.Encryption{
		Enabled: true, ServerName: host, Port: n, ClientCertificateFile: filepath.Join(a.dir, "node.pem"),
		ServerCAFile: filepath.Join(a.dir, "ca.pem"), ConnectTimeoutMS: 5000,
	}
}
