package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/replication/entry"
)

const buildBatch = 4 << 20

// change is what one entry, or a run of entries that only write documents, does
// to one database, before it is committed.
type change struct {
	db      *database
	batch   *pebble.Batch
	schema  *schema          // the new one, nil while there is no change
	dirty   map[UUID]bool    // collections whose record changes
	touched map[uint32]int64 // by how much counts change
	gone    map[uint32]bool  // collections that are dropped
	docs    map[string]bson.Raw
	written map[uint32][]byte // _id keys by collection, see noteWritten
}

func newChange(d *database) *change {
	return &change{db: d, batch: d.db.NewBatch(), dirty: map[UUID]bool{}, touched: map[uint32]int64{}, gone: map[uint32]bool{},
		written: map[uint32][]byte{}}
}

func (c *change) current() *schema {
	if c.schema != nil {
		return c.schema
	}
	return c.db.schema
}

// edit gives a copy of the schema to change.
func (c *change) edit() *schema {
	if c.schema == nil {
		c.schema = c.db.schema.clone()
	}
	return c.schema
}

// editColl gives a copy of a collection to change.
func (c *change) editColl(old *collDef) *collDef {
	if c.dirty[old.uuid] {
		return c.current().byUUID[old.uuid]
	}
	n := old.clone()
	c.edit().put(n)
	c.dirty[n.uuid] = true
	return n
}

func (c *change) count(n uint32) int64 { return c.db.counts[n] + c.touched[n] }

