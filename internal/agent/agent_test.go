package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

func TestRevokedKeyStopsEncryptedNodesOnlyAndComesBack(t *testing.T) {
	r := newRig(t)
	r.start()
	secretNode, open := r.add(true), r.add(false)
	s, o := r.await(secretNode, agentlink.PhaseRunning), r.await(open, agentlink.PhaseRunning)
	if !s.Encrypted || s.MasterKey == "" || o.Encrypted || s.Port == o.Port {
		t.Fatalf("nodes are %+v and %+v", s, o)
	}
	if w := r.escrowed(); len(w) != 1 || w[0].Key != s.MasterKey || w[0].State != keys.StateActive && w[0].State != keys.StatePreActive {
		t.Fatalf("escrow holds %+v", w)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", o.PID)); err == nil && strings.Contains(string(env), "AWS_") {
		t.Error("a node sees AWS credentials")
	}
	for _, c := range r.cloud.Calls() {
		if c.Operation == kms.OpEncrypt && c.Context["keywright:purpose"] == "master-key" && c.Context["keywright:node"] != string(secretNode) {
			t.Errorf("encryption context %v", c.Context)
		}
	}

	r.cloud.SetState(r.target.KeyID, "Disabled")
	r.await(secretNode, agentlink.PhaseStoppedByCustody)
	eventually(t, "the process is gone", func() bool { return !alive(s.PID) && r.node(secretNode).PID == 0 })
	if !refuses(s.Port) {
		t.Error("port of a stopped node answers")
	}
	if n := r.node(open); n.PID != o.PID || !alive(o.PID) {
		t.Error("the unencrypted node was touched")
	}

	r.cloud.SetState(r.target.KeyID, "Enabled")
	back := r.await(secretNode, agentlink.PhaseRunning)
	if back.Port != s.Port || back.MasterKey != s.MasterKey {
		t.Errorf("came back as %+v, was %+v", back, s)
	}
	r.end()
	if _, err := audit.VerifyFile(layout{r.cfg.DataDir}.audit(), audit.Head{}); err != nil {
		t.Error(err)
	}
	if log, _ := os.ReadFile(layout{r.cfg.DataDir}.audit()); !strings.Contains(string(log), "KEY_VERDICT_INVALID") || !strings.Contains(string(log), "KEY_RELEASED") {
		t.Error("the audit log does not tell of it")
	}
}

func TestNewAgentAdoptsWhatRunsAndStopsWhatIsRevoked(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	kmip := r.last().KMIPAddress
	r.end() // without stopping anything, as after kill -9
	if !alive(s.PID) {
		t.Fatal("the node went with its agent")
	}
	r.start()
	if n := r.await(id, agentlink.PhaseRunning); n.PID != s.PID {
		t.Fatalf("node was restarted: %d, was %d", n.PID, s.PID)
	}
	if now := r.last().KMIPAddress; now != kmip {
		t.Errorf("KMIP moved from %s to %s", kmip, now)
	}
	r.cloud.SetState(r.target.KeyID, "Disabled")
	r.await(id, agentlink.PhaseStoppedByCustody)
	r.end()

	// Under INVALID a process that is found is stopped, and none is started.
	r.start()
	r.await(id, agentlink.PhaseStoppedByCustody)
	r.cloud.SetState(r.target.KeyID, "Enabled")
	r.await(id, agentlink.PhaseRunning)
}

