package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// indexDef is an index of a collection, but for the one on _id.
type indexDef struct {
	number   uint32
	spec     index.Spec
	multikey bool
}

// collDef is a collection. It is immutable; a change makes a copy.
type collDef struct {
	number  uint32
	name    string
	uuid    UUID
	options bson.Raw
	next    uint32 // number for the next index
	indexes []indexDef
}

// schema is what a database holds at one moment. It is immutable.
type schema struct {
	byName map[string]*collDef
	byUUID map[UUID]*collDef
	next   uint32 // number for the next collection
}

func (s *schema) clone() *schema {
	return &schema{byName: maps.Clone(s.byName), byUUID: maps.Clone(s.byUUID), next: s.next}
}

func (s *schema) put(c *collDef) { s.byName[c.name], s.byUUID[c.uuid] = c, c }

func (s *schema) drop(c *collDef) {
	delete(s.byName, c.name)
	delete(s.byUUID, c.uuid)
}

func (c *collDef) clone() *collDef {
	n := *c
	n.indexes = slices.Clone(c.indexes)
	return &n
}

func (c *collDef) index(name string) *indexDef {
	for i := range c.indexes {
		if c.indexes[i].spec.Name == name {
			return &c.indexes[i]
		}
	}
	return nil
}

func (c *collDef) info() CollectionInfo {
	i := CollectionInfo{Name: c.name, UUID: c.uuid, Options: c.options, Indexes: []IndexInfo{{Spec: index.IDSpec()}}}
	for _, x := range c.indexes {
		i.Indexes = append(i.Indexes, IndexInfo{Spec: x.spec, Multikey: x.multikey})
	}
	return i
}

func (s *schema) infos() []CollectionInfo {
	out := make([]CollectionInfo, 0, len(s.byName))
	for _, c := range s.byName {
		out = append(out, c.info())
	}
	slices.SortFunc(out, func(a, b CollectionInfo) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// record is a collection as stored.
type record struct {
	Version int32         `bson:"v"`
	Name    string        `bson:"name"`
	UUID    bson.Binary   `bson:"uuid"`
	Options bson.Raw      `bson:"options,omitempty"`
	Next    int64         `bson:"next"`
	Indexes []recordIndex `bson:"indexes"`
}

type recordIndex struct {
	Number   int64    `bson:"n"`
	Spec     bson.Raw `bson:"spec"`
	Multikey bool     `bson:"multikey"`
}

func (c *collDef) encode() ([]byte, error) {
	r := record{Version: formatVersion, Name: c.name, UUID: bson.Binary{Subtype: bson.TypeBinaryUUID, Data: c.uuid[:]},
		Options: c.options, Next: int64(c.next), Indexes: []recordIndex{}}
	for _, x := range c.indexes {
		r.Indexes = append(r.Indexes, recordIndex{int64(x.number), x.spec.Document(), x.multikey})
	}
	return bson.Marshal(r)
}

func decodeColl(key, value []byte) (*collDef, error) {
	var r record
	if err := bson.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("collection record: %w", err)
	}
	if r.Version != formatVersion {
		return nil, fmt.Errorf("collection record has version %d, this program knows version %d", r.Version, formatVersion)
	}
	if len(key) != 5 || len(r.UUID.Data) != 16 {
		return nil, errors.New("collection record is malformed")
	}
	c := &collDef{number: binary.BigEndian.Uint32(key[1:]), name: r.Name, uuid: UUID(r.UUID.Data), options: r.Options, next: uint32(r.Next)} //nolint:gosec // written from a uint32
	for _, x := range r.Indexes {
		spec, err := index.ParseSpec(x.Spec)
		if err != nil {
			return nil, fmt.Errorf("index of a collection record: %w", err)
		}
		c.indexes = append(c.indexes, indexDef{uint32(x.Number), spec, x.Multikey}) //nolint:gosec // written from a uint32
	}
	return c, nil
}

// loadSchema reads the collections of a database, and their counts.
func loadSchema(r pebble.Reader) (*schema, map[uint32]int64, error) {
	s := &schema{byName: map[string]*collDef{}, byUUID: map[UUID]*collDef{}}
	counts := map[uint32]int64{}
	next, err := get(r, []byte(metaNext))
	if err != nil {
		return nil, nil, err
	}
	if len(next) == 4 {
		s.next = binary.BigEndian.Uint32(next)
	}
	err = each(r, []byte{prefixColl}, func(k, v []byte) error {
		c, err := decodeColl(k, v)
		if err != nil {
			return err
		}
		s.put(c)
		n, err := readCount(r, c.number)
		counts[c.number] = n
		return err
	})
	return s, counts, err
}

func readCount(r pebble.Reader, coll uint32) (int64, error) {
	v, err := get(r, countKey(coll))
	if err != nil {
		return 0, err
	}
	if v == nil {
		return 0, nil
	}
	if len(v) != 8 {
		return 0, errors.New("a collection's count is malformed")
	}
	return int64(binary.BigEndian.Uint64(v)), nil //nolint:gosec // written from an int64
}

// get reads a copy of a value, nil if there is none.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, closer.Close()
}

// each calls fn for all keys with a prefix; key and value are valid during the call.
func each(r pebble.Reader, prefix []byte, fn func(k, v []byte) error) error {
	lower, upper := prefixRange(prefix)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = fn(it.Key(), v)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}
