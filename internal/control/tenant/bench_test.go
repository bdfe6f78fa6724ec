package tenant_test

import (
	"fmt"
	"testing"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// BenchmarkRequestAmongTenThousandProjects is what every request costs at least: who
// asks, and may they, for a key that owns all of the projects.
func BenchmarkRequestAmongTenThousandProjects(b *testing.B) {
	w := controltest.New(b)
	var last keys.ProjectID
	w.Must(w.Store.Tx(b.Context(), func(tx *store.Tx) error {
		for i := range 10_000 {
			p := store.Project{ID: keys.ProjectID(keys.NewID(tx.Now())), Org: w.Org, Name: fmt.Sprintf("p%d", i), Created: tx.Now()}
			if err := tx.AddProject(p); err != nil {
				return err
			}
			if err := tx.GrantProject(w.Owner.KeyID, p.ID, []string{string(tenant.GroupOwner)}); err != nil {
				return err
			}
			last = p.ID
		}
		return nil
	}))
	for b.Loop() {
		who, _, _, err := w.Tenant.Credential(b.Context(), "ownerkey")
		w.Must(err)
		_, err = w.Tenant.Project(b.Context(), who, last)
		w.Must(err)
	}
}
