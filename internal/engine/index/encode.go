package index

import (
	"encoding/binary"
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// FormatVersion is the version of the key bytes that this package makes.
const FormatVersion = 1

// Bound is a half-open range [Lower, Upper) over key bytes. A nil Lower is the
// lowest key, a nil Upper means without end.
type Bound struct {
	Lower, Upper []byte
}

// Contains tells whether key lies in the range.
func (b Bound) Contains(key []byte) bool {
	return string(key) >= string(b.Lower) && (b.Upper == nil || string(key) < string(b.Upper))
}

// EncodeValue appends the order-preserving, self-delimiting bytes of v to dst:
// bytes.Compare of two encodings has the sign of Compare of the values. Equal
// numbers of different types give equal bytes. The zero RawValue (missing) is
// encoded as null. A value that is not well-formed or nests too deep is an error.
func EncodeValue(dst []byte, v bson.RawValue) ([]byte, error) {
	tag := Bracket(v.Type)
	if tag == 0 {
		return dst, malformed()
	}
	return encodeBody(append(dst, tag), tag, v, 0)
}

// EncodeID is EncodeValue of a document's _id, with the checks on it: an array,
// a regular expression, undefined and a missing value are refused. Documents are
// the same one if and only if these bytes are equal.
func EncodeID(id bson.RawValue) ([]byte, error) {
	switch id.Type {
	case bson.TypeArray, bson.TypeRegex, bson.TypeUndefined, 0:
		return nil, mongoerr.Of(mongoerr.BadValue, "The '_id' value cannot be of type %s", TypeName(id.Type))
	}
	return EncodeValue(nil, id)
}

func encodeBody(dst []byte, tag byte, v bson.RawValue, depth int) ([]byte, error) {
	if n, ok := valueSize(v.Type, v.Value); v.Type != 0 && (!ok || n != len(v.Value)) {
		return dst, malformed()
	}
	switch tag {
	case tagNumber:
		return appendNumber(dst, numberOf(v)), nil
	case tagString, tagCode:
		return appendText(dst, stringBytes(v.Value)), nil
	case tagObject:
		return appendDoc(dst, v.Value, true, depth+1)
	case tagArray:
		return appendDoc(dst, v.Value, false, depth+1)
	case tagBinary:
		subtype, data, _ := v.BinaryOK()
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(data))) //nolint:gosec // BSON lengths have 32 bits
		return append(append(dst, subtype), data...), nil
	case tagDate:
		return binary.BigEndian.AppendUint64(dst, binary.LittleEndian.Uint64(v.Value)^1<<63), nil
	case tagTimestamp:
		return binary.BigEndian.AppendUint64(dst, binary.LittleEndian.Uint64(v.Value)), nil
	case tagRegex:
		pattern, options := v.Regex()
		return appendText(appendText(dst, []byte(pattern)), []byte(options)), nil
	case tagDBPointer:
		n := len(v.Value) - 12
		return append(appendText(dst, stringBytes(v.Value[:n])), v.Value[n:]...), nil
	case tagCodeScope:
		code, scope := v.CodeWithScope()
		return appendDoc(appendText(dst, []byte(code)), scope, true, depth+1)
	}
	return append(dst, v.Value...), nil // ObjectId, bool; the rest has no bytes
}

// appendText escapes 0x00 and ends below every continuation.
func appendText(dst, text []byte) []byte {
	for _, c := range text {
		dst = append(dst, c)
		if c == 0 {
			dst = append(dst, 0xFF)
		}
	}
	return append(dst, 0, 0)
}

func appendDoc(dst, doc []byte, names bool, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return dst, mongoerr.Of(mongoerr.Overflow, "value nests deeper than %d levels", MaxDepth)
	}
	body, ok := docBody(doc)
	if !ok {
		return dst, malformed()
	}
	for len(body) > 0 {
		var e Element
		if e, body, ok = next(body); !ok {
			return dst, malformed()
		}
		tag := Bracket(e.Value.Type)
		dst = append(dst, tag)
		if names {
			dst = appendText(dst, e.Key)
		}
		var err error
		if dst, err = encodeBody(dst, tag, e.Value, depth); err != nil {
			return dst, err
		}
	}
	return append(dst, tagEnd), nil
}

func appendNumber(dst []byte, n number) []byte {
	if n.nan {
		return append(dst, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	}
	b := math.Float64bits(n.trunc)
	if b>>63 == 1 {
		b = ^b
	} else {
		b |= 1 << 63
	}
	dst = binary.BigEndian.AppendUint64(dst, b)
	dst = append(dst, byte(1+n.cut)) //nolint:gosec // cut is -1, 0 or 1
	if n.cut == 0 {
		return dst
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n.dec.exp+0x8000)) //nolint:gosec // exponents lie within 7000 of 0
	for i := 0; i < len(n.dec.digits); i += 2 {
		pair := (n.dec.digits[i] - '0') * 10
		if i+1 < len(n.dec.digits) {
			pair += n.dec.digits[i+1] - '0'
		}
		dst = append(dst, pair+1)
	}
	dst = append(dst, 0)
	if n.cut < 0 {
		invert(dst[start:])
	}
	return dst
}

// invert turns ascending bytes into descending ones.
func invert(b []byte) {
	for i := range b {
		b[i] = ^b[i]
	}
}

// PrefixEnd gives the first key after all keys that begin with prefix, nil if
// there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// TypeName is MongoDB's alias of a BSON type, as $type takes it.
func TypeName(t bson.Type) string {
	switch t {
	case 0:
		return "missing"
	case bson.TypeDouble:
		return "double"
	case bson.TypeString:
		return "string"
	case bson.TypeEmbeddedDocument:
		return "object"
	case bson.TypeArray:
		return "array"
	case bson.TypeBinary:
		return "binData"
	case bson.TypeUndefined:
		return "undefined"
	case bson.TypeObjectID:
		return "objectId"
	case bson.TypeBoolean:
		return "bool"
	case bson.TypeDateTime:
		return "date"
	case bson.TypeNull:
		return "null"
	case bson.TypeRegex:
		return "regex"
	case bson.TypeDBPointer:
		return "dbPointer"
	case bson.TypeJavaScript:
		return "javascript"
	case bson.TypeSymbol:
		return "symbol"
	case bson.TypeCodeWithScope:
		return "javascriptWithScope"
	case bson.TypeInt32:
		return "int"
	case bson.TypeTimestamp:
		return "timestamp"
	case bson.TypeInt64:
		return "long"
	case bson.TypeDecimal128:
		return "decimal"
	case bson.TypeMinKey:
		return "minKey"
	case bson.TypeMaxKey:
		return "maxKey"
	}
	return "unknown"
}
