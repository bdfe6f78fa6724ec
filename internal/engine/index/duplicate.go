package index

import (
	"encoding/hex"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// KeyValue gives the values behind one key of doc, such as {a: 1, b: null}:
// the keyValue of a duplicate key error. It is nil if doc has no such key.
func (s Spec) KeyValue(doc bson.Raw, key []byte) bson.Raw {
	g := keyGen{spec: s, want: key}
	open := make([]pathState, len(s.Fields))
	for i, f := range s.Fields {
		open[i] = pathState{at: bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, rest: f.Path, open: true}
	}
	if err := g.expand(open, make([]bson.RawValue, len(s.Fields))); err != nil {
		return nil
	}
	return g.found
}

func (s Spec) valuesDocument(values []bson.RawValue) []byte {
	b := newDoc()
	for i, f := range s.Fields {
		v := values[i]
		if v.Type == 0 {
			v.Type = bson.TypeNull
		}
		b = append(b.head(v.Type, f.Path), v.Value...)
	}
	return b.done()
}

// DuplicateKey is the error for a second document with the same key in a
// unique index; keyValue is what KeyValue gives. Applications are known to
// parse its text, which is MongoDB's to the letter for the usual types.
func DuplicateKey(namespace string, s Spec, keyValue bson.Raw) *mongoerr.Error {
	var fields []string
	for e := range Elements(keyValue) {
		fields = append(fields, string(e.Key)+": "+shellValue(e.Value))
	}
	return mongoerr.Of(mongoerr.DuplicateKey, "E11000 duplicate key error collection: %s index: %s dup key: { %s }",
		namespace, s.Name, strings.Join(fields, ", "))
}

// maxShown is how much of one value an error shows, in bytes.
const maxShown = 512

// shellValue prints a value as MongoDB's messages do.
func shellValue(v bson.RawValue) string {
	text := v.String()
	switch v.Type {
	case bson.TypeString:
		text = `"` + v.StringValue() + `"`
	case bson.TypeInt32, bson.TypeInt64:
		text = strconv.FormatInt(v.AsInt64(), 10)
	case bson.TypeDouble:
		text = strconv.FormatFloat(v.Double(), 'f', -1, 64)
		if !strings.ContainsAny(text, ".NI") {
			text += ".0"
		}
	case bson.TypeNull:
		text = "null"
	case bson.TypeUndefined:
		text = "undefined"
	case bson.TypeObjectID:
		id := v.ObjectID()
		text = "ObjectId('" + hex.EncodeToString(id[:]) + "')"
	}
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "..."
	}
	return text
}
