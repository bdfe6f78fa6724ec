package cmk_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// slow is a provider during whose runs something else happens.
type slow struct {
	kms.Provider
	meanwhile func()
}

func (s *slow) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	s.meanwhile()
	return s.Provider.Assume(ctx, t)
}

// Runs that were asked for while a candidate was validated stay asked for: hosts
// compare the counter with the runs that they have made.
func TestAChangeTakesNoRunBack(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	_, target := w.Enable(p.ID)
	raised := uint64(0)
	service := cmk.New(cmk.Config{Store: w.Store, Interval: w.Interval, Clock: controltest.Clock, Provider: &slow{Provider: w.AWS, meanwhile: func() {
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
			c, err := tx.KeyConfig(p.ID)
			if err != nil {
				return err
			}
			c.Validate++
			raised = c.Validate
			return tx.PutKeyConfig(c)
		}))
	}}})
	v, err := service.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr(keyOnly(target.KeyID))}})
	if err != nil || v.Generation != 2 {
		t.Fatalf("%+v %v", v, err)
	}
	if raised == 0 || v.Validate < raised {
		t.Errorf("run %d was asked for, the counter says %d", raised, v.Validate)
	}
}

func TestTheSameValuesAgainAreNoChange(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	_, target := w.Enable(p.ID)
	w.Host("h")
	for _, name := range []string{"one", "two"} {
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, name, settings("AWS"))
		w.Must(err)
	}
	before := peek(t, w, p.ID)
	events := len(w.Events(p.ID))
	same := controltest.Patch(before.Role, before.KeyID, before.Region)
	if v, err := w.CMK.Update(t.Context(), w.Owner, p.ID, same); err != nil || v.Generation != before.Generation {
		t.Errorf("the same values: %+v %v", v, err)
	}
	// Also while the key is away: what is configured may always be sent again.
	w.AWS.SetState(target.KeyID, "Disabled")
	if v, err := w.CMK.Update(t.Context(), w.Owner, p.ID, same); err != nil || v.Generation != before.Generation {
		t.Errorf("the same values with the key disabled: %+v %v", v, err)
	}
	w.AWS.SetState(target.KeyID, "Enabled")
	after := peek(t, w, p.ID)
	if got := len(w.Events(p.ID)); got != events || !after.Updated.Equal(before.Updated) {
		t.Errorf("%d events became %d, updated %s became %s", events, got, before.Updated, after.Updated)
	}
}

// Only who has nodes of a project is heard about its key.
func TestAHostIsHeardAboutItsOwnProjectsOnly(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := w.Host("a")
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	stranger := w.Host("b")
	report(t, w, a, p.ID, custody.Valid, "")
	before := peek(t, w, p.ID)
	report(t, w, stranger, p.ID, custody.Valid, "")
	report(t, w, stranger, p.ID, custody.Invalid, kms.KeyDisabled)
	after := peek(t, w, p.ID)
	if after.Verdict.Kind != "VALID" || after.Validate != before.Validate {
		t.Errorf("a stranger was heard: verdict %s, run %d after %d", after.Verdict.Kind, after.Validate, before.Validate)
	}
	var reports []store.CustodyReport
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) (err error) { reports, err = tx.Custody(p.ID); return err }))
	for _, r := range reports {
		if r.Validator == string(stranger) {
			t.Error("what a stranger says is kept")
		}
	}
}

func TestAHostsExplanationIsBounded(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	st := custody.NewState(custody.Policy{Interval: w.Interval}, 1, custody.Instant{Wall: time.Now()})
	st.Verdict, st.Reason, st.Detail, st.Remedy = custody.Suspect, kms.KeyDisabled, strings.Repeat("d", 1<<20), strings.Repeat("r", 1<<20)
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		return w.CMK.Report(tx, host, []agentlink.CustodyStatus{{Project: p.ID, State: st}})
	}))
	for _, e := range w.FullEvents(p.ID) {
		if b, err := json.Marshal(e); err != nil || len(b) > 16<<10 {
			t.Errorf("event %s has %d bytes, %v", e.Type, len(b), err)
		}
	}
}

// A loop that ends because its state cannot be read comes back when it can, and holds
// up nobody else meanwhile.
func TestALoopThatEndedStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		broken, fine := w.Project("broken"), w.Project("fine")
		_, target := w.Enable(broken.ID)
		put := func(state string) {
			w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
				return tx.PutCustody(store.CustodyReport{Project: broken.ID, Generation: 1, State: json.RawMessage(state), Reported: tx.Now()})
			}))
		}
		put(`{"format":99}`)
		w.Start()
		wait(5 * time.Second)
		_, other := w.Enable(fine.ID)
		wait(5 * time.Second)
		w.AWS.SetState(other.KeyID, "Disabled")
		wait(w.Interval + 12*time.Second)
		if v := peek(t, w, fine.ID); v.Verdict.Kind != "INVALID" {
			t.Errorf("a project beside the broken one: %+v", v.Verdict)
		}
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error { return tx.DeleteVerdict(broken.ID) }))
		wait(5 * time.Second)
		w.AWS.SetState(target.KeyID, "Disabled")
		wait(w.Interval + 12*time.Second)
		if v := peek(t, w, broken.ID); v.Verdict.Kind != "INVALID" {
			t.Errorf("nobody watches the key: %+v", v.Verdict)
		}
		w.Close()
	})
}

func TestASettingWithoutAKeyLeavesAnEvent(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	before := len(w.Events(p.ID))
	off := cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}, EnabledForSearchNodes: ptr(true)}
	for range 2 { // the second is no change
		if v, err := w.CMK.Update(t.Context(), w.Owner, p.ID, off); err != nil || !v.SearchNodes {
			t.Fatalf("%+v %v", v, err)
		}
	}
	if n := len(w.Events(p.ID)) - before; n != 1 {
		t.Errorf("%d events for one change", n)
	}
}
