package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

// Reasons for which keysets are not touched.
var (
	ErrNotEncrypted    = errors.New("this node's files are not encrypted: there are no keysets")
	ErrUnknownDatabase = errors.New("there is no database of this name")
)

// KeysetStatus tells which keys the files of a database are under.
type KeysetStatus struct {
	ID DatabaseID
	// Name is the database's, empty for the replicated log.
	Name string
	// Newest is the key that new files use.
	Newest uint32
	// Keys holds every key of the keyset, sorted by id.
	Keys []KeyUsage
}

// KeyUsage is what the files under one key take.
type KeyUsage struct {
	ID    uint32
	Files int
	Bytes int64
}

// Settled tells that the keyset has one key only.
func (s KeysetStatus) Settled() bool { return len(s.Keys) == 1 }

// Bytes gives the bytes under the newest key, and all.
func (s KeysetStatus) Bytes() (newest, all int64) {
	for _, k := range s.Keys {
		all += k.Bytes
		if k.ID == s.Newest {
			newest = k.Bytes
		}
	}
	return newest, all
}

// RotateKeysets gives the keyset of a database, or of all and of the ones in also if
// name is empty, a fresh primary key, durably. New files use it at once. after runs when
// the keyring is replaced and its generation not yet noted.
func (s *Store) RotateKeysets(name string, also []DatabaseID, after func()) error {
	k, ok := s.cfg.Files.(keyringFiles)
	if !ok {
		return ErrNotEncrypted
	}
	s.mu.Lock()
	d := s.byName[name]
	s.mu.Unlock()
	if name != "" && d == nil {
		return fmt.Errorf("rotate keyset of %q: %w", name, ErrUnknownDatabase)
	}
	return s.ReplaceKeyring(func() error {
		var ids []DatabaseID
		switch {
		case d != nil:
			ids = []DatabaseID{d.id}
		default:
			ids = append(ids, also...)
			s.mu.Lock()
			for id := range s.byID {
				ids = append(ids, id)
			}
			s.mu.Unlock()
		}
		// A database that is being removed or made may have no keyset.
		ids = slices.DeleteFunc(ids, func(id DatabaseID) bool { _, ok := k.keysetOf(id); return !ok })
		if err := k.rotate(ids); err != nil {
			return err
		}
		after()
		return nil
	})
}

// KeysetStatus describes the keysets of all databases. fresh reads every header anew.
func (s *Store) KeysetStatus(fresh bool) ([]KeysetStatus, error) {
	if !s.cfg.Files.Encrypted() {
		return nil, ErrNotEncrypted
	}
	dbs := s.all()
	defer s.unpin(dbs)
	var out []KeysetStatus
	for _, d := range dbs {
		st, err := s.KeysetOf(d.id, fresh, s.databaseDir(d.id))
		if err != nil {
			return nil, err
		}
		st.Name = d.name
		out = append(out, st)
	}
	return out, nil
}

// KeysetOf describes the keyset of an id whose files stand in dirs.
func (s *Store) KeysetOf(id DatabaseID, fresh bool, dirs ...string) (KeysetStatus, error) {
	out := KeysetStatus{ID: id}
	fs, ks, err := s.sealed(id)
	if err != nil {
		return out, err
	}
	// The keys first: a key that comes later is no old one.
	out.Newest = ks.Primary()
	ids := ks.KeyIDs()
	used, err := fs.Usage(fresh, dirs...)
	if err != nil {
		return out, err
	}
	for _, key := range ids {
		out.Keys = append(out.Keys, KeyUsage{ID: key, Files: used[key].Files, Bytes: used[key].Bytes})
	}
	return out, nil
}

// sealed gives the encrypting file system and the keyset of an id.
func (s *Store) sealed(id DatabaseID) (*cryptofs.FS, *cryptofs.Keyset, error) {
	k, ok := s.cfg.Files.(keyringFiles)
	if !ok {
		return nil, nil, ErrNotEncrypted
	}
	ks, ok := k.keysetOf(id)
	if !ok {
		return nil, nil, fmt.Errorf("the keyring holds no keyset of database %s", id)
	}
	f, err := s.cfg.Files.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return f.(*cryptofs.FS), ks, nil
}

// Compactor rewrites files under the newest keys. It rests as long as it works, a
// mebibyte or a table at a time.
type Compactor struct {
	// Temporary is a directory of the node's file system, for this alone.
	Temporary string
	// Pace is called after every piece of work; it may wait. An error ends the work.
	Pace func() error
	// Step tells how far the work on one keyset is.
	Step func(name string)
}

