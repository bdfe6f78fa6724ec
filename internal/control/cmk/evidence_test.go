package cmk_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// state is what a host would report: a run that began three seconds ago.
func state(w *controltest.World, v custody.Verdict, outcome kms.Outcome, reason kms.Reason) custody.State {
	st := custody.NewState(custody.Policy{Interval: w.Interval}, 1, custody.Instant{Elapsed: time.Hour, Wall: time.Now()})
	st.Verdict, st.Reason, st.LastOutcome, st.LastRun = v, reason, outcome, time.Now()
	st.LastStart, st.Clock.Elapsed, st.OnceOK, st.LastOK = time.Hour-3*time.Second, time.Hour, true, 30*time.Minute
	if outcome == kms.Revoked {
		st.Chain = custody.Chain{Count: 3, Start: time.Hour - 20*time.Second, Last: st.LastStart}
	}
	return st
}

func say(t *testing.T, w *controltest.World, host keys.HostID, p keys.ProjectID, st custody.State) {
	t.Helper()
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		return w.CMK.Report(tx, host, []agentlink.CustodyStatus{{Project: p, State: st}})
	}))
}

func desired(t *testing.T, w *controltest.World, host keys.HostID) agentlink.Desired {
	t.Helper()
	d, err := w.Cluster.Desired(t.Context(), host, 0)
	w.Must(err)
	return d
}

// TestHostsHearEachOther: a host is told what the control plane and the other hosts
// say, with its age; a new revision is made when that is news only.
func TestHostsHearEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		w.Enable(p.ID)
		a, b := w.Host("a"), w.Host("b")
		for _, n := range []string{"one", "two"} {
			_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, n, settings("AWS"))
			w.Must(err)
		}
		w.Start()
		wait(time.Minute) // so that no host is about to report after the start
		say(t, w, a, p.ID, state(w, custody.Valid, kms.OK, ""))
		say(t, w, b, p.ID, state(w, custody.Valid, kms.OK, ""))
		wait(5 * time.Second)
		first := desired(t, w, a)
		words := first.Projects[0].Validators
		if len(words) != 2 || words[0].Validator != "" || words[1].Validator != string(b) {
			t.Fatalf("%+v", words)
		}
		if cp := words[0]; cp.Outcome != kms.OK || !cp.OnceOK || !cp.Linked || cp.Generation != 1 {
			t.Errorf("the control plane's own word: %+v", cp)
		}
		if age := words[1].Now - words[1].Run; age != 8*time.Second || !words[1].Linked {
			t.Errorf("the word of b is of a run %v ago: %+v", age, words[1])
		}
		// Another OK of b is no news.
		say(t, w, b, p.ID, state(w, custody.Valid, kms.OK, ""))
		wait(time.Second)
		if d := desired(t, w, a); d.Revision != first.Revision || d.Projects[0].Validators[1].Now-d.Projects[0].Validators[1].Run != 4*time.Second {
			t.Errorf("revision %d, was %d: %+v", d.Revision, first.Revision, d.Projects[0].Validators)
		}
		// A refusal is, and so is each run from then on.
		say(t, w, b, p.ID, state(w, custody.Suspect, kms.Revoked, kms.KeyAccessDenied))
		second := desired(t, w, a)
		if e := second.Projects[0].Validators[1]; second.Revision <= first.Revision || e.Outcome != kms.Revoked || e.Reason != kms.KeyAccessDenied || e.Chain.Count != 3 {
			t.Errorf("revision %d: %+v", second.Revision, e)
		}
		next := state(w, custody.Suspect, kms.Revoked, kms.KeyAccessDenied)
		next.LastStart += time.Second
		say(t, w, b, p.ID, next)
		if d := desired(t, w, a); d.Revision <= second.Revision {
			t.Error("another run of a suspect is no news")
		}
		wait(time.Minute)
		if e := desired(t, w, a).Projects[0].Validators[1]; e.Linked {
			t.Error("a host that is silent counts as linked")
		}
		w.Close()
	})
}

