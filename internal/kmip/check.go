package kmip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/ovh/kmip-go"
)

// Bounds of a message that CheckMessage accepts.
const (
	maxDepth = 24
	maxItems = 2048
)

// The item types of TTLV (KMIP 1.4, section 9.1.1.2).
const (
	typeStructure   = 1
	typeInteger     = 2
	typeLongInteger = 3
	typeBigInteger  = 4
	typeEnumeration = 5
	typeBoolean     = 6
	typeTextString  = 7
	typeByteString  = 8
	typeDateTime    = 9
	typeInterval    = 10
)

var errMalformed = errors.New("malformed TTLV")

// item is one TTLV item; value has exactly the declared length.
type item struct {
	tag   int
	kind  byte
	value []byte
}

// next splits the first item off b. The padding to eight bytes must be there;
// its content does not matter.
func next(b []byte) (it item, rest []byte, err error) {
	if len(b) < 8 {
		return item{}, nil, fmt.Errorf("%w: header of %d bytes", errMalformed, len(b))
	}
	n := uint64(binary.BigEndian.Uint32(b[4:8]))
	padded := (n + 7) &^ 7
	if padded > uint64(len(b)-8) { //nolint:gosec // at least 8 bytes, checked above
		return item{}, nil, fmt.Errorf("%w: an item is longer than its parent", errMalformed)
	}
	it = item{tag: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: b[3], value: b[8 : 8+n]}
	return it, b[8+padded:], nil
}

// CheckMessage tells whether b is exactly one structurally sound TTLV structure
// with the given tag: every length inside its parent, every fixed length right,
// types 1 to 10 only, text in UTF-8, at most 24 levels and 2048 items. What
// passes can be given to the decoder, which trusts lengths and would panic.
func CheckMessage(b []byte, tag int) error {
	top, rest, err := next(b)
	if err != nil {
		return err
	}
	if len(rest) != 0 || top.kind != typeStructure || top.tag != tag {
		return fmt.Errorf("%w: not one message", errMalformed)
	}
	items := 0
	return checkItems(top.value, 1, &items)
}

func checkItems(b []byte, depth int, items *int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d levels", errMalformed, maxDepth)
	}
	for len(b) > 0 {
		it, rest, err := next(b)
		if err != nil {
			return err
		}
		if *items++; *items > maxItems {
			return fmt.Errorf("%w: more than %d items", errMalformed, maxItems)
		}
		if it.kind == typeStructure {
			err = checkItems(it.value, depth+1, items)
		} else {
			err = it.checkLength()
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

func (it item) checkLength() error {
	ok, n := false, len(it.value)
	switch it.kind {
	case typeInteger, typeEnumeration, typeInterval:
		ok = n == 4
	case typeLongInteger, typeBoolean, typeDateTime:
		ok = n == 8
	case typeBigInteger:
		ok = n > 0 && n%8 == 0
	case typeTextString:
		ok = utf8.Valid(it.value)
	case typeByteString:
		ok = true
	}
	if !ok {
		return fmt.Errorf("%w: type %d with length %d", errMalformed, it.kind, n)
	}
	return nil
}

// header is what an answer needs to know of its request.
type header struct {
	version kmip.ProtocolVersion // zero: unknown
	op      kmip.Operation       // of the first batch item; zero: unknown
}

// peek reads version and first operation from a message that passed
// CheckMessage, so that even a request that cannot be decoded is answered in
// its own version and with its operation.
func peek(b []byte) (h header) {
	top, _, err := next(b)
	if err != nil {
		return h
	}
	if req, ok := find(top.value, kmip.TagRequestHeader, typeStructure); ok {
		if v, ok := find(req, kmip.TagProtocolVersion, typeStructure); ok {
			h.version.ProtocolVersionMajor = int32(number(v, kmip.TagProtocolVersionMajor, typeInteger)) //nolint:gosec // an integer of four bytes
			h.version.ProtocolVersionMinor = int32(number(v, kmip.TagProtocolVersionMinor, typeInteger)) //nolint:gosec // an integer of four bytes
		}
	}
	if batch, ok := find(top.value, kmip.TagBatchItem, typeStructure); ok {
		h.op = kmip.Operation(number(batch, kmip.TagOperation, typeEnumeration))
	}
	return h
}

// find gives the value of the first item of a tag and type in a structure.
func find(b []byte, tag int, kind byte) ([]byte, bool) {
	for len(b) > 0 {
		it, rest, err := next(b)
		if err != nil {
			return nil, false
		}
		if it.tag == tag && it.kind == kind {
			return it.value, true
		}
		b = rest
	}
	return nil, false
}

func number(b []byte, tag int, kind byte) uint32 {
	v, ok := find(b, tag, kind)
	if !ok || len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}