// CompactKeysets rewrites every database's files that are under old keys, one database
// after the other, and removes the keys that nothing needs then. Where it was ended it
// goes on the next time: what is left to do the files say.
func (s *Store) CompactKeysets(ctx context.Context, c Compactor) error {
	if !s.cfg.Files.Encrypted() {
		return ErrNotEncrypted
	}
	dbs := s.all()
	defer s.unpin(dbs)
	var errs []error
	for _, d := range dbs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.compactDatabase(ctx, d, c); err != nil {
			errs = append(errs, fmt.Errorf("database %s: %w", d.id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) compactDatabase(ctx context.Context, d *database, c Compactor) error {
	_, ks, err := s.sealed(d.id)
	if err != nil {
		s.mu.Lock()
		dropped := d.dropped
		s.mu.Unlock()
		if dropped {
			return nil
		}
		return err
	}
	if len(ks.KeyIDs()) < 2 {
		return nil
	}
	if err := s.acquire(d); err != nil {
		return err
	}
	defer s.release(d)
	return s.Compact(ctx, d.db, d.id, s.databaseDir(d.id), c)
}

// Compact does for one open instance in dir what CompactKeysets does. more are
// directories with further files of its keyset, which must be rewritten or gone
// before its old keys can go.
func (s *Store) Compact(ctx context.Context, db *pebble.DB, id DatabaseID, dir string, c Compactor, more ...string) error {
	fs, ks, err := s.sealed(id)
	if err != nil {
		return err
	}
	if len(ks.KeyIDs()) < 2 {
		return nil
	}
	// What is in memory goes into new files; a log gets a successor.
	if err := db.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	c.Step("flushed")
	if err := compactOld(ctx, db, fs, ks, dir, c.Pace); err != nil {
		return err
	}
	c.Step("compacted")
	// Tables in the lowest level, which Pebble does not compact by themselves, and what
	// is no table.
	tmp := s.fs().PathJoin(c.Temporary, id.String())
	if err := fs.Reseal(dir, tmp, func() error { c.Step("resealing"); return c.Pace() }); err != nil {
		return err
	}
	for _, m := range more {
		if err := fs.Reseal(m, tmp, c.Pace); err != nil {
			return err
		}
	}
	c.Step("resealed")
	return s.dropUnused(id, append([]string{dir}, more...), c)
}

// compactOld compacts what is above the lowest level and under an old key, table by
// table: what was overwritten or deleted need not be rewritten.
func compactOld(ctx context.Context, db *pebble.DB, fs *cryptofs.FS, ks *cryptofs.Keyset, dir string, pace func() error) error {
	levels, err := db.SSTables()
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, tables := range levels[:len(levels)-1] {
		for _, t := range tables {
			h, err := cryptofs.InspectFile(fs.Unwrap(), fs.PathJoin(dir, fmt.Sprintf("%06d.sst", t.BackingSSTNum)))
			if isNotExist(err) || err == nil && h.KeyID == ks.Primary() {
				continue // compacted with one before it
			}
			if err != nil {
				return err
			}
			if err := db.Compact(ctx, t.Smallest.UserKey, append(slices.Clone(t.Largest.UserKey), 0), false); err != nil {
				return fmt.Errorf("compact: %w", err)
			}
			if err := pace(); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropUnused removes the keys that no file names, none under which a file may appear:
// only the newest one is written under.
func (s *Store) dropUnused(id DatabaseID, dirs []string, c Compactor) error {
	k := s.cfg.Files.(keyringFiles)
	fs, ks, err := s.sealed(id)
	if err != nil {
		return err
	}
	newest := ks.Primary()
	old := slices.DeleteFunc(ks.KeyIDs(), func(key uint32) bool { return key == newest })
	// A removed file that a power loss brings back would be one under an old key.
	for _, dir := range dirs {
		if err := syncDir(s.fs(), dir); err != nil && !isNotExist(err) {
			return err
		}
	}
	used, err := fs.Usage(true, dirs...)
	if err != nil {
		return err
	}
	left := 0
	unused := slices.DeleteFunc(old, func(key uint32) bool {
		_, yes := used[key]
		if yes {
			left++
		}
		return yes
	})
	if len(unused) > 0 {
		err = s.ReplaceKeyring(func() error {
			if err := k.drop(map[DatabaseID][]uint32{id: unused}); err != nil {
				return err
			}
			c.Step("dropped")
			return nil
		})
		if err != nil {
			return err
		}
		c.Step("noted")
	}
	if left > 0 {
		return fmt.Errorf("%d keys are still needed by files that are in use: %w", left, ErrUnsettled)
	}
	return nil
}

// ErrUnsettled says that files under old keys were being written: the work is to be
// repeated.
var ErrUnsettled = errors.New("not all files could be rewritten yet")
