package storage

import (
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// runBytes bounds what a run holds in memory.
const runBytes = 4 << 20

// Item is an entry of the log with its place.
type Item struct {
	Index, Term uint64
	Entry       *entry.Entry
}

// ApplyBatch applies entries as Apply does, in order, but shows and writes several
// that only write documents at once: one batch for each database, one for the state. An
// error means that the node cannot go on; entries before the one it names may
// be applied or not.
func (s *Store) ApplyBatch(items []Item) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	r := &run{store: s, sessions: map[string]bool{}}
	defer r.end()
	for _, it := range items {
		if !joins(it.Entry) {
			if err := r.commit(); err != nil {
				return err
			}
			if err := s.applyNamed(it.Index, it.Term, it.Entry); err != nil {
				return err
			}
			continue
		}
		if err := r.stage(it); err != nil {
			return fmt.Errorf("apply log entry %d: %w", it.Index, err)
		}
		if r.bytes >= runBytes {
			if err := r.commit(); err != nil {
				return err
			}
		}
	}
	return r.commit()
}

// joins tells whether an entry may be applied in a run.
func joins(e *entry.Entry) bool {
	return !slices.ContainsFunc(e.Ops, func(o entry.Op) bool {
		return o.Kind == entry.Catalogue || o.Database == (DatabaseID{})
	})
}

// run collects what entries that follow each other do.
type run struct {
	store    *Store
	changes  []*runChange
	state    *pebble.Batch // retry records, nil for none
	sessions map[string]bool
	records  []Item // in state
	last     Item   // of records
	newest   Item   // staged
	bytes    int
}

// runChange is what the run does to one database, which it holds open.
type runChange struct {
	*change
	last Item
}

// stage adds an entry to the run.
func (r *run) stage(it Item) error {
	if r.sessions[string(it.Entry.LSID)] {
		if err := r.commit(); err != nil {
			return err
		}
	}
	for _, o := range it.Entry.Ops {
		c, err := r.change(o.Database, it.Index)
		if err != nil {
			return err
		}
		if c == nil || it.Index <= c.db.applied {
			continue
		}
		if err := c.document(o); err != nil {
			return fmt.Errorf("%s in database %s: %w", o.Kind, o.Database, err)
		}
		c.last = it
		r.bytes += len(o.Payload)
	}
	r.newest = it
	return r.record(it)
}

// change finds or begins the change of a database; nil for one that a later entry
// dropped before a restart.
func (r *run) change(id DatabaseID, index uint64) (*runChange, error) {
	for _, c := range r.changes {
		if c.db.id == id {
			return c, nil
		}
	}
	d, err := r.store.target(id, index)
	if err != nil || d == nil {
		return nil, err
	}
	c := &runChange{change: newChange(d)}
	r.changes = append(r.changes, c)
	return c, nil
}

// record stages an entry's retry record. That looks at the records there are, so a
// run has one of each session.
func (r *run) record(it Item) error {
	e, s := it.Entry, r.store
	if len(e.LSID) == 0 || it.Index <= s.Applied() {
		return nil
	}
	if r.state == nil {
		r.state = s.cfg.State.NewBatch()
	}
	if err := s.sessions.stage(r.state, it.Index, e); err != nil {
		return err
	}
	r.sessions[string(e.LSID)] = true
	r.records = append(r.records, it)
	r.last = it
	for _, st := range e.Statements {
		r.bytes += len(st.Result)
	}
	return nil
}

// commit writes the databases, then the state, as for a single entry.
func (r *run) commit() error {
	for _, c := range r.changes {
		if c.last.Index == 0 {
			continue
		}
		if err := c.commit(c.last.Index, c.last.Term); err != nil {
			return fmt.Errorf("apply log entries up to %d: %w", c.last.Index, err)
		}
	}
	if err := r.commitState(); err != nil {
		return fmt.Errorf("apply log entries up to %d: %w", r.last.Index, err)
	}
	if r.newest.Entry != nil {
		t := &r.store.state
		t.mu.Lock()
		t.time = r.newest.Entry.Time
		t.mu.Unlock()
	}
	r.end()
	return nil
}

func (r *run) commitState() error {
	if r.state == nil {
		return nil
	}
	if err := r.state.Set([]byte(stateApplied), encodePosition(r.last.Index, r.last.Term), nil); err != nil {
		return err
	}
	if err := r.state.Commit(pebble.NoSync); err != nil {
		return err
	}
	for _, it := range r.records {
		r.store.sessions.apply(it.Index, it.Entry)
	}
	t := &r.store.state
	t.mu.Lock()
	t.applied, t.term = r.last.Index, r.last.Term
	t.mu.Unlock()
	return nil
}

// end lets go of everything, committed or not.
func (r *run) end() {
	for _, c := range r.changes {
		_ = c.batch.Close()
		r.store.release(c.db)
	}
	if r.state != nil {
		_ = r.state.Close()
	}
	clear(r.sessions)
	r.changes, r.state, r.records, r.bytes = nil, nil, nil, 0
	r.last, r.newest = Item{}, Item{}
}
