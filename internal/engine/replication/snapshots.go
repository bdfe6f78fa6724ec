package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/storage"
)

// snapshots is raft's snapshot store. A snapshot of this node's own is only a note
// that everything up to an index is flushed; the databases themselves are the
// snapshot. When another member needs it, Open makes the stream of what
// the databases hold then, which is the snapshot's state or a later one; a database
// skips the entries that it has. A snapshot received from another member is kept
// as a file until it is restored.
//
// A snapshot <index>-<term>-<number> is a file <id>.meta, a BSON document, and for
// a received one <id>.stream, both through the replicated log's file system.
type snapshots struct {
	dir   *directory
	fs    vfs.FS
	store *storage.Store

	mu     sync.Mutex
	number int
}

const (
	suffixMeta      = ".meta"
	suffixStream    = ".stream"
	snapshotVersion = 1
	keepSnapshots   = 2
	maxMeta         = 1 << 20
)

// snapshotMeta is a snapshot as stored.
type snapshotMeta struct {
	Version     int32            `bson:"v"`
	Index       int64            `bson:"index"`
	Term        int64            `bson:"term"`
	ConfigIndex int64            `bson:"configIndex"`
	Servers     []snapshotServer `bson:"servers"`
	Received    bool             `bson:"received"`
	Size        int64            `bson:"size"`
}

type snapshotServer struct {
	ID       string `bson:"id"`
	Address  string `bson:"address"`
	Suffrage int32  `bson:"suffrage"`
}

func metaOf(m raft.SnapshotMeta) snapshotMeta {
	out := snapshotMeta{Version: snapshotVersion, Index: int64(m.Index), Term: int64(m.Term), ConfigIndex: int64(m.ConfigurationIndex), Servers: []snapshotServer{}} //nolint:gosec // below 2^63
	for _, s := range m.Configuration.Servers {
		out.Servers = append(out.Servers, snapshotServer{string(s.ID), string(s.Address), int32(s.Suffrage)}) //nolint:gosec // a small number
	}
	return out
}

func (m snapshotMeta) raft(id string) *raft.SnapshotMeta {
	out := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, ID: id, Index: uint64(m.Index), Term: uint64(m.Term), ConfigurationIndex: uint64(m.ConfigIndex), Size: m.Size} //nolint:gosec // written from uint64
	for _, s := range m.Servers {
		out.Configuration.Servers = append(out.Configuration.Servers,
			raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address), Suffrage: raft.ServerSuffrage(s.Suffrage)})
	}
	return out
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	id := s.newID(index, term)
	return &sink{store: s, id: id, meta: metaOf(raft.SnapshotMeta{Index: index, Term: term, Configuration: c, ConfigurationIndex: ci})}, nil
}

func (s *snapshots) newID(index, term uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.number++
		id := fmt.Sprintf("%020d-%020d-%d", index, term, s.number)
		if _, err := s.fs.Stat(s.path(id + suffixMeta)); err != nil {
			return id
		}
	}
}

func (s *snapshots) path(name string) string { return s.dir.join(dirSnapshots, name) }

// List implements raft.SnapshotStore: newest first.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.fs.List(s.dir.join(dirSnapshots))
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []*raft.SnapshotMeta
	for _, name := range names {
		id, ok := strings.CutSuffix(name, suffixMeta)
		if !ok {
			continue
		}
		m, err := s.read(id)
		if err != nil {
			return nil, err
		}
		out = append(out, m.raft(id))
	}
	slices.SortFunc(out, func(a, b *raft.SnapshotMeta) int {
		return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Term, a.Term), strings.Compare(b.ID, a.ID))
	})
	return out, nil
}

func (s *snapshots) read(id string) (snapshotMeta, error) {
	f, err := s.fs.Open(s.path(id + suffixMeta))
	if err != nil {
		return snapshotMeta{}, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxMeta))
	if err := errors.Join(err, f.Close()); err != nil {
		return snapshotMeta{}, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	var m snapshotMeta
	if err := bson.Unmarshal(raw, &m); err != nil {
		return snapshotMeta{}, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	if m.Version != snapshotVersion {
		return snapshotMeta{}, fmt.Errorf("snapshot %s has version %d, this program knows version %d", id, m.Version, snapshotVersion)
	}
	return m, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, err := s.read(id)
	if err != nil {
		return nil, nil, err
	}
	out := m.raft(id)
	restored, err := s.store.Restored()
	if err != nil {
		return nil, nil, err
	}
	if m.Received && restored != id {
		f, err := s.fs.Open(s.path(id+suffixStream), vfs.SequentialReadsOption)
		return out, f, err
	}
	path, size, err := s.export(id)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	f, err := s.fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, nil, errors.Join(err, s.fs.Remove(path))
	}
	out.Size = size
	return out, &temporary{File: f, fs: s.fs, path: path}, nil
}

