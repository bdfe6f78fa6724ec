package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// keysets waits until the node has carried out what was ordered for its keysets.
func (r *rig) keysets(id keys.NodeID, rotation, compaction uint64) agentlink.NodeStatus {
	r.t.Helper()
	var s agentlink.NodeStatus
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last report: %+v %+v", s, s.Keysets)
		}
	}()
	eventually(r.t, "the order for the keysets is carried out", func() bool {
		s = r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.Keysets != nil && s.Keysets.Rotation == rotation && s.Keysets.Compaction == compaction
	})
	return s
}

func TestDatabaseKeysAreRotatedAndFilesCompacted(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	first := r.await(id, agentlink.PhaseRunning)
	if first.Keysets != nil {
		t.Errorf("before any order: %+v", first.Keysets)
	}
	r.order(id, func(n *agentlink.Node) { n.KeysetRotation = 1 })
	s := r.keysets(id, 1, 0)
	if s.PID != first.PID || s.Keysets.OldKeys == 0 || s.Keysets.Newest >= s.Keysets.Bytes {
		t.Fatalf("%+v %+v", s, s.Keysets)
	}
	r.order(id, func(n *agentlink.Node) { n.Compaction = 1 })
	s = r.keysets(id, 1, 1)
	if s.PID != first.PID || s.Keysets.OldKeys != 0 || s.Keysets.Newest != s.Keysets.Bytes || s.Keysets.Bytes == 0 {
		t.Fatalf("%+v %+v", s, s.Keysets)
	}
	// Both at once, and again after a restart of the agent.
	r.order(id, func(n *agentlink.Node) { n.KeysetRotation, n.Compaction = 2, 2 })
	r.keysets(id, 2, 2)
	r.kill(id)
	eventually(t, "the node comes back", func() bool {
		s := r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.PID != first.PID && s.PID != 0
	})
}

func TestNodeKilledAtEveryStepOfAKeysetRotation(t *testing.T) {
	kill := filepath.Join(t.TempDir(), "kill")
	t.Setenv("KEYWRIGHT_TEST_KILL_FILE", kill)
	r := newRig(t)
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	for i, step := range []string{
		"keysets-replaced", "keysets-noted", "compact-flushed", "compact-compacted", "compact-resealing", "compact-resealed", "compact-dropped", "compact-noted",
	} {
		if err := os.WriteFile(kill, []byte(step), 0o600); err != nil {
			t.Fatal(err)
		}
		counter := uint64(i + 1)
		r.order(id, func(n *agentlink.Node) { n.KeysetRotation, n.Compaction = counter, counter })
		after := r.keysets(id, counter, counter)
		if _, err := os.Stat(kill); !os.IsNotExist(err) {
			t.Fatalf("%s: the node was not killed (%v)", step, err)
		}
		if after.PID == before.PID || after.MasterKey != before.MasterKey || after.Keysets.OldKeys != 0 || after.Keysets.Newest != after.Keysets.Bytes {
			t.Errorf("%s: after %+v %+v, before %+v", step, after, after.Keysets, before)
		}
		// The orders were given as the administrator, who is a user in the node's databases.
		if got, err := (driver.Bundled{}).MasterKeys(layout{r.cfg.DataDir}.node(id, "data-1")); err != nil || !slices.Equal(got, []keys.KeyID{before.MasterKey}) {
			t.Errorf("%s: keyrings name %v, %v", step, got, err)
		}
		before = after
	}
}
