package custody_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

const minute = time.Minute

// denied is a REVOKED with a local reason, unassumed the same at STS.
func denied(d time.Duration) run    { return run{d, kms.Revoked, kms.KeyAccessDenied} }
func unassumed(d time.Duration) run { return run{d, kms.Revoked, kms.RoleNotAssumable} }

// peer is another validator's word. It uses this validator's clock, so that its times
// can be read as they are written.
type word func(*custody.Evidence)

func validator(name string, words ...word) custody.Evidence {
	e := custody.Evidence{Validator: name, Linked: true, Generation: 1, Verdict: custody.Valid, Policy: policy("", 0), OnceOK: true}
	for _, w := range words {
		w(&e)
	}
	return e
}

// okAt: its newest run was an OK.
func okAt(d time.Duration) word {
	return func(e *custody.Evidence) { e.Outcome, e.Run, e.LastOK, e.OnceOK = kms.OK, d, d, true }
}

// refusedAt: its newest run was a REVOKED, one of a chain that began at the first time.
func refusedAt(reason kms.Reason, first, last time.Duration, count int) word {
	return func(e *custody.Evidence) {
		e.Outcome, e.Reason, e.Run, e.Verdict = kms.Revoked, reason, last, custody.Suspect
		e.Chain = custody.Chain{Count: count, Start: first, Last: last}
	}
}

func verdict(v custody.Verdict, entered time.Duration) word {
	return func(e *custody.Evidence) {
		e.Verdict, e.Entered = v, entered
		if v != custody.NAD && v != custody.Suspect {
			e.Confirmed = entered
		}
	}
}

func set(fn func(*custody.Evidence)) word { return fn }

func unlinked(e *custody.Evidence)    { e.Linked = false }
func neverOK(e *custody.Evidence)     { e.OnceOK = false }
func adopted(e *custody.Evidence)     { e.Adopted = true }
func noWitness(e *custody.Evidence)   { e.NoWitness = true }
func generation2(e *custody.Evidence) { e.Generation = 2 }

func told(d time.Duration, all ...custody.Evidence) when {
	for i := range all {
		all[i].Now = d
	}
	return when{d, custody.EvidenceReceived{Validators: all}}
}

func crowd(d time.Duration, all ...custody.Evidence) when {
	w := told(d, all...)
	e := w.e.(custody.EvidenceReceived)
	e.Crowd = true
	w.e = e
	return w
}

func passed(d time.Duration) when { return when{d, custody.TimePassed{}} }

func policy(m custody.Mode, grace time.Duration) custody.Policy {
	return custody.Policy{Interval: minute, Mode: m, Grace: grace}.Normal()
}

func setPolicy(d time.Duration, p custody.Policy) when {
	return when{d, custody.PolicyChanged{Policy: p}}
}

