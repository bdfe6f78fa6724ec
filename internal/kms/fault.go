package kms

import (
	"context"
	"sync"
	"time"
)

// Fault is a Provider that does what another does, except for the faults it is told to
// make. It is for tests. It is safe for concurrent use.
type Fault struct {
	wrapped
	mu     sync.Mutex
	faults map[Operation]fault
}

type fault struct {
	err   error
	left  int // calls that still fail; below zero: all
	delay time.Duration
}

// NewFault wraps next, without any fault yet.
func NewFault(next Provider) *Fault {
	f := &Fault{faults: map[Operation]fault{}}
	f.wrapped = wrapped{next: next, around: f.around}
	return f
}

// Fail lets the next n calls of op fail with err (all of them if n is below zero),
// without reaching the service.
func (f *Fault) Fail(op Operation, n int, err error) {
	f.change(op, func(x *fault) { x.err, x.left = err, n })
}

// Delay holds every call of op up for d, or until its context ends.
func (f *Fault) Delay(op Operation, d time.Duration) {
	f.change(op, func(x *fault) { x.delay = d })
}

// Clear ends all faults.
func (f *Fault) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
}

func (f *Fault) change(op Operation, do func(*fault)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.faults[op]
	do(&x)
	f.faults[op] = x
}

func (f *Fault) around(ctx context.Context, op Operation, _ Target, call func(context.Context) error) error {
	f.mu.Lock()
	x := f.faults[op]
	fails := x.left != 0
	if x.left > 0 {
		x.left--
		f.faults[op] = x
	}
	f.mu.Unlock()
	if x.delay > 0 {
		timer := time.NewTimer(x.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			g := *AsFailure(ctx.Err())
			g.Operation = op
			return &g
		}
	}
	if fails {
		return AsFailure(x.err)
	}
	return call(ctx)
}