func (c *change) writeSchema() error {
	for uuid := range c.dirty {
		d := c.schema.byUUID[uuid]
		if d == nil {
			continue
		}
		raw, err := d.encode()
		if err != nil {
			return err
		}
		if err := c.batch.Set(collKey(d.number), raw, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) collection(uuid UUID) (*collDef, error) {
	d := c.current().byUUID[uuid]
	if d == nil {
		return nil, fmt.Errorf("the log names collection %x, which does not exist", uuid)
	}
	return d, nil
}

// document applies an insert, replace or delete.
func (c *change) document(o entry.Op) error {
	coll, err := c.collection(o.Collection)
	if err != nil {
		return err
	}
	idKey, err := DocumentKey(o.Payload)
	if err != nil {
		return err
	}
	key := docKey(coll.number, idKey)
	var old, now bson.Raw
	if o.Kind != entry.Insert && len(coll.indexes) > 0 {
		if old, err = c.old(key); err != nil {
			return err
		}
	}
	switch o.Kind {
	case entry.Insert:
		c.touched[coll.number]++
		now = o.Payload
	case entry.Replace:
		now = o.Payload
	default:
		c.touched[coll.number]--
	}
	if now == nil {
		err = c.batch.Delete(key, nil)
	} else {
		err = c.batch.Set(key, now, nil)
		list := binary.BigEndian.AppendUint32(c.written[coll.number], uint32(len(idKey))) //nolint:gosec // below 64 MiB
		c.written[coll.number] = append(list, idKey...)
	}
	if err != nil {
		return err
	}
	if len(coll.indexes) == 0 {
		return nil
	}
	if c.docs == nil {
		c.docs = map[string]bson.Raw{}
	}
	c.docs[string(key)] = now
	return c.reindex(coll, idKey, old, now)
}

// old gives the document as this change left it so far.
func (c *change) old(key []byte) (bson.Raw, error) {
	if d, ok := c.docs[string(key)]; ok {
		return d, nil
	}
	return get(c.db.db, key)
}

// reindex moves the index entries of one document.
func (c *change) reindex(coll *collDef, idKey []byte, old, now bson.Raw) error {
	for i := range coll.indexes {
		ix := &coll.indexes[i]
		before, _, err := keysOf(ix.spec, old)
		if err != nil {
			return err
		}
		after, multikey, err := keysOf(ix.spec, now)
		if err != nil {
			return err
		}
		for _, k := range missingFrom(before, after) {
			key, _ := indexEntry(coll.number, ix, k, idKey)
			if err := c.batch.Delete(key, nil); err != nil {
				return err
			}
		}
		for _, k := range missingFrom(after, before) {
			key, value := indexEntry(coll.number, ix, k, idKey)
			if err := c.batch.Set(key, value, nil); err != nil {
				return err
			}
		}
		if multikey && !ix.multikey {
			coll = c.editColl(coll)
			coll.indexes[i].multikey = true
		}
	}
	return nil
}

func keysOf(spec index.Spec, doc bson.Raw) ([][]byte, bool, error) {
	if doc == nil {
		return nil, false, nil
	}
	return spec.Keys(doc)
}

// missingFrom gives what is in a but not in b; both are sorted.
func missingFrom(a, b [][]byte) [][]byte {
	if len(b) == 0 {
		return a
	}
	var out [][]byte
	for _, k := range a {
		if _, found := slices.BinarySearchFunc(b, k, bytes.Compare); !found {
			out = append(out, k)
		}
	}
	return out
}

// DocumentKey is the key of a document's _id; documents without one are refused.
func DocumentKey(doc bson.Raw) ([]byte, error) {
	id, err := doc.LookupErr("_id")
	if err != nil {
		return nil, errors.New("the document has no _id")
	}
	return index.EncodeID(id)
}

// catalogue applies a change of collections or indexes.
func (c *change) catalogue(o entry.Op, ch entry.Change) error {
	switch ch.Op {
	case entry.CreateCollection:
		return c.createCollection(o.Collection, ch)
	case entry.DropCollection:
		return c.dropCollection(o.Collection)
	case entry.CreateIndexes:
		return c.createIndexes(o.Collection, ch)
	case entry.DropIndexes:
		return c.dropIndexes(o.Collection, ch)
	}
	return nil // the state's matter
}

func (c *change) createCollection(uuid UUID, ch entry.Change) error {
	s := c.edit()
	if s.byName[ch.Name] != nil || s.byUUID[uuid] != nil {
		return errors.New("the log makes a collection that exists")
	}
	d := &collDef{number: s.next, name: ch.Name, uuid: uuid, options: ch.Options}
	s.next++
	s.put(d)
	c.dirty[uuid] = true
	c.touched[d.number] = 0
	return c.batch.Set([]byte(metaNext), collKey(s.next)[1:], nil)
}

func (c *change) dropCollection(uuid UUID) error {
	d, err := c.collection(uuid)
	if err != nil {
		return err
	}
	c.edit().drop(d)
	delete(c.touched, d.number)
	c.gone[d.number] = true
	lower, upper := prefixRange(dataPrefix(d.number))
	return errors.Join(
		c.batch.DeleteRange(lower, upper, nil),
		c.batch.Delete(collKey(d.number), nil),
		c.batch.Delete(countKey(d.number), nil))
}

func (c *change) dropIndexes(uuid UUID, ch entry.Change) error {
	d, err := c.collection(uuid)
	if err != nil {
		return err
	}
	d = c.editColl(d)
	for _, name := range ch.Names {
		ix := d.index(name)
		if ix == nil {
			return errors.New("the log drops an index that does not exist")
		}
		lower, upper := prefixRange(indexPrefix(d.number, ix.number))
		if err := c.batch.DeleteRange(lower, upper, nil); err != nil {
			return err
		}
		d.indexes = slices.DeleteFunc(d.indexes, func(x indexDef) bool { return x.spec.Name == name })
	}
	return nil
}

// createIndexes fills the new indexes in batches of their own, under numbers that
// no record names yet, and names them in the entry's batch: a crash in between
// leaves no index, and the entry is applied again.
func (c *change) createIndexes(uuid UUID, ch entry.Change) error {
	d, err := c.collection(uuid)
	if err != nil {
		return err
	}
	d = c.editColl(d)
	var build []indexDef
	for _, raw := range ch.Indexes {
		spec, err := index.ParseSpec(raw)
		if err != nil {
			return err
		}
		if d.index(spec.Name) != nil {
			return errors.New("the log makes an index that exists")
		}
		build = append(build, indexDef{number: d.next, spec: spec})
		d.next++
	}
	if err := c.db.build(d, build); err != nil {
		return err
	}
	d.indexes = append(d.indexes, build...)
	return nil
}

// build writes the entries of new indexes for the documents there are, and finds
// out which indexes are multikey.
func (d *database) build(coll *collDef, build []indexDef) error {
	b := d.db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, ix := range build {
		lower, upper := prefixRange(indexPrefix(coll.number, ix.number))
		if err := b.DeleteRange(lower, upper, nil); err != nil {
			return err
		}
	}
	prefix := docPrefix(coll.number)
	err := each(d.db, prefix, func(k, doc []byte) error {
		for i := range build {
			keys, multikey, err := build[i].spec.Keys(doc)
			if err != nil {
				return err
			}
			build[i].multikey = build[i].multikey || multikey
			for _, key := range keys {
				k, v := indexEntry(coll.number, &build[i], key, k[len(prefix):])
				if err := b.Set(k, v, nil); err != nil {
					return err
				}
			}
		}
		if b.Len() < buildBatch {
			return nil
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		b.Reset()
		return nil
	})
	if err != nil {
		return err
	}
	return b.Commit(pebble.NoSync)
}
