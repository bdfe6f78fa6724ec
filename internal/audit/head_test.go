package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/audit"
)

func TestASignedHeadCoversEverything(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{PublicKey: &key.PublicKey}
	h, err := audit.SignedHead{Deployment: "d", Chain: audit.HostChain("h"), Head: audit.Head{Seq: 7, Hash: audit.Hash{1}}}.Sign(key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Check(cert); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*audit.SignedHead){
		"deployment": func(h *audit.SignedHead) { h.Deployment = "e" }, "chain": func(h *audit.SignedHead) { h.Chain = audit.ControlPlane },
		"seq": func(h *audit.SignedHead) { h.Seq++ }, "hash": func(h *audit.SignedHead) { h.Hash[0]++ }, "time": func(h *audit.SignedHead) { h.Time = h.Time.Add(time.Second) },
	} {
		x := h
		change(&x)
		if err := x.Check(cert); !errors.Is(err, audit.ErrHeadSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
}

// A log that is replaced under a running process is noticed, and so is a chain that has
// other events than before.
func TestTheLogIsHeldAgainstItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write := func(p, actor string) audit.Head {
		l, err := audit.OpenFile(p)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		for i := range 5 {
			if _, err := l.Append(t.Context(), audit.Event{ID: fmt.Sprint(i), Time: time.Now(), Type: "T", Actor: actor, Message: "m"}); err != nil {
				t.Fatal(err)
			}
		}
		return l.Head()
	}
	write(path, "a")
	l, err := audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got, err := l.HashesAt([]uint64{5, 9})
	if err != nil || got[0] != l.Head() || got[1].Hash != (audit.Hash{}) {
		t.Fatalf("%v %v", got, err)
	}
	other := filepath.Join(t.TempDir(), "other.jsonl")
	write(other, "b")
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.HashesAt([]uint64{5}); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("a replaced log: %v", err)
	}
}

func FuzzHeads(f *testing.F) {
	for _, s := range []string{"", "{}", `{"seq":1,"hash":"00"}`, `{"format":"keywright-audit-heads","version":1,"heads":[{"chain":"control-plane","seq":1,"certificate":"x","signature":"AA=="}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = audit.ParseHeads(b) })
}
