package replication

import (
	"context"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// fsm applies the log's entries to the store, in raft's goroutine.
type fsm struct{ r *Replica }

// applied is the answer to a proposal.
type applied struct {
	at  OpTime
	err error
}

var _ raft.BatchingFSM = fsm{}

// Apply implements raft.FSM.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. After a failure nothing is applied any
// more: the node ends, and the entries are applied when it starts again.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		a := applied{err: f.r.failure()}
		if a.err == nil {
			a.at, a.err = f.apply(l)
		}
		out[i] = a
	}
	return out
}

func (f fsm) apply(l *raft.Log) (OpTime, error) {
	e, err := entry.Decode(l.Data)
	if err == nil {
		err = f.r.store.Apply(l.Index, l.Term, e)
	}
	if err != nil {
		err = fmt.Errorf("log entry %d: %w", l.Index, err)
		f.r.fail(err)
		return OpTime{}, err
	}
	at := OpTime{Timestamp: e.Time, Term: l.Term}
	f.r.observe(at, len(l.Data))
	for _, o := range e.Ops {
		if o.Kind == entry.Catalogue && o.Database == [16]byte{} {
			f.r.change()
		}
	}
	return at, nil
}

// Snapshot implements raft.FSM: what counts is what was applied before.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.r.failure(); err != nil {
		return nil, err
	}
	return flushSnapshot(f), nil
}

// Restore implements raft.FSM: it replaces everything by the snapshot that was
// received last.
func (f fsm) Restore(rc io.ReadCloser) error {
	id, ok, err := f.r.snaps.pending()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("no received snapshot waits to be restored")
	}
	if err := f.r.store.Import(context.Background(), rc, id, f.r.dir.log); err != nil {
		f.r.fail(fmt.Errorf("restore snapshot %s: %w", id, err))
		return err
	}
	f.r.observe(OpTime{Timestamp: f.r.store.Time()}, 0)
	f.r.change()
	return f.r.snaps.restored(id)
}

// flushSnapshot is a snapshot of this node's own.
type flushSnapshot struct{ r *Replica }

// Persist implements raft.FSMSnapshot: only after everything is flushed raft cuts
// the log.
func (s flushSnapshot) Persist(raft.SnapshotSink) error {
	return s.r.store.Flush(context.Background())
}

// Release implements raft.FSMSnapshot.
func (flushSnapshot) Release() {}
