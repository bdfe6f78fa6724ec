package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// Reader is a consistent snapshot of one database; it holds the database open
// until Close. It is safe for concurrent use, its iterators are not. Iterators
// must be closed before it.
type Reader struct {
	db     *database // nil for a database that does not exist
	snap   *pebble.Snapshot
	schema *schema
	close  sync.Once
}

// Collection is a collection as a Reader sees it.
type Collection struct {
	reader *Reader
	def    *collDef
}

// Read opens a snapshot of a database. A database that does not exist reads as
// empty.
func (s *Store) Read(ctx context.Context, db string) (*Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := s.lookup(db)
	if err != nil {
		return nil, fmt.Errorf("read database: %w", err)
	}
	if d == nil {
		return &Reader{schema: &schema{}}, nil
	}
	return d.snapshot(), nil
}

// snapshot makes a Reader of an acquired database; Close releases it.
func (d *database) snapshot() *Reader {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return &Reader{db: d, snap: d.db.NewSnapshot(), schema: d.schema}
}

// Close releases the snapshot. It may be called again.
func (r *Reader) Close() {
	r.close.Do(func() {
		if r.db == nil {
			return
		}
		if err := r.snap.Close(); err != nil {
			r.db.store.log.Error("close snapshot", "database", r.db.id.String(), "error", err)
		}
		r.db.store.release(r.db)
	})
}

// Collections lists the collections by name.
func (r *Reader) Collections() []CollectionInfo { return r.schema.infos() }

// Collection finds a collection.
func (r *Reader) Collection(name string) (*Collection, bool) {
	c := r.schema.byName[name]
	if c == nil {
		return nil, false
	}
	return &Collection{reader: r, def: c}, true
}

// Info describes the collection as of the snapshot.
func (c *Collection) Info() CollectionInfo { return c.def.info() }

// Count is the number of documents; it is maintained, not counted.
func (c *Collection) Count() (int64, error) { return readCount(c.reader.snap, c.def.number) }

// Get gives the document with an _id key (index.EncodeID), nil if there is none.
// The document is the caller's own copy.
func (c *Collection) Get(idKey []byte) (bson.Raw, error) {
	return get(c.reader.snap, docKey(c.def.number, idKey))
}

// Scan walks over the documents in the order of their _id keys within b. Errors
// show at Next and Err.
func (c *Collection) Scan(b index.Bound, reverse bool) *Iterator {
	return newIterator(c, nil, []index.Bound{b}, reverse)
}

// IndexScan walks over the documents in the order of an index within bounds,
// which must be sorted and apart; reverse starts at the end of the last one. A
// document is given once, however many keys it has there.
func (c *Collection) IndexScan(name string, bounds []index.Bound, reverse bool) (*Iterator, error) {
	if name == index.IDIndexName {
		return newIterator(c, nil, bounds, reverse), nil
	}
	ix := c.def.index(name)
	if ix == nil {
		return nil, fmt.Errorf("there is no index %q", name)
	}
	return newIterator(c, ix, bounds, reverse), nil
}

// Databases lists the databases by name.
func (s *Store) Databases(ctx context.Context) ([]DatabaseInfo, error) {
	dbs := s.all()
	defer s.unpin(dbs)
	out := make([]DatabaseInfo, 0, len(dbs))
	for _, d := range dbs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.acquire(d); err != nil {
			return nil, fmt.Errorf("list databases: %w", err)
		}
		d.mu.RLock()
		info := DatabaseInfo{Name: d.name, Empty: len(d.schema.byName) == 0}
		info.SizeOnDisk = int64(d.db.Metrics().DiskSpaceUsage()) //nolint:gosec // a size
		d.mu.RUnlock()
		s.release(d)
		out = append(out, info)
	}
	sortDatabases(out)
	return out, nil
}

var errDamagedIndex = errors.New("an index entry is malformed")
