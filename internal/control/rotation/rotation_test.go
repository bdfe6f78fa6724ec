package rotation_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// lab is a project with clusters on one host whose agent is scripted.
type lab struct {
	*controltest.World
	t       *testing.T
	project store.Project
	agent   *controltest.Agent
	s       *rotation.Service
}

func newLab(t *testing.T, clusters ...string) *lab {
	t.Helper()
	w := controltest.New(t)
	l := &lab{World: w, t: t, project: w.Project("p")}
	w.Enable(l.project.ID)
	l.agent = controltest.NewAgent(w.Host("h"))
	for _, name := range clusters {
		l.create(name, "AWS")
	}
	l.restart()
	for _, name := range clusters {
		l.give(name, time.Now())
	}
	return l
}

// restart makes the service anew, as a new process does.
func (l *lab) restart() {
	l.t.Helper()
	l.s = rotation.New(rotation.Config{Store: l.Store})
	l.Must(l.s.Check(l.t.Context()))
}

func (l *lab) create(name, provider string) {
	l.t.Helper()
	_, err := l.Cluster.Create(l.t.Context(), l.Owner, l.project.ID, name, store.ClusterSettings{EncryptionProvider: provider, Specs: []store.ReplicationSpec{{
		Regions: []store.RegionConfig{{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}},
	}}})
	l.Must(err)
}

// round lets the agent and the service do what is to be done, until nothing is.
func (l *lab) round() {
	l.t.Helper()
	for range 3 {
		l.Must(l.agent.Step(l.World))
		l.Must(l.s.Step(l.t.Context()))
	}
}

func (l *lab) get(name string) rotation.View {
	l.t.Helper()
	v, err := l.s.Get(l.t.Context(), l.Owner, l.project.ID, name)
	l.Must(err)
	return v
}

func (l *lab) node(name string) store.Node { return l.get(name).Nodes[0].Node }

// escrow keeps a wrap of a cluster's node in the given state.
func (l *lab) escrow(name string, key keys.KeyID, state keys.State, revision uint64, created time.Time) {
	l.t.Helper()
	n := l.node(name)
	w := agentlink.EscrowedWrap{
		Node: n.ID, Project: n.Project, Cluster: n.Cluster, Key: key, Purpose: keys.PurposeMasterKey, State: state, Generation: 1, Revision: revision,
		Wrapped: []byte("wrapped"), Created: created,
	}
	if state == keys.StateDestroyed {
		w.Wrapped = nil
	}
	l.Must(l.Cluster.Escrow(l.t.Context(), l.agent.Host, []agentlink.EscrowedWrap{w}))
}

// use has the agent report a key and the number of rotations.
func (l *lab) use(name string, key keys.KeyID, rotations uint64, failure string) {
	l.t.Helper()
	id := l.node(name).ID
	l.Must(l.agent.Step(l.World))
	st := l.agent.Nodes[id]
	st.MasterKey, st.Rotation, st.RotationFailure = key, rotations, failure
	l.agent.Nodes[id] = st
	l.Must(l.Cluster.Status(l.t.Context(), l.agent.Host, l.agent.Status()))
}

// give gives a cluster's node a master key.
func (l *lab) give(name string, created time.Time) keys.KeyID {
	l.t.Helper()
	k := keys.NewKeyID()
	l.Must(l.agent.Step(l.World))
	l.escrow(name, k, keys.StateActive, 1, created)
	l.use(name, k, 0, "")
	return k
}

func (l *lab) request(name string) rotation.View {
	l.t.Helper()
	v, err := l.s.Request(l.t.Context(), l.Owner, l.project.ID, name)
	l.Must(err)
	return v
}

func (l *lab) count(kind string) (n int) {
	for _, e := range l.Events(l.project.ID) {
		if e == kind {
			n++
		}
	}
	return n
}

