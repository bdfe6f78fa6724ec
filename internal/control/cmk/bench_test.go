package cmk_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// BenchmarkValidationAmongTenThousandProjects is one validation on demand of one of
// 10,000 projects with a customer key, while the loops of all of them live: the run, the
// verdict, what is kept of it. The key service answers at once, so that this is what the
// platform itself costs. At an interval of 15 minutes 10,000 projects need 11.1 runs a second.
func BenchmarkValidationAmongTenThousandProjects(b *testing.B) {
	const projects = 10_000
	w := controltest.New(b)
	first := w.Project("first")
	_, target := w.Enable(first.ID)
	var like store.KeyConfig
	var role store.AccessRole
	w.Must(w.Store.View(b.Context(), func(tx *store.Tx) (err error) {
		if like, err = tx.KeyConfig(first.ID); err != nil {
			return err
		}
		role, err = tx.Role(first.ID, like.Role)
		return err
	}))
	target.ExternalID = role.ExternalID
	all := make([]keys.ProjectID, projects)
	w.Must(w.Store.Tx(b.Context(), func(tx *store.Tx) error {
		for i := range all {
			all[i] = keys.ProjectID(keys.NewID(tx.Now()))
			if err := tx.AddProject(store.Project{ID: all[i], Org: w.Org, Name: fmt.Sprintf("p%d", i), Created: tx.Now()}); err != nil {
				return err
			}
			if err := tx.GrantProject(w.Owner.KeyID, all[i], []string{string(tenant.GroupOwner)}); err != nil {
				return err
			}
			r := kms.Run(b.Context(), w.AWS, kms.RunInput{Target: target, Context: keys.ProbeContext(w.Store.Deployment(), all[i]).Map()})
			if r.Outcome != kms.OK {
				return fmt.Errorf("probe: %+v", r)
			}
			role.ID, role.Project = keys.RoleID(keys.NewID(tx.Now())), all[i]
			if err := tx.PutRole(role); err != nil {
				return err
			}
			c := like
			c.Project, c.Role, c.Probe, c.ProbeSHA256 = all[i], role.ID, r.Probe.Ciphertext, r.Probe.Digest
			if err := errors.Join(tx.PutKeyConfig(c), tx.PutVerdict(store.Verdict{Project: all[i], Kind: string(custody.Valid), Since: tx.Now()})); err != nil {
				return err
			}
		}
		return nil
	}))
	w.Owner = w.Principal(w.Owner.PublicKey)
	w.Start()
	n := 0
	for b.Loop() {
		v, err := w.CMK.TryAgain(b.Context(), w.Owner, all[n%projects])
		w.Must(err)
		if v.Verdict.Kind != "VALID" {
			b.Fatalf("%+v", v)
		}
		n++
	}
}
