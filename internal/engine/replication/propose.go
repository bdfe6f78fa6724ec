package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// budget bounds the bytes that are proposed and not applied yet. Who holds some
// of it never waits for more.
type budget struct {
	free    atomic.Int64
	total   int64
	waiters atomic.Int64

	mu   sync.Mutex
	wait chan struct{} // closed when something was given back while somebody waited
}

func newBudget(n int64) *budget {
	b := &budget{total: n, wait: make(chan struct{})}
	b.free.Store(n)
	return b
}

func (b *budget) try(n int64) bool {
	for {
		free := b.free.Load()
		if free < n && free < b.total {
			return false
		}
		if b.free.CompareAndSwap(free, free-n) {
			return true
		}
	}
}

func (b *budget) take(ctx context.Context, n int64) error {
	b.waiters.Add(1) // before looking: who gives after that look sees it
	defer b.waiters.Add(-1)
	for {
		b.mu.Lock()
		wait := b.wait
		b.mu.Unlock()
		if b.try(n) {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *budget) give(n int64) {
	b.free.Add(n)
	if b.waiters.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.wait)
	b.wait = make(chan struct{})
}

// wait waits until the entry is durable and applied, or its outcome is unknown.
// There is no way to give up: latches must not be released before.
func (r *Replica) wait(p proposal) (OpTime, error) {
	future := p.future()
	err := future.Error()
	r.budget.give(p.size)
	if err != nil {
		return OpTime{}, outcome(err)
	}
	a, ok := future.Response().(applied)
	if !ok {
		return OpTime{}, errors.New("an entry was not applied")
	}
	if a.err != nil {
		return OpTime{}, retryable(mongoerr.InterruptedAtShutdown, "The node is going down after an error; see its log")
	}
	return a.at, nil
}

// outcome names raft's errors: nothing was written, or it is unknown whether.
func outcome(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return retryable(mongoerr.NotWritablePrimary, "not primary")
	case errors.Is(err, raft.ErrRaftShutdown):
		return retryable(mongoerr.ShutdownInProgress, "The node shut down before the write was confirmed: it is unknown whether it was done")
	}
	return retryable(mongoerr.InterruptedAtShutdown, "The write was not confirmed (%v): it is unknown whether it was done", err)
}

// commit proposes one entry and waits for it.
func (r *Replica) commit(ctx context.Context, e *entry.Entry) error {
	encoded, err := e.Encode()
	if err != nil {
		return fmt.Errorf("encode log entry: %w", err)
	}
	if err := r.budget.take(ctx, int64(len(encoded))); err != nil {
		return err
	}
	_, err = r.wait(r.propose(encoded))
	return err
}
