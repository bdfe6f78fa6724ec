package access_test

import (
	"slices"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// Rule 5.1: a host may assume exactly the roles of the projects that it has nodes of.
func TestAHostsPolicyNamesExactlyItsRoles(t *testing.T) {
	w := controltest.New(t)
	here, there := w.Project("here"), w.Project("there")
	_, mine := w.Enable(here.ID)
	w.Enable(there.ID)
	w.Role(here.ID) // authorized, and used by nothing
	host := w.Host("db1")
	policy := func() access.HostPolicy {
		t.Helper()
		byName, err := w.Access.HostPolicy(t.Context(), w.Owner, "db1")
		w.Must(err)
		byID, err := w.Access.HostPolicy(t.Context(), w.Owner, string(host))
		w.Must(err)
		if !slices.Equal(byName.Roles, byID.Roles) || byName.Host != host {
			t.Errorf("%+v %+v", byName, byID)
		}
		return byID
	}
	if p := policy(); len(p.Roles) != 0 || p.Document != nil {
		t.Errorf("without nodes: %+v", p)
	}
	r := store.RegionConfig{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}
	_, err := w.Cluster.Create(t.Context(), w.Owner, here.ID, "c", store.ClusterSettings{EncryptionProvider: "AWS", Specs: []store.ReplicationSpec{{Regions: []store.RegionConfig{r}}}})
	w.Must(err)
	p := policy()
	want := `{"Version":"2012-10-17","Statement":[{"Sid":"KeywrightHost","Effect":"Allow","Action":"sts:AssumeRole","Resource":"` + mine.RoleARN + `"}]}`
	if p.Document == nil || p.Document.Compact() != want {
		t.Errorf("%s, want %s", p.Document.Compact(), want)
	}
	// A role that is being changed to is needed before it is in force.
	next, other := w.Role(here.ID)
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		c, err := tx.KeyConfig(here.ID)
		if err != nil {
			return err
		}
		c.Role = next.ID
		return tx.PutKeyChange(store.KeyChange{Project: here.ID, Generation: 2, State: store.ChangeStaging, Candidate: c})
	}))
	both := []string{mine.RoleARN, other.RoleARN}
	slices.Sort(both)
	if p := policy(); !slices.Equal(p.Roles, both) {
		t.Errorf("%v, want %v", p.Roles, both)
	}
	reader := w.Key([]tenant.Role{tenant.OrgReadOnly}, "")
	if _, err := w.Access.HostPolicy(t.Context(), reader, "db1"); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	for _, name := range []string{"db2", "", string(keys.NewID(w.Store.Now()))} {
		if _, err := w.Access.HostPolicy(t.Context(), w.Owner, name); apierr.Code(err) != "HOST_NOT_FOUND" {
			t.Errorf("%q: %v", name, err)
		}
	}
}
