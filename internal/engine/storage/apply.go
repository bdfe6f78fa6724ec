package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// Apply carries out an entry of the log. Entries come in the order of their
// indexes; what a database or the state holds already is skipped. An error means
// that the node cannot go on.
func (s *Store) Apply(index, term uint64, e *entry.Entry) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	return s.applyNamed(index, term, e)
}

func (s *Store) applyNamed(index, term uint64, e *entry.Entry) error {
	if err := s.apply(index, term, e); err != nil {
		return fmt.Errorf("apply log entry %d: %w", index, err)
	}
	return nil
}

func (s *Store) apply(index, term uint64, e *entry.Entry) error {
	groups, err := s.group(e)
	if err != nil {
		return err
	}
	st := stateChange{index: index, term: term, entry: e}
	for _, g := range groups {
		if err := s.beforeDatabase(&st, g); err != nil {
			return err
		}
		if err := s.applyDatabase(index, term, g); err != nil {
			return err
		}
	}
	if err := s.applyState(&st); err != nil {
		return err
	}
	s.state.mu.Lock()
	s.state.time = e.Time
	s.state.mu.Unlock()
	return nil
}

// group is what an entry does to one database, or to the set.
type group struct {
	id      DatabaseID
	ops     []entry.Op
	changes []entry.Change // of the catalogue operations, in order
}

// group sorts operations by database, in order.
func (s *Store) group(e *entry.Entry) ([]*group, error) {
	var out []*group
	find := func(id DatabaseID) *group {
		for _, g := range out {
			if g.id == id {
				return g
			}
		}
		out = append(out, &group{id: id})
		return out[len(out)-1]
	}
	for _, o := range e.Ops {
		g := find(o.Database)
		g.ops = append(g.ops, o)
		if o.Kind == entry.Catalogue {
			c, err := entry.DecodeChange(o.Payload)
			if err != nil {
				return nil, err
			}
			g.changes = append(g.changes, c)
		}
	}
	return out, nil
}

// stateChange collects what an entry changes in the state.
type stateChange struct {
	index, term uint64
	entry       *entry.Entry
	dropped     []*database
	set         *SetInfo
}

// beforeDatabase looks at the operations on the database as a whole. A new one
// is made and named before anything is written to it.
func (s *Store) beforeDatabase(st *stateChange, g *group) error {
	for _, c := range g.changes {
		switch c.Op {
		case entry.CreateDatabase:
			s.mu.Lock()
			_, named := s.byID[g.id]
			s.mu.Unlock()
			if !named && st.index > s.Applied() {
				if err := s.createDatabase(g.id, c.Name); err != nil {
					return fmt.Errorf("create database %s: %w", g.id, err)
				}
			}
		case entry.DropDatabase:
			s.mu.Lock()
			d := s.byID[g.id]
			s.mu.Unlock()
			if d != nil && st.index > s.Applied() {
				st.dropped = append(st.dropped, d)
			}
		case entry.Configure:
			old := s.Set()
			st.set = &SetInfo{Set: c.Name, Host: c.Host, Version: old.Version + 1}
		}
	}
	return nil
}

// Applied is the index of the newest entry that changed the state. Databases may
// be further.
func (s *Store) Applied() uint64 {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.applied
}

// PrepareDatabase makes durable what a database needs before the log names it, so
// that a failure can still be reported. It is not needed for Apply.
func (s *Store) PrepareDatabase(id DatabaseID) error {
	s.keyringMu.Lock()
	defer s.keyringMu.Unlock()
	if _, err := s.cfg.Files.Create(id); err != nil {
		return fmt.Errorf("create files of database %s: %w", id, err)
	}
	return s.recordKeyring()
}

