package storage

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"github.com/cockroachdb/pebble/v2"
)

// Sizes of a recent: keys of a generation, and the bits and probes for each.
const (
	recentLeast  = 1 << 10
	recentMost   = 1 << 16
	recentBits   = 16
	recentProbes = 6
)

// recent tells of a collection's newest _id keys that they are absent, without
// asking the instance: most inserts bring a key above nearly all that are there.
//
// What it relies on: every stored key above floor is in one of the two filters.
// It starts with the highest stored key as floor; each key that is written above it
// is added; when a generation is full the older one is dropped, and floor raised to
// the highest key that was in it. A filter never denies what was added, so what it
// denies above floor is not stored. Deleted keys may stay, which only costs a look
// at the instance.
type recent struct {
	seed  maphash.Seed
	floor []byte
	now   *filter
	old   *filter
}

// filter is a Bloom filter of one generation of keys.
type filter struct {
	bits  []uint64
	limit int
	count int
	max   []byte
}

func newRecent(floor []byte) *recent { return &recent{seed: maphash.MakeSeed(), floor: floor} }

func newFilter(limit int) *filter {
	return &filter{bits: make([]uint64, limit*recentBits/64), limit: limit}
}

// absent tells whether a key is surely not stored.
func (r *recent) absent(key []byte) bool {
	if bytes.Compare(key, r.floor) <= 0 {
		return false
	}
	h := maphash.Bytes(r.seed, key)
	return !r.now.has(h) && !r.old.has(h)
}

// add notes a key that is written.
func (r *recent) add(key []byte) {
	if bytes.Compare(key, r.floor) <= 0 {
		return
	}
	switch {
	case r.now == nil:
		r.now = newFilter(recentLeast)
	case r.now.count >= r.now.limit:
		if r.old != nil && bytes.Compare(r.old.max, r.floor) > 0 {
			r.floor = r.old.max
		}
		r.old, r.now = r.now, newFilter(min(2*r.now.limit, recentMost))
	}
	r.now.add(maphash.Bytes(r.seed, key), key)
}

func (f *filter) add(h uint64, key []byte) {
	step := h>>32 | 1
	for range recentProbes {
		n := h % uint64(len(f.bits)*64)
		f.bits[n/64] |= 1 << (n % 64)
		h += step
	}
	f.count++
	if bytes.Compare(key, f.max) > 0 {
		f.max = append(f.max[:0:0], key...)
	}
}

func (f *filter) has(h uint64) bool {
	if f == nil {
		return false
	}
	step := h>>32 | 1
	for range recentProbes {
		n := h % uint64(len(f.bits)*64)
		if f.bits[n/64]&(1<<(n%64)) == 0 {
			return false
		}
		h += step
	}
	return true
}

// absent tells whether the newest applied state surely lacks a document.
func (d *database) absent(coll uint32, idKey []byte) bool {
	d.recentMu.Lock()
	r := d.recent[coll]
	if r != nil {
		defer d.recentMu.Unlock()
		return r.absent(idKey)
	}
	d.recentMu.Unlock()
	return d.startRecent(coll) && d.absent(coll, idKey)
}

// startRecent makes the recent of a collection, while nothing is committed.
func (d *database) startRecent(coll uint32) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	floor, err := d.lastKey(coll)
	if err != nil {
		return false // who reads the document meets the error
	}
	d.recentMu.Lock()
	defer d.recentMu.Unlock()
	if d.recent[coll] == nil {
		d.recent[coll] = newRecent(floor)
	}
	return true
}

// lastKey is the highest _id key of a collection, nil if it is empty.
func (d *database) lastKey(coll uint32) ([]byte, error) {
	prefix := docPrefix(coll)
	lower, upper := prefixRange(prefix)
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	var key []byte
	if it.Last() {
		key = append(key, it.Key()[len(prefix):]...)
	}
	if err := it.Error(); err != nil {
		_ = it.Close()
		return nil, err
	}
	return key, it.Close()
}

// noteWritten adds what a batch wrote, and forgets collections that went. keys
// holds length(4) and _id key of each. The caller holds mu for writing.
func (d *database) noteWritten(keys map[uint32][]byte, gone map[uint32]bool) {
	d.recentMu.Lock()
	defer d.recentMu.Unlock()
	for coll, list := range keys {
		r := d.recent[coll]
		for r != nil && len(list) > 0 {
			n := 4 + binary.BigEndian.Uint32(list)
			r.add(list[4:n])
			list = list[n:]
		}
	}
	for coll := range gone {
		delete(d.recent, coll)
	}
}
