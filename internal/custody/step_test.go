package custody_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

var wall = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) custody.Instant {
	return custody.Instant{Elapsed: d, Wall: wall.Add(d)}
}

// run is a run that begins at d and ends 100 ms later.
type run struct {
	d       time.Duration
	outcome kms.Outcome
	reason  kms.Reason
}

func (r run) event(generation uint64) custody.RunFinished {
	res := kms.Result{Outcome: r.outcome, Reason: r.reason}
	if r.outcome != kms.OK {
		res.Failure = &kms.Failure{Outcome: r.outcome, Reason: r.reason, Operation: kms.OpDecrypt, Remedy: "mend it"}
	}
	return custody.RunFinished{Generation: generation, Started: r.d, Result: res}
}

const sec = time.Second

func ok(d time.Duration) run      { return run{d: d, outcome: kms.OK} }
func revoked(d time.Duration) run { return run{d, kms.Revoked, kms.KeyDisabled} }
func lost(d time.Duration) run    { return run{d, kms.Unreachable, kms.Timeout} }

// history applies runs (generation 1) and other events, given as (when, event).
type when struct {
	d time.Duration
	e custody.Event
}

func play(s custody.State, steps ...any) (custody.State, []custody.Effect) {
	var eff []custody.Effect
	for _, x := range steps {
		switch x := x.(type) {
		case run:
			s, eff = custody.Step(s, x.event(1), at(x.d+100*time.Millisecond))
		case when:
			s, eff = custody.Step(s, x.e, at(x.d))
		}
	}
	return s, eff
}

func fresh(interval time.Duration) custody.State {
	return custody.NewState(custody.Policy{Interval: interval}, 1, at(0))
}

