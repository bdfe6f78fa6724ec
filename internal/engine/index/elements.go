package index

import (
	"encoding/binary"
	"iter"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// MaxDepth is how deep documents and arrays may nest; MongoDB documents 100.
const MaxDepth = 100

// MaxDocumentSize is the largest document a client may store, in bytes.
const MaxDocumentSize = 16 * 1024 * 1024

// Element is one field of a document or one element of an array. Key and
// Value point into the document they came from.
type Element struct {
	Key   []byte
	Value bson.RawValue
}

// Validate checks that doc is whole, well-formed BSON that nests at most
// MaxDepth levels. Everything that came from outside passes here once; the
// other functions of the engine then stop early at damage, but never panic.
func Validate(doc bson.Raw) error {
	return validate(doc, 1)
}

func validate(doc []byte, depth int) error {
	if depth > MaxDepth {
		return mongoerr.Of(mongoerr.Overflow, "document nests deeper than %d levels", MaxDepth)
	}
	body, ok := docBody(doc)
	if !ok {
		return malformed()
	}
	for len(body) > 0 {
		e, rest, ok := next(body)
		if !ok {
			return malformed()
		}
		if err := validateValue(e.Value, depth); err != nil {
			return err
		}
		body = rest
	}
	return nil
}

func validateValue(v bson.RawValue, depth int) error {
	switch v.Type {
	case bson.TypeEmbeddedDocument, bson.TypeArray:
		return validate(v.Value, depth+1)
	case bson.TypeCodeWithScope:
		_, scope, ok := v.CodeWithScopeOK()
		if !ok {
			return malformed()
		}
		return validate(scope, depth+1)
	}
	return nil
}

func malformed() error {
	return mongoerr.Of(mongoerr.InvalidBSON, "document is not well-formed BSON")
}

// Elements walks over the fields of a document or the elements of an array in
// their order. It ends early at damaged bytes; use Validate before.
func Elements(doc []byte) iter.Seq[Element] {
	return func(yield func(Element) bool) {
		body, ok := docBody(doc)
		for ok && len(body) > 0 {
			var e Element
			if e, body, ok = next(body); !ok || !yield(e) {
				return
			}
		}
	}
}

// Lookup finds the first field called key at the top level of doc.
func Lookup(doc []byte, key string) (bson.RawValue, bool) {
	for e := range Elements(doc) {
		if string(e.Key) == key {
			return e.Value, true
		}
	}
	return bson.RawValue{}, false
}

// docBody cuts length and final zero off a document.
func docBody(doc []byte) ([]byte, bool) {
	if len(doc) < 5 || uint64(binary.LittleEndian.Uint32(doc)) != uint64(len(doc)) || doc[len(doc)-1] != 0 {
		return nil, false
	}
	return doc[4 : len(doc)-1], true
}

// next reads one element at the front of body.
func next(body []byte) (e Element, rest []byte, ok bool) {
	end := cstring(body[1:])
	if end < 0 {
		return Element{}, nil, false
	}
	e.Key = body[1 : 1+end]
	data := body[end+2:]
	t := bson.Type(body[0])
	n, ok := valueSize(t, data)
	if !ok {
		return Element{}, nil, false
	}
	e.Value = bson.RawValue{Type: t, Value: data[:n:n]}
	return e, data[n:], true
}

// cstring gives the length of the zero-ended string at the front, or -1.
func cstring(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return -1
}

// valueSize tells how many bytes of data the value of type t takes, checking
// what can be checked without descending.
func valueSize(t bson.Type, data []byte) (int, bool) {
	n := -1
	switch t {
	case bson.TypeNull, bson.TypeUndefined, bson.TypeMinKey, bson.TypeMaxKey:
		n = 0
	case bson.TypeBoolean:
		if len(data) > 0 && data[0] <= 1 {
			n = 1
		}
	case bson.TypeInt32:
		n = 4
	case bson.TypeDouble, bson.TypeInt64, bson.TypeDateTime, bson.TypeTimestamp:
		n = 8
	case bson.TypeObjectID:
		n = 12
	case bson.TypeDecimal128:
		n = 16
	case bson.TypeString, bson.TypeSymbol, bson.TypeJavaScript:
		n = stringSize(data)
	case bson.TypeEmbeddedDocument, bson.TypeArray:
		n = blockSize(data, 5)
		if n > 0 && n <= len(data) && data[n-1] != 0 {
			n = -1
		}
	case bson.TypeBinary:
		n = binarySize(data)
	case bson.TypeRegex:
		if p := cstring(data); p >= 0 {
			if o := cstring(data[p+1:]); o >= 0 {
				n = p + o + 2
			}
		}
	case bson.TypeDBPointer:
		if s := stringSize(data); s > 0 {
			n = s + 12
		}
	case bson.TypeCodeWithScope:
		n = codeWithScopeSize(data)
	}
	return n, n >= 0 && n <= len(data)
}

// stringSize is the size of a length-prefixed, zero-ended string, or -1.
func stringSize(data []byte) int {
	if len(data) < 5 {
		return -1
	}
	n := uint64(binary.LittleEndian.Uint32(data))
	if n < 1 || n > uint64(len(data)-4) || data[4+n-1] != 0 { //nolint:gosec // at least 5 bytes, checked above
		return -1
	}
	return int(n) + 4 //nolint:gosec // bounded by len(data)
}

// blockSize is the size of a block whose length counts itself, or -1.
func blockSize(data []byte, least uint64) int {
	if len(data) < 4 {
		return -1
	}
	n := uint64(binary.LittleEndian.Uint32(data))
	if n < least || n > uint64(len(data)) {
		return -1
	}
	return int(n) //nolint:gosec // bounded by len(data)
}

func binarySize(data []byte) int {
	if len(data) < 5 {
		return -1
	}
	n := uint64(binary.LittleEndian.Uint32(data))
	if n > uint64(len(data)-5) { //nolint:gosec // at least 5 bytes, checked above
		return -1
	}
	// The old binary subtype repeats the length inside.
	if data[4] == 2 && (n < 4 || uint64(binary.LittleEndian.Uint32(data[5:])) != n-4) {
		return -1
	}
	return int(n) + 5 //nolint:gosec // bounded by len(data)
}

func codeWithScopeSize(data []byte) int {
	n := blockSize(data, 14)
	if n < 0 {
		return -1
	}
	s := stringSize(data[4:n])
	if s < 0 {
		return -1
	}
	if d := blockSize(data[4+s:n], 5); d < 0 || 4+s+d != n {
		return -1
	}
	return n
}