// export writes the stream into a temporary file: raft wants to know its size.
func (s *snapshots) export(id string) (path string, size int64, err error) {
	s.mu.Lock()
	s.number++
	path = s.dir.join(dirTemporary, fmt.Sprintf("%s-%d%s", id, s.number, suffixStream))
	s.mu.Unlock()
	f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", 0, err
	}
	w := &counter{w: f}
	err = s.store.Export(context.Background(), w)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", 0, errors.Join(err, s.fs.Remove(path))
	}
	return path, w.n, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(append([]byte(nil), b...)) // a vfs.File may change what it is given
	c.n += int64(n)
	return n, err
}

// temporary is a file that goes when it is closed.
type temporary struct {
	vfs.File
	fs   vfs.FS
	path string
}

func (t *temporary) Close() error { return errors.Join(t.File.Close(), t.fs.Remove(t.path)) }

// pending is the newest snapshot if it was received and not restored yet.
func (s *snapshots) pending() (id string, ok bool, err error) {
	list, err := s.List()
	if err != nil || len(list) == 0 {
		return "", false, err
	}
	m, err := s.read(list[0].ID)
	if err != nil || !m.Received {
		return "", false, err
	}
	restored, err := s.store.Restored()
	return list[0].ID, err == nil && restored != list[0].ID, err
}

// restored removes the stream of a snapshot that was restored.
func (s *snapshots) restored(id string) error {
	return s.fs.Remove(s.path(id + suffixStream))
}

// reap removes old snapshots and what interrupted ones left.
func (s *snapshots) reap() error {
	list, err := s.List()
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for i, m := range list {
		keep[m.ID] = i < keepSnapshots
	}
	names, err := s.fs.List(s.dir.join(dirSnapshots))
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		id := strings.TrimSuffix(strings.TrimSuffix(name, suffixMeta), suffixStream)
		if !keep[id] {
			err = errors.Join(err, s.fs.Remove(s.path(name)))
		}
	}
	return err
}

// put writes a file of the snapshot directory durably, under its name from the start.
func (s *snapshots) put(name string, content []byte) error {
	f, err := s.fs.Create(s.dir.join(dirTemporary, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.publish(name)
}

// publish moves a synced file from the temporaries.
func (s *snapshots) publish(name string) error {
	if err := s.fs.Rename(s.dir.join(dirTemporary, name), s.path(name)); err != nil {
		return err
	}
	return s.dir.sync(s.dir.join(dirSnapshots))
}

func (s *snapshots) putMeta(id string, m snapshotMeta) error {
	raw, err := bson.Marshal(m)
	if err != nil {
		return err
	}
	return s.put(id+suffixMeta, raw)
}

// sink takes a snapshot: nothing for one of this node's own, the stream for one
// that is received.
type sink struct {
	store *snapshots
	id    string
	meta  snapshotMeta
	file  vfs.File
	done  bool
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.id }

// Write implements io.Writer.
func (k *sink) Write(b []byte) (int, error) {
	if k.file == nil {
		f, err := k.store.fs.Create(k.store.dir.join(dirTemporary, k.id+suffixStream), vfs.WriteCategoryUnspecified)
		if err != nil {
			return 0, err
		}
		k.file, k.meta.Received = f, true
	}
	n, err := k.file.Write(append([]byte(nil), b...))
	k.meta.Size += int64(n)
	return n, err
}

// Close implements raft.SnapshotSink: afterwards the snapshot is durable.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	if k.file != nil {
		if err := errors.Join(k.file.Sync(), k.file.Close()); err != nil {
			return fmt.Errorf("store snapshot: %w", err)
		}
		if err := k.store.publish(k.id + suffixStream); err != nil {
			return fmt.Errorf("store snapshot: %w", err)
		}
	}
	if err := k.store.putMeta(k.id, k.meta); err != nil {
		return fmt.Errorf("store snapshot: %w", err)
	}
	return k.store.reap()
}

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.done {
		return nil
	}
	k.done = true
	if k.file == nil {
		return nil
	}
	return errors.Join(k.file.Close(), k.store.fs.Remove(k.store.dir.join(dirTemporary, k.id+suffixStream)))
}
