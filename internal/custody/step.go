package custody

import (
	"slices"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// confirmations is the number of REVOKED runs without an OK between that confirm a
// revocation, if the last of them began C after the first.
const confirmations = 3

// calm is how long runs stay frequent after a suspicion was cleared (rule 6).
const calm = time.Minute

// refusalSpacing is the shortest distance of runs that refused Gets ask for.
const refusalSpacing = time.Second

// emptySpacing is the wait after a run that was none.
const emptySpacing = time.Second

// Step is the rule book of key-plane section 1: the next state and the effects that
// have to happen, in their order. It is pure: the same arguments give the same answer.
//
// State.Next tells when the next run is due. Effects are given at the change only; the
// exception is Restarted under INVALID or in a drill, which stops once more whatever
// runs.
func Step(s State, e Event, now Instant) (State, []Effect) {
	old := s
	switch e := e.(type) {
	case RunFinished:
		s = finished(s, e, now)
	case Restarted:
		s = restarted(s, now)
	case Committed:
		s = committed(s, e.Generation, now)
	case TryAgain:
		s = s.due(now, now.Elapsed)
	case GetRefused:
		s = refused(s, now)
	case PolicyChanged:
		s = newPolicy(s, e.Policy, now)
	case CadenceChanged:
		s = newCadence(s, e.Cadence, now)
	case EvidenceReceived:
		s = s.hear(e, now).crowded(now)
	case ClockWentBack:
		s.Alarm = "The wall clock went back while this machine was off: deadlines last longer by the time that it was off."
	case DrillOrdered:
		s = s.beginDrill(e, now)
	case DrillMeasured:
		s = s.measure(e, now)
	case TimePassed:
	}
	s = s.settle(now)
	s.wake = s.wakeAt(now)
	return s, effects(old, s, e)
}

// effects are what the change from old to s asks for.
func effects(old, s State, e Event) []Effect {
	_, restart := e.(Restarted)
	_, again := e.(TryAgain)
	changed := old.Verdict != s.Verdict
	var out []Effect
	add := func(when bool, f Effect) {
		if when {
			out = append(out, f)
		}
	}
	add(persistent(old, s), Persist)
	add(s.MustBeDown() && (changed || restart), Stop)
	add(changed && old.Verdict.Releases() && s.Verdict.Bad() || old.Generation != s.Generation, DropSessions)
	add(changed, Record)
	add(s.MayStart() && !old.MayStart(), Start)
	add(again || changed && (old.Verdict.Bad() && s.Verdict == Valid || old.Verdict.Releases() && s.Verdict.Bad()), AskValidators)
	add(s.Alarm != "" && s.Alarm != old.Alarm, RaiseAlarm)
	before, drill := old.drill(), s.drill()
	add(drill != nil && (before == nil || restart), BeginDrill)
	add(drill == nil && before != nil, EndDrill)
	add((drill == nil) != (before == nil), RecordDrill)
	return out
}

// persistent tells whether something changed that a restart must find again.
func persistent(old, s State) bool {
	return old.Verdict != s.Verdict || old.Reason != s.Reason || old.Chain != s.Chain || old.Generation != s.Generation ||
		old.Policy != s.Policy || (old.Frozen == nil) != (s.Frozen == nil) || old.Frozen != nil && *old.Frozen != *s.Frozen ||
		!old.LastSuccess.Equal(s.LastSuccess) || !old.LastRun.Equal(s.LastRun) || old.AwaitOK != s.AwaitOK ||
		old.Deadline != s.Deadline || old.NoWitness != s.NoWitness || old.Hold != s.Hold || old.Alarm != s.Alarm ||
		!slices.Equal(old.Drills, s.Drills)
}

// finished takes the outcome of a run into account.
func finished(s State, e RunFinished, now Instant) State {
	if e.Generation != s.Generation {
		// It tested another configuration: no evidence, and one is still wanted.
		return s.due(now, now.Elapsed)
	}
	r := e.Result
	if r.Outcome == "" {
		// No run could be made (its configuration is just being replaced): no evidence.
		return s.due(now, now.Elapsed+emptySpacing)
	}
	if now.Elapsed-e.Started > kms.RunTimeout {
		// Rule 31. The machine may have slept meanwhile: what was true before the sleep
		// says nothing now.
		f := &kms.Failure{Outcome: kms.Unreachable, Reason: kms.Timeout, Remedy: kms.RemedyFor(kms.Timeout, "")}
		r = kms.Result{Outcome: f.Outcome, Reason: f.Reason, Failure: f}
	}
	s.LastRun, s.LastOutcome, s.LastStart = now.Wall, r.Outcome, e.Started
	switch r.Outcome {
	case kms.OK:
		return ok(s, e.Started, now)
	case kms.Revoked:
		return revoked(s.explain(r), e.Started, now)
	default:
		return unreachable(s, r, e.Started, now)
	}
}

// ok: rules 1, 4a, 6, 18. One OK is enough, whatever was before.
func ok(s State, started time.Duration, now Instant) State {
	if s.Verdict == Suspect {
		s.FastUntil = now.Elapsed + calm
	}
	s = s.enter(Valid, now)
	s.Reason, s.Operation, s.Detail, s.Remedy, s.Refused = "", "", "", "", nil
	s.LastSuccess = now.Wall
	s.LastOK, s.OnceOK = started, true
	s.Chain, s.Frozen, s.AwaitOK, s.Backoff = Chain{}, nil, false, 0
	s.Confirmed, s.Hold, s.Veto, s.NoWitness, s.Adopted, s.Alarm = 0, false, Veto{}, false, false, ""
	return s.ends(0, now).contradict().schedule(started, now)
}

// revoked: rules 2, 5, 8, 8a, 11, 17.
func revoked(s State, started time.Duration, now Instant) State {
	if s.Verdict == NAD && !s.Reason.Local() {
		// Now it is about the key itself: that is confirmed by runs that say so.
		s.Chain, s.Veto, s.Alarm = Chain{}, Veto{}, ""
		s = s.enter(Suspect, now)
	}
	if s.Chain.Count == 0 {
		s.Chain = Chain{Start: started, StartWall: now.Wall.Add(started - now.Elapsed)}
	}
	s.Chain.Count++
	s.Chain.Last = started
	s.Backoff = 0
	switch s.Verdict {
	case Unknown, Valid, Unreachable:
		s = s.freeze().enter(Suspect, now)
	case Suspect:
		s = s.judge(started, now)
	case Invalid, NAD, Grace, Alert:
	}
	return s.schedule(started, now)
}

// unreachable: rules 3, 4, 7, 17. It moves VALID to UNREACHABLE and nothing else.
func unreachable(s State, r kms.Result, started time.Duration, now Instant) State {
	switch s.Verdict {
	case Valid, Unknown, Unreachable:
		s = s.explain(r)
		if s.Verdict == Valid {
			s = s.enter(Unreachable, now)
		}
		interval := s.InForce().Interval
		if s.Backoff == 0 {
			s.Backoff = s.InForce().quick()
		} else {
			s.Backoff = min(2*s.Backoff, interval)
		}
		// Counted from the beginning, as all distances are, but with a pause at least.
		return s.due(now, max(now.Elapsed+s.InForce().quick(), started+s.Backoff))
	default:
		// The reason that was confirmed, or is being confirmed, stays on show.
		return s.schedule(started, now)
	}
}

// restarted: rule 21. Every state but VALID and UNREACHABLE is kept, counts too; from
// those one OK comes before any start.
func restarted(s State, now Instant) State {
	if s.Verdict.Releases() {
		s.AwaitOK = true
	}
	s.Cadence = Own
	s.Backoff = 0
	s.others = others{since: now.Elapsed}
	return s.due(now, now.Elapsed)
}

// committed: rule 23. State and frozen policy are kept, the chain starts anew.
func committed(s State, generation uint64, now Instant) State {
	if generation <= s.Generation {
		return s
	}
	s.Generation = generation
	s.Chain, s.OnceOK = Chain{}, false
	if s.Hold { // what was to be confirmed begins anew
		s.Hold, s.Alarm = false, ""
	}
	s.Backoff = 0
	return s.due(now, now.Elapsed)
}

// refused: rule 19. In the other verdicts no key is released, so nothing is refused.
func refused(s State, now Instant) State {
	if !s.Verdict.Releases() {
		return s
	}
	at := now.Elapsed
	if !s.LastRun.IsZero() {
		at = max(at, s.LastStart+refusalSpacing)
	}
	if at >= s.Next {
		return s
	}
	return s.due(now, at)
}

// newPolicy takes a policy over (rule 26): what is stricter holds at once, what is
// laxer once the project is valid.
func newPolicy(s State, p Policy, now Instant) State {
	before := s.InForce()
	s.Policy = p.Normal()
	if s.Verdict == Valid {
		return s.sooner(now)
	}
	if strict := Stricter(before, p); s.Frozen != nil || strict != s.Policy {
		s.Frozen = &strict
	}
	if s.Verdict == Grace || s.Verdict == Alert {
		s = s.enforce(Never, now)
	}
	return s.sooner(now)
}

func newCadence(s State, c Cadence, now Instant) State {
	if s.Cadence == c {
		return s
	}
	s.Cadence = c
	if c == Idle && s.quiet() {
		return s.due(now, Never)
	}
	return s.sooner(now)
}

// enter changes the verdict.
func (s State) enter(v Verdict, now Instant) State {
	if s.Verdict != v {
		s.Previous, s.Verdict, s.Since, s.Entered = s.Verdict, v, now.Wall, now.Elapsed
	}
	return s
}

// explain shows why the newest outcome was not OK.
func (s State) explain(r kms.Result) State {
	s.Reason, s.Operation, s.Detail, s.Remedy, s.Refused = r.Reason, "", "", kms.RemedyFor(r.Reason, ""), r.Refused
	if f := r.Failure; f != nil {
		s.Operation, s.Detail, s.Remedy = f.Operation, f.Detail(), f.Remedy
	}
	return s
}

// due sets when the next run begins.
func (s State) due(now Instant, at time.Duration) State {
	s.Next, s.NextWall = at, time.Time{}
	if at != Never {
		s.NextWall = now.Wall.Add(max(0, at-now.Elapsed))
	}
	return s
}

// sooner brings the next run forward to what the distance now is, counted from now.
func (s State) sooner(now Instant) State {
	if at := now.Elapsed + s.distance(now); at < s.Next {
		return s.due(now, at)
	}
	return s
}

// schedule sets the next run by the beginning of the last one, so that how long a run
// takes does not stretch the promise of interval + C.
func (s State) schedule(started time.Duration, now Instant) State {
	if s.Verdict == Valid && s.Cadence == Idle && now.Elapsed >= s.FastUntil {
		return s.due(now, Never)
	}
	return s.due(now, max(now.Elapsed, started+s.distance(now)))
}

// distance is the time between the beginnings of two runs.
func (s State) distance(now Instant) time.Duration {
	p := s.InForce()
	switch {
	case s.Verdict == Suspect, s.Cadence == Confirming: // rules 5, 12a
		return p.half()
	case s.Verdict == Valid && now.Elapsed < s.FastUntil: // rule 6
		return p.quick()
	default:
		return p.Interval
	}
}

// quiet tells whether the last word was an OK.
func (s State) quiet() bool { return s.Verdict == Valid && s.LastOutcome == kms.OK }
