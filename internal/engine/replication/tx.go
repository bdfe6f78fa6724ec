package replication

import (
	"bytes"
	"errors"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
)

// errAgain tells fn to return: the statement is run again.
var errAgain = errors.New("replication: the statement is run again")

// Tx is one statement being evaluated. It is valid only within Do.
type Tx struct {
	w    *Writer
	ops  []entry.Op
	view overlay
	over bool

	blocked latchKey // what somebody else holds
	mode    latchMode
	missing string // the collection that has to be made first
}

// ended tells whether this run of the statement is over.
func (tx *Tx) ended() bool { return tx.over || tx.blocked != "" || tx.missing != "" }

// latch takes a latch, or ends this run of the statement.
func (tx *Tx) latch(k latchKey, mode latchMode) error {
	if tx.ended() {
		return errAgain
	}
	if tx.w.set.try(k, mode) {
		return nil
	}
	tx.blocked, tx.mode = k, mode
	return errAgain
}

// collection finds a collection and keeps it from being changed; nil if there is
// none.
func (tx *Tx) collection(name string) (*storage.LiveCollection, error) {
	w := tx.w
	if c := w.colls[name]; c != nil && !tx.ended() { // its latches are held
		return c, nil
	}
	if err := tx.latch(databaseLatch(w.o.DB), shared); err != nil {
		return nil, err
	}
	if err := tx.latch(collectionLatch(w.o.DB, name), shared); err != nil {
		return nil, err
	}
	if w.live == nil {
		live, err := w.r.store.Live(w.o.DB)
		if err != nil || live == nil {
			return nil, err
		}
		w.live = live
	}
	c := w.live.Collection(name)
	if c != nil {
		w.colls[name] = c
	}
	return c, nil
}

func docName(c *storage.LiveCollection, idKey []byte) string {
	u := c.UUID()
	return string(u[:]) + string(idKey)
}

// newest gives the newest version of a document whose latch is held. fresh: most
// likely there is none.
func (tx *Tx) newest(c *storage.LiveCollection, idKey []byte, fresh bool) (bson.Raw, error) {
	k := docName(c, idKey)
	if d, ok := tx.view.docs[k]; ok {
		return d, nil
	}
	if d, ok := tx.w.view.docs[k]; ok {
		return d, nil
	}
	if fresh {
		return c.GetNew(idKey)
	}
	return c.Get(idKey)
}

// Lock latches a document and gives its newest version, effects of this Writer
// included, or nil if there is none (also if the collection does not exist). The
// document must not be changed in place.
func (tx *Tx) Lock(coll string, idKey []byte) (bson.Raw, error) {
	c, err := tx.collection(coll)
	if err != nil || c == nil {
		return nil, err
	}
	if err := tx.latch(documentLatch(c.UUID(), idKey), exclusive); err != nil {
		return nil, err
	}
	return tx.newest(c, idKey, false)
}

// Insert adds a document, which must have an _id. A collection that does not
// exist is made. A duplicate is refused with a storage.DuplicateKeyError (11000).
func (tx *Tx) Insert(coll string, doc bson.Raw) error {
	c, err := tx.collection(coll)
	if err != nil {
		return err
	}
	if c == nil {
		tx.missing = coll
		return errAgain
	}
	idKey, err := checkDocument(doc)
	if err != nil {
		return err
	}
	if err := tx.latch(documentLatch(c.UUID(), idKey), exclusive); err != nil {
		return err
	}
	old, err := tx.newest(c, idKey, true)
	if err != nil {
		return err
	}
	if old != nil {
		return storage.Duplicate(tx.w.o.DB, coll, index.IDSpec(), doc, idKey)
	}
	if err := tx.claim(c, coll, idKey, nil, doc); err != nil {
		return err
	}
	tx.add(c, entry.Insert, idKey, doc, doc)
	return nil
}

