package cmk_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// TestADrillIsOrderedFollowedAndMarked goes through a drill as one scripted host sees it.
func TestADrillIsOrderedFollowedAndMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		p := w.Project("p")
		w.Enable(p.ID)
		host := w.Host("h")
		for name, provider := range map[string]string{"c": "AWS", "open": "NONE"} {
			_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, name, settings(provider))
			w.Must(err)
		}
		agent := controltest.NewAgent(host)
		for range 3 {
			w.Must(agent.Step(w))
			wait(5 * time.Second)
		}
		order := func(name string, minutes int) (store.Drill, error) {
			return w.CMK.Drill(t.Context(), w.Owner, p.ID, name, minutes)
		}
		for name, want := range map[string]string{"nobody": "CLUSTER_NOT_FOUND", "open": "CLUSTER_NOT_ENCRYPTED"} {
			if _, err := order(name, 1); apierr.Code(err) != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
		for _, minutes := range []int{0, -1, 6} {
			if _, err := order("c", minutes); apierr.Code(err) != "INVALID_ATTRIBUTE" {
				t.Errorf("%d minutes: %v", minutes, err)
			}
		}
		before := desired(t, w, host).Revision
		d, err := order("c", 2)
		w.Must(err)
		wait(3 * time.Second)
		first := desired(t, w, host)
		wait(3 * time.Second)
		again := desired(t, w, host)
		if o := first.Projects[0].Drills; first.Revision <= before || len(o) != 1 || o[0].ID != d.ID || time.Duration(o[0].For) != 2*time.Minute || time.Duration(o[0].Age) < 3*time.Second {
			t.Fatalf("revision %d after %d: %+v", first.Revision, before, o)
		}
		if again.Revision != first.Revision || again.Projects[0].Drills[0].Age <= first.Projects[0].Drills[0].Age {
			t.Error("the age of an order makes a revision, or does not grow")
		}
		if _, err := order("c", 1); apierr.Code(err) != "DRILL_UNDER_WAY" {
			t.Errorf("a second drill: %v", err)
		}
		told := custody.Drill{ID: d.ID, Cluster: first.Projects[0].Drills[0].Cluster}
		tell := func(change func(*custody.Drill)) string {
			change(&told)
			st := agent.Status()
			st.Custody[0].State.Drills = []custody.Drill{told}
			for i, n := range st.Nodes {
				if n.Encrypted && told.Ended.IsZero() {
					st.Nodes[i].Phase, st.Nodes[i].Primary, st.Nodes[i].Message = agentlink.PhaseStoppedByCustody, false, agentlink.DrillText+": for a while"
				}
			}
			w.Must(w.Cluster.Status(t.Context(), host, st))
			all, err := w.CMK.Drills(t.Context(), w.Owner, p.ID, "c")
			w.Must(err)
			return cmk.DrillState(all[len(all)-1], time.Now())
		}
		for _, step := range []struct {
			want   string
			change func(*custody.Drill)
		}{
			{cmk.DrillRunning, func(d *custody.Drill) { d.Began = time.Now() }},
			{cmk.DrillRunning, func(d *custody.Drill) { d.Down = 1500 * time.Millisecond }},
			{cmk.DrillRecovering, func(d *custody.Drill) { d.Ended = time.Now() }},
			{cmk.DrillDone, func(d *custody.Drill) { d.Up = 2 * time.Second }},
			{cmk.DrillDone, func(d *custody.Drill) { d.Up, d.Down = time.Hour, time.Hour }}, // nothing is taken back
		} {
			wait(time.Second)
			if got := tell(step.change); got != step.want {
				t.Fatalf("state %s, want %s", got, step.want)
			}
		}
		all, err := w.CMK.Drills(t.Context(), w.Owner, p.ID, "c")
		w.Must(err)
		if h := all[0].Hosts[0]; h.Down != 1500*time.Millisecond || h.Up != 2*time.Second || len(desired(t, w, host).Projects[0].Drills) != 0 {
			t.Errorf("%+v", h)
		}
		marked := 0
		for _, e := range w.FullEvents(p.ID) {
			if strings.HasPrefix(e.Type, "CLUSTER_KEY_DRILL") || e.Type == "CLUSTER_INSTANCE_DISABLED" || e.Type == "CLUSTER_INSTANCE_ENABLED" {
				marked++
				if e.Data["drill"] != d.ID || !strings.HasPrefix(e.Message, agentlink.DrillText) {
					t.Errorf("%s is not marked as a drill: %q %v", e.Type, e.Message, e.Data)
				}
			}
		}
		if marked != 7 {
			t.Errorf("%d events of the drill: %v", marked, w.Events(p.ID))
		}
		agent.Verdict = custody.Suspect
		w.Must(agent.Step(w))
		if _, err := order("c", 1); apierr.Code(err) != "KEY_NOT_VALID" {
			t.Errorf("while SUSPECT: %v", err)
		}
		w.Verify()

	})
}