// createDatabase makes a database's keys and files durable, then names it.
// Whatever stands there under this id was never named.
func (s *Store) createDatabase(id DatabaseID, name string) error {
	if err := s.PrepareDatabase(id); err != nil {
		return err
	}
	if err := s.fs().RemoveAll(s.databaseDir(id)); err != nil {
		return err
	}
	d := &database{store: s, id: id, name: name}
	d.openMu.Lock()
	err := d.open(true)
	d.openMu.Unlock()
	if err != nil {
		return err
	}
	raw, err := bson.Marshal(nameRecord{formatVersion, bson.Binary{Data: id[:]}})
	if err == nil {
		b := s.cfg.State.NewBatch()
		err = errors.Join(b.Set(nameKey(name), raw, nil), b.Commit(pebble.Sync), b.Close())
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	d.elem, d.opened = s.lru.PushFront(d), true
	s.byName[name], s.byID[id] = d, d
	s.mu.Unlock()
	s.shrink()
	return nil
}

// applyState commits what the entry changes in the state, if anything. Names that
// go are durably gone before files are.
func (s *Store) applyState(st *stateChange) error {
	e := st.entry
	changes := len(st.dropped) > 0 || st.set != nil
	for _, o := range e.Ops {
		changes = changes || o.Kind == entry.Catalogue
	}
	if st.index <= s.Applied() || !changes && len(e.LSID) == 0 {
		return nil
	}
	b := s.cfg.State.NewBatch()
	defer func() { _ = b.Close() }()
	for _, d := range st.dropped {
		if err := errors.Join(b.Delete(nameKey(d.name), nil), b.Delete(flushedKey(d.id), nil)); err != nil {
			return err
		}
	}
	if len(e.LSID) > 0 {
		if err := s.sessions.stage(b, st.index, e); err != nil {
			return err
		}
	}
	if st.set != nil {
		raw, err := bson.Marshal(setRecord{formatVersion, st.set.Set, st.set.Host, st.set.Version})
		if err := errors.Join(err, b.Set([]byte(stateSet), raw, nil)); err != nil {
			return err
		}
	}
	if err := b.Set([]byte(stateApplied), encodePosition(st.index, st.term), nil); err != nil {
		return err
	}
	sync := pebble.NoSync
	if len(st.dropped) > 0 {
		sync = pebble.Sync
	}
	if err := b.Commit(sync); err != nil {
		return err
	}
	if len(e.LSID) > 0 {
		s.sessions.apply(st.index, e)
	}
	s.state.mu.Lock()
	s.state.applied, s.state.term = st.index, st.term
	if st.set != nil {
		s.state.set = *st.set
	}
	s.state.mu.Unlock()
	for _, d := range st.dropped {
		s.forget(d)
	}
	return nil
}

// forget takes a dropped database out; its last user removes the files.
func (s *Store) forget(d *database) {
	s.mu.Lock()
	delete(s.byName, d.name)
	delete(s.byID, d.id)
	d.dropped = true
	remove := d.refs == 0 && d.pins == 0
	s.mu.Unlock()
	if remove {
		s.remove(d)
	}
}

// target acquires a database that the log names; nil for one that a later entry
// dropped, which was applied before the restart.
func (s *Store) target(id DatabaseID, index uint64) (*database, error) {
	s.mu.Lock()
	d := s.byID[id]
	s.mu.Unlock()
	if d == nil {
		if index <= s.Applied() {
			return nil, nil
		}
		return nil, fmt.Errorf("the log names database %s, which does not exist", id)
	}
	if err := s.acquire(d); err != nil {
		return nil, err
	}
	return d, nil
}

// applyDatabase applies a group in one batch with the applied index.
func (s *Store) applyDatabase(index, term uint64, g *group) error {
	if g.id == (DatabaseID{}) {
		return nil
	}
	d, err := s.target(g.id, index)
	if err != nil || d == nil {
		return err
	}
	defer s.release(d)
	if index <= d.applied {
		return nil
	}
	c := newChange(d)
	defer func() { _ = c.batch.Close() }()
	changes := g.changes
	for _, o := range g.ops {
		var err error
		if o.Kind == entry.Catalogue {
			err = c.catalogue(o, changes[0])
			changes = changes[1:]
		} else {
			err = c.document(o)
		}
		if err != nil {
			return fmt.Errorf("%s in database %s: %w", o.Kind, g.id, err)
		}
	}
	return c.commit(index, term)
}

// commit writes the batch and shows it to readers, at once.
func (c *change) commit(index, term uint64) error {
	for n := range c.touched {
		if err := c.batch.Set(countKey(n), binary.BigEndian.AppendUint64(nil, uint64(c.count(n))), nil); err != nil { //nolint:gosec // two's complement
			return err
		}
	}
	if err := c.writeSchema(); err != nil {
		return err
	}
	if err := c.batch.Set([]byte(metaApplied), encodePosition(index, term), nil); err != nil {
		return err
	}
	d := c.db
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := c.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	for n, delta := range c.touched {
		d.counts[n] += delta
	}
	for n := range c.gone {
		delete(d.counts, n)
	}
	if c.schema != nil {
		d.schema = c.schema
	}
	d.applied, d.term = index, term
	d.noteWritten(c.written, c.gone)
	return nil
}
