package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("storage: the store is closed")

// SetInfo is what the node knows of its replica set.
type SetInfo struct {
	Set     string
	Host    string
	Version int64
}

// state is what the node keeps beside its databases, in the log's instance.
type state struct {
	mu      sync.RWMutex
	applied uint64
	term    uint64
	time    bson.Timestamp
	set     SetInfo
}

type nameRecord struct {
	Version int32       `bson:"v"`
	ID      bson.Binary `bson:"id"`
}

type setRecord struct {
	Version int32  `bson:"v"`
	Set     string `bson:"set"`
	Host    string `bson:"host"`
	Config  int64  `bson:"version"`
}

func nameKey(name string) []byte { return append([]byte{prefixName}, name...) }

func flushedKey(id DatabaseID) []byte { return append([]byte{prefixFlushed}, id[:]...) }

// load reads the state instance.
func (s *Store) load() error {
	db := s.cfg.State
	v, err := get(db, []byte(stateVersion))
	if err != nil {
		return err
	}
	if v == nil {
		if err := db.Set([]byte(stateVersion), []byte{formatVersion}, pebble.Sync); err != nil {
			return err
		}
		v = []byte{formatVersion}
	}
	if len(v) != 1 || v[0] != formatVersion {
		return fmt.Errorf("format version %v is not known, this program knows version %d", v, formatVersion)
	}
	if err := s.confirmKeyring(); err != nil {
		return err
	}
	return s.reload()
}

// reload reads what the state instance holds, anew.
func (s *Store) reload() error {
	db := s.cfg.State
	s.state.mu.Lock()
	err := s.state.load(db)
	s.state.mu.Unlock()
	if err != nil {
		return err
	}
	floors := map[DatabaseID]uint64{}
	if err := each(db, []byte{prefixFlushed}, func(k, v []byte) error {
		if len(k) != 17 || len(v) != 8 {
			return errors.New("a record of a flush is malformed")
		}
		floors[DatabaseID(k[1:])] = binary.BigEndian.Uint64(v)
		return nil
	}); err != nil {
		return err
	}
	s.mu.Lock()
	clear(s.byName)
	clear(s.byID)
	s.mu.Unlock()
	if err := each(db, []byte{prefixName}, func(k, v []byte) error {
		var r nameRecord
		if err := bson.Unmarshal(v, &r); err != nil || r.Version != formatVersion || len(r.ID.Data) != 16 {
			return fmt.Errorf("a database's record is malformed or of version %d, this program knows version %d", r.Version, formatVersion)
		}
		d := &database{store: s, id: DatabaseID(r.ID.Data), name: string(k[1:])}
		d.floor = floors[d.id]
		s.name(d)
		return nil
	}); err != nil {
		return err
	}
	return s.sessions.load(db)
}

func (s *Store) name(d *database) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[d.name], s.byID[d.id] = d, d
}

func (t *state) load(db *pebble.DB) error {
	var err error
	if t.applied, t.term, err = readPosition(db, stateApplied); err != nil {
		return err
	}
	v, err := get(db, []byte(stateTime))
	if err != nil {
		return err
	}
	t.time = bson.Timestamp{}
	if len(v) == 8 {
		t.time = decodeTime(v)
	}
	v, err = get(db, []byte(stateSet))
	if err != nil {
		return err
	}
	t.set = SetInfo{}
	if v != nil {
		var r setRecord
		if err := bson.Unmarshal(v, &r); err != nil || r.Version != formatVersion {
			return fmt.Errorf("the set's record is malformed or of version %d, this program knows version %d", r.Version, formatVersion)
		}
		t.set = SetInfo{Set: r.Set, Host: r.Host, Version: r.Config}
	}
	return nil
}

// flushInto writes what is kept in memory only.
func (t *state) flushInto(b *pebble.Batch) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return b.Set([]byte(stateTime), encodeTime(t.time), nil)
}

// Set tells what is known of the replica set; zero before it was configured.
func (s *Store) Set() SetInfo {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.set
}

// Time is the cluster time of the newest entry applied.
func (s *Store) Time() bson.Timestamp {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.time
}

func encodeTime(t bson.Timestamp) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, t.T), t.I)
}

func decodeTime(v []byte) bson.Timestamp {
	return bson.Timestamp{T: binary.BigEndian.Uint32(v), I: binary.BigEndian.Uint32(v[4:])}
}

func readPosition(r pebble.Reader, key string) (index, term uint64, err error) {
	v, err := get(r, []byte(key))
	if err != nil || v == nil {
		return 0, 0, err
	}
	if len(v) != 16 {
		return 0, 0, errors.New("the applied index is malformed")
	}
	return binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:]), nil
}

// keyringFiles are Files whose keyring counts its generations.
type keyringFiles interface {
	generation() uint64
	confirm(recorded uint64) error
	databases() []DatabaseID
	rotate(ids []DatabaseID) error
	drop(unused map[DatabaseID][]uint32) error
	keysetOf(id DatabaseID) (*cryptofs.Keyset, bool)
}

// confirmKeyring compares the keyring that was found with the generation that the
// state names: an older one that was put back is refused.
func (s *Store) confirmKeyring() error {
	k, ok := s.cfg.Files.(keyringFiles)
	if !ok {
		return nil
	}
	v, err := get(s.cfg.State, []byte(stateKeyring))
	if err != nil {
		return err
	}
	if len(v) == 8 {
		if err := k.confirm(binary.BigEndian.Uint64(v)); err != nil {
			return err
		}
	}
	return s.recordKeyring()
}

// ReplaceKeyring runs change, which replaces the keyring once (a new master key, or
// other keys in keysets), and notes its new generation. Between the two nothing else
// changes the keyring: a keyring two generations ahead of the note is refused at the
// next start. A change that fails may have made a generation too.
func (s *Store) ReplaceKeyring(change func() error) error {
	s.keyringMu.Lock()
	defer s.keyringMu.Unlock()
	return errors.Join(change(), s.recordKeyring())
}

func (s *Store) recordKeyring() error {
	k, ok := s.cfg.Files.(keyringFiles)
	if !ok {
		return nil
	}
	v := binary.BigEndian.AppendUint64(nil, k.generation())
	if err := s.cfg.State.Set([]byte(stateKeyring), v, pebble.Sync); err != nil {
		return fmt.Errorf("record the keyring's generation: %w", err)
	}
	return nil
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