// TestAnOrderOfADrillGoesStale: a host that is away does not get it later, and another
// drill is possible then.
func TestAnOrderOfADrillGoesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		p := w.Project("p")
		w.Enable(p.ID)
		host := w.Host("h")
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
		w.Must(err)
		agent := controltest.NewAgent(host)
		w.Must(agent.Step(w))
		wait(time.Second)
		w.Must(agent.Step(w))
		d, err := w.CMK.Drill(t.Context(), w.Owner, p.ID, "c", 5)
		w.Must(err)
		wait(61 * time.Second)
		if o := desired(t, w, host).Projects[0].Drills; len(o) != 0 {
			t.Errorf("a late order is given: %+v", o)
		}
		wait(time.Minute)
		if got := cmk.DrillState(d, time.Now()); got != cmk.DrillUnclear {
			t.Errorf("state %s", got)
		}
		w.Must(agent.Step(w))
		_, err = w.CMK.Drill(t.Context(), w.Owner, p.ID, "c", 1)
		w.Must(err)

	})
}

func TestRehearseSaysWhatWouldStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		p := w.Project("p")
		rehearse := func() cmk.Rehearsal {
			r, err := w.CMK.Rehearse(t.Context(), w.Owner, p.ID)
			w.Must(err)
			return r
		}
		if r := rehearse(); r.View.Enabled || len(r.Stops) != 0 {
			t.Errorf("without a key: %+v", r)
		}
		w.Enable(p.ID)
		host := w.Host("h")
		for name, provider := range map[string]string{"c": "AWS", "open": "NONE"} {
			_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, name, settings(provider))
			w.Must(err)
		}
		if r := rehearse(); len(r.NotEnforced()) != 1 || !strings.Contains(r.NotEnforced()[0].Gap, "not reported") {
			t.Errorf("before the first report: %+v", r.NotEnforced())
		}
		agent := controltest.NewAgent(host)
		for range 2 {
			w.Must(agent.Step(w))
			wait(time.Second)
		}
		before := w.Events(p.ID)
		r := rehearse()
		if len(r.Stops) != 1 || r.Stops[0].Name != "c" || len(r.Stops[0].Nodes) != 1 || r.Stops[0].Nodes[0].Hostname != "h" || len(r.Stays) != 1 || r.Stays[0].Name != "open" {
			t.Errorf("%+v", r)
		}
		if len(r.Hosts) != 1 || r.Hosts[0].State.Verdict != custody.Valid || r.Hosts[0].Nodes != 2 || len(r.NotEnforced()) != 0 {
			t.Errorf("hosts %+v, not enforced %+v", r.Hosts, r.NotEnforced())
		}
		b := cmk.BoundsOf(custody.Policy{Interval: time.Minute, Mode: custody.ModeGrace, Grace: time.Hour})
		if b.Global != 72*time.Second || b.Local != 84*time.Second || b.Alone != 16*time.Minute+10*time.Second || b.Grace != time.Hour {
			t.Errorf("bounds %+v", b)
		}
		if after := w.Events(p.ID); len(after) != len(before) {
			t.Errorf("a rehearsal left events: %v", after[len(before):])
		}
		wait(time.Minute)
		if r := rehearse(); len(r.NotEnforced()) != 1 || !strings.Contains(r.NotEnforced()[0].Gap, "silent") {
			t.Errorf("silent host: %+v", r.NotEnforced())
		}

	})
}
