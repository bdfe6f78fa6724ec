package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

func TestLostKeysAreRecoveredAndOpenTheData(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	eventually(t, "the key is active in escrow", func() bool { return r.held(before.MasterKey) == keys.StateActive })
	dir := layout{r.cfg.DataDir}
	fromPlane := RecoverConfig{DataDir: r.cfg.DataDir, ServerURL: r.http.URL, Logger: discard()}
	if _, err := Recover(t.Context(), fromPlane); err == nil || !strings.Contains(err.Error(), "stop the agent") {
		t.Errorf("beside a running agent: %v", err)
	}
	r.end()
	lose := func() {
		r.reap()
		if err := os.RemoveAll(dir.keys()); err != nil {
			t.Fatal(err)
		}
	}
	bundled := filepath.Join(t.TempDir(), "bundle.json")
	r.export(bundled)
	for name, cfg := range map[string]RecoverConfig{"control plane": fromPlane, "bundle": {DataDir: r.cfg.DataDir, BundleFile: bundled, Logger: discard()}} {
		lose()
		done, err := Recover(t.Context(), cfg)
		if err != nil || done.Restored != 1 || done.Kept != 0 {
			t.Fatalf("%s: %+v, %v", name, done, err)
		}
		if done, err = Recover(t.Context(), cfg); err != nil || done.Restored != 0 || done.Kept != 1 {
			t.Errorf("%s, again: %+v, %v", name, done, err)
		}
		rec, _ := mustOpen(t, r).Get(before.MasterKey)
		if rec.State != keys.StateActive || rec.Activated.IsZero() || rec.Meta.Length != 256 || rec.Escrowed != rec.Revision {
			t.Errorf("%s: %+v", name, rec)
		}
		r.start()
		after := r.await(id, agentlink.PhaseRunning)
		if after.MasterKey != before.MasterKey || after.PID == before.PID {
			t.Errorf("%s: runs as %+v, was %+v", name, after, before)
		}
		r.end()
	}
	if log, _ := os.ReadFile(dir.audit()); strings.Count(string(log), "KEYS_RECOVERED") != 4 {
		t.Error("the audit log does not tell of the recoveries")
	}
	if _, err := audit.VerifyFile(dir.audit(), audit.Head{}); err != nil {
		t.Error(err)
	}
	lose()
	r.start()
	eventually(t, "a node without its key is not wiped and the loss is told", func() bool {
		return slices.ContainsFunc(r.last().Alarms, func(a string) bool { return strings.Contains(a, "wrap may be lost") })
	})
	if _, err := (driver.Bundled{}).MasterKey(dir.node(id, "data-1")); err != nil {
		t.Error(err)
	}
}

// export writes a bundle of what is in escrow.
func (r *rig) export(path string) {
	r.t.Helper()
	p := bundle.Payload{Deployment: r.desired.Deployment, Created: time.Now()}
	for _, w := range r.escrowed() {
		p.Wraps = append(p.Wraps, bundle.Describe(p.Deployment, r.host, w))
		w.Key, w.Node = keys.NewKeyID(), keys.NodeID(keys.NewID(time.Now()))
		p.Wraps = append(p.Wraps, bundle.Describe(p.Deployment, "another", w))
	}
	b, err := bundle.Sign(p, r.cas[pki.KindLink], time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := json.Marshal(b)
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestRecoveryPutsAllWrapsOfAKeyTogether(t *testing.T) {
	d, p := newDesk(t), principal()
	id := d.create(p)
	old, _ := d.store.Get(id)
	staged, err := d.store.Put(old.With(9, d.wrapUnder(old, d.cloud.Project())))
	if err != nil {
		t.Fatal(err)
	}
	sent := staged.Escrow()
	if len(sent) != 2 || sent[0].Generation != 7 || sent[1].Generation != 9 || sent[0].Revision != sent[1].Revision {
		t.Fatalf("sent %+v", sent)
	}
	slices.Reverse(sent)
	all := byKey(append(sent, agentlink.EscrowedWrap{Key: keys.NewKeyID()}))
	if len(all) != 2 || len(all[0]) != 2 {
		t.Fatalf("%+v", all)
	}
	back, err := wraps.FromEscrow(all[0]...)
	if err != nil || back.Generation != 7 || !slices.Equal(back.Wrapped, old.Wrapped) || len(back.Others) != 1 || back.Others[0].Generation != 9 || back.Revision != staged.Revision {
		t.Errorf("%+v, %v", back, err)
	}
	if _, ok := back.Under(d.key.KeyARN); !ok {
		t.Error("the wrap of the key in force is not found")
	}
}

// wrapUnder wraps something under another key.
func (d *desk) wrapUnder(r wraps.Record, to kms.Target) []byte {
	d.t.Helper()
	s, err := d.cloud.Session(d.t.Context(), to)
	if err != nil {
		d.t.Fatal(err)
	}
	w, err := envelope.Wrap(d.t.Context(), s, r.Context(d.deployment), secret.Random(32))
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := w.MarshalBinary()
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

func TestRecoveryNeedsAnEnrolledHostAndOneSource(t *testing.T) {
	for _, cfg := range []RecoverConfig{
		{DataDir: t.TempDir(), Logger: discard()},
		{DataDir: t.TempDir(), ServerURL: "https://x", BundleFile: "y", Logger: discard()},
		{DataDir: t.TempDir(), BundleFile: "y", Logger: discard()},
	} {
		if _, err := Recover(t.Context(), cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
