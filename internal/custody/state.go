package custody

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// Verdict says whether the customer's key is ours to use.
type Verdict string

// The verdicts.
const (
	// Unknown: there was no run with a result yet. Nothing starts, nothing stops.
	Unknown Verdict = "UNKNOWN"
	// Valid: the last run with a result was OK.
	Valid Verdict = "VALID"
	// Unreachable: it was valid, and now nothing can be said. Nothing stops.
	Unreachable Verdict = "UNREACHABLE"
	// Suspect: AWS says that the key was taken away, and that is being confirmed.
	Suspect Verdict = "SUSPECT"
	// Invalid: confirmed. The project's encrypted clusters are down.
	Invalid Verdict = "INVALID"
	// NAD: only this host is refused, another validator can use the key. What runs goes
	// on, nothing starts.
	NAD Verdict = "NETWORK_ACCESS_DENIED"
	// Grace: confirmed, and nodes go on until State.Deadline. None starts.
	Grace Verdict = "GRACE"
	// Alert: confirmed, and the policy says that nothing stops. None starts.
	Alert Verdict = "ALERT"
)

// Releases tells whether a key may be released to a node (key-plane rule 30).
func (v Verdict) Releases() bool { return v == Valid || v == Unreachable }

// Bad tells whether the verdict withholds keys because AWS said so.
func (v Verdict) Bad() bool { return v != Unknown && !v.Releases() }

// StateFormat is the version of State's JSON form.
const StateFormat = 2

// ErrNewerState is returned for a state that a newer Keywright wrote.
var ErrNewerState = errors.New("custody: the state was written by a newer version")

// State is everything that custody knows about a project. It is a value: a copy is
// independent. Its JSON form is stored and shown; unknown fields of the same format
// are ignored, format 1 is read, a newer format is refused. What other validators say
// is part of the value but not of its JSON form: it is told anew.
type State struct {
	Format  int     `json:"format"`
	Verdict Verdict `json:"verdict"`
	// Reason, Operation, Detail and Remedy explain the newest outcome that was not
	// OK; empty after an OK.
	Reason    kms.Reason    `json:"reason,omitempty"`
	Operation kms.Operation `json:"operation,omitempty"`
	Detail    string        `json:"detail,omitempty"`
	Remedy    string        `json:"remedy,omitempty"`
	// Refused are the permissions that AWS refused in that run, at most one for each.
	Refused []kms.Finding `json:"refused,omitempty"`
	// Since is when the verdict was entered, by the wall clock; Previous is the one
	// before it.
	Since    time.Time `json:"since"`
	Previous Verdict   `json:"previous,omitempty"`
	// Entered is Since on the Elapsed clock.
	Entered time.Duration `json:"entered,omitempty"`
	// LastRun and LastOutcome are of the newest run that counted, LastSuccess is of
	// the newest OK.
	LastRun time.Time `json:"lastRun,omitzero"`
	// LastStart is when the newest run began (Elapsed).
	LastStart   time.Duration `json:"lastStart,omitempty"`
	LastOutcome kms.Outcome   `json:"lastOutcome,omitempty"`
	LastSuccess time.Time     `json:"lastSuccess,omitzero"`
	// LastOK is when the newest own OK began (Elapsed), RelayedOK the newest of another
	// validator that this one has heard of. OnceOK: there was an own OK in this
	// generation.
	LastOK    time.Duration `json:"lastOK,omitempty"`
	RelayedOK time.Duration `json:"relayedOK,omitempty"`
	OnceOK    bool          `json:"onceOK,omitempty"`
	// Generation is the configuration that runs test. Results of others are ignored.
	Generation uint64 `json:"generation"`
	// Chain holds the REVOKED runs since the last OK.
	Chain Chain `json:"chain,omitzero"`
	// Frozen is the policy that decides until the project is valid again: the one of
	// the moment it became suspect, and what was made stricter since (rules 5, 26).
	// Nil while Policy decides.
	Frozen *Policy `json:"frozen,omitempty"`
	// Policy is the newest policy. It is in force while nothing is frozen.
	Policy Policy `json:"policy"`
	// Confirmed is when a revocation was confirmed (Elapsed). Deadline is when GRACE
	// becomes INVALID (Elapsed), DeadlineWall the same for display; 0 otherwise.
	Confirmed    time.Duration `json:"confirmed,omitempty"`
	Deadline     time.Duration `json:"deadline,omitempty"`
	DeadlineWall time.Time     `json:"deadlineWall,omitzero"`
	// Hold: a revocation with a local reason would be confirmed, but nobody else can
	// tell yet whether it is true for others (rule 8a).
	Hold bool `json:"hold,omitempty"`
	// Veto is the OK of another validator that holds NAD up.
	Veto Veto `json:"veto,omitzero"`
	// NoWitness: this validator was contradicted; its word counts for nobody until its
	// own next OK. Adopted: the verdict is another's (rule 13).
	NoWitness bool `json:"noWitness,omitempty"`
	Adopted   bool `json:"adopted,omitempty"`
	// Alarm is a condition that needs a person, in words; empty if there is none.
	Alarm string `json:"alarm,omitempty"`
	// Central marks the control plane's own state: it adopts nothing (rule 13) and is
	// never cut off from itself (13a).
	Central bool `json:"central,omitempty"`
	// Drills are the newest rehearsals, oldest first; only the last can be under way.
	Drills []Drill `json:"drills,omitempty"`
	// AwaitOK is set by a restart: nothing starts before an own OK.
	AwaitOK bool `json:"awaitOK,omitempty"`
	// Next is when the next run is due on the Elapsed clock (Never: none is), NextWall
	// the same for display.
	Next     time.Duration `json:"next"`
	NextWall time.Time     `json:"nextWall,omitzero"`
	// Backoff is the current distance of runs while nothing can be reached.
	Backoff time.Duration `json:"backoff,omitempty"`
	// FastUntil is how long runs are frequent after a suspicion was cleared (Elapsed).
	FastUntil time.Duration `json:"fastUntil,omitempty"`
	// Cadence is how often this validator runs in quiet times.
	Cadence Cadence `json:"cadence,omitempty"`
	// Clock is the reading of the clock at the last change.
	Clock Clock `json:"clock,omitzero"`

	// others is what the other validators say, wake when Step is due without an event.
	others others
	wake   time.Duration
}

