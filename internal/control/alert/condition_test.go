package alert

import (
	"strconv"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/store"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ids gives identities in a row.
func ids() func() string {
	n := 0
	return func() string { n++; return strconv.Itoa(n) }
}

func config(delays ...int) store.AlertConfig {
	c := store.AlertConfig{ID: "config", Project: "p", Kind: HostSilent, Enabled: true}
	for i, d := range delays {
		c.Notifications = append(c.Notifications, store.AlertNotification{ID: "n" + strconv.Itoa(i), Type: Group, Delay: d, Interval: 60})
	}
	return c
}

func TestAnAlertOpensIsToldAndCloses(t *testing.T) {
	c, newID := config(0, 10), ids()
	found := []store.Finding{{Target: "h", Summary: "s", Remedy: "r"}}
	var open []store.Alert
	told := func(at time.Duration, f []store.Finding) []string {
		o := step(c, store.Project{ID: "p"}, f, open, start.Add(at), newID)
		for _, a := range o.alerts {
			open = []store.Alert{a}
		}
		var out []string
		for _, m := range o.messages {
			out = append(out, m.kind+":"+m.notifier)
		}
		return out
	}
	equal := func(got []string, want ...string) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	}
	equal(told(0, found), "opened:", "opened:n0")
	if open[0].Status != Open {
		t.Fatal(open[0].Status)
	}
	equal(told(time.Minute, found))
	equal(told(10*time.Minute, found), "opened:n1")
	equal(told(60*time.Minute, found), "repeated:n0")
	open[0].AcknowledgedUntil = start.Add(3 * time.Hour)
	equal(told(2*time.Hour, found))
	equal(told(3*time.Hour, found), "repeated:n0", "repeated:n1")
	equal(told(4*time.Hour, nil), "closed:", "closed:n0", "closed:n1")
	if open[0].Status != Closed || open[0].Resolved.IsZero() {
		t.Fatal(open[0])
	}
}

func TestWhatDoesNotLastIsTrackedAndCancelled(t *testing.T) {
	c := config(5, 10)
	found := []store.Finding{{Target: "h"}}
	o := step(c, store.Project{ID: "p"}, found, nil, start, ids())
	if len(o.messages) != 0 || len(o.alerts) != 1 || o.alerts[0].Status != Tracking {
		t.Fatalf("%+v", o)
	}
	gone := step(c, store.Project{ID: "p"}, nil, o.alerts, start.Add(time.Minute), ids())
	if len(gone.messages) != 0 || gone.alerts[0].Status != Cancelled {
		t.Fatalf("%+v", gone)
	}
	lasts := step(c, store.Project{ID: "p"}, found, o.alerts, start.Add(5*time.Minute), ids())
	if len(lasts.messages) != 2 || lasts.alerts[0].Status != Open {
		t.Fatalf("%+v", lasts)
	}
	c.Enabled = false
	off := step(c, store.Project{ID: "p"}, found, lasts.alerts, start.Add(6*time.Minute), ids())
	if off.alerts[0].Status != Cancelled || len(off.messages) != 2 || off.messages[0].kind != Withdrawn {
		t.Fatalf("%+v", off)
	}
}