func TestARotationIsAcknowledgedBeforeTheOldKeyMayGo(t *testing.T) {
	l := newLab(t, "one")
	k1 := l.get("one").Nodes[0].Status.MasterKey
	if v := l.request("one"); v.Rotation == nil || v.Rotation.State != rotation.Pending || v.Rotation.Reason != rotation.OnDemand {
		t.Fatalf("%+v", v.Rotation)
	}
	l.round()
	l.request("one") // twice is once
	l.round()
	if n := l.node("one"); n.Rotation != 1 || l.agent.Last.Nodes[0].Rotation != 1 {
		t.Fatalf("ordered %d, told %d", n.Rotation, l.agent.Last.Nodes[0].Rotation)
	}
	k2 := keys.NewKeyID()

	// Not before the new key is Active in escrow.
	l.use("one", k2, 1, "")
	l.round()
	if v := l.get("one"); v.Rotation.State != rotation.Running || len(v.Nodes[0].RetiredKeys) != 0 {
		t.Errorf("acknowledged without escrow: %+v", v.Rotation)
	}
	l.escrow("one", k2, keys.StatePreActive, 1, time.Now())
	l.escrow("one", k1, keys.StateDeactivated, 2, time.Now())
	l.round()
	if v := l.get("one"); v.Rotation.State != rotation.Running || len(v.Nodes[0].RetiredKeys) != 0 {
		t.Errorf("acknowledged with an inactive key: %+v %v", v.Rotation, v.Nodes[0].RetiredKeys)
	}
	l.restart() // a crash of the control plane in the middle
	l.use("one", k2, 0, "")
	l.escrow("one", k2, keys.StateActive, 2, time.Now())
	l.round()
	if v := l.get("one"); v.Rotation.State != rotation.Running || len(v.Nodes[0].RetiredKeys) != 0 {
		t.Errorf("acknowledged before the host is done: %+v %v", v.Rotation, v.Nodes[0].RetiredKeys)
	}
	l.use("one", k2, 1, "")
	l.round()
	v := l.get("one")
	if v.Rotation.State != rotation.Done || v.Rotation.Nodes[0].From != k1 || v.Rotation.Nodes[0].To != k2 {
		t.Fatalf("%+v", v.Rotation)
	}
	if got := l.agent.Last.Nodes[0].RetiredKeys; !slices.Equal(got, []keys.KeyID{k1}) {
		t.Errorf("the host is told to destroy %v", got)
	}
	l.escrow("one", k1, keys.StateDestroyed, 3, time.Now())
	l.round()
	if got := l.node("one").RetiredKeys; len(got) != 0 {
		t.Errorf("still ordered: %v", got)
	}
	for _, kind := range []string{"MASTER_KEY_ROTATION_REQUESTED", "MASTER_KEY_ROTATION_STARTED", "MASTER_KEY_ROTATED", "MASTER_KEY_ROTATION_COMPLETED", "MASTER_KEY_RETIRED"} {
		if n := l.count(kind); n != 1 {
			t.Errorf("%d events %s", n, kind)
		}
	}
	l.Verify()
}

func TestClustersFollowOneAnotherAndOneThatFailsKeepsNobodyWaiting(t *testing.T) {
	l := newLab(t, "one", "two", "three")
	for _, name := range []string{"one", "two"} {
		l.request(name)
	}
	l.round()
	ordered := func() (out []string) {
		for _, name := range []string{"one", "two", "three"} {
			if l.node(name).Rotation > 0 {
				out = append(out, name)
			}
		}
		return out
	}
	first := ordered()
	if len(first) != 1 {
		t.Fatalf("ordered at once: %v", first)
	}
	k := l.get(first[0]).Nodes[0].Status.MasterKey
	l.use(first[0], k, 0, "the key service does not answer")
	l.round()
	l.use(first[0], k, 0, "the key service still does not answer")
	l.round()
	if got := ordered(); len(got) != 2 {
		t.Errorf("ordered: %v", got)
	}
	if v := l.get(first[0]); v.Rotation.State != rotation.Running || v.Rotation.Nodes[0].Failure == "" {
		t.Errorf("%+v", v.Rotation)
	}
	if n := l.count("MASTER_KEY_ROTATION_FAILED"); n != 1 {
		t.Errorf("%d events of the failure", n)
	}
}

func TestRotationWaitsForANodeThatCannotRotate(t *testing.T) {
	l := newLab(t, "one")
	l.agent.Stuck = agentlink.PhaseStoppedByCustody
	l.Must(l.agent.Step(l.World))
	l.request("one")
	l.round()
	if l.node("one").Rotation != 0 {
		t.Error("ordered while the node is down")
	}
	l.agent.Stuck = ""
	l.round()
	if l.node("one").Rotation != 1 {
		t.Error("not ordered although the node is back")
	}
}

func TestOldKeysAreRotatedByThemselves(t *testing.T) {
	l := newLab(t, "young", "old")
	l.give("old", time.Now().Add(-rotation.MaxAge-time.Hour))
	l.give("young", time.Now().Add(-rotation.MaxAge+time.Hour))
	for range 2 {
		l.Must(l.s.Check(t.Context()))
	}
	if v := l.get("old"); v.Rotation == nil || v.Rotation.Reason != rotation.Age {
		t.Errorf("old: %+v", v.Rotation)
	}
	if v := l.get("young"); v.Rotation != nil {
		t.Errorf("young: %+v", v.Rotation)
	}
	if n := l.count("MASTER_KEY_ROTATION_REQUESTED"); n != 1 {
		t.Errorf("%d plans", n)
	}
}

func TestWhoMayRotateWhat(t *testing.T) {
	l := newLab(t, "one")
	l.create("open", "NONE")
	reader := l.Key([]tenant.Role{tenant.OrgMember}, l.project.ID, tenant.GroupReadOnly, tenant.GroupClusterManager)
	for _, c := range []struct {
		who  tenant.Principal
		name string
		code string
	}{
		{reader, "one", "USER_UNAUTHORIZED"}, {l.Owner, "none", "CLUSTER_NOT_FOUND"}, {l.Owner, "open", "CLUSTER_NOT_ENCRYPTED"},
	} {
		if _, err := l.s.Request(t.Context(), c.who, l.project.ID, c.name); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", c.code, err)
		}
	}
	if _, err := l.s.Get(t.Context(), reader, l.project.ID, "one"); err != nil {
		t.Error(err)
	}
}
