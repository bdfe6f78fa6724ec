package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

func TestTombstoneIsCarriedOutOnceAndOnlyIfNewer(t *testing.T) {
	r := newRig(t)
	r.start()
	id, stays := r.add(true), r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	r.await(stays, agentlink.PhaseRunning)
	bury := func(generation uint64) {
		r.change(func(d *agentlink.Desired) {
			d.Nodes = slices.DeleteFunc(d.Nodes, func(n agentlink.Node) bool { return n.ID == id })
			d.Tombstones = []agentlink.Tombstone{{Node: id, Project: r.project, Cluster: r.cluster, Generation: generation, DestroyKeys: true}}
		})
	}
	bury(1) // not newer than the files: absence and old orders remove nothing
	rev := func() uint64 { r.mu.Lock(); defer r.mu.Unlock(); return r.desired.Revision }
	eventually(t, "the old tombstone is taken up", func() bool {
		return r.last().Revision == rev() && strings.Contains(r.node(id).Message, "does not name")
	})
	if !alive(s.PID) || len(r.last().Buried) != 0 {
		t.Fatal("an old tombstone was carried out")
	}
	bury(2)
	eventually(t, "the node is buried", func() bool { return slices.Contains(r.last().Buried, id) })
	if _, err := os.Stat(layout{r.cfg.DataDir}.node(id)); !os.IsNotExist(err) || alive(s.PID) {
		t.Errorf("files or process are left (%v)", err)
	}
	eventually(t, "the escrow is told", func() bool {
		return slices.ContainsFunc(r.escrowed(), func(w agentlink.EscrowedWrap) bool { return w.Node == id && w.State == keys.StateDestroyed })
	})
	if slices.ContainsFunc(r.escrowed(), func(w agentlink.EscrowedWrap) bool { return w.Node == stays && w.State == keys.StateDestroyed }) {
		t.Error("another node's key was destroyed")
	}
	r.edit(stays, func(*agentlink.Node) {}) // reconciled again
	eventually(t, "the other node goes on", func() bool { return r.node(stays).Generation == 2 })
	r.end()
	log, err := os.ReadFile(layout{r.cfg.DataDir}.audit())
	if n := strings.Count(string(log), `"KEYS_DESTROYED"`); err != nil || n != 1 {
		t.Errorf("the destruction is recorded %d times (%v)", n, err)
	}
}

func TestOlderControlPlaneFreezesChanges(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(false)
	s := r.await(id, agentlink.PhaseRunning)
	r.mu.Lock()
	good := r.desired
	r.mu.Unlock()
	r.change(func(d *agentlink.Desired) { d.Nodes, d.Revision = nil, 1 })
	eventually(t, "an alarm is raised", func() bool { return len(r.last().Alarms) > 0 && strings.Contains(r.last().Alarms[0], "restored") })
	if st := r.last(); st.Revision != good.Revision || !alive(s.PID) || r.node(id).Phase != agentlink.PhaseRunning {
		t.Errorf("the old state is not in force any more: %+v", st)
	}
	r.change(func(d *agentlink.Desired) { *d = good; d.Revision = good.Revision + 1 })
	eventually(t, "the alarm is over", func() bool { return len(r.last().Alarms) == 0 && r.last().Revision == good.Revision+1 })
}

func TestCustodyIsKeptUntilTheProjectSaysThatItHasNoKey(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	file := layout{r.cfg.DataDir}.custody(r.project)
	key := r.desired.Projects[0].CustomerKey
	r.change(func(d *agentlink.Desired) { d.Projects[0] = agentlink.Project{ID: r.project} })
	eventually(t, "an alarm says that nodes are still under the key", func() bool {
		return slices.ContainsFunc(r.last().Alarms, func(a string) bool { return strings.Contains(a, "encrypted under it") })
	})
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.await(id, agentlink.PhaseWaitingForKey)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("custody state is lost: %v", err)
	}
	r.end()
	r.start() // nor does a restart lose it
	r.await(id, agentlink.PhaseWaitingForKey)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("custody state is lost: %v", err)
	}
	r.change(func(d *agentlink.Desired) { d.Projects[0].CustomerKey = key })
	r.await(id, agentlink.PhaseRunning)

	r.change(func(d *agentlink.Desired) {
		d.Nodes, d.Projects = nil, []agentlink.Project{{ID: r.project}}
		d.Tombstones = []agentlink.Tombstone{{Node: id, Project: r.project, Cluster: r.cluster, Generation: 9, DestroyKeys: true}}
	})
	eventually(t, "the node is buried", func() bool { return slices.Contains(r.last().Buried, id) })
	r.change(func(*agentlink.Desired) {})
	eventually(t, "the state is forgotten", func() bool { _, err := os.Stat(file); return os.IsNotExist(err) })
}

