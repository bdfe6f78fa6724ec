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

// The verdicts. NAD, Grace and Alert are names kept for the rules that need several
// validators or a softer policy; no state has them yet.
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
	// NAD: only this host is refused.
	NAD Verdict = "NETWORK_ACCESS_DENIED"
	// Grace: confirmed, with a deadline.
	Grace Verdict = "GRACE"
	// Alert: confirmed, and the policy says that nothing stops.
	Alert Verdict = "ALERT"
)

// Releases tells whether a key may be released to a node (key-plane rule 30).
func (v Verdict) Releases() bool { return v == Valid || v == Unreachable }

// Bad tells whether the verdict withholds keys because AWS said so.
func (v Verdict) Bad() bool { return v != Unknown && !v.Releases() }

// StateFormat is the version of State's JSON form.
const StateFormat = 1

// ErrNewerState is returned for a state that a newer Keywright wrote.
var ErrNewerState = errors.New("custody: the state was written by a newer version")

// State is everything that custody knows about a project. It is a value: a copy is
// independent. Its JSON form is stored and shown; unknown fields of the same format
// are ignored, a newer format is refused.
type State struct {
	Format  int     `json:"format"`
	Verdict Verdict `json:"verdict"`
	// Reason, Operation, Detail and Remedy explain the newest outcome that was not
	// OK; empty after an OK.
	Reason    kms.Reason    `json:"reason,omitempty"`
	Operation kms.Operation `json:"operation,omitempty"`
	Detail    string        `json:"detail,omitempty"`
	Remedy    string        `json:"remedy,omitempty"`
	// Since is when the verdict was entered, by the wall clock; Previous is the one
	// before it.
	Since    time.Time `json:"since"`
	Previous Verdict   `json:"previous,omitempty"`
	// LastRun and LastOutcome are of the newest run that counted, LastSuccess is of
	// the newest OK.
	LastRun time.Time `json:"lastRun,omitzero"`
	// LastStart is when the newest run began (Elapsed).
	LastStart   time.Duration `json:"lastStart,omitempty"`
	LastOutcome kms.Outcome   `json:"lastOutcome,omitempty"`
	LastSuccess time.Time     `json:"lastSuccess,omitzero"`
	// Generation is the configuration that runs test. Results of others are ignored.
	Generation uint64 `json:"generation"`
	// Chain holds the REVOKED runs since the last OK.
	Chain Chain `json:"chain,omitzero"`
	// Frozen is the policy at the moment the project became suspect; it holds until
	// the project is valid again. Nil otherwise.
	Frozen *Policy `json:"frozen,omitempty"`
	// Policy is the policy in force while nothing is frozen.
	Policy Policy `json:"policy"`
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

// Policy is what the project's owner decided about validation.
type Policy struct {
	// Interval is the distance of runs in quiet times; DefaultInterval if zero.
	Interval time.Duration `json:"interval"`
}

// DefaultInterval is the interval of a policy that names none.
const DefaultInterval = 15 * time.Minute

// MinInterval and MaxInterval bound the interval; others are taken for the nearer one.
const (
	MinInterval = time.Second
	MaxInterval = 7 * 24 * time.Hour
)

// Normal gives the policy with its defaults filled in.
func (p Policy) Normal() Policy {
	if p.Interval <= 0 {
		p.Interval = DefaultInterval
	}
	p.Interval = min(max(p.Interval, MinInterval), MaxInterval)
	return p
}

// C is the shortest time between the first REVOKED of a chain and the one that
// confirms it: min(10 s, interval).
func (p Policy) C() time.Duration { return min(10*time.Second, p.Normal().Interval) }

// quick is min(5 s, interval).
func (p Policy) quick() time.Duration { return min(5*time.Second, p.Normal().Interval) }

// half is C/2, rounded up so that two of them are never shorter than C.
func (p Policy) half() time.Duration { return (p.C() + 1) / 2 }

// NewState is the state of a project that nothing is known about.
func NewState(p Policy, generation uint64, now Instant) State {
	return State{
		Format: StateFormat, Verdict: Unknown, Since: now.Wall, Generation: generation,
		Policy: p.Normal(), Next: now.Elapsed, NextWall: now.Wall,
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
	default:
		return fmt.Errorf("custody state: verdict %q is not known", p.Verdict)
	}
	if p.Format != StateFormat {
		return fmt.Errorf("custody state: format %d is not known", p.Format)
	}
	*s = State(p)
	return nil
}
