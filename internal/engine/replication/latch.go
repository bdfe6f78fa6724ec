package replication

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
)

// latchKey names what is latched. Keys of one writer are taken in their order
// when it has to wait for several, so databases sort before collections before
// documents.
type latchKey string

type latchMode uint8

const (
	shared latchMode = iota + 1
	exclusive
)

func databaseLatch(db string) latchKey { return latchKey("a" + db) }

func collectionLatch(db, coll string) latchKey { return latchKey("b" + db + "\x00" + coll) }

func documentLatch(coll [16]byte, idKey []byte) latchKey {
	return latchKey("c" + string(coll[:]) + string(idKey))
}

func uniqueLatch(coll [16]byte, number uint32, key []byte) latchKey {
	n := binary.BigEndian.AppendUint32(nil, number)
	return latchKey("d" + string(coll[:]) + string(n) + string(key))
}

func sessionLatch(lsid []byte) latchKey { return latchKey("s" + string(lsid)) }

const latchShards = 64

// latches is the table of all latches of a node.
type latches struct {
	seed   maphash.Seed
	shards [latchShards]latchShard
}

type latchShard struct {
	mu   sync.Mutex
	held map[latchKey]*latch
}

// latch is one held latch: several sharing, or one exclusive, and who waits, first come
// first served.
type latch struct {
	mode  latchMode
	count int
	queue []*latchWaiter
}

type latchWaiter struct {
	mode    latchMode
	granted chan struct{}
}

func newLatches() *latches {
	t := &latches{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].held = map[latchKey]*latch{}
	}
	return t
}

func (t *latches) shard(k latchKey) *latchShard {
	return &t.shards[maphash.String(t.seed, string(k))%latchShards]
}

// try takes a latch if nobody has to be waited for.
func (t *latches) try(k latchKey, mode latchMode) bool {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.try(k, mode)
}

func (s *latchShard) try(k latchKey, mode latchMode) bool {
	l := s.held[k]
	if l == nil {
		s.held[k] = &latch{mode: mode, count: 1}
		return true
	}
	if len(l.queue) > 0 || l.mode == exclusive || mode == exclusive {
		return false
	}
	l.count++
	return true
}

// take takes a latch, waiting for it in line.
func (t *latches) take(ctx context.Context, k latchKey, mode latchMode) error {
	s := t.shard(k)
	s.mu.Lock()
	if s.try(k, mode) {
		s.mu.Unlock()
		return nil
	}
	w := &latchWaiter{mode: mode, granted: make(chan struct{})}
	l := s.held[k]
	l.queue = append(l.queue, w)
	s.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(l.queue, w); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
		s.grant(k, l)
		return ctx.Err()
	}
	s.drop(k, l) // it was granted just now
	return ctx.Err()
}

// release gives a latch back.
func (t *latches) release(k latchKey) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(k, s.held[k])
}

func (s *latchShard) drop(k latchKey, l *latch) {
	l.count--
	s.grant(k, l)
}

// grant serves those in line as far as possible and forgets a free latch.
func (s *latchShard) grant(k latchKey, l *latch) {
	for len(l.queue) > 0 {
		w := l.queue[0]
		if l.count > 0 && (l.mode == exclusive || w.mode == exclusive) {
			return
		}
		l.mode = w.mode
		l.count++
		l.queue = l.queue[1:]
		close(w.granted)
	}
	if l.count == 0 {
		delete(s.held, k)
	}
}

// latchSet is what one writer holds. It belongs to one goroutine.
type latchSet struct {
	table *latches
	held  map[latchKey]latchMode
}

func (t *latches) set() *latchSet { return &latchSet{table: t, held: map[latchKey]latchMode{}} }

// has tells whether the set holds the latch in at least this mode.
func (h *latchSet) has(k latchKey, mode latchMode) bool { return h.held[k] >= mode }

// try takes a latch without waiting. A latch is never raised from shared to
// exclusive.
func (h *latchSet) try(k latchKey, mode latchMode) bool {
	if h.has(k, mode) {
		return true
	}
	if !h.table.try(k, mode) {
		return false
	}
	h.held[k] = mode
	return true
}

// take takes latches in their order, waiting. The set must be empty: who waits
// in order while holding only what comes before never closes a circle, and
// everybody else does not wait while holding.
func (h *latchSet) take(ctx context.Context, want map[latchKey]latchMode) error {
	keys := make([]latchKey, 0, len(want))
	for k := range want {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := h.table.take(ctx, k, want[k]); err != nil {
			h.releaseAll()
			return err
		}
		h.held[k] = want[k]
	}
	return nil
}

func (h *latchSet) releaseAll() {
	for k := range h.held {
		h.table.release(k)
	}
	clear(h.held)
}
