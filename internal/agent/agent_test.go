package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

// rig is one host: an agent that can end and begin again on one directory, under a
// scripted control plane and key service. Its nodes are real processes.
type rig struct {
	*plane
	cloud   *kmstest.Cloud
	target  kms.Target
	project keys.ProjectID
	cluster keys.ClusterID
	cfg     Config
	end     func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes of the engine: not in short mode")
	}
	r := &rig{plane: newPlane(t), cloud: kmstest.NewCloud(), project: keys.ProjectID(keys.NewID(time.Now())), cluster: keys.ClusterID(keys.NewID(time.Now()))}
	r.target = r.cloud.Project()
	probe := kms.Run(t.Context(), r.cloud, kms.RunInput{Target: r.target, Context: keys.ProbeContext(r.desired.Deployment, r.project).Map()})
	if probe.Outcome != kms.OK {
		t.Fatalf("no probe: %+v", probe)
	}
	r.desired.Projects = []agentlink.Project{{ID: r.project, CustomerKey: &agentlink.CustomerKey{
		Generation: 1, RoleARN: r.target.RoleARN, ExternalID: r.target.ExternalID, KeyARN: r.target.KeyID, Region: r.target.Region,
		Probe: probe.Probe.Ciphertext, ProbeSHA256: probe.Probe.Digest, Interval: agentlink.Duration(time.Second),
	}}}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(r.token()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.DiscardHandler
	if testing.Verbose() {
		log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})
	}
	r.cfg = Config{
		DataDir: filepath.Join(dir, "host"), ServerURL: r.http.URL, EnrollTokenFile: token, Hostname: "db1", KMIPListen: "127.0.0.1:0",
		Executable: exe, Provider: r.cloud, Logger: slog.New(log),
	}
	t.Cleanup(func() {
		if r.end != nil {
			r.end()
		}
		r.reap()
	})
	return r
}

// reap kills what is left of the nodes: each by the lock of its own directory.
func (r *rig) reap() {
	locks, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, "nodes", "*", "data-*", driver.LockFile))
	for _, l := range locks {
		if p, err := driver.Adopt(filepath.Dir(l)); err == nil && p != nil {
			_ = p.Stop(context.Background(), 0)
		}
	}
}

// start begins an agent. r.end ends it without stopping its nodes.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.mu.Lock()
	r.status = agentlink.Status{}
	r.mu.Unlock()
	cfg := r.cfg
	go func() { done <- Run(ctx, cfg) }()
	r.end = func() {
		cancel()
		r.end = nil
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("agent ended with %v", err)
			}
		case <-time.After(60 * time.Second):
			r.t.Error("agent does not end")
		}
	}
}

func (r *rig) add(encrypted bool) keys.NodeID {
	id := keys.NodeID(keys.NewID(time.Now()))
	r.change(func(d *agentlink.Desired) {
		d.Nodes = append(d.Nodes, agentlink.Node{
			ID: id, Project: r.project, Cluster: r.cluster, Engine: "bundled", Run: true, Encrypted: encrypted, Generation: 1, ReplicaSet: "rs-" + string(id),
		})
	})
	return id
}

func (r *rig) edit(id keys.NodeID, fn func(*agentlink.Node)) {
	r.change(func(d *agentlink.Desired) {
		for i := range d.Nodes {
			if d.Nodes[i].ID == id {
				fn(&d.Nodes[i])
				d.Nodes[i].Generation++
			}
		}
	})
}

func (r *rig) await(id keys.NodeID, phase agentlink.Phase) agentlink.NodeStatus {
	r.t.Helper()
	var s agentlink.NodeStatus
	what := fmt.Sprintf("node %s is %s", id, phase)
	defer func() {
		if r.t.Failed() {
			r.t.Logf("last report: %+v", s)
		}
	}()
	eventually(r.t, what, func() bool { s = r.node(id); return s.Phase == phase })
	return s
}

func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func refuses(port int) bool {
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

func (r *rig) record(id keys.NodeID) record {
	r.t.Helper()
	rec, ok, err := loadRecord(layout{r.cfg.DataDir}, id)
	if err != nil || !ok {
		r.t.Fatalf("record of node: %t, %v", ok, err)
	}
	return rec
}

func (r *rig) verdict() custody.Verdict {
	for _, c := range r.last().Custody {
		if c.Project == r.project {
			return c.State.Verdict
		}
	}
	return ""
}

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
	eventually(t, "the agent serves", func() bool { return r.last().Version == 1 })
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

func TestHostWithoutCertificateSaysWhatToDo(t *testing.T) {
	r := newRig(t)
	r.start()
	eventually(t, "the agent serves", func() bool { return r.last().Version == 1 })
	r.end()
	if err := os.Remove(layout{r.cfg.DataDir}.linkCert()); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), r.cfg); err == nil || !strings.Contains(err.Error(), "enrol this host again") {
		t.Errorf("without certificate: %v", err)
	}
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