// TestRulesOfSeveral has one line for each rule of key-plane section 1 that is about
// other validators, softer policies, or time. The interval is a minute, so C is 10 s
// and W is 5 min.
func TestRulesOfSeveral(t *testing.T) {
	const C, W = 10 * sec, 5 * minute
	stop, grace, alert := policy(custody.ModeStop, 0), policy(custody.ModeGrace, 10*minute), policy(custody.ModeAlert, 0)
	limited := custody.Policy{Interval: minute, UnreachableLimit: time.Hour}
	begin := []any{ok(0), denied(60 * sec), denied(65 * sec)}
	after := func(first []any, more ...any) []any { return append(slices.Clone(first), more...) }
	third := denied(70 * sec)
	cp := func(words ...word) custody.Evidence { return validator("", words...) }
	nad := after(begin, told(69*sec, cp(okAt(66*sec))), third)
	confirmedAt := func(v custody.Verdict, reason kms.Reason) []word {
		return []word{refusedAt(reason, 62*sec, 75*sec, 4), verdict(v, 72*sec)}
	}
	inGrace := []any{setPolicy(0, grace), ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)}
	inAlert := []any{setPolicy(0, alert), ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)}
	confirmed := 70*sec + 100*time.Millisecond
	deadline := func(d time.Duration) func(custody.State) string {
		return func(s custody.State) string {
			if s.Deadline != d {
				return "deadline " + s.Deadline.String() + ", want " + d.String()
			}
			return ""
		}
	}
	held := func(s custody.State) string {
		if !s.Hold || s.Alarm == "" {
			return "no hold with an alarm"
		}
		return ""
	}
	chain := func(n int) func(custody.State) string {
		return func(s custody.State) string {
			if s.Chain.Count != n {
				return "another count in the chain"
			}
			return ""
		}
	}
	tests := []struct {
		rule  string
		steps []any
		want  custody.Verdict
		also  func(custody.State) string // "" if it is as it should be
	}{
		// 8a
		{rule: "8a local with veto -> NAD", steps: nad, want: custody.NAD, also: func(s custody.State) string {
			if s.Veto.By != "" || s.Alarm == "" || s.MayStart() || s.MustBeDown() {
				return "NAD without alarm, or it starts or stops nodes"
			}
			return ""
		}},
		{rule: "8a local with witness -> policy", steps: after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2))), third), want: custody.Invalid},
		{rule: "8a local with witness -> policy GRACE", steps: after([]any{setPolicy(0, grace)}, after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2))), third)...), want: custody.Grace},
		{rule: "8a a witness before C -> SUSPECT", steps: after(begin, told(66*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 65*sec, 2))), denied(69*sec)), want: custody.Suspect},
		{rule: "8a one validator not asked yet -> wait", steps: after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2)), validator("b", okAt(50*sec))), third), want: custody.Suspect, also: held},
		{rule: "8a one validator without any run -> wait", steps: after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2)), validator("b", neverOK)), third), want: custody.Suspect, also: held},
		{rule: "8a an unlinked one is not waited for", steps: after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2)), validator("b", okAt(50*sec), unlinked)), third), want: custody.Invalid},
		{rule: "8a a veto outweighs a witness", steps: after(begin, told(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2)), validator("b", okAt(66*sec))), third), want: custody.NAD},
		{rule: "8a an OK that began before the chain is no veto", steps: after(begin, told(69*sec, cp(okAt(59*sec))), third), want: custody.Suspect, also: held},
		{rule: "8a an OK of 2W ago is no veto", steps: after(begin, told(69*sec, cp(okAt(66*sec), unlinked)), passed(80*sec), denied(68*sec+2*W)), want: custody.Invalid},
		{rule: "8a who was refused after its OK vetoes nothing", steps: after(begin, told(69*sec, cp(okAt(66*sec), refusedAt(kms.KeyAccessDenied, 68*sec, 68*sec, 1))), third), want: custody.Invalid},
		{rule: "8a alone, held", steps: after(begin, third), want: custody.Suspect, also: held},
		{rule: "8a alone, before C + W", steps: after(begin, third, denied(60*sec+C+W-sec)), want: custody.Suspect, also: held},
		{rule: "8a alone, at C + W", steps: after(begin, third, denied(60*sec+C+W)), want: custody.Invalid},
		{rule: "8a, 27 alone, just restarted: time that nobody listened in does not count", steps: after(begin, when{60*sec + C + W, custody.Restarted{}}, denied(61*sec+C+W)), want: custody.Suspect, also: held},
		{rule: "8a, 27 alone, a minute after the restart", steps: after(begin, when{60*sec + C + W, custody.Restarted{}}, denied(120*sec+C+W)), want: custody.Invalid},
		{rule: "8a hold + UNREACHABLE -> hold", steps: after(begin, third, lost(60*sec+C+W)), want: custody.Suspect, also: held},
		{rule: "8a hold + UNREACHABLE, then REVOKED -> policy", steps: after(begin, third, lost(60*sec+C+W), denied(65*sec+C+W)), want: custody.Invalid},
		{rule: "8a hold + OK -> VALID, no alarm", steps: after(begin, third, ok(75*sec)), want: custody.Valid, also: func(s custody.State) string { return s.Alarm }},
		{rule: "8a who was never OK in this generation is no witness", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 68*sec, 2), neverOK)), third), want: custody.Suspect, also: held},
		{rule: "8a a run before the chain is no witness", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 50*sec, 59*sec, 2), unlinked)), third), want: custody.Suspect, also: held},
		{rule: "8a old NAD is no witness", steps: after([]any{ok(0), denied(600 * sec), denied(605 * sec)},
			told(609*sec, cp(refusedAt(kms.KeyAccessDenied, 100*sec, 607*sec, 9), verdict(custody.NAD, 110*sec))), denied(610*sec)), want: custody.Suspect, also: held},
		{rule: "8a young NAD is one", steps: after([]any{ok(0), denied(600 * sec), denied(605 * sec)},
			told(609*sec, cp(refusedAt(kms.KeyAccessDenied, 500*sec, 607*sec, 9), verdict(custody.NAD, 510*sec))), denied(610*sec)), want: custody.Invalid},
		{rule: "8a stale INVALID ignored", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 10*sec, 30*sec, 5), verdict(custody.Invalid, 20*sec), unlinked)), third), want: custody.Suspect, also: held},
		{rule: "8a adopted verdict ignored", steps: after(begin, told(69*sec, cp(append(confirmedAt(custody.Invalid, kms.KeyAccessDenied), adopted)...)), third), want: custody.Suspect, also: held},
		{rule: "8a other generation ignored", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 68*sec, 2), generation2)), third), want: custody.Suspect, also: held},
		{rule: "8a an OK of another generation is no veto", steps: after(begin, told(69*sec, cp(okAt(66*sec), generation2, unlinked)), denied(60*sec+C+W)), want: custody.Invalid},
		{rule: "8a the contradicted is no witness", steps: after(begin, told(69*sec, validator("b", refusedAt(kms.KeyAccessDenied, 40*sec, 68*sec, 6), verdict(custody.Invalid, 55*sec)),
			cp(okAt(59*sec), unlinked)), third), want: custody.Suspect, also: held},
		{rule: "8a nor by its own word", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 68*sec, 2), noWitness)), third), want: custody.Suspect, also: held},
		{rule: "8a cut off from the control plane no witness decides", steps: after(begin, told(69*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 68*sec, 2))), lost(75*sec), denied(140*sec)), want: custody.Suspect, also: held},

		// 9
		{rule: "9 canary down -> UNREACHABLE", steps: []any{ok(0), run{60 * sec, kms.Unreachable, kms.PlatformPermissions}}, want: custody.Unreachable},
		{rule: "9 and never more", steps: []any{ok(0), run{60 * sec, kms.Unreachable, kms.PlatformPermissions}, run{65 * sec, kms.Unreachable, kms.PlatformPermissions},
			run{3600 * sec, kms.Unreachable, kms.PlatformPermissions}}, want: custody.Unreachable},

		// 10
		{rule: "10 many projects at once: a witness does not decide", steps: []any{ok(0), unassumed(60 * sec), unassumed(65 * sec),
			crowd(69*sec, cp(refusedAt(kms.RoleNotAssumable, 62*sec, 68*sec, 2))), unassumed(70 * sec)}, want: custody.Suspect, also: held},
		{rule: "10 nor does C + W", steps: []any{ok(0), unassumed(60 * sec), unassumed(65 * sec), crowd(66 * sec), unassumed(70 * sec), unassumed(60*sec + C + W)}, want: custody.Suspect, also: held},
		{rule: "10 one more W does", steps: []any{ok(0), unassumed(60 * sec), unassumed(65 * sec), crowd(66 * sec), unassumed(70 * sec), unassumed(60*sec + C + 2*W)}, want: custody.Invalid},
		{rule: "10 once: it does not move on", steps: []any{ok(0), unassumed(60 * sec), unassumed(65 * sec), crowd(66 * sec), unassumed(70 * sec), crowd(60*sec + C + W), unassumed(60*sec + C + 2*W)}, want: custody.Invalid},
		{rule: "10 only by STS", steps: after(begin, crowd(69*sec, cp(refusedAt(kms.KeyAccessDenied, 62*sec, 68*sec, 2))), third), want: custody.Invalid},

		// 11
		{rule: "11 NAD + OK -> VALID", steps: after(nad, ok(130*sec)), want: custody.Valid},
		{rule: "11 NAD + global -> SUSPECT", steps: after(nad, revoked(130*sec)), want: custody.Suspect, also: chain(1)},
		{rule: "11 and three of them -> INVALID", steps: after(nad, revoked(130*sec), revoked(135*sec), revoked(140*sec)), want: custody.Invalid},
		{rule: "11 NAD + UNREACHABLE stays", steps: after(nad, lost(130*sec)), want: custody.NAD},
		{rule: "11 NAD + local REVOKED stays", steps: after(nad, denied(130*sec)), want: custody.NAD},
		{rule: "11 NAD is held up by newer OKs", steps: after(nad, told(400*sec, cp(okAt(390*sec))), passed(66*sec+2*W)), want: custody.NAD},
		{rule: "11 veto lapsed -> new chain, no witness", steps: after(nad, passed(66*sec+2*W)), want: custody.Suspect, also: func(s custody.State) string {
			if s.Chain.Count != 0 || !s.NoWitness || s.Next != 66*sec+2*W {
				return "old chain, or still a witness, or no run at once"
			}
			return ""
		}},
		{rule: "11 the vetoing validator is refused: lapsed", steps: after(nad, told(80*sec, cp(refusedAt(kms.KeyAccessDenied, 78*sec, 78*sec, 1)))), want: custody.Suspect, also: chain(0)},
		{rule: "11 then it is the witness", steps: after(nad, told(80*sec, cp(refusedAt(kms.KeyAccessDenied, 78*sec, 78*sec, 1))), denied(80*sec), denied(85*sec),
			told(89*sec, cp(refusedAt(kms.KeyAccessDenied, 78*sec, 88*sec, 3))), denied(90*sec)), want: custody.Invalid},
		{rule: "11 its own OK makes it a witness again", steps: after(nad, passed(66*sec+2*W), ok(67*sec+2*W)), want: custody.Valid, also: func(s custody.State) string {
			if s.NoWitness {
				return "still no witness"
			}
			return ""
		}},
		{rule: "11 restart in NAD: kept", steps: after(nad, when{100 * sec, custody.Restarted{}}), want: custody.NAD},

		// 13
		{rule: "13 UNREACHABLE + peer's INVALID (global) -> INVALID", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...))}, want: custody.Invalid, also: func(s custody.State) string {
			if !s.Adopted || s.Reason != kms.KeyDisabled || s.Remedy == "" {
				return "not marked as adopted, or no reason"
			}
			return ""
		}},
		{rule: "13 UNKNOWN too", steps: []any{lost(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...))}, want: custody.Invalid},
		{rule: "13 VALID does not", steps: []any{ok(0), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...))}, want: custody.Valid},
		{rule: "13 UNREACHABLE + peer's GRACE -> GRACE", steps: []any{setPolicy(0, grace), ok(0), lost(60 * sec),
			told(80*sec, cp(append(confirmedAt(custody.Grace, kms.KeyDisabled), set(func(e *custody.Evidence) { e.Policy, e.Deadline = grace, 300*sec }))...))}, want: custody.Grace, also: deadline(300 * sec)},
		{rule: "13 the stricter policy", steps: []any{setPolicy(0, stop), ok(0), lost(60 * sec),
			told(80*sec, cp(append(confirmedAt(custody.Alert, kms.KeyDisabled), set(func(e *custody.Evidence) { e.Policy = alert }))...))}, want: custody.Invalid},
		{rule: "13 three own REVOKED are needed", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(refusedAt(kms.KeyDisabled, 62*sec, 75*sec, 2), verdict(custody.Invalid, 72*sec)))}, want: custody.Unreachable},
		{rule: "13 adopted verdict ignored", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(append(confirmedAt(custody.Invalid, kms.KeyDisabled), adopted)...))}, want: custody.Unreachable},
		{rule: "13 other generation ignored", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(append(confirmedAt(custody.Invalid, kms.KeyDisabled), generation2)...))}, want: custody.Unreachable},
		{rule: "13 stale INVALID ignored: since the last OK", steps: []any{ok(70 * sec), lost(75 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...))}, want: custody.Unreachable},
		{rule: "13 somebody else's newest run is OK", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...), validator("b", okAt(10*sec)))}, want: custody.Unreachable},
		{rule: "13 local: not before C + W", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.RoleNotAssumable)...))}, want: custody.Unreachable},
		{rule: "13 local: at C + W into its chain", steps: []any{ok(0), lost(60 * sec), told(80*sec+C+W, cp(confirmedAt(custody.Invalid, kms.RoleNotAssumable)...))}, want: custody.Invalid},
		{rule: "13 local: at once for SUSPECT", steps: []any{ok(0), denied(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.RoleNotAssumable)...))}, want: custody.Invalid},
		{rule: "13 local: at once for NAD", steps: after(nad, told(80*sec, cp(append(confirmedAt(custody.Invalid, kms.RoleNotAssumable), unlinked)...), validator("b", confirmedAt(custody.Invalid, kms.KeyAccessDenied)...))), want: custody.Invalid},
		{rule: "13 local: not from one that is no witness", steps: []any{ok(0), denied(60 * sec), told(80*sec, cp(append(confirmedAt(custody.Invalid, kms.RoleNotAssumable), noWitness)...))}, want: custody.Suspect},
		{rule: "13 local: not against a veto", steps: []any{ok(0), denied(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.RoleNotAssumable)...), validator("b", okAt(70*sec), unlinked))}, want: custody.Suspect},
		{rule: "13 an unlinked one convinces nobody", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(append(confirmedAt(custody.Invalid, kms.KeyDisabled), unlinked)...))}, want: custody.Unreachable},
		{rule: "13, 18 an adopted INVALID ends with an own OK", steps: []any{ok(0), lost(60 * sec), told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...)), ok(90 * sec)}, want: custody.Valid, also: func(s custody.State) string {
			if s.Adopted || s.Frozen != nil {
				return "still adopted"
			}
			return ""
		}},

		// 13a
		{rule: "13a default: runs on for ever", steps: []any{ok(0), lost(60 * sec), passed(1000 * time.Hour)}, want: custody.Unreachable},
		{rule: "13a before the limit", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), passed(time.Hour - 1)}, want: custody.Unreachable},
		{rule: "13a the limit: the policy", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), passed(time.Hour)}, want: custody.Invalid},
		{rule: "13a a relayed OK counts", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), told(1800*sec, cp(okAt(1700*sec))), passed(time.Hour)}, want: custody.Unreachable},
		{rule: "13a linked to the control plane: runs on", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), told(2*time.Hour, cp(neverOK)), passed(2*time.Hour + sec)}, want: custody.Unreachable},
		{rule: "13a just restarted: it has not been listening", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), when{2 * time.Hour, custody.Restarted{}}, lost(2*time.Hour + sec)}, want: custody.Unreachable},
		{rule: "13a a minute later: the policy", steps: []any{setPolicy(0, limited), ok(0), lost(60 * sec), when{2 * time.Hour, custody.Restarted{}}, lost(2*time.Hour + sec), passed(2*time.Hour + minute)}, want: custody.Invalid},
		{rule: "13a less than an hour is an hour", steps: []any{setPolicy(0, custody.Policy{Interval: minute, UnreachableLimit: minute}), ok(0), lost(60 * sec), passed(10 * minute)}, want: custody.Unreachable},

		// 14
		{rule: "14 GRACE with a deadline", steps: inGrace, want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "14 nothing stops, nothing starts", steps: inGrace, want: custody.Grace, also: func(s custody.State) string {
			if s.MustBeDown() || s.MayStart() || s.Verdict.Releases() {
				return "it stops or starts something"
			}
			return ""
		}},
		{rule: "14 REVOKED does not extend", steps: after(inGrace, revoked(300*sec), lost(360*sec), revoked(420*sec)), want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "14 the deadline -> INVALID", steps: after(inGrace, passed(confirmed+10*minute)), want: custody.Invalid, also: deadline(0)},
		{rule: "14 not before", steps: after(inGrace, passed(confirmed+10*minute-1)), want: custody.Grace},
		{rule: "14 OK -> VALID", steps: after(inGrace, ok(120*sec)), want: custody.Valid, also: deadline(0)},
		{rule: "14 the earlier deadline of the control plane", steps: after(inGrace, told(80*sec, cp(append(confirmedAt(custody.Grace, kms.KeyDisabled), set(func(e *custody.Evidence) { e.Deadline = 200 * sec }))...))), want: custody.Grace, also: deadline(200 * sec)},
		{rule: "14 not a later one", steps: after(inGrace, told(80*sec, cp(append(confirmedAt(custody.Grace, kms.KeyDisabled), set(func(e *custody.Evidence) { e.Deadline = 2000 * sec }))...))), want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "14 nor by a change of policy", steps: after(inGrace, told(80*sec, cp(append(confirmedAt(custody.Grace, kms.KeyDisabled), set(func(e *custody.Evidence) { e.Deadline = 200 * sec }))...)),
			told(81*sec), setPolicy(90*sec, policy(custody.ModeGrace, 9*minute))), want: custody.Grace, also: deadline(200 * sec)},
		{rule: "14 restart in GRACE: deadline kept", steps: after(inGrace, when{300 * sec, custody.Restarted{}}), want: custody.Grace, also: deadline(confirmed + 10*minute)},

		// 15
		{rule: "15 ALERT: nothing stops", steps: inAlert, want: custody.Alert, also: func(s custody.State) string {
			if s.MustBeDown() || s.MayStart() || s.Verdict.Releases() {
				return "it stops or starts something"
			}
			return ""
		}},
		{rule: "15 ALERT + OK -> VALID", steps: after(inAlert, ok(120*sec)), want: custody.Valid},
		{rule: "15 ALERT + REVOKED, UNREACHABLE stays", steps: after(inAlert, revoked(120*sec), lost(180*sec), passed(100*time.Hour)), want: custody.Alert},

		// 22
		{rule: "22 cut off: its own runs decide", steps: []any{ok(0), told(30*sec, cp(okAt(20*sec))), revoked(300 * sec), revoked(305 * sec), revoked(310 * sec)}, want: custody.Invalid},

		// 23
		{rule: "23 commit in GRACE -> deadline kept", steps: after(inGrace, when{100 * sec, custody.Committed{Generation: 2}}), want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "23 commit in GRACE, own OK -> VALID", steps: after(inGrace, when{100 * sec, custody.Committed{Generation: 2}}, when{101 * sec, ok(100 * sec).event(2)}), want: custody.Valid},
		{rule: "23 commit in INVALID -> INVALID", steps: []any{ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec), when{100 * sec, custody.Committed{Generation: 2}}}, want: custody.Invalid, also: chain(0)},
		{rule: "23 commit in a hold: it begins anew", steps: after(begin, third, when{100 * sec, custody.Committed{Generation: 2}}), want: custody.Suspect, also: func(s custody.State) string {
			if s.Hold || s.Alarm != "" || s.Chain.Count != 0 {
				return "an old hold"
			}
			return ""
		}},
		{rule: "23 commit in NAD -> NAD", steps: after(nad, when{100 * sec, custody.Committed{Generation: 2}}), want: custody.NAD, also: chain(0)},
		{rule: "23 the old generation's verdict counts for nobody", steps: []any{ok(0), when{10 * sec, custody.Committed{Generation: 2}}, when{61 * sec, lost(60 * sec).event(2)}, told(80*sec, cp(confirmedAt(custody.Invalid, kms.KeyDisabled)...))}, want: custody.Unreachable},

		// 26
		{rule: "26 laxer in SUSPECT -> old policy", steps: []any{setPolicy(0, stop), ok(0), revoked(60 * sec), setPolicy(61*sec, alert), revoked(65 * sec), revoked(70 * sec)}, want: custody.Invalid},
		{rule: "26 laxer in UNREACHABLE -> old policy", steps: []any{setPolicy(0, stop), ok(0), lost(60 * sec), setPolicy(61*sec, alert), revoked(65 * sec), revoked(70 * sec), revoked(75 * sec)}, want: custody.Invalid},
		{rule: "26 laxer holds once VALID", steps: []any{ok(0), revoked(60 * sec), setPolicy(61*sec, alert), ok(65 * sec), revoked(125 * sec), revoked(130 * sec), revoked(135 * sec)}, want: custody.Alert},
		{rule: "26 stricter in SUSPECT holds at once", steps: []any{setPolicy(0, alert), ok(0), revoked(60 * sec), setPolicy(61*sec, stop), revoked(65 * sec), revoked(70 * sec)}, want: custody.Invalid},
		{rule: "26 ALERT to STOP -> INVALID", steps: after(inAlert, setPolicy(100*sec, stop)), want: custody.Invalid},
		{rule: "26 ALERT to GRACE -> GRACE from the confirmation on", steps: after(inAlert, setPolicy(100*sec, grace)), want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "26 ALERT to a GRACE that is over -> INVALID", steps: after(inAlert, setPolicy(1000*sec, grace)), want: custody.Invalid},
		{rule: "26 GRACE to a shorter one", steps: after(inGrace, setPolicy(100*sec, policy(custody.ModeGrace, 2*minute))), want: custody.Grace, also: deadline(confirmed + 2*minute)},
		{rule: "26 GRACE to a longer one changes nothing", steps: after(inGrace, setPolicy(100*sec, policy(custody.ModeGrace, time.Hour))), want: custody.Grace, also: deadline(confirmed + 10*minute)},
		{rule: "26 GRACE to STOP -> INVALID", steps: after(inGrace, setPolicy(100*sec, stop)), want: custody.Invalid},
		{rule: "26 GRACE to ALERT changes nothing", steps: after(inGrace, setPolicy(100*sec, alert), passed(confirmed+10*minute)), want: custody.Invalid},
		{rule: "26 INVALID to ALERT changes nothing", steps: []any{ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec), setPolicy(100*sec, alert)}, want: custody.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			s, _ := play(fresh(minute), tt.steps...)
			if s.Verdict != tt.want {
				t.Fatalf("verdict %s, want %s (%+v)", s.Verdict, tt.want, s)
			}
			if tt.also != nil {
				if text := tt.also(s); text != "" {
					t.Errorf("%s: %+v", text, s)
				}
			}
		})
	}
}

