package custody

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Prober makes one validation run of the project's configuration of a generation. It
// must come back soon after ctx ends.
type Prober interface {
	Probe(ctx context.Context, generation uint64) kms.Result
}

// Store keeps the state of one project. Load gives ErrNoState if there is none. Save
// is durable when it returns nil.
type Store interface {
	Load(ctx context.Context) (State, error)
	Save(ctx context.Context, s State) error
}

// ErrNoState: nothing was stored yet.
var ErrNoState = errors.New("custody: no state is stored")

// Config configures a Loop.
type Config struct {
	Project keys.ProjectID
	Prober  Prober
	Store   Store
	Policy  Policy
	// Generation is the configuration to begin with, if the stored state is older.
	Generation uint64
	// Enact carries out Stop, DropSessions, Record, Start and AskValidators. s is the
	// state that asks for it. It is called from the loop, one call at a time, so it has
	// to be quick: Stop hands over to a supervisor. An error of Record or Start leaves
	// the start undone; it is tried again every second while it may still happen.
	Enact func(ctx context.Context, e Effect, s State) error
	// OnChange, if set, is told of every change of state, after the effects.
	OnChange func(old, new State)
	// Now reads the machine's clocks; SystemClock if nil.
	Now func() Reading
	// Jitter may shorten a wait in quiet times; nil leaves it.
	Jitter func(d time.Duration) time.Duration
	Logger *slog.Logger
}

// Loop keeps the verdict of one project.
type Loop struct {
	cfg Config
	mu  sync.Mutex
	st  State
}

// NewLoop makes a loop; Run runs it.
func NewLoop(cfg Config) *Loop { return &Loop{cfg: cfg} }

// Run keeps the verdict until ctx ends.
func (l *Loop) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// TryNow asks for a run at once.
func (l *Loop) TryNow() {}

// GetRefused tells that the service refused to open a key.
func (l *Loop) GetRefused() {}

// SetPolicy changes the policy.
func (l *Loop) SetPolicy(p Policy) {}

// SetCadence changes how often the loop runs in quiet times.
func (l *Loop) SetCadence(c Cadence) {}

// Commit begins a new generation.
func (l *Loop) Commit(generation uint64) {}

// State is the current state.
func (l *Loop) State() State { l.mu.Lock(); defer l.mu.Unlock(); return l.st }

// Releasable is nil if a key may be released now.
func (l *Loop) Releasable() error { return errors.New("not yet") }
