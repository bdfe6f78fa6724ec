package cmk_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// runs counts the validation runs of the control plane.
func runs(w *controltest.World) (n int) {
	for _, c := range w.AWS.Calls() {
		if c.Operation == kms.OpDescribeKey {
			n++
		}
	}
	return n
}

// wait lets time pass and everything that is due happen.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func report(t *testing.T, w *controltest.World, host keys.HostID, p keys.ProjectID, v custody.Verdict, reason kms.Reason) {
	t.Helper()
	st := custody.NewState(custody.Policy{Interval: w.Interval}, 1, custody.Instant{Wall: time.Now()})
	st.Verdict, st.Reason, st.Remedy, st.LastRun = v, reason, kms.RemedyFor(reason, ""), time.Now()
	if reason == "" {
		st.Remedy = ""
	}
	err := w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		c, err := tx.KeyConfig(p)
		if err != nil {
			return err
		}
		return w.CMK.Report(tx, host, []agentlink.CustodyStatus{{Project: p, State: st, Validate: c.Validate}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithoutHostsTheControlPlaneFindsARevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		_, target := w.Enable(p.ID)
		w.Start()
		wait(2 * time.Minute)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "VALID" || !v.Valid {
			t.Fatalf("before: %+v", v.Verdict)
		}
		w.AWS.SetState(target.KeyID, "Disabled")
		wait(w.Interval + 10*time.Second + 2*time.Second)
		v := peek(t, w, p.ID)
		if v.Verdict.Kind != "INVALID" || v.Verdict.Reason != "KEY_DISABLED" || v.Verdict.NoticedBy != "control plane" || v.Valid {
			t.Fatalf("after interval + C + 2 s: %+v", v.Verdict)
		}
		// A restart remembers, and nothing becomes VALID by restarting.
		w.Reopen()
		w.Start()
		wait(time.Second)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "INVALID" {
			t.Fatalf("after a restart: %+v", v.Verdict)
		}
		w.AWS.SetState(target.KeyID, "Enabled")
		wait(w.Interval + time.Second)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "VALID" || !v.Valid {
			t.Fatalf("enabled again: %+v", v.Verdict)
		}
		got := w.Events(p.ID)
		for _, want := range []string{"ENCRYPTION_AT_REST_CONFIGURATION_VALIDATION_FAILED", "AWS_ENCRYPTION_KEY_INVALID", "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID", "AWS_ENCRYPTION_KEY_VALID", "ENCRYPTION_AT_REST_CONFIG_IS_VALID"} {
			if !slices.Contains(got, want) {
				t.Errorf("no event %s in %v", want, got)
			}
		}
		for _, e := range w.FullEvents(p.ID) {
			if e.Type == "ENCRYPTION_AT_REST_CONFIG_NO_LONGER_VALID" && (e.Data["reason"] != "KEY_DISABLED" || e.Data["remedy"] == "" || e.Data["noticedBy"] != "control plane") {
				t.Errorf("the event does not say why: %+v", e)
			}
		}
		w.Verify()
		w.Close()
	})
}

func TestAnOutageIsNoRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		w.Enable(p.ID)
		w.Start()
		wait(time.Second)
		w.AWS.Down(kms.Timeout)
		wait(30 * time.Minute)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "UNREACHABLE" || v.Verdict.Reason != "TIMEOUT" {
			t.Fatalf("%+v", v.Verdict)
		}
		w.AWS.Down("")
		wait(w.Interval + time.Second)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "VALID" {
			t.Fatalf("%+v", v.Verdict)
		}
		w.Close()
	})
}

// Rule 12a: quiet while all hosts report VALID, each interval while one is silent or
// not VALID, each C/2 while one is SUSPECT.
func TestTheControlPlaneIsQuietWhileHostsReportValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		w.Enable(p.ID)
		host := w.Host("h")
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
		w.Must(err)
		w.Start()
		for range 6 { // the first reports, until everything is quiet
			report(t, w, host, p.ID, custody.Valid, "")
			wait(10 * time.Second)
		}
		before := runs(w)
		for range 60 {
			report(t, w, host, p.ID, custody.Valid, "")
			wait(10 * time.Second)
		}
		if n := runs(w) - before; n != 0 {
			t.Errorf("%d runs in ten minutes while the host reports VALID", n)
		}
		before = runs(w)
		wait(10 * time.Minute) // the host is silent
		if n := runs(w) - before; n < 8 || n > 11 {
			t.Errorf("%d runs in ten minutes of silence, one a minute was expected", n)
		}
		if v := peek(t, w, p.ID); !v.Validators[1].Silent || v.Verdict.Kind != "VALID" {
			t.Errorf("silent host: %+v", v)
		}
		report(t, w, host, p.ID, custody.Suspect, kms.KeyDisabled)
		before = runs(w)
		wait(20 * time.Second)
		if n := runs(w) - before; n < 3 {
			t.Errorf("%d runs in 20 s while a host is SUSPECT, one each C/2 was expected", n)
		}
		w.Close()
	})
}

func TestTheWorstHostIsTheProjectsVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		w.Enable(p.ID)
		a, b := w.Host("a"), w.Host("b")
		for _, n := range []string{"one", "two"} {
			_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, n, settings("AWS"))
			w.Must(err)
		}
		report(t, w, a, p.ID, custody.Valid, "")
		report(t, w, b, p.ID, custody.Valid, "")
		before := peek(t, w, p.ID).Validate
		report(t, w, b, p.ID, custody.Suspect, kms.KeyNotFound)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "SUSPECT" || v.Validate != before+1 {
			t.Errorf("a host that left VALID makes all run: %+v", v)
		}
		report(t, w, b, p.ID, custody.Invalid, kms.KeyNotFound)
		v := peek(t, w, p.ID)
		if v.Verdict.Kind != "INVALID" || v.Verdict.NoticedBy != "host "+string(b) {
			t.Errorf("%+v", v.Verdict)
		}
		// Nothing new is encrypted under a key that was taken away.
		if _, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "three", settings("AWS")); apierr.Code(err) != "ENCRYPTION_AT_REST_SETTINGS_INVALID" {
			t.Error(err)
		}
		report(t, w, b, p.ID, custody.Valid, "")
		if v := peek(t, w, p.ID); v.Verdict.Kind != "VALID" || v.Validate != before+2 {
			t.Errorf("back again: %+v", v)
		}
		w.Close()
	})
}

func TestTryAgainMakesAllRunAndWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		p := w.Project("p")
		w.Enable(p.ID)
		host := w.Host("h")
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
		w.Must(err)
		w.Start()
		report(t, w, host, p.ID, custody.Invalid, kms.KeyDisabled)
		wait(time.Second)
		if v := peek(t, w, p.ID); v.Verdict.Kind != "INVALID" {
			t.Fatalf("%+v", v.Verdict)
		}
		before := peek(t, w, p.ID).Validate
		done := make(chan struct{})
		go func() {
			defer close(done)
			v, err := w.CMK.TryAgain(t.Context(), w.Owner, p.ID)
			if err != nil || v.Verdict.Kind != "VALID" {
				t.Errorf("%+v %v", v.Verdict, err)
			}
		}()
		wait(2 * time.Second)
		select {
		case <-done:
			t.Error("did not wait for the host")
		default:
		}
		if v := peek(t, w, p.ID); v.Validate <= before {
			t.Errorf("nobody was asked: %d", v.Validate)
		}
		report(t, w, host, p.ID, custody.Valid, "")
		wait(time.Second)
		report(t, w, host, p.ID, custody.Valid, "") // the host has seen what its own recovery asked for
		<-done
		w.Close()
	})
}