// Replace puts doc in the place of the document with idKey, which must have been
// locked and exist; doc must have the same _id.
func (tx *Tx) Replace(coll string, idKey []byte, doc bson.Raw) error {
	c, old, err := tx.locked(coll, idKey)
	if err != nil {
		return err
	}
	if old == nil {
		return errors.New("replace of a document that does not exist")
	}
	key, err := checkDocument(doc)
	if err != nil {
		return err
	}
	if !bytes.Equal(key, idKey) {
		return mongoerr.Of(mongoerr.ImmutableField, "Performing an update on the path '_id' would modify the immutable field '_id'")
	}
	if err := tx.claim(c, coll, idKey, old, doc); err != nil {
		return err
	}
	tx.add(c, entry.Replace, idKey, doc, doc)
	return nil
}

// Delete removes the document with idKey, which must have been locked; one that
// is not there is no error.
func (tx *Tx) Delete(coll string, idKey []byte) error {
	c, old, err := tx.locked(coll, idKey)
	if err != nil || old == nil {
		return err
	}
	if err := tx.claim(c, coll, idKey, old, nil); err != nil {
		return err
	}
	id, err := bson.Marshal(bson.D{{Key: "_id", Value: old.Lookup("_id")}})
	if err != nil {
		return err
	}
	tx.add(c, entry.Delete, idKey, id, nil)
	return nil
}

// locked gives a document that was locked before.
func (tx *Tx) locked(coll string, idKey []byte) (*storage.LiveCollection, bson.Raw, error) {
	c, err := tx.collection(coll)
	if err != nil || c == nil {
		return nil, nil, err
	}
	if !tx.w.set.has(documentLatch(c.UUID(), idKey), exclusive) {
		return nil, nil, errors.New("a document is written that was not locked")
	}
	old, err := tx.newest(c, idKey, false)
	return c, old, err
}

func (tx *Tx) add(c *storage.LiveCollection, kind entry.Kind, idKey []byte, payload, now bson.Raw) {
	tx.ops = append(tx.ops, entry.Op{Kind: kind, Database: tx.w.live.ID(), Collection: c.UUID(), Payload: payload})
	tx.view.setDoc(docName(c, idKey), now)
}

func checkDocument(doc bson.Raw) ([]byte, error) {
	if len(doc) > storage.MaxDocumentSize {
		return nil, mongoerr.Of(mongoerr.BSONObjectTooLarge, "A document of %d bytes is larger than %d bytes", len(doc), storage.MaxDocumentSize)
	}
	return storage.DocumentKey(doc)
}

// claim takes the unique keys that a document gains and gives up those that it
// loses. old or doc is nil for an insert or a delete.
func (tx *Tx) claim(c *storage.LiveCollection, coll string, idKey []byte, old, doc bson.Raw) error {
	if doc != nil {
		if err := c.CheckKeys(doc); err != nil {
			return err
		}
	}
	for _, u := range c.Unique() {
		var before, after [][]byte
		var err error
		if old != nil {
			if before, _, err = u.Keys(old); err != nil {
				return err
			}
		}
		if doc != nil {
			if after, _, err = u.Keys(doc); err != nil {
				return err
			}
		}
		for _, k := range after {
			if _, kept := slices.BinarySearchFunc(before, k, bytes.Compare); kept {
				continue
			}
			free, err := tx.claimKey(c, u, k, idKey)
			if err != nil {
				return err
			}
			if !free {
				return storage.Duplicate(tx.w.o.DB, coll, u.Spec, doc, k)
			}
		}
		for _, k := range before {
			if _, kept := slices.BinarySearchFunc(after, k, bytes.Compare); !kept {
				tx.view.setOwner(uniqueLatch(c.UUID(), u.Number(), k), "")
			}
		}
	}
	return nil
}

// claimKey latches a unique key and takes it if nobody has it.
func (tx *Tx) claimKey(c *storage.LiveCollection, u storage.UniqueIndex, key, idKey []byte) (free bool, err error) {
	l := uniqueLatch(c.UUID(), u.Number(), key)
	if err := tx.latch(l, exclusive); err != nil {
		return false, err
	}
	owner, known := tx.view.owners[l]
	if !known {
		owner, known = tx.w.view.owners[l]
	}
	if !known {
		o, err := c.Owner(u, key)
		if err != nil {
			return false, err
		}
		owner = string(o)
	}
	if owner != "" && owner != string(idKey) {
		return false, nil
	}
	tx.view.setOwner(l, string(idKey))
	return true, nil
}
