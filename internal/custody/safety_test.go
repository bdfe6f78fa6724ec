package custody_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// world is a control plane and hosts as pure states, with a schedule that a test
// draws: who runs, what is told, what happens to clocks and processes.
type world struct {
	now  time.Duration
	all  map[string]custody.State
	runs map[string]bool // nodes are up
}

func newWorld(p custody.Policy, hosts ...string) *world {
	w := &world{now: time.Hour, all: map[string]custody.State{}, runs: map[string]bool{}}
	for _, name := range append([]string{""}, hosts...) {
		s := custody.NewState(p, 1, w.instant())
		s.Central = name == ""
		w.all[name] = s
	}
	return w
}

func (w *world) instant() custody.Instant {
	return custody.Instant{Elapsed: w.now, Wall: wall.Add(w.now)}
}

// step applies an event and checks what must hold after each one.
func (w *world) step(t *rapid.T, name string, e custody.Event) {
	old := w.all[name]
	s, eff := custody.Step(old, e, w.instant())
	w.all[name] = s
	if slices.Contains(eff, custody.Start) {
		if s.Verdict != custody.Valid {
			t.Fatalf("%q starts under %s", name, s.Verdict)
		}
		w.runs[name] = true
	}
	if slices.Contains(eff, custody.Stop) {
		w.runs[name] = false
	}
	if s.Verdict == custody.Invalid && w.runs[name] {
		t.Fatalf("%q: nodes run under INVALID", name)
	}
	if s.MayStart() && s.Verdict != custody.Valid {
		t.Fatalf("%q may start under %s", name, s.Verdict)
	}
	if old.Verdict == custody.Grace && s.Verdict == custody.Grace && s.Deadline > old.Deadline {
		t.Fatalf("%q: grace extended from %v to %v by %T", name, old.Deadline, s.Deadline, e)
	}
	if old.Verdict == custody.Grace && !slices.Contains([]custody.Verdict{custody.Grace, custody.Invalid, custody.Valid}, s.Verdict) {
		t.Fatalf("%q: %s after GRACE", name, s.Verdict)
	}
	if s.Verdict == custody.Grace && s.Deadline <= w.now {
		t.Fatalf("%q: GRACE beyond its deadline", name)
	}
	if (s.Deadline != 0) != (s.Verdict == custody.Grace) {
		t.Fatalf("%q: deadline %v under %s", name, s.Deadline, s.Verdict)
	}
	if old.Verdict == custody.Invalid && s.Verdict != custody.Invalid && s.Verdict != custody.Valid {
		t.Fatalf("%q: %s after INVALID", name, s.Verdict)
	}
	if s.Verdict.Bad() && s.Frozen == nil {
		t.Fatalf("%q: no policy under %s", name, s.Verdict)
	}
	if s.Verdict == custody.Valid && (s.Hold || s.Adopted || s.NoWitness || s.Frozen != nil) {
		t.Fatalf("%q: leftovers in VALID: %+v", name, s)
	}
	if name == "" && s.Adopted {
		t.Fatal("the control plane adopted a verdict")
	}
}

func (w *world) run(t *rapid.T, name string, o kms.Outcome, r kms.Reason) {
	started := w.now
	w.now += time.Duration(rapid.IntRange(10, 900).Draw(t, "took")) * time.Millisecond
	w.step(t, name, custody.RunFinished{Generation: 1, Started: started, Result: kms.Result{Outcome: o, Reason: r}})
}

// tell passes everybody's word to one member, as old as the delay says.
func (w *world) tell(t *rapid.T, name string, words map[string]custody.Evidence) {
	var all []custody.Evidence
	for other, e := range words {
		if other != name {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b custody.Evidence) int { return len(a.Validator) - len(b.Validator) })
	w.step(t, name, custody.EvidenceReceived{Validators: all})
}

func (w *world) words(linked func(string) bool) map[string]custody.Evidence {
	out := map[string]custody.Evidence{}
	for name, s := range w.all {
		s.Clock.Elapsed = w.now
		out[name] = s.Evidence(name, linked(name), 0)
	}
	return out
}

func (w *world) restart(t *rapid.T, name string) {
	b, err := json.Marshal(w.all[name])
	if err != nil {
		t.Fatal(err)
	}
	var back custody.State
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	w.all[name] = back
	w.step(t, name, custody.Restarted{})
}

func drawPolicy(t *rapid.T) custody.Policy {
	return custody.Policy{
		Interval: time.Duration(rapid.IntRange(1, 400).Draw(t, "interval")) * time.Second,
		Mode:     rapid.SampledFrom([]custody.Mode{custody.ModeStop, custody.ModeGrace, custody.ModeAlert}).Draw(t, "mode"),
		Grace:    time.Duration(rapid.IntRange(1, 30).Draw(t, "grace")) * time.Minute,
	}
}

