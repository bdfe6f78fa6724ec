package query

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

const (
	codeSortValue  = 15974
	codeSortOrder  = 15975
	codeSortEmpty  = 15976
	maxSortFields  = 32
	naturalKeyword = "$natural"
)

// Sort is a parsed sort. The zero value and nil sort nothing.
type Sort struct {
	raw     bson.Raw
	spec    index.Spec
	natural int // +1 or -1 for {$natural: ...}
}

// ParseSort reads a sort such as {a: 1, "b.c": -1}. An empty document is no
// sort: the result is nil.
func ParseSort(doc bson.Raw) (*Sort, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	if err := index.Validate(doc); err != nil {
		return nil, err
	}
	s := &Sort{raw: doc}
	for e := range index.Elements(doc) {
		if err := s.add(string(e.Key), e.Value); err != nil {
			return nil, err
		}
	}
	if s.natural != 0 && len(s.spec.Fields) > 0 {
		return nil, badValue("$natural sort cannot be set to a value other than -1 or 1, nor be combined with other fields.")
	}
	if s.natural == 0 && len(s.spec.Fields) == 0 {
		return nil, nil
	}
	return s, nil
}

func (s *Sort) add(key string, v bson.RawValue) error {
	if v.Type == bson.TypeEmbeddedDocument {
		return notHere("sorting by $meta")
	}
	dir, ok := exactInt(v)
	switch {
	case index.Bracket(v.Type) != index.Bracket(bson.TypeInt32):
		return mongoerr.Of(codeSortValue, "Illegal key in $sort specification: %s is of type %s", key, index.TypeName(v.Type))
	case !ok || dir != 1 && dir != -1:
		return mongoerr.Of(codeSortOrder, "$sort key ordering must be 1 (for ascending) or -1 (for descending)")
	case key == naturalKeyword:
		s.natural = int(dir)
		return nil
	case key == "":
		return mongoerr.Of(40352, "FieldPath cannot be constructed with empty string")
	case key[0] == '$':
		return mongoerr.Of(mongoerr.FieldPathPrefixed, "FieldPath field names may not start with '$'. Consider using $getField or $setField.")
	}
	if _, err := parsePath(key); err != nil {
		return err
	}
	for _, f := range s.spec.Fields {
		if f.Path == key {
			return badValue("sort key '%s' is given twice", key)
		}
	}
	if s.spec.Fields = append(s.spec.Fields, index.Field{Path: key, Desc: dir < 0}); len(s.spec.Fields) > maxSortFields {
		return badValue("too many compound keys: a sort may have at most %d fields", maxSortFields)
	}
	return nil
}

// Raw is the sort as it was given.
func (s *Sort) Raw() bson.Raw { return s.raw }

// Natural is +1 or -1 for a sort by $natural, else 0.
func (s *Sort) Natural() int {
	if s == nil {
		return 0
	}
	return s.natural
}

// Key gives the bytes by which doc is sorted: ascending order of the bytes is
// the order of the sort. An array stands for its smallest element ascending and
// its largest descending; two arrays side by side cannot be sorted (BadValue).
func (s *Sort) Key(doc bson.Raw) ([]byte, error) {
	if s == nil || len(s.spec.Fields) == 0 {
		return nil, nil
	}
	keys, _, err := s.spec.Keys(doc)
	if err != nil {
		if mongoerr.HasCode(err, mongoerr.CannotIndexParallelArrays) {
			return nil, badValue("cannot sort with keys that are parallel arrays")
		}
		return nil, err
	}
	return keys[0], nil // sorted; a spec that is not sparse gives at least one
}

// Compare orders two documents; documents that cannot be sorted come first.
// Sorting many, compute Key once for each instead.
func (s *Sort) Compare(a, b bson.Raw) int {
	ka, _ := s.Key(a) // no key: first, as documented
	kb, _ := s.Key(b) // no key: first, as documented
	return bytes.Compare(ka, kb)
}
