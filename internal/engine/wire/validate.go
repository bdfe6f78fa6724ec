package wire

import (
	"bytes"
	"encoding/binary"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Validate checks that doc is one well-formed BSON document, nested at most
// MaxDepth deep: lengths, terminators and types hold everywhere, so that code
// behind it may walk the document without checking again. It recurses no deeper
// than MaxDepth. Errors wrap ErrProtocol.
func Validate(doc []byte) error {
	n, err := validateDocument(doc, 1)
	if err != nil {
		return err
	}
	if n != len(doc) {
		return protocolError("%d bytes after the end of a document", len(doc)-n)
	}
	return nil
}

// validateDocument gives the length of the document at the start of b.
func validateDocument(b []byte, depth int) (int, error) {
	if depth > MaxDepth {
		return 0, protocolError("documents are nested more than %d deep", MaxDepth)
	}
	n, ok := length(b, 5)
	if !ok || b[n-1] != 0 {
		return 0, protocolError("malformed document length")
	}
	rest := b[4 : n-1]
	for len(rest) > 0 {
		kind := bson.Type(rest[0])
		end := bytes.IndexByte(rest[1:], 0)
		if end < 0 {
			return 0, protocolError("field name without end")
		}
		rest = rest[end+2:]
		size, err := valueSize(kind, rest, depth)
		if err != nil {
			return 0, err
		}
		if size > len(rest) {
			return 0, protocolError("truncated value of type %#x", byte(kind))
		}
		rest = rest[size:]
	}
	return n, nil
}

// length reads the 32-bit length at the start of b, which counts itself.
func length(b []byte, least int) (int, bool) {
	if len(b) < least {
		return 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b))
	return int(n), n >= int64(least) && n <= int64(len(b))
}

func valueSize(kind bson.Type, b []byte, depth int) (int, error) {
	switch kind {
	case bson.TypeNull, bson.TypeUndefined, bson.TypeMinKey, bson.TypeMaxKey:
		return 0, nil
	case bson.TypeBoolean:
		if len(b) > 0 && b[0] > 1 {
			return 0, protocolError("boolean with value %d", b[0])
		}
		return 1, nil
	case bson.TypeInt32:
		return 4, nil
	case bson.TypeDouble, bson.TypeDateTime, bson.TypeTimestamp, bson.TypeInt64:
		return 8, nil
	case bson.TypeObjectID:
		return 12, nil
	case bson.TypeDecimal128:
		return 16, nil
	case bson.TypeString, bson.TypeJavaScript, bson.TypeSymbol:
		return stringSize(b)
	case bson.TypeDBPointer:
		n, err := stringSize(b)
		return n + 12, err
	case bson.TypeEmbeddedDocument, bson.TypeArray:
		return validateDocument(b, depth+1)
	case bson.TypeBinary:
		return binarySize(b)
	case bson.TypeRegex:
		first := bytes.IndexByte(b, 0)
		if first < 0 {
			return 0, protocolError("regular expression without end")
		}
		second := bytes.IndexByte(b[first+1:], 0)
		if second < 0 {
			return 0, protocolError("regular expression without end")
		}
		return first + second + 2, nil
	case bson.TypeCodeWithScope:
		return codeSize(b, depth)
	default:
		return 0, protocolError("unknown BSON type %#x", byte(kind))
	}
}

func stringSize(b []byte) (int, error) {
	if len(b) < 5 {
		return 0, protocolError("truncated string")
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n < 1 || n > int64(len(b)-4) || b[3+n] != 0 {
		return 0, protocolError("malformed string")
	}
	return int(n) + 4, nil
}

func binarySize(b []byte) (int, error) {
	if len(b) < 5 {
		return 0, protocolError("truncated binary")
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > int64(len(b)-5) {
		return 0, protocolError("truncated binary")
	}
	const oldBinary = 2 // repeats its length inside
	if b[4] == oldBinary && (n < 4 || int64(binary.LittleEndian.Uint32(b[5:])) != n-4) {
		return 0, protocolError("malformed binary of subtype 2")
	}
	return int(n) + 5, nil
}

func codeSize(b []byte, depth int) (int, error) {
	n, ok := length(b, 14)
	if !ok {
		return 0, protocolError("malformed code with scope")
	}
	inner := b[4:n]
	code, err := stringSize(inner)
	if err != nil {
		return 0, err
	}
	scope, err := validateDocument(inner[code:], depth+1)
	if err != nil {
		return 0, err
	}
	if code+scope != len(inner) {
		return 0, protocolError("malformed code with scope")
	}
	return n, nil
}
