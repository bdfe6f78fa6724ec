package cluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// dead makes a host one that has not reported for an hour.
func dead(t *testing.T, w *controltest.World, id keys.HostID) {
	t.Helper()
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		h, err := tx.Host(id)
		if err != nil {
			return err
		}
		h.LastSeen = h.LastSeen.Add(-time.Hour)
		return tx.PutHost(h)
	}))
}

func TestADeadHostIsForgottenWithWhatItKept(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("db1"))
	c := create(t, w, p.ID, "c", settings("AWS"))
	step(t, w, a)
	a.Key(w, c.Nodes[0].ID)
	step(t, w, a)
	forget := func(who tenant.Principal, confirm, code string, says ...string) {
		t.Helper()
		_, err := w.Cluster.Forget(t.Context(), who, a.Host, confirm)
		if apierr.Code(err) != code {
			t.Errorf("confirmed with %q: %v, want %s", confirm, err, code)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
	}
	forget(w.Owner, "db1", "HOST_STILL_REPORTS", "it is not dead")
	dead(t, w, a.Host)
	forget(w.Owner, "", "CONFIRMATION_REQUIRED", "the clusters c", string(c.Nodes[0].ID), "1 wrapped keys", "cannot be undone")
	forget(w.Owner, "db2", "CONFIRMATION_REQUIRED")
	forget(w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupOwner), "db1", "HOST_NOT_FOUND")
	forget(w.Key([]tenant.Role{tenant.OrgReadOnly}, ""), "db1", "USER_UNAUTHORIZED")
	if v := get(t, w, p.ID, "c"); len(v.Nodes) != 1 {
		t.Fatalf("a refusal changed something: %+v", v)
	}
	l, err := w.Cluster.Forget(t.Context(), w.Owner, a.Host, "db1")
	if err != nil || l.Keys != 1 || len(l.Nodes) != 1 || len(l.Clusters) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	w.Start()
	controltest.Eventually(t, "the cluster is gone", func() bool {
		all, err := w.Cluster.List(t.Context(), w.Owner, p.ID)
		return err == nil && len(all) == 0
	})
	forget(w.Owner, "db1", "HOST_NOT_FOUND")
	if err := w.Cluster.Admit(t.Context(), a.Host, "fingerprint-db1"); apierr.Code(err) != "HOST_NOT_ADMITTED" {
		t.Errorf("a forgotten host is admitted: %v", err)
	}
	if got := ofType(t, w, "HOST_FORGOTTEN"); len(got) != 1 || got[0].Data["keys"] != "1" {
		t.Errorf("%+v", got)
	}
	w.Verify()
}

func TestAProtectedClusterDoesNotDieWithItsHost(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	h := w.Host("db1")
	s := settings("NONE")
	s.TerminationProtection = true
	create(t, w, p.ID, "c", s)
	dead(t, w, h)
	if _, err := w.Cluster.Forget(t.Context(), w.Owner, h, "db1"); apierr.Code(err) != "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED" {
		t.Error(err)
	}
}
