package storage

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

var errTodo = errors.New("storage: not written yet")

// Store keeps the databases of a node.
type Store struct{}

// Reader is a consistent snapshot of one database; it holds the database open
// until Close. It is safe for concurrent use, its iterators are not.
type Reader struct{}

// Collection is a collection as a Reader sees it.
type Collection struct{}

// Iterator walks over documents in key order.
type Iterator struct{}

// Read opens a snapshot of a database. A database that does not exist reads as
// empty.
func (s *Store) Read(ctx context.Context, db string) (*Reader, error) { return nil, errTodo }

// Databases lists the databases by name.
func (s *Store) Databases(ctx context.Context) ([]DatabaseInfo, error) { return nil, errTodo }

// Collections lists the collections by name.
func (r *Reader) Collections() []CollectionInfo { return nil }

// Collection finds a collection.
func (r *Reader) Collection(name string) (*Collection, bool) { return nil, false }

// Close releases the snapshot. It may be called again.
func (r *Reader) Close() {}

// Info describes the collection as of the snapshot.
func (c *Collection) Info() CollectionInfo { return CollectionInfo{} }

// Count is the number of documents; it is maintained, not counted.
func (c *Collection) Count() (int64, error) { return 0, errTodo }

// Get gives the document with an _id key (index.EncodeID), nil if there is none.
// The document is the caller's own copy.
func (c *Collection) Get(idKey []byte) (bson.Raw, error) { return nil, errTodo }

// Scan walks over the documents in the order of their _id keys within b.
func (c *Collection) Scan(b index.Bound, reverse bool) *Iterator { return nil }

// IndexScan walks over the documents in the order of an index within bounds,
// which must be sorted and apart. A document is given once, however many keys it
// has there.
func (c *Collection) IndexScan(name string, bounds []index.Bound, reverse bool) (*Iterator, error) {
	return nil, errTodo
}

// Next goes to the next document; false at the end or after an error (Err).
func (it *Iterator) Next() bool { return false }

// IDKey is the current document's _id key, valid until Next.
func (it *Iterator) IDKey() []byte { return nil }

// Key is the current key of the index, valid until Next; in a Scan the _id key.
func (it *Iterator) Key() []byte { return nil }

// Doc fetches the current document; the caller's own copy.
func (it *Iterator) Doc() (bson.Raw, error) { return nil, errTodo }

// KeysExamined counts the index keys looked at.
func (it *Iterator) KeysExamined() int64 { return 0 }

// DocsExamined counts the documents fetched.
func (it *Iterator) DocsExamined() int64 { return 0 }

// Err tells why Next gave false, nil at the end.
func (it *Iterator) Err() error { return nil }

// Close ends the walk.
func (it *Iterator) Close() error { return nil }
