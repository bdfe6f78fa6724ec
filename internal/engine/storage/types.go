package storage

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// DatabaseID names a database for its whole life: 16 random bytes, in hex the
// name of its directory.
type DatabaseID = cryptofs.DatabaseID

// UUID names a collection for its whole life.
type UUID = [16]byte

// Limits of documents (the MongoDB limits; the command layer refuses what is
// above 16 MiB, the engine itself may add a little).
const (
	MaxDocumentSize = 16<<20 + 16<<10
	MaxIndexes      = 64
)

// Files gives each database its file system. Encrypted and Plain implement it.
type Files interface {
	// Create makes durable what a new database needs (its keyset) and gives its
	// file system. It may be called again for an id that it knows.
	Create(id DatabaseID) (vfs.FS, error)
	// Open gives the file system of a database that Create was called for.
	Open(id DatabaseID) (vfs.FS, error)
	// Remove forgets the database; its files must be gone before. An unknown id
	// is no error.
	Remove(id DatabaseID) error
	// Base is the file system below, for directories and for what is not secret.
	Base() vfs.FS
	// Encrypted tells whether files are encrypted.
	Encrypted() bool
}

// DatabaseInfo is one line of listDatabases.
type DatabaseInfo struct {
	Name string
	// SizeOnDisk is the size of the database's files in bytes.
	SizeOnDisk int64
	// Empty tells that the database has no collection.
	Empty bool
}

// CollectionInfo describes a collection.
type CollectionInfo struct {
	Name string
	UUID UUID
	// Options are the options of create, nil if there were none.
	Options bson.Raw
	// Indexes holds the index on _id first, then the others by age.
	Indexes []IndexInfo
}

// IndexInfo describes an index. Multikey stays true once a document had several
// keys in it.
type IndexInfo struct {
	index.Spec
	Multikey bool
}

// DuplicateKeyError says that a unique index refused a document. It unwraps to a
// mongoerr.Error with code 11000.
type DuplicateKeyError struct {
	Namespace            string
	Index                string
	KeyPattern, KeyValue bson.Raw
	err                  *mongoerr.Error
}

// Error implements error.
func (e *DuplicateKeyError) Error() string { return e.err.Error() }

// Unwrap gives the error as clients see it.
func (e *DuplicateKeyError) Unwrap() error { return e.err }
