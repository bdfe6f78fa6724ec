package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/raftlog"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
)

// Replica is one node's part in its set. It is safe for concurrent use.
type Replica struct {
	cfg     Config
	logger  *slog.Logger
	dir     *directory
	db      *pebble.DB
	log     *raftlog.Log
	store   *storage.Store
	snaps   *snapshots
	raft    *raft.Raft
	latches *latches
	budget  *budget

	own  []func() // gives own caches back
	stop context.CancelFunc
	done sync.WaitGroup // background goroutines
	cut  chan struct{}  // asks for a snapshot

	gather  gatherer
	primary atomic.Bool
	noSpace atomic.Bool

	mu       sync.Mutex
	clock    bson.Timestamp
	applied  OpTime
	progress chan struct{} // closed when something is applied, nil if nobody waits
	changed  chan struct{}
	topology int64
	failed   error
	closing  bool
	writers  int
	idle     chan struct{} // closed when closing and no writer is left
	bytes    int64         // of log since the last snapshot
	entries  uint64
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = 50 * time.Millisecond
	}
	if c.SnapshotBytes == 0 {
		c.SnapshotBytes = 64 << 20
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 50_000
	}
	if c.OplogBytes == 0 {
		c.OplogBytes = 256 << 20
	}
	if c.Reserve == 0 {
		c.Reserve = 64 << 20
	}
}

// Open opens or creates the node's data and replays its log; it returns when
// everything acknowledged before is visible.
func Open(ctx context.Context, cfg Config) (*Replica, error) {
	cfg.setDefaults()
	dir, err := openDirectory(cfg)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if dir.fresh && dir.Node == "" {
		dir.Node = keys.NodeID(keys.NewID(time.Now()))
	}
	r, err := openReplica(ctx, cfg, dir)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if dir.fresh {
		if err := dir.finish(markCreating); err != nil {
			return nil, errors.Join(err, r.Close(ctx))
		}
	}
	if err := r.replay(ctx); err != nil {
		return nil, fmt.Errorf("open node: %w", errors.Join(err, r.Close(ctx)))
	}
	return r, nil
}

// openReplica opens the log's instance and what stands on it.
func openReplica(ctx context.Context, cfg Config, dir *directory) (*Replica, error) {
	r := &Replica{cfg: cfg, logger: cfg.Logger, dir: dir, latches: newLatches(), budget: newBudget(inFlightBytes),
		cut: make(chan struct{}, 1), changed: make(chan struct{}), idle: make(chan struct{})}
	if err := dir.prepareTemporary(); err != nil {
		return nil, err
	}
	r.makeCaches()
	fs, err := cfg.Files.Open(dir.log)
	if err != nil {
		r.dropCaches()
		return nil, err
	}
	o := cryptofs.PebbleOptions(fs, r.shared())
	o.ErrorIfExists, o.ErrorIfNotExists = dir.fresh, !dir.fresh
	o.MemTableSize = max(o.MemTableSize, logMemTable)
	if r.db, err = pebble.Open(dir.join(dirReplication, dir.log.String()), o); err != nil {
		r.dropCaches()
		return nil, fmt.Errorf("open the replicated log: %w", err)
	}
	if err := r.openOn(ctx); err != nil {
		if r.store != nil {
			err = errors.Join(err, r.store.Close(ctx))
		}
		err = errors.Join(err, r.db.Close())
		r.dropCaches()
		return nil, err
	}
	return r, nil
}

// makeCaches gives all databases one cache of blocks and one of open tables, where
// the caller gave none.
func (r *Replica) makeCaches() {
	if r.cfg.Cache == nil {
		c := pebble.NewCache(blockCache)
		r.cfg.Cache = c
		r.own = append(r.own, c.Unref)
	}
	if r.cfg.FileCache == nil {
		c := pebble.NewFileCache(fileCacheShards, fileCacheTables)
		r.cfg.FileCache = c
		r.own = append(r.own, c.Unref)
	}
}

func (r *Replica) dropCaches() {
	for i := len(r.own) - 1; i >= 0; i-- {
		r.own[i]()
	}
	r.own = nil
}

const (
	blockCache      = 32 << 20
	fileCacheShards = 4
	fileCacheTables = 512

	logMemTable   = 16 << 20
	inFlightBytes = 64 << 20
	trailingLogs  = 1024
)

