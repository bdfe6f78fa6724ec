package kmip_test

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/engine/keysource"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
)

// source is a node's client of the lab's server.
func (l *lab) source(t testing.TB, file string, change func(*keysource.Config)) *keysource.Client {
	t.Helper()
	host, port, err := net.SplitHostPort(l.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	ca := filepath.Join(l.dir, "server-ca.pem")
	if err := pki.WriteCertificates(ca, l.servers); err != nil {
		t.Fatal(err)
	}
	cfg := keysource.Config{ServerNames: []string{host}, Port: n, ClientCertificateFile: file, ServerCAFile: ca}
	if change != nil {
		change(&cfg)
	}
	c, err := keysource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNodeLivesWithItsKey(t *testing.T) {
	l := newLab(t, nil)
	file, fingerprint := l.admit(t, nodeA)
	node := l.source(t, file, nil)
	id, err := node.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := node.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var kept []byte
	l.keys.with(func() { kept = bytes.Clone(l.keys.entries[id].key.Reveal()) })
	if key.Len() != 32 || !bytes.Equal(key.Reveal(), kept) {
		t.Error("another key than the one kept")
	}
	state := func(want keys.State) {
		t.Helper()
		if got, err := node.State(t.Context(), id); err != nil || got != want {
			t.Errorf("state %s, %v; want %s", got, err, want)
		}
	}
	state(keys.StateActive)
	for _, s := range []keys.State{keys.StatePreActive, keys.StateDeactivated, keys.StateCompromised} {
		l.keys.with(func() { l.keys.entries[id].state = s })
		state(s)
		if _, err := node.Get(t.Context(), id); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	l.keys.with(func() { l.keys.entries[id].state = keys.StateActive; l.keys.invalid = true })
	state(keys.StateDeactivated)
	if _, err := node.Get(t.Context(), id); !errors.Is(err, keysource.ErrUnavailable) {
		t.Errorf("Get under INVALID: %v", err)
	}
	l.keys.with(func() { l.keys.invalid = false; l.keys.entries[id].state = keys.StateDestroyed })
	if _, err := node.Get(t.Context(), id); !errors.Is(err, keysource.ErrNotFound) {
		t.Errorf("Get of a destroyed key: %v", err)
	}
	if _, err := node.Get(t.Context(), keys.NewKeyID()); !errors.Is(err, keysource.ErrUnavailable) || errors.Is(err, keysource.ErrNotFound) {
		t.Errorf("Get of an unknown key: %v", err)
	}
	otherFile, _ := l.admit(t, nodeB)
	if _, err := l.source(t, otherFile, nil).Get(t.Context(), id); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("Get of another node's key: %v", err)
	}
	l.admitted.Delete(fingerprint)
	if _, err := node.State(t.Context(), id); !errors.Is(err, keysource.ErrUnavailable) {
		t.Errorf("after the certificate was taken out: %v", err)
	}
}

func TestNodeChecksItsServer(t *testing.T) {
	l := newLab(t, nil)
	file, _ := l.admit(t, nodeA)
	_, otherCA := authority(t, pki.KindKMIPServer)
	foreign := filepath.Join(t.TempDir(), "ca.pem")
	if err := pki.WriteCertificates(foreign, otherCA); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*keysource.Config){
		"another authority": func(c *keysource.Config) { c.ServerCAFile = foreign },
		"another name":      func(c *keysource.Config) { c.ServerNames = []string{"127.0.0.2"} },
	} {
		if _, err := l.source(t, file, change).Create(t.Context()); !errors.Is(err, keysource.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(l.keys.calls) != 0 {
		t.Error("the key plane was reached")
	}
}

func TestNodeTriesTheNextServerAndRound(t *testing.T) {
	l := newLab(t, nil)
	file, _ := l.admit(t, nodeA)
	node := l.source(t, file, func(c *keysource.Config) {
		c.ServerNames = []string{"127.0.0.3", c.ServerNames[0]} // nobody listens at the first
		c.ConnectRetries = 2
	})
	failures := 2
	l.keys.fail = func(method string) error {
		if method == "Activate" && failures > 0 {
			failures--
			return kmip.ErrUnavailable
		}
		return nil
	}
	id, err := node.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.keys.count("Create") != 1 || l.keys.count("Activate") != 3 {
		t.Errorf("%d keys made, %d activations", l.keys.count("Create"), l.keys.count("Activate"))
	}
	l.keys.fail = func(method string) error {
		if method == "Get" {
			return kmip.ErrNotFound
		}
		return nil
	}
	if _, err := node.Get(t.Context(), id); !errors.Is(err, keysource.ErrNotFound) || l.keys.count("Get") != 1 {
		t.Errorf("not found must be final: %v after %d tries", err, l.keys.count("Get"))
	}
}

func BenchmarkGetWarmConnection(b *testing.B) {
	l := newLab(b, nil)
	conn := l.client(b, nodeA)
	id := success(b, conn, perconaRegister(make([]byte, 32))).get(b, tagID).text()
	_ = conn.SetDeadline(time.Time{})
	request := percona(opGet, tx(tagID, id))
	for b.Loop() {
		if _, err := exchange(conn, request); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// BenchmarkStatePoll is what a mongod does: one connection per poll.
func BenchmarkStatePoll(b *testing.B) {
	l := newLab(b, nil)
	file, _ := l.admit(b, nodeA)
	node := l.source(b, file, nil)
	id, err := node.Create(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := node.State(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "polls/s")
}

func BenchmarkStateWarmConnection(b *testing.B) {
	l := newLab(b, nil)
	conn := l.client(b, nodeA)
	id := success(b, conn, perconaRegister(make([]byte, 32))).get(b, tagID).text()
	_ = conn.SetDeadline(time.Time{})
	request := percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State"))
	for b.Loop() {
		if _, err := exchange(conn, request); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "polls/s")
}
