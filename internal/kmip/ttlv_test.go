package kmip_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// The tests write and read TTLV with code of their own, so that the codec under
// the server does not judge itself. Tags and codes are those of KMIP 1.4,
// section 9.1.3.
const (
	tagAsynchronous   = 0x420007
	tagAttribute      = 0x420008
	tagAttributeIndex = 0x420009
	tagAttributeName  = 0x42000A
	tagAttributeValue = 0x42000B
	tagBatchCount     = 0x42000D
	tagBatchOption    = 0x42000E
	tagBatchItem      = 0x42000F
	tagAlgorithm      = 0x420028
	tagLength         = 0x42002A
	tagMask           = 0x42002C
	tagKeyBlock       = 0x420040
	tagKeyFormat      = 0x420042
	tagKeyMaterial    = 0x420043
	tagKeyValue       = 0x420045
	tagMaxResponse    = 0x420050
	tagMaxItems       = 0x42004F
	tagNameType       = 0x420054
	tagNameValue      = 0x420055
	tagObjectType     = 0x420057
	tagOperation      = 0x42005C
	tagVersion        = 0x420069
	tagMajor          = 0x42006A
	tagMinor          = 0x42006B
	tagQueryFunction  = 0x420074
	tagRequestHeader  = 0x420077
	tagRequest        = 0x420078
	tagRequestPayload = 0x420079
	tagResponseHeader = 0x42007A
	tagResponse       = 0x42007B
	tagResponsePay    = 0x42007C
	tagResultMessage  = 0x42007D
	tagResultReason   = 0x42007E
	tagResultStatus   = 0x42007F
	tagSecretData     = 0x420085
	tagSecretType     = 0x420086
	tagSymmetricKey   = 0x42008F
	tagTemplate       = 0x420091
	tagTimeStamp      = 0x420092
	tagBatchItemID    = 0x420093
	tagID             = 0x420094
	tagVendor         = 0x42009D
	tagExtension      = 0x420051
	tagVendorExt      = 0x42009C
	tagCriticality    = 0x420026

	opCreate, opRegister, opReKey, opLocate    = 0x01, 0x03, 0x04, 0x08
	opGet, opGetAttributes, opGetAttributeList = 0x0A, 0x0B, 0x0C
	opActivate, opRevoke, opDestroy, opQuery   = 0x12, 0x13, 0x14, 0x18
	opDiscover, opEncrypt, opDecrypt           = 0x1E, 0x1F, 0x20

	reasonNotFound, reasonTooLarge, reasonInvalidMessage = 0x01, 0x02, 0x04
	reasonNotSupported, reasonInvalidField, reasonNoFeat = 0x05, 0x07, 0x08
	reasonIllegal, reasonDenied, reasonFormat            = 0x0B, 0x0C, 0x10
	reasonGeneral                                        = 0x100

	stateActive, stateDeactivated = 2, 3
)

func raw(tag int, kind byte, value []byte) []byte {
	out := []byte{byte(tag >> 16), byte(tag >> 8), byte(tag), kind}
	out = binary.BigEndian.AppendUint32(out, uint32(len(value)))
	out = append(out, value...)
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

func st(tag int, children ...[]byte) []byte {
	var v []byte
	for _, c := range children {
		v = append(v, c...)
	}
	return raw(tag, 1, v)
}

func in(tag int, v int) []byte    { return raw(tag, 2, binary.BigEndian.AppendUint32(nil, uint32(v))) }
func en(tag int, v int) []byte    { return raw(tag, 5, binary.BigEndian.AppendUint32(nil, uint32(v))) }
func tx(tag int, v string) []byte { return raw(tag, 7, []byte(v)) }
func by(tag int, v []byte) []byte { return raw(tag, 8, v) }
func bo(tag int) []byte           { return raw(tag, 6, []byte{0, 0, 0, 0, 0, 0, 0, 1}) }
func dt(tag int, v time.Time) []byte {
	return raw(tag, 9, binary.BigEndian.AppendUint64(nil, uint64(v.Unix())))
}

// node is a decoded item.
type node struct {
	tag      int
	kind     byte
	value    []byte
	children []node
}

func parse(t testing.TB, b []byte) []node {
	t.Helper()
	var out []node
	for len(b) > 0 {
		if len(b) < 8 {
			t.Fatalf("%d stray bytes", len(b))
		}
		n := node{tag: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: b[3]}
		size := int(binary.BigEndian.Uint32(b[4:]))
		padded := (size + 7) / 8 * 8
		if len(b) < 8+padded {
			t.Fatal("an item is cut off")
		}
		n.value = b[8 : 8+size]
		for _, p := range b[8+size : 8+padded] {
			if p != 0 {
				t.Fatal("padding is not zero")
			}
		}
		if n.kind == 1 {
			n.children = parse(t, n.value)
		}
		out = append(out, n)
		b = b[8+padded:]
	}
	return out
}

// shape lists the tags of the children.
func (n node) shape() string {
	s := ""
	for _, c := range n.children {
		s += fmt.Sprintf("%06X ", c.tag)
	}
	return s
}

// get descends by tags to the first match.
func (n node) get(t testing.TB, tags ...int) node {
	t.Helper()
	for _, tag := range tags {
		next, ok := n.child(tag)
		if !ok {
			t.Fatalf("no %06X in %06X [%s]", tag, n.tag, n.shape())
		}
		n = next
	}
	return n
}

func (n node) child(tag int) (node, bool) {
	for _, c := range n.children {
		if c.tag == tag {
			return c, true
		}
	}
	return node{}, false
}

func (n node) number() int {
	if len(n.value) != 4 {
		return -1
	}
	return int(binary.BigEndian.Uint32(n.value))
}

func (n node) text() string { return string(n.value) }

// message builds a request of one version; header items in the order of the
// specification.
func message(minor int, headerItems []byte, items ...[]byte) []byte {
	version := st(tagVersion, in(tagMajor, 1), in(tagMinor, minor))
	header := raw(tagRequestHeader, 1, append(append(version, headerItems...), in(tagBatchCount, len(items))...))
	return st(tagRequest, append([][]byte{header}, items...)...)
}

func op(code int, payload ...[]byte) []byte {
	return st(tagBatchItem, en(tagOperation, code), st(tagRequestPayload, payload...))
}

// percona builds a request as Percona Server does: KMIP 1.0, Maximum Response
// Size, Time Stamp, one item without Unique Batch Item ID.
func percona(code int, payload ...[]byte) []byte {
	return message(0, append(in(tagMaxResponse, 8192), dt(tagTimeStamp, time.Now())...), op(code, payload...))
}

// mongocrypt builds a request as libmongocrypt does: nothing in the header but
// version and batch count.
func mongocrypt(minor, code int, payload ...[]byte) []byte {
	return message(minor, nil, op(code, payload...))
}

func attribute(name string, value []byte) []byte {
	return st(tagAttribute, tx(tagAttributeName, name), value)
}

func aesTemplate(bits int) []byte {
	return st(tagTemplate,
		attribute("Cryptographic Algorithm", en(tagAttributeValue, 3)),
		attribute("Cryptographic Length", in(tagAttributeValue, bits)),
		attribute("Cryptographic Usage Mask", in(tagAttributeValue, 12)))
}

func perconaRegister(key []byte) []byte {
	bits := 8 * len(key)
	return percona(opRegister, en(tagObjectType, 2), aesTemplate(bits),
		st(tagSymmetricKey, st(tagKeyBlock, en(tagKeyFormat, 1), st(tagKeyValue, by(tagKeyMaterial, key)), en(tagAlgorithm, 3), in(tagLength, bits))))
}