// TestTheControlPlaneNeverAdopts: rule 13.
func TestTheControlPlaneNeverAdopts(t *testing.T) {
	s := fresh(minute)
	s.Central = true
	s, _ = play(s, ok(0), lost(60*sec), told(80*sec, validator("b", refusedAt(kms.KeyDisabled, 62*sec, 75*sec, 4), verdict(custody.Invalid, 72*sec))))
	if s.Verdict != custody.Unreachable {
		t.Fatalf("%s", s.Verdict)
	}
	s.Policy.UnreachableLimit = time.Hour
	if s, _ = play(s, passed(100*time.Hour)); s.Verdict != custody.Unreachable { // 13a: it cannot be cut off from itself
		t.Fatalf("%s", s.Verdict)
	}
}

// TestGetInEveryBadVerdict: rule 30, a Get in SUSPECT, GRACE, ALERT, NAD fails, and so
// does a start.
func TestGetInEveryBadVerdict(t *testing.T) {
	nad := []any{ok(0), denied(60 * sec), denied(65 * sec), told(69*sec, validator("", okAt(66*sec))), denied(70 * sec)}
	for want, steps := range map[custody.Verdict][]any{
		custody.Suspect: {ok(0), denied(60 * sec)}, custody.NAD: nad,
		custody.Grace: {setPolicy(0, policy(custody.ModeGrace, minute)), ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)},
		custody.Alert: {setPolicy(0, policy(custody.ModeAlert, 0)), ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)},
	} {
		s, _ := play(fresh(minute), steps...)
		if s.Verdict != want || s.Verdict.Releases() || s.MayStart() || s.MustBeDown() {
			t.Errorf("%s: %s, releases %v, may start %v, must be down %v", want, s.Verdict, s.Verdict.Releases(), s.MayStart(), s.MustBeDown())
		}
	}
}