func TestDamagedRecordsAreNamedAndLeftAlone(t *testing.T) {
	r := newRig(t)
	r.cfg.StopNodesOnExit = true
	r.start()
	id := r.add(true)
	r.await(id, agentlink.PhaseRunning)
	r.end()
	dir := layout{r.cfg.DataDir}
	nodeFile := dir.node(id, "node.json")
	good, err := os.ReadFile(nodeFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(nodeFile, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	n := r.await(id, agentlink.PhaseFailed)
	if !strings.Contains(n.Message, "node.json") {
		t.Errorf("message %q", n.Message)
	}
	r.end()
	if err := os.WriteFile(nodeFile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(dir.keys(), "*", "*.json"))
	if err != nil || len(records) == 0 {
		t.Fatalf("no key records (%v)", err)
	}
	var rec map[string]any
	raw, err := os.ReadFile(records[0])
	if err != nil || json.Unmarshal(raw, &rec) != nil {
		t.Fatal(err)
	}
	rec["wrapped"] = "AAAA"
	raw, _ = json.Marshal(rec)
	if err := os.WriteFile(records[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), records[0]) {
		t.Errorf("agent with a damaged key record: %v", err)
	}
}

func TestSecondAgentAndForeignStateAreRefused(t *testing.T) {
	r := newRig(t)
	r.start()
	eventually(t, "the agent serves", func() bool { return r.last().Revision == 1 })
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("second agent: %v", err)
	}
	// A state of another host, and one whose identifiers are paths, are not taken up.
	for _, spoil := range []func(*agentlink.Desired){
		func(d *agentlink.Desired) { d.Host = keys.HostID(keys.NewID(time.Now())) },
		func(d *agentlink.Desired) { d.Tombstones = []agentlink.Tombstone{{Node: "../../..", Generation: 9}} },
	} {
		rev := r.last().Revision
		r.mu.Lock()
		asked := len(r.asked)
		r.mu.Unlock()
		r.change(spoil)
		eventually(t, "the agent has asked again and again", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.asked) > asked+1 })
		if got := r.last().Revision; got != rev {
			t.Errorf("revision %d is in force, it was %d", got, rev)
		}
		r.change(func(d *agentlink.Desired) { d.Host, d.Tombstones = r.host, nil })
		eventually(t, "the next good state is taken up", func() bool { return r.last().Revision > rev })
	}
	if _, err := os.Stat(r.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
}

func TestNodeThatIgnoresSIGTERMIsKilled(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	if err := unix.Kill(s.PID, unix.SIGSTOP); err != nil { // it cannot even see the signal
		t.Fatal(err)
	}
	r.cloud.SetState(r.target.KeyID, "Disabled")
	eventually(t, "the process is gone", func() bool { return !alive(s.PID) })
	r.await(id, agentlink.PhaseStoppedByCustody)
}

func TestNodeWithoutItsPasswordFileIsNotGivenANewOne(t *testing.T) {
	r := newRig(t)
	r.cfg.StopNodesOnExit = true
	r.start()
	id := r.add(false)
	r.await(id, agentlink.PhaseRunning)
	r.end()
	pw := layout{r.cfg.DataDir}.node(id, "admin.secret")
	good, err := os.ReadFile(pw)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(pw); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the report names the file", func() bool { return strings.Contains(r.node(id).Message, "admin.secret") })
	r.end()
	if _, err := os.Stat(pw); !os.IsNotExist(err) {
		t.Error("a new password was made")
	}
	if err := os.WriteFile(pw, []byte("not-the-password"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the report says what is wrong", func() bool { return strings.Contains(r.node(id).Message, "administrator's password") })
	r.end()
	if err := os.WriteFile(pw, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await(id, agentlink.PhaseRunning)
}

func TestCrashBetweenAdministratorAndRecord(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	r.end()
	rec := r.record(id)
	rec.Prepared = false // the node has its administrator, the record does not say so
	if err := rec.save(layout{r.cfg.DataDir}); err != nil {
		t.Fatal(err)
	}
	r.start()
	if n := r.await(id, agentlink.PhaseRunning); n.PID != s.PID {
		t.Error("the node was restarted")
	}
	eventually(t, "the record says so again", func() bool { return r.record(id).Prepared })
}

func TestDeadNodeComesBackAtItsPort(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node runs again", func() bool {
		n := r.node(id)
		return n.Phase == agentlink.PhaseRunning && n.PID != s.PID && n.PID != 0
	})
	if n := r.node(id); n.Port != s.Port || n.MasterKey != s.MasterKey {
		t.Errorf("came back as %+v, was %+v", n, s)
	}
}

func TestPausedNodeStopsAndIsAcknowledged(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(false)
	s := r.await(id, agentlink.PhaseRunning)
	r.edit(id, func(n *agentlink.Node) { n.Run = false })
	eventually(t, "the node is down and the change acknowledged", func() bool {
		n := r.node(id)
		return n.Phase == agentlink.PhaseStopped && n.Generation == 2 && !alive(s.PID)
	})
	r.edit(id, func(n *agentlink.Node) { n.Run = true })
	r.await(id, agentlink.PhaseRunning)
}

func TestKeyIsNotUsedBeforeItIsInEscrow(t *testing.T) {
	r := newRig(t)
	r.mu.Lock()
	r.refuse = true
	r.mu.Unlock()
	r.start()
	id := r.add(true)
	wraps := func() []string {
		f, _ := filepath.Glob(filepath.Join(layout{r.cfg.DataDir}.keys(), "*", "*.json"))
		return f
	}
	eventually(t, "the node has tried more than once", func() bool {
		log, _ := os.ReadFile(layout{r.cfg.DataDir}.node(id, "mongod.log"))
		return strings.Count(string(log), "node ends") >= 2
	})
	if n := r.node(id); n.Phase == agentlink.PhaseRunning || len(wraps()) != 1 {
		t.Errorf("without escrow the node is %s, %d keys were made", n.Phase, len(wraps()))
	}
	r.mu.Lock()
	r.refuse = false
	r.mu.Unlock()
	r.await(id, agentlink.PhaseRunning)
}
