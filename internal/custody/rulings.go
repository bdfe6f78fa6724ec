package custody

import (
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// judge decides whether a chain of REVOKED runs in SUSPECT is confirmed by the one that
// began at started (rules 8, 8a, 10).
func (s State) judge(started time.Duration, now Instant) State {
	p := s.InForce()
	if s.Chain.Count < confirmations || started-s.Chain.Start < p.C() {
		return s
	}
	if !s.Reason.Local() {
		return s.confirm(now)
	}
	if v, ok := s.veto(s.Chain.Start, now); ok {
		return s.denied(v, now)
	}
	patience, waiting := p.C()+p.W(), false
	if s = s.crowded(now); s.Chain.Crowd {
		patience += p.W()
		waiting = started-s.Chain.CrowdAt < p.W()
	}
	if started-s.Chain.Start >= patience && s.listened(now) || !waiting && s.witnessed(s.Chain.Start, now) {
		return s.confirm(now)
	}
	s.Hold = true
	s.Alarm = fmt.Sprintf("AWS refuses this validator the use of the key (%s), and no other validator can tell yet whether that is true for all. "+
		"If it stays so, the project's policy applies %s after the first refusal.", s.Reason, patience)
	if s.Chain.Crowd {
		s.Alarm = fmt.Sprintf("The roles of many customers cannot be assumed at the same time: check the platform's own AWS identity. "+
			"The policy of this project applies %s after the first refusal.", patience)
	}
	return s
}

// crowded notes rule 10 in the chain, once.
func (s State) crowded(now Instant) State {
	if s.others.crowd && !s.Chain.Crowd && s.Chain.Count > 0 && s.Verdict == Suspect && s.Reason == kms.RoleNotAssumable {
		s.Chain.Crowd, s.Chain.CrowdAt = true, now.Elapsed
	}
	return s
}

// freeze keeps the policy that decides until the project is valid again.
func (s State) freeze() State {
	p := s.InForce()
	s.Frozen = &p
	return s
}

// confirm puts the policy in force (rules 8, 14, 15).
func (s State) confirm(now Instant) State {
	s = s.freeze()
	s.Confirmed, s.Hold, s.Veto, s.Alarm = now.Elapsed, false, Veto{}, ""
	return s.enforce(Never, now)
}

// enforce enters the verdict that the policy in force asks for; GRACE ends at the
// latest at limit. It never makes a verdict softer or a deadline later.
func (s State) enforce(limit time.Duration, now Instant) State {
	p := s.InForce()
	switch {
	case p.Mode == ModeAlert && s.Verdict != Grace && s.Verdict != Invalid:
		return s.enter(Alert, now)
	case p.Mode == ModeGrace && s.Verdict != Invalid:
		deadline := min(s.Confirmed+p.Grace, limit)
		if s.Deadline != 0 {
			deadline = min(deadline, s.Deadline)
		}
		return s.enter(Grace, now).ends(deadline, now)
	case p.Mode == ModeStop:
		return s.enter(Invalid, now).ends(0, now)
	}
	return s
}

// ends sets the deadline; 0 is none.
func (s State) ends(deadline time.Duration, now Instant) State {
	if deadline == s.Deadline {
		return s
	}
	s.Deadline, s.DeadlineWall = deadline, time.Time{}
	if deadline != 0 {
		s.DeadlineWall = now.Wall.Add(deadline - now.Elapsed)
	}
	return s
}

// denied enters or keeps NETWORK_ACCESS_DENIED (rule 11).
func (s State) denied(v Veto, now Instant) State {
	s.Veto, s.Hold = v, false
	s.Alarm = fmt.Sprintf("AWS refuses only this validator the use of the key (%s), others can use it: allow its addresses in the policy of the key and of the role. "+
		"What runs goes on, nothing starts.", s.Reason)
	return s.enter(NAD, now)
}

// settle draws the conclusions that need no run: from the time, and from what others
// say.
func (s State) settle(now Instant) State {
	s = s.overheard(now)
	switch s.Verdict {
	case NAD:
		s = s.lapse(now)
	case Unreachable:
		s = s.limit(now)
	default:
	}
	s = s.adopt(now)
	if s.Verdict == Grace {
		s = s.countdown(now)
	}
	if d := s.drill(); d != nil && (s.Verdict != Valid || now.Elapsed >= d.Until) {
		s = s.endDrill(now)
	}
	return s
}

// overheard notes that somebody's OK denies what this validator has confirmed: from
// then on it is no witness (section 1, witness).
func (s State) overheard(now Instant) State {
	if s.Verdict.confirmed() && !s.Adopted && !s.NoWitness && s.Reason.Local() {
		if _, ok := s.veto(s.Confirmed, now); ok {
			s.NoWitness = true
		}
	}
	return s
}

// lapse ends NAD when nobody's OK holds it up any more (rule 11).
func (s State) lapse(now Instant) State {
	if v, ok := s.veto(s.Chain.Start, now); ok {
		s.Veto = v
		return s
	}
	refuted := false
	for _, p := range s.others.peers {
		refuted = refuted || p.Validator == s.Veto.By && p.Generation == s.Generation && p.Chain.Count > 0
	}
	if now.Elapsed < s.Veto.Until && !refuted {
		return s
	}
	s.Chain, s.Veto, s.NoWitness, s.Alarm = Chain{}, Veto{}, true, ""
	return s.enter(Suspect, now).due(now, now.Elapsed)
}

// limit is rule 13a.
func (s State) limit(now Instant) State {
	p := s.InForce()
	if p.UnreachableLimit == 0 || s.linked(now) || !s.listened(now) || now.Elapsed-s.newestOK() < p.UnreachableLimit {
		return s
	}
	s = s.confirm(now)
	s.Alarm = fmt.Sprintf("This host has reached neither AWS nor the control plane for %s, which is the project's limit.", p.UnreachableLimit)
	return s
}

func (s State) newestOK() time.Duration { return max(s.LastOK, s.RelayedOK) }

// adopt is rule 13: a firewall must not defeat a revocation.
func (s State) adopt(now Instant) State {
	switch s.Verdict {
	case Unreachable, Unknown, Suspect, NAD:
	default:
		return s
	}
	if s.Central || !s.linked(now) {
		return s
	}
	for _, p := range s.others.peers {
		if p.Linked && p.Generation == s.Generation && p.Outcome == kms.OK {
			return s
		}
	}
	for _, p := range s.others.peers {
		if s.convincing(p, now) {
			return s.follow(p, now)
		}
	}
	return s
}

// convincing tells whether a peer's confirmed verdict is to be adopted.
func (s State) convincing(p peer, now Instant) bool {
	own := !p.Adopted && p.Verdict.confirmed() && p.Chain.Count >= confirmations && p.Chain.Last-p.Chain.Start >= p.Policy.C()
	if !own || !p.Linked || p.Generation != s.Generation || s.LastOK != 0 && p.chain <= s.LastOK {
		return false
	}
	if !p.Reason.Local() {
		return true
	}
	if _, vetoed := s.veto(p.chain, now); vetoed || !s.reliable(p, now) {
		return false
	}
	return s.Verdict == NAD || s.Verdict == Suspect || now.Elapsed >= p.chain+s.patience()
}

// patience is C + W.
func (s State) patience() time.Duration { return s.InForce().C() + s.InForce().W() }

// follow takes a peer's verdict, deadline and the stricter policy over.
func (s State) follow(p peer, now Instant) State {
	strict := Stricter(s.InForce(), p.Policy)
	s.Frozen = &strict
	s.Reason, s.Operation, s.Detail, s.Remedy, s.Refused = p.Reason, "", "confirmed by "+name(p.Validator), kms.RemedyFor(p.Reason, ""), nil
	s.Confirmed, s.Adopted, s.Hold, s.Veto, s.Alarm, s.Backoff = now.Elapsed, true, false, Veto{}, "", 0
	if p.Verdict == Invalid {
		return s.enter(Invalid, now)
	}
	limit := Never
	if p.Verdict == Grace {
		limit = p.deadline + slack
	}
	return s.enforce(limit, now)
}

func name(validator string) string {
	if validator == "" {
		return "the control plane"
	}
	return "host " + validator
}

// countdown keeps the earlier deadline of this validator's and the control plane's,
// and ends GRACE at it (rule 14).
func (s State) countdown(now Instant) State {
	for _, p := range s.others.peers {
		if p.Validator == "" && p.Generation == s.Generation && p.Verdict == Grace && !p.Adopted && p.Deadline != 0 && p.deadline+slack < s.Deadline {
			s = s.ends(p.deadline+slack, now)
		}
	}
	if now.Elapsed >= s.Deadline {
		s = s.enter(Invalid, now).ends(0, now)
	}
	return s
}

// wakeAt is when Step is due next although nothing happens.
func (s State) wakeAt(now Instant) time.Duration {
	at := Never
	soonest := func(t time.Duration) {
		if t > now.Elapsed {
			at = min(at, t)
		}
	}
	switch s.Verdict {
	case Grace:
		soonest(s.Deadline)
	case NAD:
		soonest(s.Veto.Until)
	case Unreachable:
		if limit := s.InForce().UnreachableLimit; limit != 0 && !s.Central {
			soonest(s.newestOK() + limit)
			soonest(s.others.at + linkPatience + 1)
			soonest(s.others.since + linkPatience)
		}
	}
	if d := s.drill(); d != nil {
		soonest(d.Until)
	}
	if s.Verdict == Unreachable || s.Verdict == Unknown {
		for _, p := range s.others.peers {
			if p.Verdict.confirmed() {
				soonest(p.chain + s.patience())
			}
		}
	}
	return at
}