// TestSelfContradicted: whoever has confirmed a local reason and hears of an OK that is
// newer is no witness until its own next OK.
func TestSelfContradicted(t *testing.T) {
	steps := []any{ok(0), denied(60 * sec), denied(65 * sec), denied(70 * sec), denied(60*sec + 310*sec)}
	s, _ := play(fresh(minute), steps...)
	if s.Verdict != custody.Invalid || s.NoWitness {
		t.Fatalf("%s, no witness: %v", s.Verdict, s.NoWitness)
	}
	s, _ = play(s, told(400*sec, validator("", okAt(390*sec))))
	if s.Verdict != custody.Invalid || !s.NoWitness || !s.Evidence("a", true, 0).NoWitness {
		t.Fatalf("%s, no witness: %v", s.Verdict, s.NoWitness)
	}
	if s, _ = play(s, ok(410*sec)); s.NoWitness {
		t.Fatal("no witness after its own OK")
	}
}

// TestContradictionOutlivesTheOK: a peer that was contradicted stays so, although the
// one who contradicted it is refused too by now.
func TestContradictionOutlivesTheOK(t *testing.T) {
	liar := func(last time.Duration) custody.Evidence {
		return validator("b", refusedAt(kms.KeyAccessDenied, 10*sec, last, 9), verdict(custody.Invalid, 30*sec))
	}
	s, _ := play(fresh(minute), ok(0), told(50*sec, liar(45*sec), validator("c", okAt(40*sec))),
		denied(60*sec), denied(65*sec), told(69*sec, liar(68*sec), validator("c", neverOK, unlinked)), denied(70*sec))
	if s.Verdict != custody.Suspect {
		t.Fatalf("%s", s.Verdict)
	}
}