// TestRules has one line for each rule of key-plane section 1 that needs one validator
// only; TestRulesOfSeveral has the others.
func TestRules(t *testing.T) {
	const m = 15 * time.Minute // so C is 10 s
	type effects = []custody.Effect
	restart := func(d time.Duration) when { return when{d, custody.Restarted{}} }
	commit := func(d time.Duration, g uint64) when { return when{d, custody.Committed{Generation: g}} }
	invalid := []any{ok(0), revoked(900 * sec), revoked(905 * sec), revoked(910 * sec)}
	tests := []struct {
		rule    string
		steps   []any
		want    custody.Verdict
		count   int
		next    time.Duration // after the last event; 0: not checked
		effects effects       // of the last event; nil: not checked
	}{
		{rule: "1 UNKNOWN + OK -> VALID, nodes may start", steps: []any{ok(0)}, want: custody.Valid, next: 900 * sec,
			effects: effects{custody.Persist, custody.Record, custody.Start}},
		{rule: "2 UNKNOWN + REVOKED -> SUSPECT", steps: []any{revoked(0)}, want: custody.Suspect, count: 1, next: 5 * sec,
			effects: effects{custody.Persist, custody.Record}},
		{rule: "3 UNKNOWN + UNREACHABLE: nothing starts, nothing stops", steps: []any{lost(0)}, want: custody.Unknown,
			effects: effects{custody.Persist}},
		{rule: "4 VALID + UNREACHABLE: nothing stops, runs after 5 s", steps: []any{ok(0), lost(900 * sec)}, want: custody.Unreachable,
			next: 905*sec + 100*time.Millisecond, effects: effects{custody.Persist, custody.Record}},
		{rule: "4 the wait doubles", steps: []any{ok(0), lost(900 * sec), lost(906 * sec)}, want: custody.Unreachable, next: 916 * sec},
		{rule: "4 counted from the run's beginning, with a pause after its end", steps: []any{ok(0), lost(900 * sec), lost(906 * sec), when{925 * sec, lost(916 * sec).event(1)}}, want: custody.Unreachable, next: 936 * sec},
		{rule: "4 UNKNOWN + UNREACHABLE waits in the same way", steps: []any{lost(0), lost(6 * sec)}, want: custody.Unknown, next: 16 * sec},
		{rule: "4a UNREACHABLE + OK -> VALID", steps: []any{ok(0), lost(900 * sec), ok(906 * sec)}, want: custody.Valid, next: 1806 * sec,
			effects: effects{custody.Persist, custody.Record, custody.Start}},
		{rule: "5 VALID + REVOKED -> SUSPECT, sessions dropped, nothing starts", steps: []any{ok(0), revoked(900 * sec)}, want: custody.Suspect, count: 1, next: 905 * sec,
			effects: effects{custody.Persist, custody.DropSessions, custody.Record, custody.AskValidators}},
		{rule: "5 UNREACHABLE + REVOKED -> SUSPECT", steps: []any{ok(0), lost(900 * sec), revoked(906 * sec)}, want: custody.Suspect, count: 1, next: 911 * sec},
		{rule: "6 SUSPECT + OK -> VALID, runs every 5 s", steps: []any{ok(0), revoked(900 * sec), ok(905 * sec)}, want: custody.Valid, next: 910 * sec,
			effects: effects{custody.Persist, custody.Record, custody.Start, custody.AskValidators}},
		{rule: "6 and that for a minute", steps: []any{ok(0), revoked(900 * sec), ok(905 * sec), ok(966 * sec)}, want: custody.Valid, next: 1866 * sec},
		{rule: "7 SUSPECT + UNREACHABLE stays, the count is kept", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), lost(910 * sec)}, want: custody.Suspect, count: 2, next: 915 * sec},
		{rule: "7 and the next REVOKED confirms", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), lost(910 * sec), revoked(915 * sec)}, want: custody.Invalid, count: 3},
		{rule: "8 third REVOKED begun C after the first -> INVALID", steps: invalid, want: custody.Invalid, count: 3, next: 1810 * sec,
			effects: effects{custody.Persist, custody.Stop, custody.Record}},
		{rule: "8 third before C -> still SUSPECT", steps: []any{ok(0), revoked(900 * sec), revoked(902 * sec), revoked(909 * sec)}, want: custody.Suspect, count: 3},
		{rule: "8 a later one at C -> INVALID", steps: []any{ok(0), revoked(900 * sec), revoked(902 * sec), revoked(909 * sec), revoked(910 * sec)}, want: custody.Invalid, count: 4},
		{rule: "8 two are not enough, however far apart", steps: []any{ok(0), revoked(900 * sec), revoked(960 * sec)}, want: custody.Suspect, count: 2},
		{rule: "8 an OK between starts over", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), ok(907 * sec), revoked(910 * sec)}, want: custody.Suspect, count: 1},
		{rule: "8 the newest reason is the one: local ones before a global one", steps: []any{ok(0), run{900 * sec, kms.Revoked, kms.KeyAccessDenied}, run{905 * sec, kms.Revoked, kms.RoleNotAssumable},
			revoked(910 * sec)}, want: custody.Invalid, count: 3},
		{rule: "12 Try Again asks all", steps: []any{ok(0), when{60 * sec, custody.TryAgain{}}}, want: custody.Valid, next: 60 * sec, effects: effects{custody.AskValidators}},
		{rule: "12a the control plane rests while agents report", steps: []any{ok(0), when{sec, custody.CadenceChanged{Cadence: custody.Idle}}}, want: custody.Valid, next: custody.Never},
		{rule: "12a a host silent: each interval", steps: []any{ok(0), when{sec, custody.CadenceChanged{Cadence: custody.Idle}}, when{2 * sec, custody.CadenceChanged{}}}, want: custody.Valid, next: 902 * sec},
		{rule: "12a a host suspect: each C/2", steps: []any{ok(0), when{sec, custody.CadenceChanged{Cadence: custody.Confirming}}}, want: custody.Valid, next: 6 * sec},
		{rule: "12a bad news ends the rest", steps: []any{ok(0), when{sec, custody.CadenceChanged{Cadence: custody.Idle}}, revoked(2 * sec)}, want: custody.Suspect, count: 1, next: 7 * sec},
		{rule: "17 INVALID + UNREACHABLE stays, each interval", steps: append(slices.Clone(invalid), lost(1810*sec)), want: custody.Invalid, count: 3, next: 2710 * sec, effects: effects{custody.Persist}},
		{rule: "17 INVALID + REVOKED stays", steps: append(slices.Clone(invalid), revoked(1810*sec)), want: custody.Invalid, count: 4, next: 2710 * sec, effects: effects{custody.Persist}},
		{rule: "18 INVALID + OK -> VALID, start at once", steps: append(slices.Clone(invalid), ok(1810*sec)), want: custody.Valid,
			effects: effects{custody.Persist, custody.Record, custody.Start, custody.AskValidators}},
		{rule: "19 a refused Get -> a run now", steps: []any{ok(0), when{60 * sec, custody.GetRefused{}}}, want: custody.Valid, next: 60 * sec, effects: effects{}},
		{rule: "19 but not a storm of them", steps: []any{ok(60 * sec), when{60*sec + 200*time.Millisecond, custody.GetRefused{}}}, want: custody.Valid, next: 61 * sec},
		{rule: "19 not while INVALID", steps: append(slices.Clone(invalid), when{911 * sec, custody.GetRefused{}}), want: custody.Invalid, count: 3, next: 1810 * sec},
		{rule: "21 restart in VALID: a run first", steps: []any{ok(0), restart(60 * sec)}, want: custody.Valid, next: 60 * sec, effects: effects{custody.Persist}},
		{rule: "21 then the OK lets nodes start", steps: []any{ok(0), restart(60 * sec), ok(60 * sec)}, want: custody.Valid, effects: effects{custody.Persist, custody.Start}},
		{rule: "20, 21 restart in VALID, nothing reachable: nodes wait", steps: []any{ok(0), restart(60 * sec), lost(60 * sec)}, want: custody.Unreachable, effects: effects{custody.Persist, custody.Record}},
		{rule: "20 and start at the first OK", steps: []any{ok(0), restart(60 * sec), lost(60 * sec), ok(66 * sec)}, want: custody.Valid, effects: effects{custody.Persist, custody.Record, custody.Start}},
		{rule: "21 restart in SUSPECT: count kept", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), restart(907 * sec)}, want: custody.Suspect, count: 2, next: 907 * sec},
		{rule: "21 and the third confirms", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), restart(907 * sec), revoked(910 * sec)}, want: custody.Invalid, count: 3},
		{rule: "21 restart in INVALID: nodes found running are stopped", steps: append(slices.Clone(invalid), restart(950*sec)), want: custody.Invalid, count: 3, next: 950 * sec, effects: effects{custody.Stop}},
		{rule: "21 restart in UNKNOWN", steps: []any{restart(0)}, want: custody.Unknown, effects: effects{}},
		{rule: "23 commit in INVALID stays INVALID, the chain starts anew", steps: append(slices.Clone(invalid), commit(920*sec, 2)), want: custody.Invalid, next: 920 * sec,
			effects: effects{custody.Persist, custody.DropSessions}},
		{rule: "23 the old generation's runs count for nobody", steps: append(slices.Clone(invalid), commit(920*sec, 2), ok(925*sec)), want: custody.Invalid, next: 925*sec + 100*time.Millisecond},
		{rule: "23 an older generation changes nothing", steps: []any{ok(0), commit(sec, 1)}, want: custody.Valid, next: 900 * sec, effects: effects{}},
		{rule: "23 commit in SUSPECT begins a new chain", steps: []any{ok(0), revoked(900 * sec), revoked(905 * sec), commit(906*sec, 2),
			when{911 * sec, revoked(910 * sec).event(2)}}, want: custody.Suspect, count: 1},
		{rule: "23 a run that was none says nothing", steps: []any{ok(0), when{60 * sec, custody.RunFinished{Generation: 1, Started: 60 * sec}}}, want: custody.Valid, next: 61 * sec, effects: effects{}},
		{rule: "31 over 10 s: TIMEOUT, even if the answer was OK", steps: []any{ok(0), when{911 * sec, ok(900 * sec).event(1)}}, want: custody.Unreachable},
		{rule: "31 over 10 s: no REVOKED either", steps: []any{ok(0), when{911 * sec, revoked(900 * sec).event(1)}}, want: custody.Unreachable},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			s, eff := play(fresh(m), tt.steps...)
			if s.Verdict != tt.want || s.Chain.Count != tt.count {
				t.Errorf("verdict %s with %d in the chain, want %s with %d", s.Verdict, s.Chain.Count, tt.want, tt.count)
			}
			if tt.next != 0 && s.Next != tt.next {
				t.Errorf("next run at %v, want %v", s.Next, tt.next)
			}
			if tt.effects != nil && !slices.Equal(eff, tt.effects) {
				t.Errorf("effects %v, want %v", eff, tt.effects)
			}
		})
	}
}

