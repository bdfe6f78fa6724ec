package cmk

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

const (
	oldARN = "arn:aws:kms:us-east-1:222222222222:key/old"
	newARN = "arn:aws:kms:us-east-1:222222222222:key/new"
)

// Every transition of the state machine, and every reason to stay.
func TestDecideChange(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ready := HostProgress{Hostname: "a", Told: true, WrapStatus: agentlink.WrapStatus{Staging: 2, Done: 3, Total: 3}}
	acts := HostProgress{Hostname: "a", Told: true, WrapStatus: agentlink.WrapStatus{Committed: 2}}
	with := func(h HostProgress, f agentlink.WrapFailure) HostProgress { h.Failure = &f; return h }
	denied := agentlink.WrapFailure{
		Key: "k1", Candidate: true, Outcome: kms.Revoked, Reason: kms.KeyAccessDenied, Operation: kms.OpDecrypt, Permission: "kms:Decrypt", Confirmed: true,
	}
	unsure := denied
	unsure.Confirmed = false
	away := denied
	away.Outcome, away.Reason = kms.Unreachable, kms.Timeout
	ofOld := denied
	ofOld.Candidate = false
	type change = store.KeyChange
	for _, c := range []struct {
		name   string
		change func(*change)
		facts  func(*facts)
		state  string
		check  func(change) bool
	}{
		{"all proven", nil, nil, "COMMITTED", func(x change) bool { return x.Committed.Equal(now) && x.Retires.Equal(now.Add(Retention)) }},
		{"no host keeps anything", nil, func(f *facts) { f.hosts = nil }, "COMMITTED", nil},
		{"control plane not sure of the candidate", nil, func(f *facts) { f.proven = false }, "STAGING", nil},
		{"a key made meanwhile lacks its wrap", nil, func(f *facts) { f.unwrapped = 1 }, "STAGING", nil},
		{"a dead host", nil, func(f *facts) { f.hosts = append(f.hosts, HostProgress{Silent: true}) }, "STAGING", nil},
		{"a host without a word", nil, func(f *facts) { f.hosts[0].Told = false }, "STAGING", nil},
		{"a host speaks of an earlier change", nil, func(f *facts) { f.hosts[0].Staging = 1 }, "STAGING", nil},
		{"a host is half way", nil, func(f *facts) { f.hosts[0].Done = 2 }, "STAGING", nil},
		{"candidate refused, not confirmed", nil, func(f *facts) { f.hosts = []HostProgress{with(ready, unsure)} }, "STAGING", nil},
		{"candidate refused on a host", nil, func(f *facts) { f.hosts = []HostProgress{with(ready, denied)} }, "ABORTED", func(x change) bool {
			return strings.Contains(x.Why, "kms:Decrypt") && strings.Contains(x.Why, "Host a") && strings.Contains(x.Why, `"Effect":"Allow"`) && x.Drop != nil
		}},
		{"candidate not reachable from a host", nil, func(f *facts) { f.hosts = []HostProgress{with(ready, away)} }, "STAGING", nil},
		{"old key refused on a host", nil, func(f *facts) { f.hosts = []HostProgress{with(ready, ofOld)} }, "STAGING", nil},
		{"candidate refused here", nil, func(f *facts) { f.refused, f.refusedCode = "why", "CODE" }, "ABORTED", func(x change) bool {
			return x.Why == "why" && x.Code == "CODE" && *x.Drop == store.WrapDrop{Order: 5, KeyARN: newARN, From: 2, To: 2}
		}},
		{"role refused: nothing to drop", func(x *change) { x.Rewrap = false }, func(f *facts) { f.refused = "why" }, "ABORTED", func(x change) bool { return x.Drop == nil }},
		{"candidate refused while paused", func(x *change) { x.State = "PAUSED" }, func(f *facts) { f.refused = "why"; f.verdict = custody.Invalid }, "ABORTED", nil},
		{"old key suspect", nil, func(f *facts) { f.verdict, f.reason = custody.Suspect, kms.KeyDisabled }, "PAUSED", func(x change) bool { return strings.Contains(x.Why, oldARN) }},
		{"old key invalid", nil, func(f *facts) { f.verdict, f.reason = custody.Invalid, kms.KeyDisabled }, "PAUSED", nil},
		{"old key unreachable", nil, func(f *facts) { f.verdict = custody.Unreachable; f.hosts[0].Done = 0 }, "STAGING", nil},
		{"old key back", func(x *change) { x.State, x.Why = "PAUSED", "w" }, func(f *facts) { f.hosts[0].Done = 0 }, "STAGING", func(x change) bool { return x.Why == "" }},
		{"old role refused, the new one leads there", func(x *change) { x.ViaCandidate = true }, func(f *facts) { f.verdict, f.reason, f.hosts[0].Done = custody.Invalid, kms.RoleNotAssumable, 0 }, "STAGING", nil},
		{"old key disabled, the new role does not help", func(x *change) { x.ViaCandidate = true }, func(f *facts) { f.verdict, f.reason = custody.Invalid, kms.KeyDisabled }, "PAUSED", nil},
		{"role change under INVALID", func(x *change) { x.Rewrap = false }, func(f *facts) { f.verdict, f.reason = custody.Invalid, kms.RoleNotAssumable }, "COMMITTED", nil},
		{"rollback from a lost key", func(x *change) { x.Rollback = true }, func(f *facts) { f.verdict, f.reason = custody.Invalid, kms.KeyDisabled }, "COMMITTED", nil},

		{"every host acts", committed(now), func(f *facts) { f.hosts = []HostProgress{acts} }, "COMMITTED", func(x change) bool { return x.Safe.Equal(now) }},
		{"one host does not act", committed(now), func(f *facts) { f.hosts = []HostProgress{acts, ready} }, "COMMITTED", func(x change) bool { return x.Safe.IsZero() }},
		{"a key is under the old CMK only", committed(now), func(f *facts) { f.hosts = []HostProgress{acts}; f.unwrapped = 1 }, "COMMITTED", func(x change) bool { return x.Safe.IsZero() }},
		{"another project needs the key", committed(now), func(f *facts) { f.hosts = []HostProgress{acts}; f.elsewhere = "x" }, "COMMITTED", func(x change) bool { return x.Safe.IsZero() }},
		{"day 29", committed(now.Add(-29 * 24 * time.Hour)), func(f *facts) { f.hosts = []HostProgress{acts} }, "COMMITTED", nil},
		{"day 30", committed(now.Add(-Retention)), func(f *facts) { f.hosts = []HostProgress{acts} }, "RETIRED", func(x change) bool {
			return *x.Drop == store.WrapDrop{Order: 5, KeyARN: oldARN, To: 1}
		}},
		{"day 30, a host lags", committed(now.Add(-Retention)), func(f *facts) { f.hosts = []HostProgress{ready} }, "COMMITTED", nil},
		{"day 30, the old key is in use again", committed(now.Add(-Retention)), func(f *facts) { f.hosts = []HostProgress{acts}; f.reused = true }, "RETIRED", func(x change) bool { return x.Drop == nil }},
		{"wraps dropped", dropping, func(f *facts) { f.hosts = []HostProgress{acts, acts}; f.hosts[0].Dropped, f.hosts[1].Dropped = 5, 6 }, "RETIRED", func(x change) bool { return x.Dropped.Equal(now) }},
		{"wraps not dropped by all", dropping, func(f *facts) { f.hosts = []HostProgress{acts, acts}; f.hosts[0].Dropped = 5 }, "RETIRED", func(x change) bool { return x.Dropped.IsZero() }},
	} {
		x := change{Generation: 2, State: store.ChangeStaging, Rewrap: true, Candidate: store.KeyConfig{KeyARN: newARN}, Previous: store.KeyConfig{KeyARN: oldARN}}
		f := facts{now: now, verdict: custody.Valid, proven: true, hosts: []HostProgress{ready}, order: 5}
		if c.change != nil {
			c.change(&x)
		}
		if c.facts != nil {
			c.facts(&f)
		}
		got := decide(x, f)
		if got.State != c.state || c.check != nil && !c.check(got) {
			t.Errorf("%s: %+v", c.name, got)
		}
		if got.State != x.State && !got.Since.Equal(now) {
			t.Errorf("%s: entered %s at %s", c.name, got.State, got.Since)
		}
	}
}

func committed(at time.Time) func(*store.KeyChange) {
	return func(c *store.KeyChange) {
		c.State, c.Committed, c.Retires = store.ChangeCommitted, at, at.Add(Retention)
	}
}

func dropping(c *store.KeyChange) {
	c.State, c.Drop = store.ChangeRetired, &store.WrapDrop{Order: 5}
}

func TestARefusalOfACandidateIsConfirmed(t *testing.T) {
	for name, c := range map[string]struct {
		trial trial
		want  string
	}{
		"none":             {trial{}, ""},
		"two":              {trial{count: 2, since: 1, last: 100 * time.Second, why: "w"}, ""},
		"three in a burst": {trial{count: 3, since: time.Second, last: 2 * time.Second, why: "w"}, ""},
		"three over C":     {trial{count: 3, since: time.Second, last: 11 * time.Second, why: "w"}, "w"},
	} {
		if got, _ := c.trial.refused(10 * time.Second); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