// TestSafetyOfAnyHistory draws histories of a control plane and two hosts in which
// anything happens to anybody, and checks what must hold after every event: nothing
// starts or runs under INVALID, grace is never extended, INVALID ends with an own OK
// only.
func TestSafetyOfAnyHistory(t *testing.T) {
	names := []string{"", "a", "bb"}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(drawPolicy(t), names[1:]...)
		words := w.words(func(string) bool { return true })
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			w.now += time.Duration(rapid.SampledFrom([]int{1, 500, 5000, 30_000, 400_000}).Draw(t, "wait")) * time.Millisecond
			name := rapid.SampledFrom(names).Draw(t, "who")
			for _, n := range names { // due deadlines come before anything else, as the loop does it
				w.step(t, n, custody.TimePassed{})
			}
			switch rapid.SampledFrom([]string{"ok", "local", "local", "global", "lost", "words", "tell", "tell", "restart", "policy", "back", "again"}).Draw(t, "event") {
			case "ok":
				w.run(t, name, kms.OK, "")
			case "local":
				w.run(t, name, kms.Revoked, rapid.SampledFrom([]kms.Reason{kms.KeyAccessDenied, kms.RoleNotAssumable}).Draw(t, "reason"))
			case "global":
				w.run(t, name, kms.Revoked, kms.KeyDisabled)
			case "lost":
				w.run(t, name, kms.Unreachable, kms.PlatformPermissions)
			case "words":
				words = w.words(func(string) bool { return rapid.Bool().Draw(t, "linked") })
			case "tell":
				w.tell(t, name, words)
			case "restart":
				w.restart(t, name)
			case "policy":
				w.step(t, name, custody.PolicyChanged{Policy: drawPolicy(t)})
			case "back":
				w.step(t, name, custody.ClockWentBack{})
			case "again":
				w.step(t, name, custody.TryAgain{})
			}
		}
	})
}

// TestNoOutageStopsAnything: whatever is unreachable, throttled or the platform's own
// fault, for whom and how long, together with restarts and clocks that go back, nothing
// leaves VALID, UNREACHABLE and UNKNOWN.
func TestNoOutageStopsAnything(t *testing.T) {
	names := []string{"", "a", "bb"}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(drawPolicy(t), names[1:]...)
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			w.now += time.Duration(rapid.IntRange(1, 2_000_000).Draw(t, "wait")) * time.Millisecond
			name := rapid.SampledFrom(names).Draw(t, "who")
			switch rapid.SampledFrom([]string{"ok", "lost", "lost", "tell", "restart", "back", "time"}).Draw(t, "event") {
			case "ok":
				w.run(t, name, kms.OK, "")
			case "lost":
				w.run(t, name, kms.Unreachable, rapid.SampledFrom([]kms.Reason{kms.Throttled, kms.Timeout, kms.PlatformPermissions, kms.ClockSkew, kms.DNS}).Draw(t, "reason"))
			case "tell":
				w.tell(t, name, w.words(func(string) bool { return rapid.Bool().Draw(t, "linked") }))
			case "restart":
				w.restart(t, name)
			case "back":
				w.step(t, name, custody.ClockWentBack{})
			case "time":
				w.step(t, name, custody.TimePassed{})
			}
			for n, s := range w.all {
				if s.Verdict.Bad() {
					t.Fatalf("%q is %s", n, s.Verdict)
				}
			}
		}
	})
}

// TestOneHostsAddressStopsNothing: host a is refused for a local reason in whatever
// rhythm, sometimes unreachable, sometimes restarted; the control plane can use the key,
// runs each C/2 as rule 12a says while a is not valid, and its words arrive within two
// seconds. Host a never stops, and neither does host bb, whose own outage comes on top.
func TestOneHostsAddressStopsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		w := newWorld(p, "a", "bb")
		for _, n := range []string{"", "a", "bb"} {
			w.run(t, n, kms.OK, "")
		}
		nextCP, nextTell := w.now, w.now
		for range rapid.IntRange(20, 200).Draw(t, "events") {
			w.now += time.Duration(rapid.IntRange(100, 2500).Draw(t, "wait")) * time.Millisecond
			if w.now >= nextCP {
				w.run(t, "", kms.OK, "")
				nextCP = w.now + p.C()/2
			}
			if w.now >= nextTell {
				words := w.words(func(string) bool { return true })
				w.now += time.Duration(rapid.IntRange(1, 900).Draw(t, "transit")) * time.Millisecond
				for _, n := range []string{"", "a", "bb"} {
					w.tell(t, n, words)
				}
				nextTell = w.now + time.Second
			}
			switch rapid.SampledFrom([]string{"refused", "refused", "refused", "lost", "restart", "b lost", "time"}).Draw(t, "event") {
			case "refused":
				w.run(t, "a", kms.Revoked, kms.KeyAccessDenied)
			case "lost":
				w.run(t, "a", kms.Unreachable, kms.Timeout)
			case "b lost":
				w.run(t, "bb", kms.Unreachable, kms.Timeout)
			case "restart":
				w.restart(t, "a")
			case "time":
				w.step(t, "a", custody.TimePassed{})
			}
			if v := w.all["a"].Verdict; v == custody.Invalid || v == custody.Grace || v == custody.Alert {
				t.Fatalf("a is %s: %+v", v, w.all["a"])
			}
			if v := w.all["bb"].Verdict; v.Bad() {
				t.Fatalf("bb is %s", v)
			}
		}
	})
}
