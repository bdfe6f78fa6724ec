package custody

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Prober makes one validation run of the project's configuration of a generation. It
// must come back soon after ctx ends. A Result without an Outcome says that no run
// could be made, because that generation is not the current one; it is no evidence,
// and the loop asks again a second later.
type Prober interface {
	Probe(ctx context.Context, generation uint64) kms.Result
}

// Store keeps the state of one project. Load gives ErrNoState if there is none. Save
// is durable when it returns nil.
type Store interface {
	Load(ctx context.Context) (State, error)
	Save(ctx context.Context, s State) error
}

// ErrNoState tells that nothing was stored yet.
var ErrNoState = errors.New("custody: no state is stored")

// ErrNotReleasable tells that a key may not be released now.
var ErrNotReleasable = errors.New("custody: the customer's key is not ours to use")

// The loop's own times.
const (
	// storePatience is how long a stop waits for the disk.
	storePatience = 250 * time.Millisecond
	// storeTimeout bounds one Save.
	storeTimeout = 10 * time.Second
	// retryPause is how soon a start or a record that failed is tried again.
	retryPause = time.Second
	// recheck is how often the clocks are read anew, so that a wait which the machine
	// slept through does not last longer (rule 27).
	recheck = 10 * time.Second
)

// Config configures a Loop.
type Config struct {
	Project keys.ProjectID
	Prober  Prober
	Store   Store
	Policy  Policy
	// Generation is the configuration to begin with, if the stored state is older.
	Generation uint64
	// Central: this is the control plane's loop.
	Central bool
	// Enact carries out all effects but Persist; s is the
	// state that asks for it. Calls for Record, Start, RaiseAlarm and RecordDrill come
	// one after the other, and so do the others, but the two rows are independent of each other: a Record that
	// hangs delays no Stop. So a Start that is under way has to ask the loop's MayStart
	// again before each process. Stop has to be quick: it hands over to a supervisor.
	// After an error the effect is asked for again every second while it applies; a
	// Start waits for the Records before it and for the disk.
	Enact func(ctx context.Context, e Effect, s State) error
	// OnChange, if set, is told of every change of what this validator itself knows,
	// before the effects.
	OnChange func(old, new State)
	// Now reads the machine's clocks; SystemClock if nil.
	Now func() Reading
	// Jitter may shorten the wait for a run while VALID or UNREACHABLE; a longer answer
	// counts as d. Nil leaves it.
	Jitter func(d time.Duration) time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// Loop keeps the verdict of one project: it makes the runs, one at a time, and carries
// out what Step asks for. All methods are safe for concurrent use; those that ask for
// something return at once.
type Loop struct {
	cfg  Config
	wake chan struct{}

	mu     sync.Mutex
	st     State
	loaded bool
	// released: the way to VALID is recorded and stored, so nodes may start.
	released bool
	asked    []Event
}

// NewLoop makes a loop; nothing happens before Run.
func NewLoop(cfg Config) *Loop {
	if cfg.Now == nil {
		cfg.Now = SystemClock
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Enact == nil {
		cfg.Enact = func(context.Context, Effect, State) error { return nil }
	}
	l := &Loop{cfg: cfg, wake: make(chan struct{}, 1)}
	l.st = NewState(cfg.Policy, cfg.Generation, Clock{}.begin(cfg.Now()).Instant())
	return l
}

// State is the current state. Before Run has loaded the stored one it is UNKNOWN.
func (l *Loop) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.st
	if s.Frozen != nil {
		p := *s.Frozen
		s.Frozen = &p
	}
	return s
}

// Report is State with its Clock carried forward to now, as State.Evidence wants it.
func (l *Loop) Report() State {
	s := l.State()
	s.Clock, _ = s.Clock.Advance(l.cfg.Now())
	return s
}

// Releasable is nil if a key may be released to a node now, in VALID and UNREACHABLE
// only and while Run runs; else it wraps ErrNotReleasable. Ask before a key is opened, and again just
// before it leaves (key-plane rule 30).
func (l *Loop) Releasable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loaded && l.st.Verdict.Releases() {
		return nil
	}
	if l.st.Reason != "" {
		return fmt.Errorf("%w: %s (%s)", ErrNotReleasable, l.st.Verdict, l.st.Reason)
	}
	return fmt.Errorf("%w: %s", ErrNotReleasable, l.st.Verdict)
}

// MayStart tells whether a node may be started now: State().MayStart(), and the change
// that allowed it is in the audit log and on the disk. It turns true just before the
// Start effect. Ask it before each process.
func (l *Loop) MayStart() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded && l.released && l.st.MayStart()
}

// release lets nodes start, if the state that asked for it still holds: what came
// after it has a record and a Start of its own.
func (l *Loop) release(asked State) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.st.MayStart() || !l.st.Since.Equal(asked.Since) {
		return false
	}
	l.released = true
	return true
}

// TryNow asks for a run that begins after this call, and for one of every other
// validator (Try Again).
func (l *Loop) TryNow() { l.ask(TryAgain{}) }

// GetRefused tells that the service refused to open a key for a node while a key could
// be released (rule 19): call it for kms.Revoked, not for kms.Unreachable.
func (l *Loop) GetRefused() { l.ask(GetRefused{}) }

// SetPolicy changes the policy.
func (l *Loop) SetPolicy(p Policy) { l.ask(PolicyChanged{p}) }

// SetCadence changes how often the loop runs in quiet times (rule 12a).
func (l *Loop) SetCadence(c Cadence) { l.ask(CadenceChanged{c}) }

// SetEvidence tells what all other validators say now; crowd is rule 10.
func (l *Loop) SetEvidence(all []Evidence, crowd bool) {
	l.ask(EvidenceReceived{Validators: slices.Clone(all), Crowd: crowd})
}

// Drill orders a drill (rule 28).
func (l *Loop) Drill(order DrillOrdered) { l.ask(order) }

// DrillMeasured tells that the processes of a drill's cluster are gone, or up again.
func (l *Loop) DrillMeasured(id string, up bool) { l.ask(DrillMeasured{ID: id, Up: up}) }

// Commit begins a newer generation; an older or the same one changes nothing.
func (l *Loop) Commit(generation uint64) { l.ask(Committed{generation}) }

// ask leaves an event for the loop. What is repeated is kept once, so the list stays
// short however many Gets are refused.
func (l *Loop) ask(e Event) {
	l.mu.Lock()
	if _, ok := e.(EvidenceReceived); ok { // the newest word is all that counts
		l.asked = append(slices.DeleteFunc(l.asked, func(x Event) bool { _, is := x.(EvidenceReceived); return is }), e)
	} else if !slices.ContainsFunc(l.asked, func(x Event) bool { _, is := x.(EvidenceReceived); return !is && x == e }) {
		l.asked = append(l.asked, e)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Loop) takeAsked() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.asked
	l.asked = nil
	return out
}
