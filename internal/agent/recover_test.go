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
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
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

func TestRecoveryTakesTheWrapThatIsInForce(t *testing.T) {
	dir := layout{t.TempDir()}
	project := keys.ProjectID(keys.NewID(time.Now()))
	a := &Agent{dir: dir}
	wrap := func(key keys.KeyID, generation uint64) agentlink.EscrowedWrap {
		return agentlink.EscrowedWrap{Key: key, Project: project, Generation: generation}
	}
	k1, k2 := keys.NewKeyID(), keys.NewKeyID()
	all := []agentlink.EscrowedWrap{wrap(k1, 1), wrap(k1, 2), wrap(k1, 3), wrap(k2, 3), wrap(k2, 1)}
	generations := func() (out []uint64) {
		got, err := a.newest(all)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range got {
			out = append(out, w.Generation)
		}
		return out
	}
	if got := generations(); !slices.Equal(got, []uint64{3, 3}) {
		t.Errorf("without a desired state: %v", got)
	}
	w, err := openWishes(dir.desired())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.take(agentlink.Desired{Version: 1, Revision: 1, Projects: []agentlink.Project{{ID: project, CustomerKey: &agentlink.CustomerKey{Generation: 2}}}}); err != nil {
		t.Fatal(err)
	}
	if got := generations(); !slices.Equal(got, []uint64{2, 1}) {
		t.Errorf("generation 3 is being prepared: %v", got)
	}
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
