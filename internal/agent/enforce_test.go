package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

func sleeper(t *testing.T) *driver.Process {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("sleep is absent")
	}
	p, err := driver.Start([]string{path, "300"}, filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(context.Background(), 0) })
	return p
}

// bare is an agent with one node whose state machine does not run.
func bare(t *testing.T, rec record) (*Agent, *node) {
	t.Helper()
	a := &Agent{
		log: discard(), dir: layout{t.TempDir()}, ports: newPorts(PortRange{}), wishes: &wishes{},
		custodes: map[keys.ProjectID]*running[*custodian]{}, nodes: map[keys.NodeID]*running[*node]{},
	}
	store, err := wraps.Open(filepath.Join(a.dir.root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	a.vault = &vault{store: store}
	a.reporter = newReporter(a)
	n := newNode(a, rec.Node)
	n.rec, n.exists, n.loaded = rec, true, true
	a.nodes[rec.Node] = &running[*node]{it: n, done: make(chan struct{})}
	return a, n
}

// Custody's stop needs no state machine: that may be waiting for anything.
func TestEnforcementGoesPastTheStateMachine(t *testing.T) {
	id, project := keys.NodeID(keys.NewID(time.Now())), keys.ProjectID(keys.NewID(time.Now()))
	a, n := bare(t, record{Node: id, Project: project, Encrypted: true, Dir: 1})
	n.proc, n.helper = sleeper(t), sleeper(t)
	proc, helper := n.proc, n.helper
	a.stopEncrypted(keys.ProjectID(keys.NewID(time.Now()))) // another project's key
	a.background.Wait()
	if !proc.Running() || !helper.Running() {
		t.Fatal("another project's revocation stopped the node")
	}
	a.stopEncrypted(project)
	a.background.Wait()
	if proc.Running() || helper.Running() {
		t.Error("node or rewrite still run")
	}

	b, m := bare(t, record{Node: id, Project: project, Dir: 1}) // in clear, being encrypted
	m.proc, m.helper = sleeper(t), sleeper(t)
	b.stopEncrypted(project)
	b.background.Wait()
	if !m.proc.Running() || m.helper.Running() {
		t.Errorf("unencrypted node runs: %t, rewrite runs: %t", m.proc.Running(), m.helper.Running())
	}
}

func TestBuriedMeansFilesAndKeysAreGone(t *testing.T) {
	id := keys.NodeID(keys.NewID(time.Now()))
	a, _ := bare(t, record{Node: id, Dir: 1})
	desk := newDesk(t)
	a.vault = desk.vault
	p := principal()
	p.Node = id
	key := desk.create(p)
	order := agentlink.Desired{Tombstones: []agentlink.Tombstone{{Node: id, Generation: 2, DestroyKeys: true}}}
	keep := agentlink.Desired{Tombstones: []agentlink.Tombstone{{Node: id, Generation: 2}}}
	if err := os.MkdirAll(a.dir.node(id), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := a.buried(order); len(got) != 0 {
		t.Error("buried while it is supervised")
	}
	delete(a.nodes, id)
	if got := a.buried(order); len(got) != 0 {
		t.Error("buried with its files there")
	}
	if err := os.Remove(a.dir.node(id)); err != nil {
		t.Fatal(err)
	}
	if got := a.buried(order); len(got) != 0 {
		t.Error("buried with its keys there")
	}
	if got := a.buried(keep); !slices.Equal(got, []keys.NodeID{id}) {
		t.Error("keys that may stay keep it from being buried")
	}
	if err := os.MkdirAll(a.dir.nodes(), 0o700); err != nil {
		t.Fatal(err)
	}
	if ids, err := a.nodeIDs(order); err != nil || !ids[id] {
		t.Errorf("the node is not taken up again to destroy its keys: %v, %v", ids, err)
	}
	if err := a.vault.destroy(t.Context(), "test", id); err != nil {
		t.Fatal(err)
	}
	if got := a.buried(order); !slices.Equal(got, []keys.NodeID{id}) {
		t.Errorf("buried: %v", got)
	}
	if ids, err := a.nodeIDs(order); err != nil || ids[id] {
		t.Errorf("what is buried is taken up again: %v, %v", ids, err)
	}
	if r, ok := a.vault.store.Get(key); !ok || r.State != keys.StateDestroyed {
		t.Errorf("key is %+v", r)
	}
}

// The verdict counts as allowing a start only once its change is recorded and stored.
func TestStartWaitsForTheRecordOfTheVerdict(t *testing.T) {
	id, project := keys.NodeID(keys.NewID(time.Now())), keys.ProjectID(keys.NewID(time.Now()))
	a, n := bare(t, record{Node: id, Project: project, Encrypted: true, Dir: 1})
	if n.look().mayStart { // no custodian: nobody watches the key
		t.Error("a node may start without a watch over its key")
	}
	cloud := kmstest.NewCloud()
	tg := cloud.Project()
	recorded := make(chan struct{})
	c := &custodian{project: project, provider: cloud, key: agentlink.CustomerKey{
		RoleARN: tg.RoleARN, ExternalID: tg.ExternalID, KeyARN: tg.KeyID, Region: tg.Region,
	}}
	c.loop = custody.NewLoop(custody.Config{
		Prober: c, Store: custodyFile(filepath.Join(t.TempDir(), "custody.json")),
		Enact: func(ctx context.Context, e custody.Effect, _ custody.State) error {
			if e == custody.Record {
				select {
				case <-recorded:
				case <-ctx.Done():
				}
			}
			return nil
		},
	})
	a.custodes[project] = &running[*custodian]{it: c}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	defer func() { cancel(); <-done }()
	eventually(t, "the key is valid", func() bool { return c.loop.State().Verdict == custody.Valid })
	if n.look().mayStart {
		t.Error("a node may start before the verdict is in the audit log")
	}
	close(recorded)
	eventually(t, "the node may start", func() bool { return n.look().mayStart })
}

func TestNodeThatStartsWhenTheAgentEndsIsLeftAlone(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(false)
	var p *driver.Process
	eventually(t, "the node has its lock", func() bool {
		var err error
		p, err = driver.Adopt(layout{r.cfg.DataDir}.node(id, "data-1"))
		return err == nil && p != nil
	})
	if err := unix.Kill(p.PID, unix.SIGSTOP); err != nil { // it does not come further
		t.Fatal(err)
	}
	r.end()
	if !p.Running() || !alive(p.PID) {
		t.Fatal("the node went with its agent")
	}
	if err := unix.Kill(p.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.start()
	if n := r.await(id, agentlink.PhaseRunning); n.PID != p.PID {
		t.Errorf("node was restarted: %d, was %d", n.PID, p.PID)
	}
}