func TestAlarms(t *testing.T) {
	s, eff := play(fresh(minute), ok(0), denied(60*sec), denied(65*sec), denied(70*sec))
	if !slices.Contains(eff, custody.RaiseAlarm) || !strings.Contains(s.Alarm, "KEY_ACCESS_DENIED") || !strings.Contains(s.Alarm, "5m10s") {
		t.Errorf("hold: %v %q", eff, s.Alarm)
	}
	if _, eff = play(s, denied(75*sec)); slices.Contains(eff, custody.RaiseAlarm) {
		t.Error("the same alarm twice")
	}
	s, eff = play(s, told(76*sec, validator("", okAt(74*sec))), denied(80*sec))
	if !slices.Contains(eff, custody.RaiseAlarm) || !strings.Contains(s.Alarm, "allow its addresses") {
		t.Errorf("NAD: %v %q", eff, s.Alarm)
	}
	if s, eff = play(s, when{90 * sec, custody.ClockWentBack{}}); !slices.Contains(eff, custody.RaiseAlarm) || !strings.Contains(s.Alarm, "clock") {
		t.Errorf("clock: %v %q", eff, s.Alarm)
	}
}

// TestTryAgainAsksAll: *Try Again* -> all run.
func TestTryAgainAsksAll(t *testing.T) {
	for name, steps := range map[string][]any{
		"VALID": {ok(0)}, "INVALID": {ok(0), revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)},
		"NAD": {ok(0), denied(60 * sec), denied(65 * sec), told(69*sec, validator("", okAt(66*sec))), denied(70 * sec)},
	} {
		s, eff := play(fresh(minute), append(steps, when{75 * sec, custody.TryAgain{}})...)
		if string(s.Verdict) != map[string]string{"VALID": "VALID", "INVALID": "INVALID", "NAD": "NETWORK_ACCESS_DENIED"}[name] ||
			!slices.Contains(eff, custody.AskValidators) || s.Next != 75*sec {
			t.Errorf("%s: %v, next %v", name, eff, s.Next)
		}
	}
}

