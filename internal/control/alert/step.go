package alert

import (
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/store"
)

// The states of an alert, as Atlas calls them.
const (
	Open      = "OPEN"
	Tracking  = "TRACKING"
	Closed    = "CLOSED"
	Cancelled = "CANCELLED"
)

// The messages that an alert sends.
const (
	Opened    = "opened"
	Repeated  = "repeated"
	Ended     = "closed"
	Withdrawn = "cancelled"
	Test      = "test"
)

// message is something to tell: to a notification of the configuration, or, with
// notifier "", to the log.
type message struct {
	alert    store.Alert
	notifier string
	kind     string
}

// outcome is what a step changes.
type outcome struct {
	alerts   []store.Alert // new and changed ones
	messages []message
}

// step holds what is found against the open alerts of one configuration. It is pure:
// newID gives identities for new alerts.
func step(c store.AlertConfig, project store.Project, found []store.Finding, open []store.Alert, now time.Time, newID func() string) outcome {
	var out outcome
	left := map[string]store.Alert{}
	for _, a := range open {
		left[a.Target] = a
	}
	if c.Enabled {
		for _, f := range found {
			if !matches(c.Matchers, f) {
				continue
			}
			a, have := left[f.Target]
			delete(left, f.Target)
			if !have {
				a = begin(c, project, f, now, newID())
			}
			out.advance(c, a, f, have, now)
		}
	}
	for _, target := range sortedKeys(left) {
		out.end(c, left[target], now)
	}
	return out
}

func sortedKeys(m map[string]store.Alert) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func begin(c store.AlertConfig, project store.Project, f store.Finding, now time.Time, id string) store.Alert {
	since := f.Since
	if since.IsZero() || since.After(now) {
		since = now
	}
	return store.Alert{
		ID: id, Config: c.ID, Project: c.Project, Org: project.Org, Kind: c.Kind, Target: f.Target, Status: Tracking, Since: since,
		Created: now, Updated: now, Host: f.Host, Hostname: f.Hostname, Cluster: f.Cluster, ClusterName: f.ClusterName,
	}
}

// advance takes an alert whose condition is true one step on.
func (o *outcome) advance(c store.AlertConfig, a store.Alert, f store.Finding, have bool, now time.Time) {
	changed := !have
	if a.Summary != f.Summary || a.Remedy != f.Remedy {
		a.Summary, a.Remedy, a.Updated, changed = f.Summary, f.Remedy, now, true
	}
	if !a.AcknowledgedUntil.IsZero() && !now.Before(a.AcknowledgedUntil) {
		a.AcknowledgedUntil, a.AcknowledgedBy, a.Comment, a.Updated, changed = time.Time{}, "", "", now, true
	}
	lasts := now.Sub(a.Since)
	if a.Status == Tracking && lasts >= patience(c) {
		a.Status, a.Opened, a.Updated, changed = Open, now, now, true
		o.messages = append(o.messages, message{alert: a, kind: Opened})
	}
	var told []message
	if a.Status == Open && a.AcknowledgedUntil.IsZero() {
		for _, n := range c.Notifications {
			last, once := a.Told[n.ID]
			switch {
			case !once && lasts >= minutes(n.Delay):
				told = append(told, message{notifier: n.ID, kind: Opened})
			case once && n.Interval > 0 && now.Sub(last) >= minutes(n.Interval):
				told = append(told, message{notifier: n.ID, kind: Repeated})
			}
		}
	}
	if len(told) > 0 {
		next := map[string]time.Time{}
		for id, at := range a.Told {
			next[id] = at
		}
		for _, m := range told {
			next[m.notifier] = now
		}
		a.Told, a.LastNotified, a.Updated, changed = next, now, now, true
	}
	for i := range told {
		told[i].alert = a
	}
	o.messages = append(o.messages, told...)
	if changed {
		o.alerts = append(o.alerts, a)
	}
}

// end ends an alert whose condition is over, or whose configuration does not want it
// any more. Those who were told of it are told of its end.
func (o *outcome) end(c store.AlertConfig, a store.Alert, now time.Time) {
	kind := Ended
	a.Updated, a.Resolved = now, now
	if a.Status == Tracking {
		a.Status = Cancelled
		o.alerts = append(o.alerts, a)
		return
	}
	if a.Status = Closed; !c.Enabled {
		a.Status, kind = Cancelled, Withdrawn
	}
	o.alerts = append(o.alerts, a)
	o.messages = append(o.messages, message{alert: a, kind: kind})
	for _, n := range c.Notifications {
		if _, once := a.Told[n.ID]; once {
			o.messages = append(o.messages, message{alert: a, notifier: n.ID, kind: kind})
		}
	}
}

// patience is how long a condition has to last before its alert opens: until the first
// notification is due.
func patience(c store.AlertConfig) time.Duration {
	least := 0
	for i, n := range c.Notifications {
		if i == 0 || n.Delay < least {
			least = n.Delay
		}
	}
	return minutes(least)
}

func minutes(n int) time.Duration { return time.Duration(n) * time.Minute }

// matches tells whether a finding is one that the matchers let through; all of them
// must.
func matches(ms []store.AlertMatcher, f store.Finding) bool {
	for _, m := range ms {
		var have string
		switch m.Field {
		case FieldCluster:
			have = f.ClusterName
		case FieldHostname:
			have = f.Hostname
		}
		ok := false
		switch m.Operator {
		case "EQUALS":
			ok = have == m.Value
		case "NOT_EQUALS":
			ok = have != m.Value
		case "CONTAINS":
			ok = strings.Contains(have, m.Value)
		case "NOT_CONTAINS":
			ok = !strings.Contains(have, m.Value)
		case "STARTS_WITH":
			ok = strings.HasPrefix(have, m.Value)
		case "ENDS_WITH":
			ok = strings.HasSuffix(have, m.Value)
		}
		if !ok {
			return false
		}
	}
	return true
}
