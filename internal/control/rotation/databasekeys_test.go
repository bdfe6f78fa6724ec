package rotation_test

import (
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
)

func (l *lab) databaseKeys(name string, compact bool) rotation.View {
	l.t.Helper()
	v, err := l.s.DatabaseKeys(l.t.Context(), l.Owner, l.project.ID, name, compact)
	l.Must(err)
	return v
}

// sets has the agent report about a node's keysets.
func (l *lab) sets(name string, k agentlink.KeysetStatus) {
	l.t.Helper()
	id := l.node(name).ID
	l.Must(l.agent.Step(l.World))
	st := l.agent.Nodes[id]
	st.Keysets = &k
	l.agent.Nodes[id] = st
	l.Must(l.Cluster.Status(l.t.Context(), l.agent.Host, l.agent.Status()))
}

func TestDatabaseKeysAreRotatedClusterAfterCluster(t *testing.T) {
	l := newLab(t, "one", "two")
	l.databaseKeys("one", true)
	l.databaseKeys("two", false)
	l.databaseKeys("two", false) // twice is once
	l.round()
	if n := l.node("one"); n.KeysetRotation+l.node("two").KeysetRotation != 1 {
		t.Fatalf("ordered at once: %d and %d", n.KeysetRotation, l.node("two").KeysetRotation)
	}
	first, second := "one", "two"
	if l.node("one").KeysetRotation == 0 {
		first, second = "two", "one"
	}
	l.restart() // a crash of the control plane in the middle
	l.sets(first, agentlink.KeysetStatus{Failure: "the disk is full"})
	l.round()
	v := l.get(first)
	if v.DatabaseKeys.State != rotation.Running || v.DatabaseKeys.Nodes[0].Failure == "" || l.node(second).KeysetRotation != 1 {
		t.Errorf("one that fails keeps the other waiting: %+v", v.DatabaseKeys)
	}
	for _, name := range []string{"one", "two"} {
		l.sets(name, agentlink.KeysetStatus{Rotation: 1, Bytes: 100, Newest: 40, OldKeys: 3})
	}
	l.round()
	if v := l.get("two"); v.DatabaseKeys.State != rotation.Done {
		t.Errorf("%+v", v.DatabaseKeys)
	}
	if v := l.get("one"); v.DatabaseKeys.State != rotation.Running || l.node("one").Compaction != 1 || l.node("two").Compaction != 0 {
		t.Errorf("done before the compaction: %+v", v.DatabaseKeys)
	}
	l.sets("one", agentlink.KeysetStatus{Rotation: 1, Compaction: 1, Bytes: 100, Newest: 100})
	l.round()
	if v := l.get("one"); v.DatabaseKeys.State != rotation.Done || v.Nodes[0].Status.Keysets.Newest != 100 {
		t.Errorf("%+v", v.DatabaseKeys)
	}
	for kind, n := range map[string]int{
		"DATABASE_KEY_ROTATION_REQUESTED": 2, "DATABASE_KEY_ROTATION_STARTED": 2, "DATABASE_KEY_ROTATION_FAILED": 1, "DATABASE_KEYS_ROTATED": 2, "DATABASE_KEY_ROTATION_COMPLETED": 2,
	} {
		if got := l.count(kind); got != n {
			t.Errorf("%d events %s, want %d", got, kind, n)
		}
	}
	l.Verify()
}

func TestACompactionIsAddedToAnOpenRotation(t *testing.T) {
	l := newLab(t, "one")
	l.databaseKeys("one", false)
	l.round()
	l.databaseKeys("one", true)
	l.round()
	if n := l.node("one"); n.KeysetRotation != 1 || n.Compaction != 1 {
		t.Fatalf("ordered %d, %d", n.KeysetRotation, n.Compaction)
	}
	l.sets("one", agentlink.KeysetStatus{Rotation: 1, Compaction: 1})
	l.round()
	if v := l.get("one"); v.DatabaseKeys.State != rotation.Done {
		t.Errorf("%+v", v.DatabaseKeys)
	}
}

func TestWhoMayRotateDatabaseKeysOfWhat(t *testing.T) {
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
		if _, err := l.s.DatabaseKeys(t.Context(), c.who, l.project.ID, c.name, true); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", c.code, err)
		}
	}
}
