package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

const (
	prefixEntry  = 0x01
	prefixStable = 0x02
	keyFirst     = 0x03
	prefixMark   = 0x04

	entryVersion = 1
	entryHead    = 1 + 1 + 8 + 8
)

// errNotFound has the text that raft compares with.
var errNotFound = errors.New("not found")

// Log implements raft.LogStore and raft.StableStore. It is safe for concurrent use. What it
// returned without error is durable, but for the front's truncation, which may
// be forgotten in a crash and is then done again.
type Log struct {
	db *pebble.DB

	mu     sync.RWMutex
	oldest uint64 // of the readable entries, 0 for none
	first  uint64 // for raft; above last if raft's log is empty
	last   uint64
	marks  []mark
	since  int64 // bytes stored since the last mark
}

type mark struct {
	index uint64
	bytes int64
}

var (
	_ raft.LogStore    = (*Log)(nil)
	_ raft.StableStore = (*Log)(nil)
)

// Open reads where the log stands. The instance stays the caller's.
func Open(db *pebble.DB) (*Log, error) {
	l := &Log{db: db}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

func (l *Log) load() error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEntry}, UpperBound: []byte{prefixEntry + 1}})
	if err != nil {
		return err
	}
	if it.First() {
		l.oldest = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if it.Last() {
		l.last = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	v, err := l.get([]byte{keyFirst})
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	l.first = l.oldest
	if len(v) == 8 {
		l.first = max(l.first, binary.BigEndian.Uint64(v))
	}
	return l.loadMarks()
}

func (l *Log) loadMarks() error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixMark}, UpperBound: []byte{prefixMark + 1}})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if len(it.Key()) != 9 || len(v) != 8 {
			return errors.Join(errors.New("a mark is malformed"), it.Close())
		}
		l.marks = append(l.marks, mark{binary.BigEndian.Uint64(it.Key()[1:]), int64(binary.BigEndian.Uint64(v))}) //nolint:gosec // a size
	}
	return errors.Join(it.Error(), it.Close())
}

func (l *Log) get(key []byte) ([]byte, error) {
	v, closer, err := l.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first > l.last {
		return 0, nil
	}
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first > l.last {
		return 0, nil
	}
	return l.last, nil
}

// Oldest is the lowest index that GetLog still finds, 0 if there is none.
func (l *Log) Oldest() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.oldest
}