func TestStateExplainsItself(t *testing.T) {
	s, _ := play(fresh(time.Minute), ok(0), revoked(60*sec))
	if s.Reason != kms.KeyDisabled || s.Operation != kms.OpDecrypt || s.Remedy != "mend it" || s.Detail == "" || s.Previous != custody.Valid {
		t.Errorf("suspect state %+v", s)
	}
	if !s.LastSuccess.Equal(wall.Add(100*time.Millisecond)) || !s.Since.Equal(wall.Add(60*sec+100*time.Millisecond)) {
		t.Errorf("last success %v, since %v", s.LastSuccess, s.Since)
	}
	s, _ = play(s, revoked(65*sec), revoked(70*sec), lost(75*sec))
	if s.Reason != kms.KeyDisabled {
		t.Errorf("INVALID lost its reason to %s", s.Reason)
	}
	s, _ = play(s, ok(80*sec))
	if s.Reason != "" || s.Remedy != "" || s.Detail != "" || s.Frozen != nil {
		t.Errorf("valid state still explains: %+v", s)
	}
}

func TestPolicyIsFrozenWhileSuspect(t *testing.T) {
	s, _ := play(fresh(2*sec), ok(0), revoked(2*sec), when{3 * sec, custody.PolicyChanged{Policy: custody.Policy{Interval: time.Hour}}})
	if s.InForce().Interval != 2*sec || s.Policy.Interval != time.Hour {
		t.Fatalf("in force %v, wanted %v", s.InForce(), s.Policy)
	}
	s, _ = play(s, revoked(3*sec), revoked(4*sec))
	if s.Verdict != custody.Invalid || s.Next != 6*sec {
		t.Fatalf("%s, next %v: the frozen policy did not decide", s.Verdict, s.Next)
	}
	if s, _ = play(s, ok(6*sec)); s.InForce().Interval != time.Hour {
		t.Fatalf("the new policy does not hold once valid: %v", s.InForce())
	}
}

func TestShorterIntervalBringsTheRunForward(t *testing.T) {
	s, _ := play(fresh(time.Hour), ok(0), when{60 * sec, custody.PolicyChanged{Policy: custody.Policy{Interval: 5 * sec}}})
	if s.Next != 65*sec {
		t.Fatalf("next run at %v", s.Next)
	}
}

func TestReleases(t *testing.T) {
	for v, want := range map[custody.Verdict]bool{
		custody.Unknown: false, custody.Valid: true, custody.Unreachable: true, custody.Suspect: false,
		custody.Invalid: false, custody.NAD: false, custody.Grace: false, custody.Alert: false,
	} {
		if v.Releases() != want {
			t.Errorf("%s releases: %v", v, !want)
		}
	}
}

func TestC(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{time.Second: time.Second, 15 * time.Minute: 10 * sec, 0: 10 * sec, time.Millisecond: sec} {
		if got := (custody.Policy{Interval: interval}).C(); got != want {
			t.Errorf("C of %v is %v, want %v", interval, got, want)
		}
	}
}
