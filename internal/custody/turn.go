package custody

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// probed is the end of a run on its way back to the loop.
type probed struct {
	generation uint64
	started    time.Duration
	result     kms.Result
}

// turn is what one Run of the loop owns. Only its goroutine touches it.
type turn struct {
	*Loop
	clock    Clock
	saver    *saver
	releaser *releaser
	done     chan probed
	// running: a run is out. given: the loop has given it up (Timeout).
	running bool
	given   bool
	started time.Duration
	runGen  uint64
	cancel  context.CancelFunc
	// later are wishes for a run that came while one was out: it began too early for
	// them.
	later []Event
	// pending are effects that failed.
	pending []Effect
	retryAt time.Duration
	// back: the wall clock went back across a boot, and nobody was told yet.
	back bool
	// kept is when the clock was stored last, looked when Step last looked at it.
	kept, looked time.Duration
}

// Run loads the stored state and keeps the verdict until ctx ends; then it waits for
// the run that is out and for the disk. A store that cannot be read is an error: a
// forgotten INVALID would start what has to stay down. Run is called once.
func (l *Loop) Run(ctx context.Context) error {
	t := &turn{Loop: l, done: make(chan probed, 1)}
	s, err := l.cfg.Store.Load(ctx)
	if err != nil && !errors.Is(err, ErrNoState) {
		return fmt.Errorf("load custody state of project %s: %w", l.cfg.Project, err)
	}
	t.saver = newSaver(l.cfg.Store)
	defer t.saver.close()
	t.releaser = newReleaser(ctx, l, t.saver)
	defer t.releaser.close()
	if err != nil {
		t.clock = Clock{}.begin(l.cfg.Now())
		fresh := NewState(l.cfg.Policy, l.cfg.Generation, t.clock.Instant())
		fresh.Central = l.cfg.Central
		t.set(fresh)
		t.saver.save(t.State())
	} else {
		t.clock = s.Clock
		s.Central = l.cfg.Central
		t.set(s)
		t.apply(ctx, Restarted{})
		t.apply(ctx, PolicyChanged{l.cfg.Policy})
		t.apply(ctx, Committed{l.cfg.Generation})
	}
	defer func() { // from here on nobody watches the key
		l.mu.Lock()
		l.loaded, l.released = false, false
		l.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		t.tick(ctx)
		timer.Reset(t.wait())
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		case p := <-t.done:
			t.finish(ctx, p)
		}
	}
	if t.running {
		t.cancel()
		<-t.done
	}
	return nil
}

func (t *turn) set(s State) {
	s.Clock = t.clock
	t.mu.Lock()
	t.st, t.loaded = s, true
	t.released = t.released && s.MayStart()
	t.mu.Unlock()
}

// now reads the clocks.
func (t *turn) now() Instant {
	next, back := t.clock.Advance(t.cfg.Now())
	if back {
		t.back = true
		t.cfg.Logger.Error("the wall clock went back across a restart of the machine", "project_id", string(t.cfg.Project))
	}
	t.clock = next
	return next.Instant()
}

// tick does everything that is due.
func (t *turn) tick(ctx context.Context) {
	for _, e := range t.takeAsked() {
		if t.running {
			switch e.(type) {
			case TryAgain:
				t.later = append(t.later, soon{})
			case GetRefused:
				t.later = append(t.later, e)
			}
		}
		t.apply(ctx, e)
	}
	now := t.now().Elapsed
	if t.back {
		t.back = false
		t.apply(ctx, ClockWentBack{})
	}
	if s := t.State(); now >= s.wake || now-t.looked >= recheck {
		t.looked = now
		t.apply(ctx, TimePassed{})
	}
	t.keepClock(now)
	if t.running && !t.given && now-t.started > kms.RunTimeout {
		// The prober has not come back in time. Its verdict is in; nobody waits for the
		// rest, but no other run begins before it is gone (one at a time).
		t.cancel()
		t.given = true
		t.apply(ctx, RunFinished{Generation: t.runGen, Started: t.started, Result: kms.Failed(context.DeadlineExceeded, time.Time{}, time.Time{})})
	}
	if len(t.pending) > 0 && now >= t.retryAt {
		pending := t.pending
		t.pending = nil
		t.enact(ctx, t.State(), pending)
	}
	if now = t.now().Elapsed; !t.running && now >= t.State().Next {
		t.begin(ctx, now)
	}
}

