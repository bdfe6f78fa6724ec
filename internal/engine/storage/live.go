package storage

import (
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// Live reads the newest state of one database, for the writer that holds the
// latches of what it reads. It holds the database open until Close.
type Live struct{ db *database }

// LiveCollection is a collection's newest state. It is good as long as the
// collection's latch is held.
type LiveCollection struct {
	db  *database
	def *collDef
}

// UniqueIndex is a unique index of a LiveCollection.
type UniqueIndex struct {
	index.Spec
	number uint32
}

// Number tells the collection's indexes apart for its whole life.
func (u UniqueIndex) Number() uint32 { return u.number }

// Live opens a database by name; nil if there is none.
func (s *Store) Live(name string) (*Live, error) {
	d, err := s.lookup(name)
	if err != nil || d == nil {
		return nil, err
	}
	return &Live{d}, nil
}

// Close gives the database back.
func (l *Live) Close() { l.db.store.release(l.db) }

// ID is the database's id.
func (l *Live) ID() DatabaseID { return l.db.id }

// Collections lists the collections by name.
func (l *Live) Collections() []CollectionInfo {
	l.db.mu.RLock()
	defer l.db.mu.RUnlock()
	return l.db.schema.infos()
}

// Collection finds a collection; nil if there is none.
func (l *Live) Collection(name string) *LiveCollection {
	l.db.mu.RLock()
	defer l.db.mu.RUnlock()
	c := l.db.schema.byName[name]
	if c == nil {
		return nil
	}
	return &LiveCollection{l.db, c}
}

// Info describes the collection.
func (c *LiveCollection) Info() CollectionInfo { return c.def.info() }

// UUID is the collection's.
func (c *LiveCollection) UUID() UUID { return c.def.uuid }

// Get gives the newest applied version of a document, nil if there is none.
func (c *LiveCollection) Get(idKey []byte) (bson.Raw, error) {
	return get(c.db.db, docKey(c.def.number, idKey))
}

// GetNew is Get for a document that is probably not there, as for an insert: nil
// costs little for an _id above those that the collection had a while ago.
func (c *LiveCollection) GetNew(idKey []byte) (bson.Raw, error) {
	if c.db.absent(c.def.number, idKey) {
		return nil, nil
	}
	return c.Get(idKey)
}

// Unique lists the unique indexes, but for the one on _id.
func (c *LiveCollection) Unique() []UniqueIndex {
	var out []UniqueIndex
	for _, x := range c.def.indexes {
		if x.spec.Unique {
			out = append(out, UniqueIndex{x.spec, x.number})
		}
	}
	return out
}

// CheckKeys tells whether the document can be indexed by all indexes.
func (c *LiveCollection) CheckKeys(doc bson.Raw) error {
	for _, x := range c.def.indexes {
		if x.spec.Unique {
			continue // the caller asks for those keys anyway
		}
		if _, _, err := x.spec.Keys(doc); err != nil {
			return err
		}
	}
	return nil
}

// Owner gives the _id key of the document that has a key in a unique index, nil
// if there is none.
func (c *LiveCollection) Owner(u UniqueIndex, key []byte) ([]byte, error) {
	k, _ := indexEntry(c.def.number, &indexDef{number: u.number, spec: u.Spec}, key, nil)
	return get(c.db.db, k)
}

// Each calls fn for every document, in the order of _id; doc is valid during the
// call.
func (c *LiveCollection) Each(fn func(doc bson.Raw) error) error {
	return each(c.db.db, docPrefix(c.def.number), func(_, v []byte) error { return fn(v) })
}

// Duplicate makes the error for a document that a unique index refuses because of
// one of its keys.
func Duplicate(db, coll string, spec index.Spec, doc bson.Raw, key []byte) *DuplicateKeyError {
	ns := db + "." + coll
	value := spec.KeyValue(doc, key)
	return &DuplicateKeyError{Namespace: ns, Index: spec.Name, KeyPattern: spec.KeyPattern(), KeyValue: value,
		err: index.DuplicateKey(ns, spec, value)}
}
