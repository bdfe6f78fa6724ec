package index

import (
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// IDIndexName is the name of the index on _id that every collection has.
const IDIndexName = "_id_"

// Limits of an index, as MongoDB documents them.
const (
	maxFields    = 32
	maxNameBytes = 512
	maxPathParts = 100
)

// Field is one field of an index: a dotted path and its direction.
type Field struct {
	Path string
	Desc bool
}

// Spec describes an index. The zero value is no index. It is immutable by
// convention and safe for concurrent use.
type Spec struct {
	Name           string
	Fields         []Field
	Unique, Sparse bool
}

// IDSpec is the index on _id.
func IDSpec() Spec {
	return Spec{Name: IDIndexName, Fields: []Field{{Path: "_id"}}, Unique: true}
}

// IsID tells whether this is the index on _id.
func (s Spec) IsID() bool {
	return len(s.Fields) == 1 && s.Fields[0] == Field{Path: "_id"}
}

// SameKeys tells whether both indexes have the same key pattern.
func (s Spec) SameKeys(o Spec) bool {
	if len(s.Fields) != len(o.Fields) {
		return false
	}
	for i, f := range s.Fields {
		if f != o.Fields[i] {
			return false
		}
	}
	return true
}

// Equal tells whether a repeat of createIndexes with o would change nothing.
func (s Spec) Equal(o Spec) bool {
	return s.Name == o.Name && s.SameKeys(o) && s.Sparse == o.Sparse && (s.Unique == o.Unique || s.IsID())
}

// KeyPattern is the index's key document, such as {a: 1, "b.c": -1}.
func (s Spec) KeyPattern() bson.Raw {
	b := newDoc()
	for _, f := range s.Fields {
		dir := int32(1)
		if f.Desc {
			dir = -1
		}
		b = b.int32(f.Path, dir)
	}
	return b.done()
}

// Document is the index as listIndexes shows it. ParseSpec reads it back.
func (s Spec) Document() bson.Raw {
	b := newDoc().int32("v", 2).doc("key", s.KeyPattern()).str("name", s.Name)
	if s.Unique && !s.IsID() {
		b = b.boolean("unique", true)
	}
	if s.Sparse {
		b = b.boolean("sparse", true)
	}
	return b.done()
}

// ParseSpec reads one element of createIndexes.indexes. Options that a dump
// carries and that mean nothing here are accepted (background, ns, v, safe,
// dropDups); options that MongoDB has and this engine does not are refused with
// NotImplemented, unknown ones with InvalidIndexSpecificationOption.
func ParseSpec(doc bson.Raw) (Spec, error) { return parseSpec(doc, false) }

// ParseSpecIgnoringUnknown is ParseSpec for createIndexes with
// ignoreUnknownIndexOptions: options that MongoDB does not know are skipped.
func ParseSpecIgnoringUnknown(doc bson.Raw) (Spec, error) { return parseSpec(doc, true) }

func parseSpec(doc bson.Raw, ignoreUnknown bool) (Spec, error) {
	if err := Validate(doc); err != nil {
		return Spec{}, err
	}
	var s Spec
	seen := map[string]bool{}
	for e := range Elements(doc) {
		key := string(e.Key)
		if seen[key] {
			return Spec{}, mongoerr.Of(mongoerr.BadValue, "The field '%s' appears twice in the index specification", key)
		}
		seen[key] = true
		if err := s.option(key, e.Value, ignoreUnknown); err != nil {
			return Spec{}, err
		}
	}
	return s, s.check(seen)
}

// option takes one field of an index specification.
func (s *Spec) option(key string, v bson.RawValue, ignoreUnknown bool) (err error) {
	switch key {
	case "key":
		if v.Type != bson.TypeEmbeddedDocument {
			return wrongType(key, "an object", v)
		}
		s.Fields, err = parseKey(v.Value)
	case "name":
		var ok bool
		if s.Name, ok = v.StringValueOK(); !ok {
			return wrongType(key, "a string", v)
		}
	case "unique":
		s.Unique, err = truth(key, v)
	case "sparse":
		s.Sparse, err = truth(key, v)
	case "v":
		err = checkVersion(v)
	case "background", "ns", "safe", "dropDups", "textIndexVersion", "2dsphereIndexVersion":
	case "hidden", "prepareUnique":
		var on bool
		if on, err = truth(key, v); err == nil && on {
			err = notHere(key)
		}
	case "collation":
		if locale, _ := Lookup(v.Value, "locale"); v.Type != bson.TypeEmbeddedDocument || !isString(locale, "simple") {
			err = notHere(key)
		}
	case "partialFilterExpression", "expireAfterSeconds", "storageEngine", "weights", "default_language",
		"language_override", "bits", "min", "max", "bucketSize", "wildcardProjection", "clustered", "columnstoreProjection":
		err = notHere(key)
	default:
		if !ignoreUnknown {
			err = mongoerr.Of(mongoerr.InvalidIndexSpecificationOption,
				"The field '%s' is not valid for an index specification", key)
		}
	}
	return err
}

func isString(v bson.RawValue, want string) bool {
	s, ok := v.StringValueOK()
	return ok && s == want
}

func notHere(option string) error {
	return mongoerr.Of(mongoerr.NotImplemented, "This engine does not have the index option '%s' yet; leave it out", option)
}

func wrongType(key, want string, v bson.RawValue) error {
	return mongoerr.Of(mongoerr.TypeMismatch, "The field '%s' must be %s, but got %s", key, want, TypeName(v.Type))
}

// truth reads a boolean option; numbers count, as in MongoDB.
func truth(key string, v bson.RawValue) (bool, error) {
	if b, ok := v.BooleanOK(); ok {
		return b, nil
	}
	if f, ok := v.AsFloat64OK(); ok {
		return f != 0, nil
	}
	return false, wrongType(key, "a boolean", v)
}

func checkVersion(v bson.RawValue) error {
	n, ok := v.AsFloat64OK()
	if !ok {
		return wrongType("v", "a number", v)
	}
	if n != 0 && n != 1 && n != 2 {
		return mongoerr.Of(mongoerr.CannotCreateIndex, "Invalid index specification: cannot create an index with version v=%v", n)
	}
	return nil
}

func parseKey(key bson.Raw) ([]Field, error) {
	var fields []Field
	for e := range Elements(key) {
		f, err := parseField(string(e.Key), e.Value)
		if err != nil {
			return nil, err
		}
		for _, o := range fields {
			if o.Path == f.Path {
				return nil, mongoerr.Of(mongoerr.BadValue, "The field '%s' appears twice in the index key pattern", f.Path)
			}
		}
		if fields = append(fields, f); len(fields) > maxFields {
			return nil, mongoerr.Of(13103, "An index cannot have more than %d fields", maxFields)
		}
	}
	if len(fields) == 0 {
		return nil, mongoerr.Of(mongoerr.CannotCreateIndex, "Index keys cannot be empty.")
	}
	return fields, nil
}

func parseField(path string, v bson.RawValue) (Field, error) {
	switch v.Type {
	case bson.TypeString:
		return Field{}, kindOfIndex(v.StringValue())
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble, bson.TypeDecimal128:
	default:
		return Field{}, mongoerr.Of(mongoerr.CannotCreateIndex, "Values in v:2 index key pattern cannot be of type %s. "+
			"Only numbers > 0, numbers < 0, and strings are allowed.", TypeName(v.Type))
	}
	n := numberOf(v)
	if n.nan || n.trunc == 0 && n.cut == 0 {
		return Field{}, mongoerr.Of(mongoerr.CannotCreateIndex, "Values in the index key pattern cannot be 0 or NaN.")
	}
	if err := checkPath(path); err != nil {
		return Field{}, err
	}
	return Field{Path: path, Desc: math.Signbit(n.trunc) || n.cut < 0}, nil
}

func kindOfIndex(kind string) error {
	switch kind {
	case "text", "2dsphere", "2d", "hashed", "columnstore":
		return mongoerr.Of(mongoerr.NotImplemented, "This engine does not have '%s' indexes yet", kind)
	}
	return mongoerr.Of(mongoerr.CannotCreateIndex, "Unknown index plugin '%s'", kind)
}

func checkPath(path string) error {
	parts := strings.Split(path, ".")
	if len(parts) > maxPathParts {
		return mongoerr.Of(mongoerr.CannotCreateIndex, "The path of an index field may have at most %d parts", maxPathParts)
	}
	for i, p := range parts {
		switch {
		case p == "":
			return mongoerr.Of(mongoerr.CannotCreateIndex, "Index key contains an empty field name: '%s'", path)
		case strings.HasPrefix(p, "$**"):
			return mongoerr.Of(mongoerr.NotImplemented, "This engine does not have wildcard indexes yet")
		case p[0] == '$' && (i == 0 || p != "$id" && p != "$db" && p != "$ref"):
			return mongoerr.Of(mongoerr.CannotCreateIndex, "Index key contains an illegal field name: field name starts with '$'.")
		}
	}
	return nil
}

// check looks at the specification as a whole.
func (s *Spec) check(seen map[string]bool) error {
	for _, need := range []string{"key", "name"} {
		if !seen[need] {
			return mongoerr.Of(mongoerr.FailedToParse, "The '%s' field is a required property of an index specification", need)
		}
	}
	switch {
	case s.Name == "":
		return mongoerr.Of(mongoerr.CannotCreateIndex, "index name cannot be empty")
	case s.Name == "*":
		return mongoerr.Of(mongoerr.BadValue, "The index name '*' is not valid.")
	case len(s.Name) > maxNameBytes || strings.ContainsRune(s.Name, 0):
		return mongoerr.Of(mongoerr.CannotCreateIndex, "index name must have at most %d bytes and no zero byte", maxNameBytes)
	}
	if !s.IsID() {
		if s.Name == IDIndexName {
			return mongoerr.Of(mongoerr.BadValue, "The index name '_id_' is reserved for the _id index, which must have key pattern {_id: 1}")
		}
		return nil
	}
	if seen["unique"] || seen["sparse"] {
		return mongoerr.Of(mongoerr.InvalidIndexSpecificationOption,
			"The fields 'unique' and 'sparse' are not valid for an _id index specification")
	}
	s.Name, s.Unique = IDIndexName, true
	return nil
}
