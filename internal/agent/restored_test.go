package agent

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// backup is a copy of what the control plane's store holds.
type backup struct {
	desired agentlink.Desired
	escrow  map[keys.KeyID]agentlink.EscrowedWrap
	wraps   map[keys.KeyID]map[uint64]agentlink.EscrowedWrap
}

func (p *plane) backup() backup {
	p.mu.Lock()
	defer p.mu.Unlock()
	return backup{desired: p.desired, escrow: maps.Clone(p.escrow), wraps: cloneWraps(p.wraps)}
}

func cloneWraps(in map[keys.KeyID]map[uint64]agentlink.EscrowedWrap) map[keys.KeyID]map[uint64]agentlink.EscrowedWrap {
	out := map[keys.KeyID]map[uint64]agentlink.EscrowedWrap{}
	for k, of := range in {
		out[k] = maps.Clone(of)
	}
	return out
}

// restore brings a backup back, with a revision of its own or a higher one.
func (p *plane) restore(b backup, revision uint64) {
	p.mu.Lock()
	p.escrow, p.wraps = maps.Clone(b.escrow), cloneWraps(b.wraps)
	p.mu.Unlock()
	p.change(func(d *agentlink.Desired) {
		*d = b.desired
		d.Revision = max(b.desired.Revision, revision)
	})
}

func (r *rig) alarmed(text string) bool {
	return slices.ContainsFunc(r.last().Alarms, func(a string) bool { return strings.Contains(a, text) })
}

// readable tells whether a key of the host can be read.
func (r *rig) readable(key keys.KeyID) bool {
	rec, ok := mustOpen(r.t, r).Get(key)
	return ok && rec.State.Readable()
}

// An old store under a newer host, with a key rotated, a node made and a node removed in
// between: the host freezes, says what to do, and goes on. Unfrozen, it fills escrow
// again and destroys nothing; the node that the store does not know is left alone, the
// one that was removed is not made anew, empty.
func TestAnOlderStoreLosesNoKey(t *testing.T) {
	r := newRig(t)
	r.start()
	rotated, removed := r.add(true), r.add(true)
	r.await(rotated, agentlink.PhaseRunning)
	r.await(removed, agentlink.PhaseRunning)
	old := r.backup()

	first := r.node(rotated).MasterKey
	r.order(rotated, func(n *agentlink.Node) { n.Rotation = 1 })
	second := r.rotated(rotated, 1).MasterKey
	r.order(rotated, func(n *agentlink.Node) { n.RetiredKeys = []keys.KeyID{first} })
	eventually(t, "the replaced key is destroyed", func() bool { return r.held(first) == keys.StateDestroyed })
	made := r.add(true)
	newest := r.await(made, agentlink.PhaseRunning)
	r.change(func(d *agentlink.Desired) {
		d.Nodes = slices.DeleteFunc(d.Nodes, func(n agentlink.Node) bool { return n.ID == removed })
		d.Tombstones = []agentlink.Tombstone{{Node: removed, Project: r.project, Cluster: r.cluster, Generation: 2, DestroyKeys: true}}
	})
	eventually(t, "a node is removed", func() bool { return slices.Contains(r.last().Buried, removed) })
	known := r.last().Revision

	r.restore(old, 0)
	eventually(t, "changes are frozen", func() bool { return r.alarmed("keywright host unfreeze") })
	if s := r.node(rotated); s.Phase != agentlink.PhaseRunning || s.MasterKey != second || r.node(made).PID != newest.PID || r.last().Revision != known {
		t.Errorf("something changed while frozen: %+v", r.last())
	}

	r.restore(old, known+1)
	eventually(t, "escrow has what it had forgotten", func() bool {
		return r.held(second) == keys.StateActive && r.held(newest.MasterKey) == keys.StateActive && !r.alarmed("unfreeze")
	})
	if s := r.node(made); s.Phase != agentlink.PhaseRunning || s.PID != newest.PID || !strings.Contains(s.Message, "left as it is") {
		t.Errorf("a node that the store does not know: %+v", s)
	}
	eventually(t, "a removed node is not made anew", func() bool { return strings.Contains(r.node(removed).Message, "does not remember") })
	r.kill(rotated)
	eventually(t, "the rotated node comes up with its own key", func() bool {
		s := r.node(rotated)
		return s.Phase == agentlink.PhaseRunning && s.MasterKey == second && alive(s.PID)
	})
	r.end()
	for _, k := range []keys.KeyID{second, newest.MasterKey} {
		if !r.readable(k) {
			t.Errorf("key %s is lost", k)
		}
	}
}

// An old directory under a newer store: what escrow has more is told and can be recovered,
// and the key that the old files name is never destroyed under them.
func TestAnOlderDirectoryLosesNoKey(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	first := r.await(id, agentlink.PhaseRunning).MasterKey
	eventually(t, "the key is active in escrow", func() bool { return r.held(first) == keys.StateActive })
	r.end()
	r.reap()
	copied := t.TempDir() + "/host"
	duplicate := func(from, to string) {
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	duplicate(r.cfg.DataDir, copied)
	r.start()
	r.await(id, agentlink.PhaseRunning)
	r.order(id, func(n *agentlink.Node) { n.Rotation = 1 })
	second := r.rotated(id, 1).MasterKey
	r.order(id, func(n *agentlink.Node) { n.RetiredKeys = []keys.KeyID{first} })
	eventually(t, "the replaced key is destroyed", func() bool { return r.held(first) == keys.StateDestroyed })
	r.end()
	r.reap()
	if err := os.RemoveAll(r.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	duplicate(copied, r.cfg.DataDir)

	r.start()
	eventually(t, "what the host lacks is told", func() bool { return r.alarmed("agent recover") })
	r.await(id, agentlink.PhaseRunning)
	r.end()
	done, err := Recover(t.Context(), RecoverConfig{DataDir: r.cfg.DataDir, ServerURL: r.http.URL, Logger: discard()})
	if err != nil || done.Restored == 0 || !r.readable(second) {
		t.Errorf("recovered %+v, %v", done, err)
	}
	r.start()
	s := r.await(id, agentlink.PhaseRunning)
	r.kill(id)
	eventually(t, "the node opens its files", func() bool {
		now := r.node(id)
		return now.Phase == agentlink.PhaseRunning && now.PID != s.PID && alive(now.PID)
	})
	r.end()
	if s = r.node(id); !r.readable(s.MasterKey) {
		t.Errorf("the key in use is gone: %+v", s)
	}
}

// A host whose certificate is gone comes back as the same host, with all it has.
func TestAHostEnrolsAgain(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	r.end()
	if err := os.Remove(layout{r.cfg.DataDir}.linkCert()); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), "--re-enroll") {
		t.Fatalf("without certificate: %v", err)
	}
	r.cfg.Reenroll = true
	mine := r.host
	r.host = "5f0000000000000000000001"
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Fatalf("as another host: %v", err)
	}
	r.host = mine
	r.start()
	if after := r.await(id, agentlink.PhaseRunning); after.MasterKey != before.MasterKey || after.PID != before.PID {
		t.Errorf("came back as %+v, was %+v", after, before)
	}
	r.end()
	r.cfg.Reenroll, r.cfg.EnrollTokenFile = true, ""
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), "--enroll-token-file") {
		t.Errorf("without a token: %v", err)
	}
}
