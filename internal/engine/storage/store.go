package storage

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

const defaultOpen = 64

// Config says where a Store keeps its databases.
type Config struct {
	// Dir is the node's data directory; databases stand in db/ below it.
	Dir string
	// State is the Pebble instance of the replicated log, which also holds the
	// names of databases and the retry records. It stays the caller's.
	State *pebble.DB
	// Files gives the databases their file systems.
	Files Files
	// Shared is what the instances have in common.
	Shared cryptofs.Shared
	// Open bounds the databases that are open at once; 0 is 64. Ones in use do
	// not count.
	Open int
}

// Store keeps the databases of a node. It is safe for concurrent use; Apply is
// called by one goroutine at a time.
type Store struct {
	cfg Config
	log *slog.Logger

	keyringMu sync.Mutex // one change of the keyring and its record

	applyMu  sync.Mutex // one Apply, or a moment between two
	state    state
	sessions *sessions

	mu     sync.Mutex
	byName map[string]*database
	byID   map[DatabaseID]*database
	lru    *list.List // of *database that are open, newest in front
	closed bool
}

// OpenStore reads the names of the databases. Entries of the log must be applied
// again from the caller's last flush on before anything is read.
func OpenStore(cfg Config) (*Store, error) {
	if cfg.Open == 0 {
		cfg.Open = defaultOpen
	}
	s := &Store{cfg: cfg, log: cfg.Shared.Logger, sessions: newSessions(), lru: list.New(),
		byName: map[string]*database{}, byID: map[DatabaseID]*database{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func (s *Store) fs() vfs.FS { return s.cfg.Files.Base() }

func (s *Store) join(elem ...string) string {
	return s.fs().PathJoin(append([]string{s.cfg.Dir}, elem...)...)
}

func (s *Store) databaseDir(id DatabaseID) string { return s.join("db", id.String()) }

// database is one database. refs counts its users and who only needs that its
// files stay.
type database struct {
	store *Store
	id    DatabaseID
	name  string

	// under Store.mu
	refs, pins int
	dropped    bool
	opened     bool // db is open, and closed only after this was taken back
	elem       *list.Element

	openMu  sync.Mutex // opening and closing
	db      *pebble.DB // valid while refs > 0, after acquire
	floor   uint64     // applied at the last recorded flush
	flushed uint64     // under openMu

	mu      sync.RWMutex // held for writing while a batch and the schema change
	schema  *schema
	counts  map[uint32]int64
	applied uint64
	term    uint64

	recentMu sync.Mutex
	recent   map[uint32]*recent // by collection's number, made at need
}

// acquire opens the database if need be and holds it open until release.
func (s *Store) acquire(d *database) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	d.refs++
	if d.opened { // not to wait for a flush, which holds openMu
		s.lru.MoveToFront(d.elem)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	d.openMu.Lock()
	defer d.openMu.Unlock()
	if d.db == nil {
		if err := d.open(false); err != nil {
			s.releaseLocked(d)
			return fmt.Errorf("open database %s: %w", d.id, err)
		}
	}
	s.mu.Lock()
	if d.elem == nil {
		d.elem = s.lru.PushFront(d)
	} else {
		s.lru.MoveToFront(d.elem)
	}
	d.opened = true
	s.mu.Unlock()
	return nil
}

// lookup finds a database by name and acquires it; nil if there is none.
func (s *Store) lookup(name string) (*database, error) {
	s.mu.Lock()
	d := s.byName[name]
	s.mu.Unlock()
	if d == nil {
		return nil, nil
	}
	return d, s.acquire(d)
}

func (s *Store) releaseLocked(d *database) {
	s.mu.Lock()
	d.refs--
	s.mu.Unlock()
}

// release gives a database back. Idle ones above the limit are flushed and closed;
// a dropped one is removed by its last user.
func (s *Store) release(d *database) {
	s.mu.Lock()
	d.refs--
	remove := d.dropped && d.refs == 0 && d.pins == 0
	many := s.lru.Len() > s.cfg.Open
	s.mu.Unlock()
	if remove {
		s.remove(d)
	}
	if many {
		s.shrink()
	}
}

// shrink closes the databases that were not used longest.
func (s *Store) shrink() {
	for {
		s.mu.Lock()
		var victim *database
		if s.lru.Len() > s.cfg.Open && !s.closed {
			for e := s.lru.Back(); e != nil && victim == nil; e = e.Prev() {
				if d := e.Value.(*database); d.refs == 0 {
					victim = d
				}
			}
		}
		s.mu.Unlock()
		if victim == nil {
			return
		}
		if err := s.closeIdle(victim); err != nil {
			s.log.Error("close idle database", "database", victim.id.String(), "error", err)
			return
		}
	}
}

// closeIdle flushes and closes a database unless somebody took it meanwhile.
func (s *Store) closeIdle(d *database) error {
	d.openMu.Lock()
	defer d.openMu.Unlock()
	s.mu.Lock()
	busy := d.refs > 0 || d.db == nil
	if !busy {
		s.lru.Remove(d.elem)
		d.elem, d.opened = nil, false
	}
	s.mu.Unlock()
	if busy {
		return nil
	}
	return d.close(true)
}

// open opens the instance; create makes it. The caller holds openMu.
func (d *database) open(create bool) error {
	open := d.store.cfg.Files.Open
	if create {
		open = d.store.cfg.Files.Create
	}
	fs, err := open(d.id)
	if err != nil {
		return err
	}
	o := cryptofs.PebbleOptions(fs, d.store.cfg.Shared)
	o.DisableWAL = true
	o.ErrorIfNotExists, o.ErrorIfExists = !create, create
	db, err := pebble.Open(d.store.databaseDir(d.id), o)
	if err != nil {
		return err
	}
	if err := d.load(db, create); err != nil {
		return errors.Join(err, db.Close())
	}
	d.db = db
	return nil
}

// load reads what is kept in memory.
func (d *database) load(db *pebble.DB, create bool) error {
	if create {
		if err := db.Set([]byte(metaVersion), []byte{formatVersion}, pebble.NoSync); err != nil {
			return err
		}
		if err := db.Flush(); err != nil {
			return err
		}
	}
	v, err := get(db, []byte(metaVersion))
	if err != nil {
		return err
	}
	if len(v) != 1 || v[0] != formatVersion {
		return fmt.Errorf("format version %v is not known, this program knows version %d", v, formatVersion)
	}
	index, term, err := readPosition(db, metaApplied)
	if err != nil {
		return err
	}
	if index < d.floor {
		return fmt.Errorf("it was applied up to log index %d before, but holds only %d: its directory was replaced by an older one", d.floor, index)
	}
	s, counts, err := loadSchema(db)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.schema, d.counts, d.applied, d.term = s, counts, index, term
	d.recentMu.Lock()
	d.recent = map[uint32]*recent{}
	d.recentMu.Unlock()
	d.mu.Unlock()
	d.flushed = index
	return nil
}

// flush makes everything applied durable. The caller holds openMu.
func (d *database) flush() error {
	d.mu.RLock()
	applied := d.applied
	d.mu.RUnlock()
	if d.db == nil || applied == d.flushed {
		return nil
	}
	if err := d.db.Flush(); err != nil {
		return fmt.Errorf("flush database %s: %w", d.id, err)
	}
	d.flushed = applied
	return nil
}

// close ends the instance, flushed if asked: it has no log of its own. The
// caller holds openMu.
func (d *database) close(flush bool) error {
	if d.db == nil {
		return nil
	}
	if flush {
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	db := d.db
	d.db = nil
	d.mu.Unlock()
	if err := db.Close(); err != nil {
		return fmt.Errorf("close database %s: %w", d.id, err)
	}
	return nil
}

// remove deletes the files and then the keys of a dropped database. What a crash
// leaves is removed at the next start.
func (s *Store) remove(d *database) {
	d.openMu.Lock()
	defer d.openMu.Unlock()
	s.mu.Lock()
	if d.elem != nil {
		s.lru.Remove(d.elem)
		d.elem = nil
	}
	d.opened = false
	s.mu.Unlock()
	err := d.close(false)
	if err == nil {
		err = s.removeFiles(d.id)
	}
	if err != nil {
		s.log.Error("remove dropped database", "database", d.id.String(), "error", err)
	}
}

func (s *Store) removeFiles(id DatabaseID) error {
	if err := s.fs().RemoveAll(s.databaseDir(id)); err != nil {
		return err
	}
	if err := syncDir(s.fs(), s.join("db")); err != nil && !isNotExist(err) {
		return err
	}
	s.keyringMu.Lock()
	defer s.keyringMu.Unlock()
	return errors.Join(s.cfg.Files.Remove(id), s.recordKeyring())
}

// RemoveUnreferenced removes directories that no database owns: what a crash left
// between making one and naming it, or between dropping and removing one. It is
// called after the log was replayed. keep names ids with files elsewhere, whose keys
// stay.
func (s *Store) RemoveUnreferenced(keep ...DatabaseID) error {
	names, err := s.fs().List(s.join("db"))
	if err != nil && !isNotExist(err) {
		return fmt.Errorf("list databases: %w", err)
	}
	if k, ok := s.cfg.Files.(keyringFiles); ok {
		for _, id := range k.databases() {
			if !slices.Contains(keep, id) {
				names = append(names, id.String())
			}
		}
	}
	for _, name := range names {
		id, err := cryptofs.ParseDatabaseID(path.Base(strings.TrimRight(name, "/")))
		if err != nil {
			continue
		}
		s.mu.Lock()
		_, known := s.byID[id]
		s.mu.Unlock()
		if known {
			continue
		}
		s.log.Info("remove unreferenced database", "database", id.String())
		if err := s.removeFiles(id); err != nil {
			return fmt.Errorf("remove unreferenced database %s: %w", id, err)
		}
	}
	return nil
}

// all gives the databases by id, each pinned until unpin.
func (s *Store) all() []*database {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*database, 0, len(s.byID))
	for _, d := range s.byID {
		d.pins++
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *database) int { return strings.Compare(string(a.id[:]), string(b.id[:])) })
	return out
}

func (s *Store) unpin(dbs []*database) {
	for _, d := range dbs {
		s.mu.Lock()
		d.pins--
		remove := d.dropped && d.refs == 0 && d.pins == 0
		s.mu.Unlock()
		if remove {
			s.remove(d)
		}
	}
}

// Flush makes everything durable that was applied before the call, and records how far
// each database is. Only after it the log may be cut, up to the index applied before.
func (s *Store) Flush(ctx context.Context) error {
	dbs := s.all()
	defer s.unpin(dbs)
	b := s.cfg.State.NewBatch()
	defer func() { _ = b.Close() }()
	for _, d := range dbs {
		if err := ctx.Err(); err != nil {
			return err
		}
		d.openMu.Lock()
		err := d.flush()
		if err == nil && d.flushed > d.floor {
			d.floor = d.flushed
			err = b.Set(flushedKey(d.id), encodePosition(d.flushed, 0)[:8], nil)
		}
		d.openMu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := s.state.flushInto(b); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("flush state: %w", err)
	}
	return nil
}

// Close flushes and closes every database. Readers must be closed before.
func (s *Store) Close(ctx context.Context) error {
	err := s.Flush(ctx)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	dbs := s.all()
	for _, d := range dbs {
		d.openMu.Lock()
		s.mu.Lock()
		busy := d.refs
		s.mu.Unlock()
		switch {
		case busy > 0:
			err = errors.Join(err, fmt.Errorf("database %s is still in use by %d readers", d.id, busy))
		default:
			err = errors.Join(err, d.close(err == nil))
		}
		d.openMu.Unlock()
	}
	return err
}
