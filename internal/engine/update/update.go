package update

import (
	"bytes"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// Update is a parsed update: a replacement or a list of field operators. It is
// immutable and safe for concurrent use.
type Update struct {
	replacement bson.Raw
	mods        []mod // in the order of their paths
}

// ParseUpdate reads the u of an update statement. Pipelines and the operators
// that this engine lacks are NotImplemented, unknown ones FailedToParse, paths
// that touch each other ConflictingUpdateOperators.
func ParseUpdate(u bson.RawValue) (*Update, error) {
	switch u.Type {
	case bson.TypeEmbeddedDocument:
	case bson.TypeArray:
		return nil, notHere("updates by pipeline")
	default:
		return nil, mongoerr.Of(mongoerr.FailedToParse, "Update argument must be either an object or an array")
	}
	doc := bson.Raw(u.Value)
	if err := index.Validate(doc); err != nil {
		return nil, err
	}
	if len(doc) > index.MaxDocumentSize {
		return nil, tooLarge(len(doc))
	}
	first, some := firstKey(doc)
	if !some || !strings.HasPrefix(first, "$") {
		return parseReplacement(doc)
	}
	return parseOperators(doc)
}

func firstKey(doc []byte) (string, bool) {
	for e := range index.Elements(doc) {
		return string(e.Key), true
	}
	return "", false
}

func parseReplacement(doc bson.Raw) (*Update, error) {
	for e := range index.Elements(doc) {
		if len(e.Key) > 0 && e.Key[0] == '$' {
			return nil, mongoerr.Of(mongoerr.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' is not allowed "+
				"in the context of an update's replacement document. Consider using update operators alone.", e.Key)
		}
	}
	return &Update{replacement: doc}, nil
}

func notHere(what string) error {
	return mongoerr.Of(mongoerr.NotImplemented, "This engine does not have %s yet", what)
}

func tooLarge(size int) error {
	return mongoerr.Of(mongoerr.BSONObjectTooLarge, "Resulting document after update is larger than %d: it has %d bytes",
		index.MaxDocumentSize, size)
}

// IsReplacement tells whether the update replaces whole documents. Such an
// update cannot be used with multi.
func (u *Update) IsReplacement() bool { return u.replacement != nil }

// Apply gives the updated document; modified is false, and out is doc itself,
// if nothing would change. doc must have passed index.Validate.
func (u *Update) Apply(doc bson.Raw) (out bson.Raw, modified bool, err error) {
	if u.IsReplacement() {
		out, err = u.replace(doc)
	} else {
		out, err = u.run(doc, false)
	}
	if err != nil {
		return nil, false, err
	}
	if bytes.Equal(out, doc) {
		return doc, false, nil
	}
	return out, true, check(out)
}

// check looks at a document that was made here.
func check(doc bson.Raw) error {
	if len(doc) > index.MaxDocumentSize {
		return tooLarge(len(doc))
	}
	return index.Validate(doc)
}

// replace puts the replacement in doc's place; _id stays as it was.
func (u *Update) replace(doc bson.Raw) (bson.Raw, error) {
	old, has := index.Lookup(doc, "_id")
	if id, ok := index.Lookup(u.replacement, "_id"); ok && has && index.Compare(id, old) != 0 {
		return nil, immutableID()
	}
	if !has {
		return u.replacement, nil
	}
	return withID(u.replacement, old), nil
}

func immutableID() error {
	return mongoerr.Of(mongoerr.ImmutableField, "Performing an update on the path '_id' would modify the immutable field '_id'")
}

// run applies the operators in the order of their paths.
func (u *Update) run(doc bson.Raw, insert bool) (bson.Raw, error) {
	root := &value{raw: bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}}
	for i := range u.mods {
		m := &u.mods[i]
		if m.onlyInsert && !insert {
			continue
		}
		if err := m.apply(root); err != nil {
			return nil, err
		}
	}
	if !root.open {
		return doc, nil
	}
	out := bson.Raw(root.appendBody(make([]byte, 0, len(doc)+64)))
	return out, sameID(doc, out)
}

// sameID refuses a change of an _id that was there. A new _id may be set
// where there was none: an upsert begins so.
func sameID(before, after bson.Raw) error {
	old, had := index.Lookup(before, "_id")
	if !had {
		return nil
	}
	id, has := index.Lookup(after, "_id")
	if !has || id.Type != old.Type || !bytes.Equal(id.Value, old.Value) {
		return immutableID()
	}
	return nil
}

// Upsert makes the document to insert when nothing matched: the filter's
// equalities, changed by the operators, or the replacement. A missing _id
// becomes a new ObjectId; _id is the first field. filter may be nil.
func (u *Update) Upsert(filter *query.Filter) (bson.Raw, error) {
	base, err := u.base(filter)
	if err != nil {
		return nil, err
	}
	out := base
	if !u.IsReplacement() {
		if out, err = u.run(base, true); err != nil {
			return nil, err
		}
	}
	id, ok := index.Lookup(out, "_id")
	if !ok {
		oid := bson.NewObjectID()
		id = bson.RawValue{Type: bson.TypeObjectID, Value: oid[:]}
	}
	if _, err := index.EncodeID(id); err != nil {
		return nil, err
	}
	out = withID(out, id)
	return out, check(out)
}

// base is the document from which an upsert starts.
func (u *Update) base(filter *query.Filter) (bson.Raw, error) {
	var equal []query.Equality
	var err error
	if filter != nil {
		if equal, err = query.EqualityFields(filter); err != nil {
			return nil, err
		}
	}
	root := &value{raw: emptyDocument()}
	root.expand()
	for _, e := range equal {
		if u.IsReplacement() && e.Path != "_id" {
			continue
		}
		m := mod{path: e.Path, parts: strings.Split(e.Path, "."), change: set(e.Value)}
		if err := m.apply(root); err != nil {
			return nil, err
		}
	}
	doc := bson.Raw(root.appendBody(nil))
	if !u.IsReplacement() {
		return doc, nil
	}
	if _, ok := index.Lookup(doc, "_id"); ok {
		return u.replace(doc)
	}
	return u.replacement, nil
}

// withID gives doc with id as its first field.
func withID(doc bson.Raw, id bson.RawValue) bson.Raw {
	out := make([]byte, 4, len(doc)+len(id.Value)+8)
	out = appendElement(out, "_id", id)
	for e := range index.Elements(doc) {
		if string(e.Key) != "_id" {
			out = appendElement(out, string(e.Key), e.Value)
		}
	}
	return endDocument(out, 0)
}
