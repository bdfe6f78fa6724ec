package custody

import (
	"slices"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// Evidence is what one validator tells the others. All its times are on its own
// Elapsed clock, and so is Now: a receiver turns them into ages.
type Evidence struct {
	// Validator is a host's id, "" for the control plane.
	Validator string `json:"validator"`
	// Linked: the control plane hears from it.
	Linked bool `json:"linked"`
	// Now is the validator's clock when this was composed or passed on.
	Now        time.Duration `json:"now"`
	Generation uint64        `json:"generation"`
	Verdict    Verdict       `json:"verdict"`
	// Entered is when the verdict was.
	Entered time.Duration `json:"entered,omitempty"`
	// Outcome, Reason and Run are the newest run's; Run is when it began. Outcome is
	// empty if there was none.
	Outcome kms.Outcome   `json:"outcome,omitempty"`
	Reason  kms.Reason    `json:"reason,omitempty"`
	Run     time.Duration `json:"run,omitempty"`
	// OnceOK: it had an OK in this generation; LastOK is when its newest began.
	OnceOK bool          `json:"onceOK,omitempty"`
	LastOK time.Duration `json:"lastOK,omitempty"`
	// Chain is of its own REVOKED runs since its last OK.
	Chain Chain `json:"chain,omitzero"`
	// Confirmed and Deadline are as in State, Policy is the one in force.
	Confirmed time.Duration `json:"confirmed,omitempty"`
	Deadline  time.Duration `json:"deadline,omitempty"`
	Policy    Policy        `json:"policy"`
	// NoWitness and Adopted are as in State.
	NoWitness bool `json:"noWitness,omitempty"`
	Adopted   bool `json:"adopted,omitempty"`
	// Crowd is rule 10, told by the control plane only.
	Crowd bool `json:"crowd,omitempty"`
}

// Evidence is what the validator of this state tells the others. The state's Clock
// has to be of the moment of telling; waited is how long the word has lain since.
func (s State) Evidence(validator string, linked bool, waited time.Duration) Evidence {
	return Evidence{
		Validator: validator, Linked: linked, Now: s.Clock.Elapsed + max(0, waited), Generation: s.Generation,
		Verdict: s.Verdict, Entered: s.Entered, Outcome: s.LastOutcome, Reason: s.Reason, Run: s.LastStart,
		OnceOK: s.OnceOK, LastOK: s.LastOK, Chain: s.Chain, Confirmed: s.Confirmed, Deadline: s.Deadline,
		Policy: s.InForce(), NoWitness: s.NoWitness, Adopted: s.Adopted,
	}
}

// Urgent tells whether others have to learn of each single run of such a validator's
// project at once: somebody's word is being weighed.
func (e Evidence) Urgent() bool { return e.Verdict == Suspect || e.Verdict == NAD }

// Still is the evidence without what changes from run to run although it says the
// same: two that are still equal need not be told twice.
func (e Evidence) Still() Evidence {
	e.Now, e.Run, e.LastOK, e.Entered = 0, 0, 0, 0
	e.Chain = Chain{Count: min(e.Chain.Count, confirmations)}
	return e
}

// Settled is the evidence without the moment of telling.
func (e Evidence) Settled() Evidence {
	e.Now = 0
	return e
}

// The times of the exchange between validators.
const (
	// slack is subtracted from when others' runs began: what they tell was on its way
	// for a while, and a run that began just before a chain must not count as later.
	slack = time.Second
	// linkPatience is how long after the last word from the control plane a host still
	// counts as linked; a poll takes half a minute at most.
	linkPatience = time.Minute
)

// others is what a validator knows of the others.
type others struct {
	heard bool
	at    time.Duration
	// since is when this process began to listen, 0 if it made the state itself.
	since time.Duration
	crowd bool
	peers []peer
}

// peer is another validator's evidence on this validator's clock.
type peer struct {
	Evidence
	run, ok, chain, entered, confirmed, deadline time.Duration
	// contradicted: somebody's OK came after it had confirmed, and it has had no OK of
	// its own since.
	contradicted bool
}

// hear takes over what the others say.
func (s State) hear(e EvidenceReceived, now Instant) State {
	var peers []peer
	for _, x := range e.Validators {
		shift := now.Elapsed - x.Now - slack
		p := peer{
			Evidence: x, run: x.Run + shift, ok: x.LastOK + shift, chain: x.Chain.Start + shift,
			entered: x.Entered + shift, confirmed: x.Confirmed + shift, deadline: x.Deadline + shift,
		}
		if x.OnceOK && x.Generation == s.Generation {
			s.RelayedOK = max(s.RelayedOK, p.ok)
		}
		for _, old := range s.others.peers {
			if old.Validator == x.Validator && old.contradicted && old.Generation == x.Generation && x.Chain.Count > 0 && old.Chain.Start == x.Chain.Start {
				p.contradicted = true
			}
		}
		peers = append(peers, p)
	}
	s.others = others{heard: true, at: now.Elapsed, since: s.others.since, crowd: e.Crowd, peers: peers}
	return s.contradict()
}

// contradict marks the peers that confirmed a revocation which somebody's later OK
// denies.
func (s State) contradict() State {
	peers := slices.Clone(s.others.peers)
	for i, p := range peers {
		if !p.Verdict.confirmed() || p.Generation != s.Generation {
			continue
		}
		if s.OnceOK && s.LastOK > p.confirmed {
			peers[i].contradicted = true
		}
		for j, q := range peers {
			if j != i && q.Generation == s.Generation && q.OnceOK && q.ok > p.confirmed {
				peers[i].contradicted = true
			}
		}
	}
	s.others.peers = peers
	return s
}

// confirmed tells whether the verdict says that a revocation was confirmed.
func (v Verdict) confirmed() bool { return v == Invalid || v == Grace || v == Alert }

// linked tells whether the control plane was heard lately.
func (s State) linked(now Instant) bool {
	return s.Central || s.others.heard && now.Elapsed-s.others.at <= linkPatience
}

// listened tells whether whoever is linked has had the time to be heard since this
// process began. Before that silence means nothing: the time that a machine was off, or
// that its clock jumped in between, was not spent listening.
func (s State) listened(now Instant) bool {
	return s.others.since == 0 || now.Elapsed-s.others.since >= linkPatience
}

// veto finds the newest OK of another validator that began after since and is younger
// than 2W. Who was refused after its OK vetoes nothing.
func (s State) veto(since time.Duration, now Instant) (v Veto, found bool) {
	w := s.InForce().W()
	for _, p := range s.others.peers {
		if p.Generation != s.Generation || !p.OnceOK || p.Chain.Count > 0 || p.ok <= since || now.Elapsed-p.ok >= 2*w {
			continue
		}
		if until := p.ok + 2*w; !found || until > v.Until {
			v, found = Veto{By: p.Validator, Until: until}, true
		}
	}
	return v, found
}

// reliable tells whether a peer's REVOKED says something about the key: it was OK once
// in this generation, and neither an address of its own nor anybody's OK speaks
// against it.
func (s State) reliable(p peer, now Instant) bool {
	return p.Generation == s.Generation && p.OnceOK && p.Outcome == kms.Revoked && !p.NoWitness && !p.Adopted && !p.contradicted &&
		(p.Verdict != NAD || now.Elapsed-p.entered <= s.InForce().W())
}

// witnessed tells whether somebody reliable was refused too, in a run that began after
// since, and nobody who is linked has still to be asked.
func (s State) witnessed(since time.Duration, now Instant) bool {
	if !s.linked(now) {
		return false
	}
	found := false
	for _, p := range s.others.peers {
		if p.Linked && (p.Outcome == "" || p.run <= since) {
			return false
		}
		found = found || p.run > since && s.reliable(p, now)
	}
	return found
}