// TestTheControlPlaneHearsTheHosts: with the one host as a witness it confirms that the
// role is gone without waiting for W; without, it waits.
func TestTheControlPlaneHearsTheHosts(t *testing.T) {
	for _, witness := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := controltest.New(t)
			p := w.Project("p")
			_, target := w.Enable(p.ID)
			host := w.Host("h")
			_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
			w.Must(err)
			w.Start()
			wait(time.Minute)
			w.AWS.Deny(target.RoleARN, true, kms.OpDecrypt)
			for range 20 {
				if witness {
					say(t, w, host, p.ID, state(w, custody.Suspect, kms.Revoked, kms.KeyAccessDenied))
				}
				wait(5 * time.Second)
			}
			own := func() custody.State {
				for _, v := range peek(t, w, p.ID).Validators {
					if v.Host == "" {
						return v.State
					}
				}
				return custody.State{}
			}
			if st := own(); witness && st.Verdict != custody.Invalid || !witness && (st.Verdict != custody.Suspect || !st.Hold) {
				t.Fatalf("witness %v: %s %q", witness, st.Verdict, st.Alarm)
			}
			if !witness {
				if !slices.Contains(w.Events(p.ID), "ENCRYPTION_AT_REST_VALIDATION_ALARM") {
					t.Errorf("no alarm in %v", w.Events(p.ID))
				}
				wait(6 * time.Minute)
				if st := own(); st.Verdict != custody.Invalid {
					t.Fatalf("after C + W: %s", st.Verdict)
				}
			}
			w.Verify()
			w.Close()
		})
	}
}

// TestManyRolesAtOnceAreTheOperatorsTrouble: rule 10.
func TestManyRolesAtOnceAreTheOperatorsTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		var projects []keys.ProjectID
		var roles []string
		for _, account := range []string{"111100001111", "111100002222", "111100003333", "111100004444"} {
			p := w.Project(account)
			r, err := w.Access.Register(t.Context(), w.Owner, p.ID)
			w.Must(err)
			target := w.AWS.Project()
			arn := "arn:aws:iam::" + account + ":role/keywright"
			w.AWS.TrustAs(arn, target, r.ExternalID)
			_, err = w.Access.Authorize(t.Context(), w.Owner, p.ID, r.ID, arn)
			w.Must(err)
			_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, target.KeyID, "US_EAST_1"))
			w.Must(err)
			projects, roles = append(projects, p.ID), append(roles, target.RoleARN)
		}
		w.Start()
		wait(time.Minute)
		for _, r := range roles[:3] {
			w.AWS.Deny(r, true, kms.OpAssumeRole)
		}
		wait(8 * time.Minute) // more than C + W
		for i, p := range projects {
			want := "SUSPECT"
			if i == 3 {
				want = "VALID"
			}
			if v := peek(t, w, p); v.Verdict.Kind != want {
				t.Errorf("%d: %s", i, v.Verdict.Kind)
			}
		}
		wait(6 * time.Minute) // one more W
		if v := peek(t, w, projects[0]); v.Verdict.Kind != "INVALID" {
			t.Errorf("after C + 2W: %s", v.Verdict.Kind)
		}
		w.Close()
	})
}

// TestThePolicyGoesEverywhere: to hosts, and to the control plane's own loop.
func TestThePolicyGoesEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		_, target := w.Enable(p.ID)
		host := w.Host("h")
		w.Start()
		wait(2 * time.Minute)
		mode, grace := "GRACE", 10*time.Minute
		_, err := w.CMK.SetKeyPolicy(t.Context(), w.Owner, p.ID, cmk.PolicyPatch{Mode: &mode, Grace: &grace})
		w.Must(err)
		wait(time.Second)
		w.AWS.SetState(target.KeyID, "Disabled")
		wait(75 * time.Second)
		v := peek(t, w, p.ID)
		if v.Verdict.Kind != "GRACE" || v.Deadline().IsZero() || time.Until(v.Deadline()) > grace {
			t.Fatalf("%+v until %v", v.Verdict, v.Deadline())
		}
		w.Reopen()
		w.Start()
		wait(11 * time.Minute)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "INVALID" || !v.Deadline().IsZero() {
			t.Fatalf("after the deadline: %+v", v.Verdict)
		}
		w.AWS.SetState(target.KeyID, "Enabled")
		wait(2 * time.Minute)
		_, err = w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
		w.Must(err)
		if k := desired(t, w, host).Projects[0].CustomerKey; k.Policy.Mode != custody.ModeGrace || time.Duration(k.Policy.Grace) != grace {
			t.Errorf("%+v", k.Policy)
		}
		w.Close()
	})
}