func TestProcessFoundUnderInvalidIsStopped(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	r.end()
	path := layout{r.cfg.DataDir}.custody(r.project)
	st, err := custodyFile(path).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st.Verdict, st.Reason = custody.Invalid, kms.KeyDisabled
	if err := custodyFile(path).Save(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	r.cloud.SetState(r.target.KeyID, "Disabled")
	r.start()
	r.await(id, agentlink.PhaseStoppedByCustody)
	eventually(t, "the process is gone", func() bool { return !alive(s.PID) })
}

func TestHostStartsWithoutControlPlane(t *testing.T) {
	r := newRig(t)
	r.cfg.StopNodesOnExit = true
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	r.end()
	if alive(s.PID) {
		t.Fatal("the node was not stopped")
	}
	r.setDown(true)
	r.mu.Lock()
	r.asked = nil
	r.mu.Unlock()
	r.start()
	eventually(t, "the node serves", func() bool { return !refuses(s.Port) })
	r.setDown(false)
	r.await(id, agentlink.PhaseRunning)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked[0] != 0 {
		t.Errorf("passwords were not asked for after the restart: %v", r.asked)
	}
}

func TestEncryptionIsTurnedOnWithUsersAndBack(t *testing.T) {
	r := newRig(t)
	r.change(func(d *agentlink.Desired) {
		d.Projects[0].Users = []agentlink.DatabaseUser{
			{Database: "admin", Username: "a.b", Password: "first-password", Revision: 3, Roles: []agentlink.DatabaseRole{{Role: "readWriteAnyDatabase", Database: "admin"}}},
			{Database: "admin", Username: "elsewhere", Password: "pw-pw-pw", Revision: 4, Clusters: []keys.ClusterID{keys.ClusterID(keys.NewID(time.Now()))}},
		}
	})
	r.start()
	id := r.add(false)
	r.await(id, agentlink.PhaseRunning)
	eventually(t, "users are reported", func() bool { return r.node(id).UsersRevision == 3 })
	dir := layout{r.cfg.DataDir}
	disk, err := os.ReadFile(dir.desired())
	if err != nil || strings.Contains(string(disk), "first-password") {
		t.Fatalf("a password lies on disk (%v)", err)
	}

	r.edit(id, func(n *agentlink.Node) { n.Encrypted = true })
	eventually(t, "the node runs encrypted and the old files are gone", func() bool {
		s := r.node(id)
		_, err := os.Stat(dir.node(id, "data-1"))
		return s.Phase == agentlink.PhaseRunning && s.Encrypted && s.Generation == 2 && os.IsNotExist(err)
	})
	key := r.node(id).MasterKey
	eventually(t, "the record is clean", func() bool { return len(r.record(id).Stale) == 0 })

	// A change that needs nothing done is acknowledged.
	r.edit(id, func(*agentlink.Node) {})
	eventually(t, "the generation is acknowledged", func() bool { return r.node(id).Generation == 3 })

	// The removed user goes, the other's new revision is carried out.
	r.change(func(d *agentlink.Desired) {
		d.Projects[0].Users = []agentlink.DatabaseUser{{Database: "admin", Username: "c", Password: "third-password", Revision: 9, Roles: []agentlink.DatabaseRole{{Role: "readWriteAnyDatabase", Database: "admin"}}}}
	})
	eventually(t, "users are up to date", func() bool { return r.node(id).UsersRevision == 9 && len(r.record(id).Users) == 1 })

	r.edit(id, func(n *agentlink.Node) { n.Encrypted = false })
	eventually(t, "the node runs in clear, its key is destroyed here and told", func() bool {
		s := r.node(id)
		var w agentlink.EscrowedWrap
		for _, e := range r.escrowed() {
			if e.Key == key {
				w = e
			}
		}
		return s.Phase == agentlink.PhaseRunning && !s.Encrypted && s.Generation == 4 && w.State == keys.StateDestroyed && len(w.Wrapped) == 0
	})
}

func TestRewriteOfAKilledAgentIsStoppedAndDoneAgain(t *testing.T) {
	t.Setenv("KEYWRIGHT_TEST_HANG_REWRITE", "1")
	r := newRig(t)
	r.start()
	id := r.add(false)
	r.await(id, agentlink.PhaseRunning)
	r.end()
	r.reap() // the node's process ended too

	// The state that a kill -9 of the agent leaves: a rewrite that nobody waits for.
	dir := layout{r.cfg.DataDir}
	from, to := dir.node(id, "data-1"), dir.node(id, "data-2")
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := driver.Start(driver.Bundled{Executable: r.cfg.Executable}.Rewrite(driver.Rewrite{
		Spec: driver.Spec{Node: id}, From: from, To: to, ToEncrypted: true,
	}), dir.node(id, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rewrite holds the lock", func() bool { q, err := driver.Adopt(from); return err == nil && q != nil })
	if err := os.Unsetenv("KEYWRIGHT_TEST_HANG_REWRITE"); err != nil {
		t.Fatal(err)
	}
	r.edit(id, func(n *agentlink.Node) { n.Encrypted = true })
	r.start()
	eventually(t, "the node runs encrypted", func() bool { s := r.node(id); return s.Phase == agentlink.PhaseRunning && s.Encrypted })
	if p.Running() {
		t.Error("the old rewrite still runs")
	}
}

func TestRewriteKilledAfterTheSwapIsTheNewOne(t *testing.T) {
	r := newRig(t)
	r.cfg.StopNodesOnExit = true
	r.start()
	id := r.add(false)
	r.await(id, agentlink.PhaseRunning)
	r.edit(id, func(n *agentlink.Node) { n.Encrypted = true })
	eventually(t, "the node runs encrypted", func() bool {
		s := r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.Encrypted && s.Generation == 2
	})
	r.end()
	// As if killed right after the record was replaced: the old files are still there.
	dir := layout{r.cfg.DataDir}
	rec := r.record(id)
	rec.Stale = []int{rec.Dir - 1}
	if err := rec.save(dir); err != nil {
		t.Fatal(err)
	}
	old := dir.node(id, dirName(rec.Dir-1))
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "clear.txt"), []byte("readable"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await(id, agentlink.PhaseRunning)
	eventually(t, "the old files are gone", func() bool { _, err := os.Stat(old); return os.IsNotExist(err) })
}
