package custody

import (
	"context"
	"sync"
	"time"
)

// maxReleases bounds what waits for the audit log; older records are given up first.
const maxReleases = 256

// shutdownPatience bounds how long the end of the loop waits for open records.
const shutdownPatience = 2 * time.Second

// release is a Start, or something to be written down, on its way.
type release struct {
	effect Effect
	state  State
	// stored is the number of the state that has to be on disk before a Start.
	stored uint64
}

// releaser carries out Start and what is to be written down in their order, apart from the loop: a key is
// released only after its record was written and the state stored, and neither may
// delay a denial or a stop (key-plane section 7).
type releaser struct {
	loop  *Loop
	saver *saver
	wake  chan struct{}
	gone  chan struct{}

	mu    sync.Mutex
	queue []release
}

func newReleaser(ctx context.Context, l *Loop, s *saver) *releaser {
	r := &releaser{loop: l, saver: s, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	go r.run(ctx)
	return r
}

func (r *releaser) add(x release) {
	r.mu.Lock()
	if len(r.queue) >= maxReleases {
		r.loop.cfg.Logger.Error("custody gives up an effect that nobody carried out", "project_id", string(r.loop.cfg.Project),
			"effect", string(r.queue[0].effect), "verdict", string(r.queue[0].state.Verdict))
		r.queue = r.queue[1:]
	}
	r.queue = append(r.queue, x)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *releaser) take() (release, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return release{}, false
	}
	x := r.queue[0]
	r.queue = r.queue[1:]
	return x, true
}

// close waits for the end; the context of newReleaser has ended.
func (r *releaser) close() { <-r.gone }

func (r *releaser) run(ctx context.Context) {
	defer close(r.gone)
	for ctx.Err() == nil {
		if x, ok := r.take(); ok {
			if !r.carry(ctx, x) && x.effect != Start {
				r.mu.Lock()
				r.queue = append([]release{x}, r.queue...)
				r.mu.Unlock()
			}
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	for last.Err() == nil {
		x, ok := r.take()
		if !ok {
			return
		}
		if x.effect != Start {
			r.try(last, x)
		}
	}
}

// carry repeats one effect until it works or no longer applies. It is false if the loop
// ended before.
func (r *releaser) carry(ctx context.Context, x release) bool {
	for ctx.Err() == nil {
		if x.effect == Start && (!r.saver.await(ctx, x.stored) || !r.loop.release(x.state)) {
			return ctx.Err() == nil
		}
		if r.try(ctx, x) {
			return true
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
	return false
}

func (r *releaser) try(ctx context.Context, x release) bool {
	s := x.state
	if x.effect == Start {
		s = r.loop.State()
	}
	if err := r.loop.cfg.Enact(ctx, x.effect, s); err != nil {
		r.loop.cfg.Logger.ErrorContext(ctx, "a custody effect failed and will be tried again", "project_id", string(r.loop.cfg.Project),
			"effect", string(x.effect), "verdict", string(s.Verdict), "error", err)
		return false
	}
	return true
}