func (r *Replica) shared() cryptofs.Shared {
	return cryptofs.Shared{Cache: r.cfg.Cache, FileCache: r.cfg.FileCache, Logger: r.cfg.Logger,
		OnFatal: r.cfg.OnFatal, MemTableSize: r.cfg.MemTableSize}
}

// openOn opens log, store and snapshots on the open instance.
func (r *Replica) openOn(ctx context.Context) error {
	var err error
	if r.log, err = raftlog.Open(r.db); err != nil {
		return err
	}
	r.store, err = storage.OpenStore(storage.Config{Dir: r.cfg.Dir, State: r.db, Files: r.cfg.Files, Shared: r.shared(), Open: r.cfg.OpenDatabases})
	if err != nil {
		return err
	}
	fs, err := r.cfg.Files.Open(r.dir.log)
	if err != nil {
		return err
	}
	r.snaps = &snapshots{dir: r.dir, fs: fs, store: r.store}
	if err := r.snaps.reap(); err != nil {
		return err
	}
	if err := r.finishRestore(ctx); err != nil {
		return err
	}
	r.clock = r.store.Time()
	r.applied = OpTime{Timestamp: r.clock}
	return nil
}

// finishRestore restores a snapshot that was received before a crash, and empties
// a log that ends before the snapshot.
func (r *Replica) finishRestore(ctx context.Context) error {
	id, ok, err := r.snaps.pending()
	if err != nil {
		return err
	}
	if ok {
		_, rc, err := r.snaps.Open(id)
		if err != nil {
			return err
		}
		err = r.store.Import(ctx, rc, id, r.dir.log)
		if err := errors.Join(err, rc.Close()); err != nil {
			return err
		}
		if err := r.snaps.restored(id); err != nil {
			return err
		}
	}
	list, err := r.snaps.List()
	if err != nil || len(list) == 0 {
		return err
	}
	first, err1 := r.log.FirstIndex()
	last, err2 := r.log.LastIndex()
	if err := errors.Join(err1, err2); err != nil || last == 0 || last >= list[0].Index {
		return err
	}
	return r.log.DeleteRange(first, last)
}

// replay starts raft, which applies the log. A set of one voter has a primary
// when it returns.
func (r *Replica) replay(ctx context.Context) error {
	trans := r.cfg.Transport
	if trans == nil {
		_, trans = raft.NewInmemTransport(raft.ServerAddress(r.dir.Node))
	}
	var err error
	if r.raft, err = raft.NewRaft(r.raftConfig(), fsm{r}, r.log, r.log, r.snaps, trans); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	bg, stop := context.WithCancel(context.Background())
	r.stop = stop
	for _, f := range []func(context.Context){r.watchLeadership, r.cutLog, r.housekeeping} {
		r.done.Go(func() { f(bg) })
	}
	if r.soleVoter() {
		if err := r.waitPrimary(ctx); err != nil {
			return fmt.Errorf("replay the log: %w", err)
		}
	}
	if err := r.failure(); err != nil {
		return err
	}
	return r.store.RemoveUnreferenced(r.dir.log)
}

func (r *Replica) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(r.dir.Node)
	c.ElectionTimeout, c.HeartbeatTimeout = r.cfg.ElectionTimeout, r.cfg.ElectionTimeout
	c.LeaderLeaseTimeout = r.cfg.ElectionTimeout
	c.CommitTimeout = min(50*time.Millisecond, r.cfg.ElectionTimeout/2)
	c.MaxAppendEntries = 256
	c.BatchApplyCh = true
	c.TrailingLogs = trailingLogs
	c.SnapshotInterval = 10 * 365 * 24 * time.Hour // cutLog asks for snapshots
	c.SnapshotThreshold = 1 << 62
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.Logger = raftLogger(r.logger)
	return c
}

// soleVoter tells whether this node alone decides.
func (r *Replica) soleVoter() bool {
	f := r.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	voters, self := 0, false
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || s.ID == raft.ServerID(r.dir.Node)
		}
	}
	return voters == 1 && self
}

