package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// order changes what is wanted of a node's keys; its generation stays.
func (r *rig) order(id keys.NodeID, fn func(*agentlink.Node)) {
	r.change(func(d *agentlink.Desired) {
		for i := range d.Nodes {
			if d.Nodes[i].ID == id {
				fn(&d.Nodes[i])
			}
		}
	})
}

func (r *rig) rotated(id keys.NodeID, counter uint64) agentlink.NodeStatus {
	r.t.Helper()
	var s agentlink.NodeStatus
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last report: %+v", s)
		}
	}()
	eventually(r.t, "the rotation is carried out", func() bool {
		s = r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.Rotation == counter && s.MasterKey != ""
	})
	return s
}

// held gives the states of a node's keys in escrow.
func (r *rig) held(key keys.KeyID) keys.State {
	for _, w := range r.escrowed() {
		if w.Key == key {
			return w.State
		}
	}
	return ""
}

// named lists the keys that the node's keyrings name.
func (r *rig) named(id keys.NodeID) []keys.KeyID {
	r.t.Helper()
	out, err := driver.Bundled{}.MasterKeys(layout{r.cfg.DataDir}.node(id, "data-1"))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// kill ends a node's process; the agent starts it again.
func (r *rig) kill(id keys.NodeID) {
	r.t.Helper()
	p, err := driver.Adopt(layout{r.cfg.DataDir}.node(id, "data-1"))
	if err != nil || p == nil {
		r.t.Fatalf("no process to kill: %v", err)
	}
	if err := p.Stop(context.Background(), 0); err != nil {
		r.t.Fatal(err)
	}
}

func TestMasterKeyIsRotatedWhileTheNodeRuns(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	first := r.await(id, agentlink.PhaseRunning)
	k1 := first.MasterKey
	r.order(id, func(n *agentlink.Node) { n.Rotation = 1 })
	second := r.rotated(id, 1)
	k2 := second.MasterKey
	if k2 == k1 || second.PID != first.PID {
		t.Fatalf("after the rotation %+v, before %+v", second, first)
	}
	eventually(t, "the old key is Deactivated and kept, the new one Active", func() bool {
		return r.held(k1) == keys.StateDeactivated && r.held(k2) == keys.StateActive
	})
	if got := r.named(id); !slices.Equal(got, []keys.KeyID{k2}) {
		t.Errorf("keyrings name %v", got)
	}
	r.kill(id)
	eventually(t, "the node comes back with its new key", func() bool {
		s := r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.PID != first.PID && s.PID != 0 && s.MasterKey == k2
	})

	// Twice in a row; then the replaced keys are ordered to go, the one in use cannot.
	r.order(id, func(n *agentlink.Node) { n.Rotation = 3 })
	k3 := r.rotated(id, 3).MasterKey
	if k3 == k2 {
		t.Error("the second rotation did nothing")
	}
	r.order(id, func(n *agentlink.Node) { n.RetiredKeys = []keys.KeyID{k1, k3} })
	eventually(t, "the order to destroy the key in use is refused", func() bool { return r.node(id).Message != "" })
	if r.held(k3) != keys.StateActive || r.held(k1) != keys.StateDeactivated {
		t.Errorf("keys are %s and %s after a wrong order", r.held(k3), r.held(k1))
	}
	r.order(id, func(n *agentlink.Node) { n.RetiredKeys = []keys.KeyID{k1, k2} })
	eventually(t, "replaced keys are destroyed on the order", func() bool {
		return r.held(k1) == keys.StateDestroyed && r.held(k2) == keys.StateDestroyed
	})
	if r.held(k3) != keys.StateActive {
		t.Error("the key in use was destroyed")
	}
}

func TestNodeKilledAtEveryStepOfARotation(t *testing.T) {
	kill := filepath.Join(t.TempDir(), "kill")
	t.Setenv("KEYWRIGHT_TEST_KILL_FILE", kill)
	r := newRig(t)
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	for i, step := range []string{"created", "replaced", "recorded"} {
		if err := os.WriteFile(kill, []byte(step), 0o600); err != nil {
			t.Fatal(err)
		}
		counter := uint64(i + 1)
		r.order(id, func(n *agentlink.Node) { n.Rotation = counter })
		after := r.rotated(id, counter)
		if _, err := os.Stat(kill); !os.IsNotExist(err) {
			t.Fatalf("%s: the node was not killed (%v)", step, err)
		}
		if after.PID == before.PID || after.MasterKey == before.MasterKey {
			t.Errorf("%s: after %+v, before %+v", step, after, before)
		}
		if got := r.named(id); !slices.Equal(got, []keys.KeyID{after.MasterKey}) {
			t.Errorf("%s: keyrings name %v, the node reports %s", step, got, after.MasterKey)
		}
		eventually(t, "the new key is the only Active one after "+step+", and none is destroyed", func() bool {
			for _, w := range r.escrowed() {
				if (w.State == keys.StateActive) != (w.Key == after.MasterKey) {
					return false
				}
				if w.State == keys.StateDestroyed {
					t.Fatalf("%s: key %s is destroyed", step, w.Key)
				}
			}
			return r.held(before.MasterKey) == keys.StateDeactivated
		})
		before = after
	}
	// The node that died before its keyring was replaced left one key behind; the
	// others' keys were found again.
	if n := len(r.escrowed()); n != 5 {
		t.Errorf("%d keys were made", n)
	}
}

func TestAgentEndedAtEveryStepOfARotation(t *testing.T) {
	r := newRig(t)
	var at atomic.Value
	reached := make(chan string, 100)
	at.Store("")
	r.cfg.afterStep = func(step string) error {
		if at.Load() != step {
			return nil
		}
		select {
		case reached <- step:
		default:
		}
		return errors.New("the agent was killed here")
	}
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	for i, step := range []string{"noted", "answered", "deactivated"} {
		at.Store(step)
		counter := uint64(i + 1)
		r.order(id, func(n *agentlink.Node) { n.Rotation = counter })
		if got := <-reached; got != step {
			t.Fatalf("reached %s", got)
		}
		r.end()
		store, err := wraps.Open(layout{r.cfg.DataDir}.keys())
		if err != nil {
			t.Fatal(err)
		}
		named := r.named(id)
		if len(named) != 1 {
			t.Errorf("%s: keyrings name %v", step, named)
		}
		for _, k := range append(named, before.MasterKey) {
			if rec, ok := store.Get(k); !ok || !rec.State.Readable() {
				t.Errorf("%s: key %s is %+v", step, k, rec)
			}
		}
		at.Store("")
		for len(reached) > 0 {
			<-reached
		}
		r.start()
		after := r.rotated(id, counter)
		if after.PID != before.PID || after.MasterKey == before.MasterKey {
			t.Errorf("%s: after %+v, before %+v", step, after, before)
		}
		active := 0
		for _, rec := range mustOpen(t, r).OfNode(id) {
			if rec.State == keys.StateActive {
				active++
			}
		}
		if active != 1 {
			t.Errorf("%s: %d keys are Active", step, active)
		}
		before = after
	}
	if n := len(mustOpen(t, r).OfNode(id)); n != 4 {
		t.Errorf("three rotations made %d keys", n)
	}
}

func mustOpen(t *testing.T, r *rig) *wraps.Store {
	t.Helper()
	s, err := wraps.Open(layout{r.cfg.DataDir}.keys())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRotationWaitsForTheCustomerKeyAndTellsWhyItFails(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	k1 := r.await(id, agentlink.PhaseRunning).MasterKey
	r.cloud.SetState(r.target.KeyID, "Disabled")
	r.await(id, agentlink.PhaseStoppedByCustody)
	r.order(id, func(n *agentlink.Node) { n.Rotation = 1 })
	eventually(t, "the order has arrived", func() bool { return r.last().Revision == r.revision() })
	if s := r.node(id); s.Rotation != 0 || s.RotationFailure != "" || s.MasterKey != k1 {
		t.Errorf("rotated without a usable key: %+v", s)
	}
	r.cloud.SetState(r.target.KeyID, "Enabled")
	k2 := r.rotated(id, 1).MasterKey
	if k2 == k1 {
		t.Error("not rotated")
	}

	r.mu.Lock()
	r.refuse = true
	r.mu.Unlock()
	r.order(id, func(n *agentlink.Node) { n.Rotation = 2 })
	eventually(t, "the failure is told", func() bool { return r.node(id).RotationFailure != "" })
	if s := r.node(id); s.MasterKey != k2 || s.Phase != agentlink.PhaseRunning || s.Rotation != 1 {
		t.Errorf("after a failure: %+v", s)
	}
	r.mu.Lock()
	r.refuse = false
	r.mu.Unlock()
	if s := r.rotated(id, 2); s.MasterKey == k2 {
		t.Errorf("not rotated: %+v", s)
	}
	eventually(t, "the failure is over", func() bool { return r.node(id).RotationFailure == "" })
}

func (r *rig) revision() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired.Revision
}