func TestPolicyBounds(t *testing.T) {
	for in, want := range map[custody.Policy]custody.Policy{
		{}: {Interval: 15 * minute, Mode: custody.ModeStop},
		{Interval: minute, Mode: "?", Grace: minute, UnreachableLimit: -1}:                         {Interval: minute, Mode: custody.ModeStop},
		{Interval: minute, Mode: custody.ModeGrace}:                                                {Interval: minute, Mode: custody.ModeGrace, Grace: minute},
		{Interval: minute, Mode: custody.ModeGrace, Grace: 100 * time.Hour}:                        {Interval: minute, Mode: custody.ModeGrace, Grace: 24 * time.Hour},
		{Interval: minute, Mode: custody.ModeAlert, Grace: 100 * time.Hour, UnreachableLimit: sec}: {Interval: minute, Mode: custody.ModeAlert, UnreachableLimit: time.Hour},
	} {
		if got := in.Normal(); got != want {
			t.Errorf("%+v: %+v, want %+v", in, got, want)
		}
	}
	stop, short, long, alert := policy(custody.ModeStop, 0), policy(custody.ModeGrace, minute), policy(custody.ModeGrace, time.Hour), policy(custody.ModeAlert, 0)
	order := []custody.Policy{stop, short, long, alert}
	for i, a := range order {
		for j, b := range order {
			if got := custody.Stricter(a, b); got != order[min(i, j)] {
				t.Errorf("stricter of %+v and %+v: %+v", a, b, got)
			}
			if a.LaxerThan(b) != (i > j) {
				t.Errorf("%+v laxer than %+v: %v", a, b, i <= j)
			}
		}
	}
	limited := stop
	limited.UnreachableLimit = time.Hour
	if !stop.LaxerThan(limited) || limited.LaxerThan(stop) || custody.Stricter(stop, limited) != limited {
		t.Error("a limit is stricter than none")
	}
}