func (r *Replica) waitPrimary(ctx context.Context) error {
	for {
		ch := r.Changed()
		if r.primary.Load() {
			return nil
		}
		if err := r.failure(); err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// observe notes applied entries, at being the last one's, with their size in bytes.
func (r *Replica) observe(at OpTime, size, entries int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = at
	if r.progress != nil {
		close(r.progress)
		r.progress = nil
	}
	if at.Timestamp.Compare(r.clock) > 0 {
		r.clock = at.Timestamp
	}
	r.bytes += int64(size)
	r.entries += uint64(entries) //nolint:gosec // not negative
	if size > 0 && (r.bytes >= r.cfg.SnapshotBytes || r.entries >= r.cfg.SnapshotEntries) {
		r.bytes, r.entries = 0, 0
		select {
		case r.cut <- struct{}{}:
		default:
		}
	}
}

// tick gives the next cluster time.
func (r *Replica) tick() bson.Timestamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := uint32(time.Now().Unix()) //nolint:gosec // wraps in 2106
	if now > r.clock.T {
		r.clock = bson.Timestamp{T: now, I: 1}
	} else {
		r.clock.I++
	}
	return r.clock
}

// change tells those who wait for a change of the topology.
func (r *Replica) change() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.topology++
	close(r.changed)
	r.changed = make(chan struct{})
}

// fail ends the node: it cannot apply what the log says.
func (r *Replica) fail(err error) {
	r.mu.Lock()
	first := r.failed == nil
	if first {
		r.failed = err
	}
	r.mu.Unlock()
	if !first {
		return
	}
	r.logger.Error("the node cannot go on", "error", err)
	r.change()
	if r.cfg.OnFatal != nil {
		r.cfg.OnFatal(err.Error())
	}
}

func (r *Replica) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Store gives the node's data for reading.
func (r *Replica) Store() *storage.Store { return r.store }

// Node is the node's identity.
func (r *Replica) Node() keys.NodeID { return r.dir.Node }

// Changed gives a channel that is closed at the next change of the topology.
func (r *Replica) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Status describes the node.
func (r *Replica) Status() Status {
	set := r.store.Set()
	term := r.raft.CurrentTerm()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Node: r.dir.Node, Set: set.Set, Host: set.Host, Version: set.Version, Term: term,
		Primary: r.primary.Load() && set.Set != "" && !r.closing && r.failed == nil,
		Applied: r.applied, Committed: r.applied, TopologyVersion: r.topology}
	binary.BigEndian.PutUint32(s.ElectionID[:], 0x7fffffff)
	binary.BigEndian.PutUint64(s.ElectionID[4:], term)
	return s
}

// Close refuses new writes, waits for those under way, flushes and closes.
// Readers must be closed before.
func (r *Replica) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return nil
	}
	r.closing = true
	if r.writers == 0 {
		close(r.idle)
	}
	r.mu.Unlock()
	r.change()
	var err error
	select {
	case <-r.idle:
	case <-ctx.Done():
		err = fmt.Errorf("wait for writers: %w", ctx.Err())
	}
	if r.raft != nil {
		err = errors.Join(err, r.raft.Shutdown().Error())
	}
	if r.stop != nil {
		r.stop()
		r.done.Wait()
	}
	if r.failure() == nil {
		err = errors.Join(err, r.store.Close(ctx))
	}
	err = errors.Join(err, r.db.Close())
	if r.failure() == nil && err == nil {
		r.dropCaches()
	}
	return err
}

// enter lets a writer in, if the node takes writes; leave must follow.
func (r *Replica) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return retryable(mongoerr.ShutdownInProgress, "The node is shutting down")
	case r.failed != nil:
		return retryable(mongoerr.InterruptedAtShutdown, "The node is going down after an error; see its log")
	case !r.primary.Load():
		return retryable(mongoerr.NotWritablePrimary, "not primary")
	case r.noSpace.Load():
		return mongoerr.New(outOfDiskSpace, "OutOfDiskSpace", "The disk is nearly full: writes are refused until there is space again")
	}
	r.writers++
	return nil
}

const outOfDiskSpace = 14031

func (r *Replica) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writers--
	if r.closing && r.writers == 0 {
		close(r.idle)
	}
}

// retryable makes an error on which drivers send the write again.
func retryable(code int32, format string, args ...any) error {
	return mongoerr.Of(code, format, args...).WithLabels("RetryableWriteError")
}
