package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// budget bounds the bytes that are proposed and not applied yet. Who holds some
// of it never waits for more.
type budget struct {
	mu    sync.Mutex
	free  int64
	total int64
	wait  chan struct{} // closed when something was given back
}

func newBudget(n int64) *budget { return &budget{free: n, total: n, wait: make(chan struct{})} }

func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free < n && b.free < b.total {
		return false
	}
	b.free -= n
	return true
}

func (b *budget) take(ctx context.Context, n int64) error {
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
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	close(b.wait)
	b.wait = make(chan struct{})
}

// proposal is an entry under way.
type proposal struct {
	future raft.ApplyFuture
	size   int64
}

// propose gives an encoded entry its cluster time and hands it to raft. The caller
// has taken its size from the budget.
func (r *Replica) propose(encoded []byte) proposal {
	r.proposeMu.Lock()
	defer r.proposeMu.Unlock()
	entry.SetTime(encoded, r.tick())
	return proposal{future: r.raft.Apply(encoded, 0), size: int64(len(encoded))}
}

// wait waits until the entry is durable and applied, or its outcome is unknown.
// There is no way to give up: latches must not be released before.
func (r *Replica) wait(p proposal) (OpTime, error) {
	err := p.future.Error()
	r.budget.give(p.size)
	if err != nil {
		return OpTime{}, outcome(err)
	}
	a, ok := p.future.Response().(applied)
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
func (r *Replica) commit(ctx context.Context, e *entry.Entry) (OpTime, error) {
	encoded, err := e.Encode()
	if err != nil {
		return OpTime{}, fmt.Errorf("encode log entry: %w", err)
	}
	if err := r.budget.take(ctx, int64(len(encoded))); err != nil {
		return OpTime{}, err
	}
	return r.wait(r.propose(encoded))
}