// wait is the time until something is due.
func (t *turn) wait() time.Duration {
	now := t.now().Elapsed
	d := recheck
	if t.running && !t.given {
		d = min(d, t.started+kms.RunTimeout+time.Millisecond-now)
	}
	if !t.running {
		if next := t.State().Next; next != Never {
			d = min(d, next-now)
		}
	}
	if wake := t.State().wake; wake != Never {
		d = min(d, wake-now)
	}
	if len(t.pending) > 0 {
		d = min(d, t.retryAt-now)
	}
	return max(0, d)
}

// keepClock stores the clock every ten seconds where a duration counts (rule 27), so
// that a restart of the machine loses little of it. In VALID none does but a drill's;
// there each run stores it.
func (t *turn) keepClock(now time.Duration) {
	if now-t.kept < recheck {
		return
	}
	t.kept = now
	if s := t.State(); s.Verdict != Valid || s.drill() != nil {
		s.Clock = t.clock
		t.saver.save(s)
	}
}

// begin sends a run out.
func (t *turn) begin(ctx context.Context, now time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, kms.RunTimeout)
	t.running, t.given, t.later, t.started, t.runGen, t.cancel = true, false, nil, now, t.State().Generation, cancel
	go func(p probed) {
		defer cancel()
		p.result = t.cfg.Prober.Probe(ctx, p.generation)
		t.done <- p
	}(probed{generation: t.runGen, started: now})
}

// finish takes a run back.
func (t *turn) finish(ctx context.Context, p probed) {
	t.running = false
	if ctx.Err() != nil {
		return // the run was cut off by us, it says nothing
	}
	if !t.given {
		t.apply(ctx, RunFinished{Generation: p.generation, Started: p.started, Result: p.result})
	}
	for _, e := range t.later {
		t.apply(ctx, e)
	}
	t.later = nil
}

// soon makes the next run due at once: what is left of a TryAgain once the others
// were asked.
type soon struct{}

func (soon) isEvent() {}

// apply lets Step decide, and carries its decision out.
func (t *turn) apply(ctx context.Context, e Event) {
	now := t.now()
	old := t.State()
	next, effects := old, []Effect(nil)
	if _, ok := e.(soon); ok {
		next = old.due(now, now.Elapsed)
	} else {
		next, effects = Step(old, e, now)
	}
	if _, ok := e.(RunFinished); ok && t.cfg.Jitter != nil && !next.Verdict.Bad() && next.Next != Never && next.Next > now.Elapsed {
		d := next.Next - now.Elapsed
		next = next.due(now, now.Elapsed+min(d, max(0, t.cfg.Jitter(d))))
	}
	// From here on Releasable answers by the new verdict: a denial waits for nothing.
	t.set(next)
	if old.Verdict != next.Verdict {
		t.cfg.Logger.InfoContext(ctx, "custody verdict changed", "project_id", string(t.cfg.Project), "from", string(old.Verdict), "to", string(next.Verdict),
			"reason", string(next.Reason), "generation", next.Generation)
	}
	if t.cfg.OnChange != nil && !reflect.DeepEqual(old.own(), next.own()) {
		t.cfg.OnChange(old, next)
	}
	t.enact(ctx, t.State(), effects)
}

// enact carries effects out in their order. What releases keys goes through the
// releaser; the rest happens here, since nothing may delay a stop.
func (t *turn) enact(ctx context.Context, s State, effects []Effect) {
	number := t.saver.number()
	for _, e := range effects {
		switch e {
		case Persist:
			var stored bool
			if number, stored = t.saver.saveFor(s, storePatience); !stored {
				t.cfg.Logger.ErrorContext(ctx, "the custody state is not stored yet", "project_id", string(t.cfg.Project), "verdict", string(s.Verdict), "error", t.saver.lastError())
			}
		case Record, Start, RaiseAlarm, RecordDrill:
			t.releaser.add(release{effect: e, state: s, stored: number})
		default:
			if e == Stop && !s.MustBeDown() || e == BeginDrill && s.drill() == nil {
				continue // it was pending, and is over
			}
			if err := t.cfg.Enact(ctx, e, s); err != nil {
				t.cfg.Logger.ErrorContext(ctx, "a custody effect failed and will be tried again", "project_id", string(t.cfg.Project), "effect", string(e), "error", err)
				t.keep(e)
			}
		}
	}
}

// keep remembers an effect for later.
func (t *turn) keep(e Effect) {
	if !slices.Contains(t.pending, e) {
		t.pending = append(t.pending, e)
	}
	t.retryAt = t.clock.Elapsed + retryPause
}
