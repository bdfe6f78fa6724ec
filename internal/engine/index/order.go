package index

import (
	"bytes"
	"cmp"
	"encoding/binary"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Tags of the types, in MongoDB's order. They are also the first key byte.
const (
	tagEnd       byte = 0x00 // end of an object or array, below every tag
	tagMinKey    byte = 0x10
	tagUndefined byte = 0x20
	tagNull      byte = 0x28
	tagNumber    byte = 0x30
	tagString    byte = 0x40
	tagObject    byte = 0x48
	tagArray     byte = 0x50
	tagBinary    byte = 0x58
	tagObjectID  byte = 0x60
	tagBool      byte = 0x68
	tagDate      byte = 0x70
	tagTimestamp byte = 0x78
	tagRegex     byte = 0x80
	tagDBPointer byte = 0x88
	tagCode      byte = 0x90
	tagCodeScope byte = 0x98
	tagMaxKey    byte = 0xF0
)

// Bracket names the group of types that are compared with each other: all
// numbers are one, strings and symbols are one. The zero RawValue (a missing
// value) is in the bracket of null; 0 means a type that BSON does not have.
// The bracket is also the first byte of the value's key bytes.
func Bracket(t bson.Type) byte {
	switch t {
	case bson.TypeMinKey:
		return tagMinKey
	case bson.TypeUndefined:
		return tagUndefined
	case bson.TypeNull, 0:
		return tagNull
	case bson.TypeDouble, bson.TypeInt32, bson.TypeInt64, bson.TypeDecimal128:
		return tagNumber
	case bson.TypeString, bson.TypeSymbol:
		return tagString
	case bson.TypeEmbeddedDocument:
		return tagObject
	case bson.TypeArray:
		return tagArray
	case bson.TypeBinary:
		return tagBinary
	case bson.TypeObjectID:
		return tagObjectID
	case bson.TypeBoolean:
		return tagBool
	case bson.TypeDateTime:
		return tagDate
	case bson.TypeTimestamp:
		return tagTimestamp
	case bson.TypeRegex:
		return tagRegex
	case bson.TypeDBPointer:
		return tagDBPointer
	case bson.TypeJavaScript:
		return tagCode
	case bson.TypeCodeWithScope:
		return tagCodeScope
	case bson.TypeMaxKey:
		return tagMaxKey
	}
	return 0
}

// Compare gives MongoDB's order of two values: negative, zero or positive.
// The zero RawValue stands for a missing value and equals null. Numbers of all
// types are compared by exact value. Damaged values are compared as bytes.
func Compare(a, b bson.RawValue) int {
	return compare(a, b, 0)
}

func compare(a, b bson.RawValue, depth int) int {
	ta, tb := Bracket(a.Type), Bracket(b.Type)
	if ta != tb {
		return cmp.Compare(ta, tb)
	}
	return compareSame(ta, a, b, depth)
}

// compareSame compares two values of one bracket.
func compareSame(tag byte, a, b bson.RawValue, depth int) int {
	if na, ok := valueSize(a.Type, a.Value); a.Type != 0 && (!ok || na != len(a.Value)) {
		return bytes.Compare(a.Value, b.Value)
	}
	if nb, ok := valueSize(b.Type, b.Value); b.Type != 0 && (!ok || nb != len(b.Value)) {
		return bytes.Compare(a.Value, b.Value)
	}
	switch tag {
	case tagNumber:
		return compareNumbers(a, b)
	case tagString, tagCode:
		return bytes.Compare(stringBytes(a.Value), stringBytes(b.Value))
	case tagObject:
		return compareDocs(a.Value, b.Value, true, depth+1)
	case tagArray:
		return compareDocs(a.Value, b.Value, false, depth+1)
	case tagBinary:
		return compareBinary(a, b)
	case tagDate:
		return cmp.Compare(a.DateTime(), b.DateTime())
	case tagTimestamp:
		return cmp.Compare(binary.LittleEndian.Uint64(a.Value), binary.LittleEndian.Uint64(b.Value))
	case tagRegex:
		pa, oa := a.Regex()
		pb, ob := b.Regex()
		return cmp.Or(cmp.Compare(pa, pb), cmp.Compare(oa, ob))
	case tagDBPointer:
		na, nb := len(a.Value)-12, len(b.Value)-12
		return cmp.Or(bytes.Compare(stringBytes(a.Value[:na]), stringBytes(b.Value[:nb])),
			bytes.Compare(a.Value[na:], b.Value[nb:]))
	case tagCodeScope:
		ca, sa := a.CodeWithScope()
		cb, sb := b.CodeWithScope()
		return cmp.Or(cmp.Compare(ca, cb), compareDocs(sa, sb, true, depth+1))
	}
	// ObjectId and bool are their bytes; the rest has none.
	return bytes.Compare(a.Value, b.Value)
}

// stringBytes gives the text of a length-prefixed string.
func stringBytes(v []byte) []byte { return v[4 : len(v)-1] }

func compareBinary(a, b bson.RawValue) int {
	sa, da, _ := a.BinaryOK()
	sb, db, _ := b.BinaryOK()
	return cmp.Or(cmp.Compare(len(da), len(db)), cmp.Compare(sa, sb), bytes.Compare(da, db))
}

// compareDocs compares field by field: type, name (objects only), value; the
// shorter one comes first.
func compareDocs(a, b []byte, names bool, depth int) int {
	ba, oka := docBody(a)
	bb, okb := docBody(b)
	if !oka || !okb || depth > 2*MaxDepth {
		return bytes.Compare(a, b)
	}
	for len(ba) > 0 && len(bb) > 0 {
		var ea, eb Element
		if ea, ba, oka = next(ba); !oka {
			return bytes.Compare(a, b)
		}
		if eb, bb, okb = next(bb); !okb {
			return bytes.Compare(a, b)
		}
		ta, tb := Bracket(ea.Value.Type), Bracket(eb.Value.Type)
		if c := cmp.Compare(ta, tb); c != 0 {
			return c
		}
		if names {
			if c := bytes.Compare(ea.Key, eb.Key); c != 0 {
				return c
			}
		}
		if c := compareSame(ta, ea.Value, eb.Value, depth); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(ba), 0) - cmp.Compare(len(bb), 0)
}