// GetLog implements raft.LogStore. It finds entries before FirstIndex too, as
// long as the retention keeps them.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	v, closer, err := l.db.Get(entryKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read log entry %d: %w", index, err)
	}
	err = decode(index, v, out)
	return errors.Join(err, closer.Close())
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore: one batch, one sync.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	room := 0
	for _, log := range logs {
		room += entrySize(log) + batchRecord
	}
	b := l.db.NewBatchWithSize(room)
	defer func() { _ = b.Close() }()
	next, size := l.last+1, int64(0)
	if l.first > l.last || l.last == 0 {
		next = logs[0].Index
		if err := b.Set([]byte{keyFirst}, binary.BigEndian.AppendUint64(nil, next), nil); err != nil {
			return fmt.Errorf("store log entries: %w", err)
		}
	}
	start := next
	for _, log := range logs {
		if log.Index != next {
			return fmt.Errorf("store log entries: %d does not follow %d", log.Index, next-1)
		}
		next++
		n := entrySize(log)
		size += int64(n)
		op := b.SetDeferred(entryKeySize, n)
		putEntryKey(op.Key, log.Index)
		encode(op.Value[:0], log)
		if err := op.Finish(); err != nil {
			return fmt.Errorf("store log entries: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("store log entries: %w", err)
	}
	if l.first > l.last || l.last == 0 {
		l.first = start
	}
	if l.oldest == 0 {
		l.oldest = start
	}
	l.last = next - 1
	l.since += size
	return nil
}

// DeleteRange implements raft.LogStore. A range at the front that leaves entries
// behind it only moves the first index.
func (l *Log) DeleteRange(lo, hi uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo <= l.first && hi < l.last {
		first := hi + 1
		if err := l.db.Set([]byte{keyFirst}, binary.BigEndian.AppendUint64(nil, first), pebble.NoSync); err != nil {
			return fmt.Errorf("move the log's first index: %w", err)
		}
		l.first = max(l.first, first)
		return nil
	}
	if lo <= l.first {
		lo = 0 // all of raft's log goes, and with it what may not fit what follows
	}
	b := l.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := b.DeleteRange(entryKey(lo), entryKey(hi+1), nil); err != nil {
		return fmt.Errorf("truncate the log: %w", err)
	}
	if lo == 0 {
		if err := b.DeleteRange([]byte{prefixMark}, []byte{prefixMark + 1}, nil); err != nil {
			return fmt.Errorf("truncate the log: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("truncate the log: %w", err)
	}
	if lo == 0 {
		l.oldest, l.first, l.last, l.marks, l.since = 0, 0, 0, nil, 0
		return nil
	}
	l.last = lo - 1
	return nil
}

// Trim marks the log's end and removes the oldest entries, as whole parts
// between marks, while those that stay hold at least keep bytes. Entries from
// FirstIndex on always stay.
func (l *Log) Trim(keep int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == 0 {
		return nil
	}
	b := l.db.NewBatch()
	defer func() { _ = b.Close() }()
	marks := l.marks
	if l.since > 0 {
		marks = append(marks[:len(marks):len(marks)], mark{l.last + 1, l.since})
		if err := b.Set(markKey(l.last+1), binary.BigEndian.AppendUint64(nil, uint64(l.since)), nil); err != nil {
			return fmt.Errorf("trim the log: %w", err)
		}
	}
	var total int64
	for _, m := range marks {
		total += m.bytes
	}
	oldest := l.oldest
	for len(marks) > 1 && total-marks[0].bytes >= keep && marks[0].index <= l.first {
		total -= marks[0].bytes
		oldest = marks[0].index
		if err := b.Delete(markKey(oldest), nil); err != nil {
			return fmt.Errorf("trim the log: %w", err)
		}
		marks = marks[1:]
	}
	if oldest > l.oldest {
		if err := b.DeleteRange(entryKey(0), entryKey(oldest), nil); err != nil {
			return fmt.Errorf("trim the log: %w", err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("trim the log: %w", err)
	}
	l.marks, l.oldest, l.since = marks, oldest, 0
	return nil
}

// Set implements raft.StableStore.
func (l *Log) Set(key, val []byte) error {
	if err := l.db.Set(append([]byte{prefixStable}, key...), val, pebble.Sync); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Get implements raft.StableStore.
func (l *Log) Get(key []byte) ([]byte, error) { return l.get(append([]byte{prefixStable}, key...)) }

// SetUint64 implements raft.StableStore.
func (l *Log) SetUint64(key []byte, val uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	v, err := l.Get(key)
	if errors.Is(err, errNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("stable value %s has %d bytes", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// Sizes of a key, and about of what a batch adds to key and value.
const (
	entryKeySize = 1 + 8
	batchRecord  = entryKeySize + 16
)

func entryKey(index uint64) []byte {
	k := make([]byte, entryKeySize)
	putEntryKey(k, index)
	return k
}

func putEntryKey(k []byte, index uint64) {
	k[0] = prefixEntry
	binary.BigEndian.PutUint64(k[1:], index)
}

func markKey(index uint64) []byte { return binary.BigEndian.AppendUint64([]byte{prefixMark}, index) }

// entrySize is how many bytes encode appends.
func entrySize(log *raft.Log) int {
	n := 1
	for x := len(log.Extensions); x >= 0x80; x >>= 7 {
		n++
	}
	return entryHead + n + len(log.Extensions) + len(log.Data)
}

func encode(b []byte, log *raft.Log) []byte {
	b = append(b, entryVersion, byte(log.Type))
	b = binary.BigEndian.AppendUint64(b, log.Term)
	var at uint64
	if !log.AppendedAt.IsZero() {
		at = uint64(log.AppendedAt.UnixNano())
	}
	b = binary.BigEndian.AppendUint64(b, at)
	b = binary.AppendUvarint(b, uint64(len(log.Extensions)))
	b = append(b, log.Extensions...)
	return append(b, log.Data...)
}

// decode reads a stored entry; out shares nothing with v.
func decode(index uint64, v []byte, out *raft.Log) error {
	if len(v) < entryHead+1 {
		return fmt.Errorf("log entry %d is malformed", index)
	}
	if v[0] != entryVersion {
		return fmt.Errorf("log entry %d has version %d, this program knows version %d", index, v[0], entryVersion)
	}
	*out = raft.Log{Index: index, Type: raft.LogType(v[1]), Term: binary.BigEndian.Uint64(v[2:])}
	if at := binary.BigEndian.Uint64(v[10:]); at != 0 {
		out.AppendedAt = time.Unix(0, int64(at)) //nolint:gosec // two's complement
	}
	n, w := binary.Uvarint(v[entryHead:])
	rest := v[entryHead:]
	if w <= 0 || n > uint64(len(rest)-w) { //nolint:gosec // w is at most len(rest)
		return fmt.Errorf("log entry %d is malformed", index)
	}
	rest = rest[w:]
	if n > 0 {
		out.Extensions = append([]byte{}, rest[:n]...)
	}
	if len(rest) > int(n) { //nolint:gosec // bounded above
		out.Data = append([]byte{}, rest[n:]...)
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore: entries follow each other without
// a gap, so raft empties the log when it installs a snapshot.
func (l *Log) IsMonotonic() bool { return true }
