package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// Iterator walks over documents in key order. It belongs to one goroutine.
type Iterator struct {
	coll    *Collection
	index   *indexDef // nil for the documents themselves
	prefix  []byte
	bounds  []index.Bound // those to come, the next one first
	reverse bool
	seen    map[string]struct{} // documents of a multikey index

	it       *pebble.Iterator
	moved    bool // it stands on a key of its bound
	key, id  []byte
	keys     int64
	docs     int64
	fetched  bool
	err      error
	finished bool
}

func newIterator(c *Collection, ix *indexDef, bounds []index.Bound, reverse bool) *Iterator {
	it := &Iterator{coll: c, index: ix, bounds: bounds, reverse: reverse, prefix: docPrefix(c.def.number)}
	if ix != nil {
		it.prefix = indexPrefix(c.def.number, ix.number)
		if ix.multikey {
			it.seen = map[string]struct{}{}
		}
	}
	if reverse {
		it.bounds = slices.Clone(bounds)
		slices.Reverse(it.bounds)
	}
	return it
}

// Next goes to the next document; false at the end or after an error (Err).
func (it *Iterator) Next() bool {
	it.fetched = false
	for it.err == nil && !it.finished {
		if !it.step() {
			continue
		}
		it.keys++
		if it.err = it.split(); it.err != nil {
			return false
		}
		if it.seen == nil {
			return true
		}
		if _, again := it.seen[string(it.id)]; again {
			continue
		}
		it.seen[string(it.id)] = struct{}{}
		return true
	}
	return false
}

// step moves to the next stored key; false if this bound is at its end.
func (it *Iterator) step() bool {
	if it.it == nil {
		if len(it.bounds) == 0 {
			it.finished = true
			return false
		}
		lower, upper := within(it.prefix, it.bounds[0])
		it.bounds = it.bounds[1:]
		if it.it, it.err = it.coll.reader.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper}); it.err != nil {
			return false
		}
		it.moved = false
	}
	var ok bool
	switch {
	case !it.moved && it.reverse:
		ok = it.it.Last()
	case !it.moved:
		ok = it.it.First()
	case it.reverse:
		ok = it.it.Prev()
	default:
		ok = it.it.Next()
	}
	it.moved = true
	if !ok {
		it.err = errors.Join(it.it.Error(), it.it.Close())
		it.it = nil
	}
	return ok
}

// split takes the stored key apart.
func (it *Iterator) split() error {
	k := it.it.Key()[len(it.prefix):]
	if it.index == nil {
		it.key, it.id = k, k
		return nil
	}
	v, err := it.it.ValueAndErr()
	if err != nil {
		return err
	}
	if it.index.spec.Unique {
		it.key, it.id = k, v
		return nil
	}
	if len(v) != 4 || int64(binary.BigEndian.Uint32(v)) > int64(len(k)) {
		return errDamagedIndex
	}
	n := binary.BigEndian.Uint32(v)
	it.key, it.id = k[:n], k[n:]
	return nil
}

// IDKey is the current document's _id key, valid until Next.
func (it *Iterator) IDKey() []byte { return it.id }

// Key is the current key of the index, valid until Next; in a Scan the _id key.
func (it *Iterator) Key() []byte { return it.key }

// Doc fetches the current document; the caller's own copy.
func (it *Iterator) Doc() (bson.Raw, error) {
	if !it.fetched {
		it.fetched = true
		it.docs++
	}
	if it.index == nil {
		v, err := it.it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		return append(make(bson.Raw, 0, len(v)), v...), nil
	}
	doc, err := it.coll.Get(it.id)
	if err == nil && doc == nil {
		err = fmt.Errorf("index %q names a document that does not exist", it.index.spec.Name)
	}
	return doc, err
}

// KeysExamined counts the index keys looked at.
func (it *Iterator) KeysExamined() int64 { return it.keys }

// DocsExamined counts the documents fetched.
func (it *Iterator) DocsExamined() int64 { return it.docs }

// Err tells why Next gave false, nil at the end.
func (it *Iterator) Err() error { return it.err }

// Close ends the walk. It may be called again.
func (it *Iterator) Close() error {
	it.finished = true
	if it.it == nil {
		return nil
	}
	err := it.it.Close()
	it.it = nil
	return err
}

func sortDatabases(dbs []DatabaseInfo) {
	slices.SortFunc(dbs, func(a, b DatabaseInfo) int { return strings.Compare(a.Name, b.Name) })
}
