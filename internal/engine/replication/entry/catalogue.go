package entry

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The catalogue operations.
const (
	CreateDatabase   = "createDatabase"
	DropDatabase     = "dropDatabase"
	CreateCollection = "createCollection"
	DropCollection   = "dropCollection"
	CreateIndexes    = "createIndexes"
	DropIndexes      = "dropIndexes"
	Configure        = "configure"
)

// Change is the payload of a catalogue operation: the document
// {v: 1, op: <name>, ...} with the fields that the operation needs.
type Change struct {
	Version int32  `bson:"v"`
	Op      string `bson:"op"`
	// Name is the name of the new database or collection, or of the set.
	Name string `bson:"name,omitempty"`
	// Options are those of a new collection.
	Options bson.Raw `bson:"options,omitempty"`
	// Indexes are the specifications of new indexes, as listIndexes shows them.
	Indexes []bson.Raw `bson:"indexes,omitempty"`
	// Names are the names of the indexes to drop.
	Names []string `bson:"names,omitempty"`
	// Host is the first member's address (configure).
	Host string `bson:"host,omitempty"`
}

// ChangeVersion is the version of Change.
const ChangeVersion = 1

// Encode makes the catalogue operation. The collection is zero where a database or
// the set is meant.
func (c Change) Encode(db, coll [16]byte) (Op, error) {
	c.Version = ChangeVersion
	raw, err := bson.Marshal(c)
	if err != nil {
		return Op{}, fmt.Errorf("encode catalogue change: %w", err)
	}
	return Op{Kind: Catalogue, Database: db, Collection: coll, Payload: raw}, nil
}

// DecodeChange reads the payload of a catalogue operation.
func DecodeChange(payload bson.Raw) (Change, error) {
	var c Change
	if err := bson.Unmarshal(payload, &c); err != nil {
		return Change{}, fmt.Errorf("decode catalogue change: %w", err)
	}
	if c.Version != ChangeVersion {
		return Change{}, fmt.Errorf("decode catalogue change: version %d is not known, this program knows version %d", c.Version, ChangeVersion)
	}
	switch c.Op {
	case CreateDatabase, DropDatabase, CreateCollection, DropCollection, CreateIndexes, DropIndexes, Configure:
		return c, nil
	}
	return Change{}, fmt.Errorf("decode catalogue change: operation %q is not known", c.Op)
}