// own is the state without what others say.
func (s State) own() State {
	s.others, s.wake, s.RelayedOK = others{}, 0, 0
	return s
}

// Veto is an OK of another validator.
type Veto struct {
	// By is the validator, "" for the control plane. Until is when the OK is too old
	// (Elapsed).
	By    string        `json:"by,omitempty"`
	Until time.Duration `json:"until,omitempty"`
}

// Chain is a row of REVOKED runs without an OK between.
type Chain struct {
	// Count is their number.
	Count int `json:"count,omitempty"`
	// Start is when the first began, Last when the newest did (Elapsed).
	Start time.Duration `json:"start,omitempty"`
	Last  time.Duration `json:"last,omitempty"`
	// StartWall is Start by the wall clock, for display.
	StartWall time.Time `json:"startWall,omitzero"`
	// Crowd: many customers' roles were refused at the same time (rule 10), seen first
	// at CrowdAt (Elapsed).
	Crowd   bool          `json:"crowd,omitempty"`
	CrowdAt time.Duration `json:"crowdAt,omitempty"`
}

// Cadence is how often a validator runs in quiet times (key-plane rule 12a).
type Cadence string

// The cadences.
const (
	// Own: each interval. That is an agent, and the control plane where no agent
	// reports or one is silent or not valid.
	Own Cadence = ""
	// Idle: only when asked. That is the control plane while all agents report VALID.
	Idle Cadence = "IDLE"
	// Confirming: each C/2. That is the control plane while an agent is suspect.
	Confirming Cadence = "CONFIRMING"
)

// NewState is the state of a project that nothing is known about.
func NewState(p Policy, generation uint64, now Instant) State {
	return State{
		Format: StateFormat, Verdict: Unknown, Since: now.Wall, Generation: generation,
		Policy: p.Normal(), Next: now.Elapsed, NextWall: now.Wall, Entered: now.Elapsed, wake: Never,
	}
}

// InForce is the policy that decides now: the frozen one if there is one.
func (s State) InForce() Policy {
	if s.Frozen != nil {
		return s.Frozen.Normal()
	}
	return s.Policy.Normal()
}

// MayStart tells whether a node may be started: only in VALID, and after a restart
// only once an own run was OK (key-plane rules 3, 5, 20, 21).
func (s State) MayStart() bool { return s.Verdict == Valid && !s.AwaitOK }

// MustBeDown tells whether the processes of the project's encrypted clusters have to
// be stopped wherever they are found.
func (s State) MustBeDown() bool { return s.Verdict == Invalid }

// UnmarshalJSON refuses a newer format and verdicts that this version does not know.
func (s *State) UnmarshalJSON(b []byte) error {
	type plain State
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("custody state: %w", err)
	}
	if head.Format > StateFormat {
		return fmt.Errorf("%w: format %d, this one reads up to %d", ErrNewerState, head.Format, StateFormat)
	}
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("custody state: %w", err)
	}
	switch p.Verdict {
	case Unknown, Valid, Unreachable, Suspect, Invalid:
	case NAD, Grace, Alert:
		if p.Format == 1 {
			return fmt.Errorf("custody state: format 1 has no verdict %q", p.Verdict)
		}
	default:
		return fmt.Errorf("custody state: verdict %q is not known", p.Verdict)
	}
	switch p.Format {
	case 1:
		*s = fromFormat1(State(p))
	case StateFormat:
		*s = State(p)
	default:
		return fmt.Errorf("custody state: format %d is not known", p.Format)
	}
	if s.Verdict.Bad() && s.Frozen == nil {
		frozen := s.Policy.Normal()
		s.Frozen = &frozen
	}
	s.wake = Never
	return nil
}

// fromFormat1 fills in what format 1 did not know, on the cautious side: the last OK
// counts as just before what came after it, and only a plain VALID proves an OK in
// this generation.
func fromFormat1(s State) State {
	s.Format = StateFormat
	s.Entered, s.LastOK = s.Clock.Elapsed, s.Clock.Elapsed
	if s.Chain.Count > 0 {
		s.LastOK = s.Chain.Start
	}
	if s.LastSuccess.IsZero() {
		s.LastOK = 0
	}
	s.OnceOK = s.Verdict == Valid && s.LastOutcome == kms.OK
	if s.Verdict == Invalid {
		s.Confirmed = s.Chain.Last
	}
	return s
}
