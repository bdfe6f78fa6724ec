package replication

import (
	"context"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
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
	items, size, err := f.decode(logs)
	if failed := f.r.failure(); failed != nil {
		err = failed
	} else if err == nil {
		if err = f.r.store.ApplyBatch(items); err != nil {
			f.r.fail(err)
		}
	}
	if err == nil && len(items) > 0 {
		f.observe(items, size)
	}
	n := 0
	for i, l := range logs {
		switch {
		case l.Type != raft.LogCommand:
		case err != nil:
			out[i] = applied{err: err}
		default:
			out[i] = applied{at: OpTime{Timestamp: items[n].Entry.Time, Term: l.Term}}
			n++
		}
	}
	return out
}

func (f fsm) decode(logs []*raft.Log) (items []storage.Item, size int, err error) {
	items = make([]storage.Item, 0, len(logs))
	for _, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		e, err := entry.Decode(l.Data)
		if err != nil {
			err = fmt.Errorf("log entry %d: %w", l.Index, err)
			f.r.fail(err)
			return nil, 0, err
		}
		items = append(items, storage.Item{Index: l.Index, Term: l.Term, Entry: e})
		size += len(l.Data)
	}
	return items, size, nil
}

func (f fsm) observe(items []storage.Item, size int) {
	last := items[len(items)-1]
	f.r.observe(OpTime{Timestamp: last.Entry.Time, Term: last.Term}, size, len(items))
	for _, it := range items {
		for _, o := range it.Entry.Ops {
			if o.Kind == entry.Catalogue && o.Database == [16]byte{} {
				f.r.change()
			}
		}
	}
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
	f.r.observe(OpTime{Timestamp: f.r.store.Time()}, 0, 0)
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
