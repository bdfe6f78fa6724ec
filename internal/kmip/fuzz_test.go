package kmip_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/kmip"
)

// seeds are real requests, and the packet that ends a server which decodes
// without looking: an Integer of length 0.
func seeds() map[string][]byte {
	id := "kw-0123456789abcdef0123456789abcdef"
	return map[string][]byte{
		"register":   perconaRegister(bytes.Repeat([]byte{1}, 32)),
		"activate":   percona(opActivate, tx(tagID, id)),
		"get":        percona(opGet, tx(tagID, id)),
		"state":      percona(opGetAttributes, tx(tagID, id), tx(tagAttributeName, "State")),
		"list":       percona(opGetAttributeList, tx(tagID, id)),
		"create":     mongocrypt(2, opCreate, en(tagObjectType, 2), aesTemplate(256)),
		"secret":     mongocrypt(0, opRegister, en(tagObjectType, 7), st(tagTemplate), st(tagSecretData, en(tagSecretType, 2), st(tagKeyBlock, en(tagKeyFormat, 2), st(tagKeyValue, by(tagKeyMaterial, make([]byte, 96)))))),
		"locate":     mongocrypt(3, opLocate, in(tagMaxItems, 1), attribute("Name", st(tagAttributeValue, tx(tagNameValue, "n"), en(tagNameType, 1))), attribute("x-a", tx(tagAttributeValue, "b"))),
		"query":      mongocrypt(4, opQuery, en(tagQueryFunction, 1), en(tagQueryFunction, 3)),
		"discover":   mongocrypt(1, opDiscover, st(tagVersion, in(tagMajor, 1), in(tagMinor, 2))),
		"batch":      message(2, en(tagBatchOption, 1), op(opCreate, en(tagObjectType, 2), aesTemplate(256)), op(opActivate), op(opGet)),
		"encrypt":    mongocrypt(2, opEncrypt, tx(tagID, id), by(0x4200C2, make([]byte, 96))),
		"revoke":     mongocrypt(0, opRevoke, tx(tagID, id), st(0x420081, en(0x420082, 1))),
		"rsa":        mongocrypt(0, opRegister, en(tagObjectType, 4), st(tagTemplate), st(0x420064, st(tagKeyBlock, en(tagKeyFormat, 10), st(tagKeyValue, st(tagKeyMaterial, raw(0x420052, 4, make([]byte, 8))))))),
		"no modulus": mongocrypt(0, opRegister, en(tagObjectType, 4), st(tagTemplate), st(0x420064, st(tagKeyBlock, en(tagKeyFormat, 10), st(tagKeyValue, st(tagKeyMaterial))))),
		"length 0":   raw(tagRequest, 1, bytes.Join([][]byte{{0x42, 0, 0x77, 1, 0, 0, 0, 32}, {0x42, 0, 0x69, 1, 0, 0, 0, 24}, {0x42, 0, 0x6A, 2, 0, 0, 0, 0}, make([]byte, 16)}, nil)),
		"big int 0":  raw(tagRequest, 1, raw(0x420052, 4, nil)),
		"empty":      st(tagRequest),
	}
}

func TestCheckMessage(t *testing.T) {
	deep := in(tagMinor, 1)
	for range 30 {
		deep = st(tagVersion, deep)
	}
	for name, b := range seeds() {
		if err := kmip.CheckMessage(b, tagRequest); (err == nil) != (name != "length 0" && name != "big int 0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"seven bytes":     make([]byte, 7),
		"response":        st(tagResponse),
		"not a structure": by(tagRequest, nil),
		"two messages":    append(st(tagRequest), st(tagRequest)...),
		"type 0":          st(tagRequest, raw(tagID, 0, make([]byte, 8))),
		"type 11":         st(tagRequest, raw(tagID, 11, make([]byte, 8))),
		"integer of 8":    st(tagRequest, raw(tagID, 2, make([]byte, 8))),
		"enumeration 2":   st(tagRequest, raw(tagID, 5, make([]byte, 2))),
		"interval 8":      st(tagRequest, raw(tagID, 10, make([]byte, 8))),
		"long of 4":       st(tagRequest, raw(tagID, 3, make([]byte, 4))),
		"date of 0":       st(tagRequest, raw(tagID, 9, nil)),
		"boolean of 1":    st(tagRequest, raw(tagID, 6, make([]byte, 1))),
		"big integer 7":   st(tagRequest, raw(tagID, 4, make([]byte, 7))),
		"no UTF-8":        st(tagRequest, tx(tagID, "\xff")),
		"longer than all": {0x42, 0, 0x78, 1, 0xff, 0xff, 0xff, 0xff},
		"child too long":  raw(tagRequest, 1, []byte{0x42, 0, 0x94, 8, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8}),
		"no padding":      {0x42, 0, 0x78, 1, 0, 0, 0, 4, 0, 0, 0, 0},
		"too deep":        st(tagRequest, deep),
		"too many":        st(tagRequest, bytes.Repeat(in(tagMinor, 1), 2049)),
	} {
		if kmip.CheckMessage(b, tagRequest) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// mutate changes a request a little: bytes, lengths, types, cuts, doublings.
func mutate(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			return b
		}
		at := r.IntN(len(b))
		switch r.IntN(6) {
		case 0:
			b[at] = byte(r.Uint32())
		case 1:
			b[at] ^= 1 << r.IntN(8)
		case 2: // a type of some item
			if p := at / 8 * 8; p+8 <= len(b) {
				b[p+3] = byte(r.IntN(12))
			}
		case 3: // a length
			if p := at / 8 * 8; p+8 <= len(b) {
				binary.BigEndian.PutUint32(b[p+4:], uint32(r.IntN(40)))
			}
		case 4:
			b = b[:at]
		case 5: // a part twice, with the outermost length put right
			b = append(b[:at:at], b[at/8*8:]...)
			if len(b) >= 8 {
				binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
			}
		}
	}
	return b
}

// unexpectedPanic finds recovered panics in a log. The only one that a request
// can cause after the check is the codec's: it does not look whether a big
// integer of a transparent key is there at all.
func unexpectedPanic(log string) bool {
	const known = "decoder panicked: runtime error: slice bounds out of range [8:0]"
	return strings.Contains(strings.ReplaceAll(log, known, ""), "panic")
}

// TestMutatedRequests runs damaged requests whole: check, decode, execute.
func TestMutatedRequests(t *testing.T) {
	l := newLab(t, nil)
	p := kmip.Principal{Node: nodeA}
	r := rand.New(rand.NewPCG(1, 2))
	passed := 0
	all := seeds()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		seed := all[name]
		for range 2000 {
			b := mutate(r, seed)
			if kmip.CheckMessage(b, tagRequest) == nil {
				passed++
			}
			check(t, l, p, b)
			if t.Failed() {
				t.Fatalf("%s: %x", name, b)
			}
		}
	}
	if passed < 1000 {
		t.Errorf("only %d mutants got past the check", passed)
	}
	for line := range strings.Lines(l.log.String()) {
		if unexpectedPanic(line) {
			t.Fatal(line)
		}
	}
}

// check runs one request and judges the answer with the test's own reader.
func check(t *testing.T, l *lab, p kmip.Principal, b []byte) {
	sound := kmip.CheckMessage(b, tagRequest) == nil
	answer, goOn := l.server.Handle(t.Context(), p, bytes.Clone(b))
	if !sound && goOn {
		t.Error("a malformed request leaves the connection open")
	}
	top := parse(t, answer)
	if len(top) != 1 || top[0].tag != tagResponse || len(top[0].children) < 2 {
		t.Fatalf("answer %x", answer)
	}
	for _, item := range top[0].children[1:] {
		if s := item.get(t, tagResultStatus).number(); s != 0 && s != 1 {
			t.Errorf("status %d", s)
		}
	}
	major, minor, _ := kmip.Peek(b)
	v := top[0].get(t, tagResponseHeader, tagVersion)
	if sound && major == 1 && minor >= 0 && minor <= 4 && v.get(t, tagMinor).number() != int(minor) {
		t.Error("answered in another version")
	}
}

func FuzzRequest(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	l := newLab(f, nil)
	p := kmip.Principal{Node: nodeA}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > kmip.MaxRequest {
			return
		}
		check(t, l, p, b)
		if log := l.log.String(); unexpectedPanic(log) {
			t.Error(log)
		}
		l.log.reset()
	})
}

func FuzzCheckMessage(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if kmip.CheckMessage(b, tagRequest) == nil {
			parse2(t, b) // the test's own reader agrees that it is sound
		}
		_, _, _ = kmip.Peek(b)
	})
}

// parse2 reads like parse, without a demand on padding.
func parse2(t *testing.T, b []byte) {
	for len(b) > 0 {
		size := int(binary.BigEndian.Uint32(b[4:]))
		if b[3] == 1 {
			parse2(t, b[8:8+size])
		}
		b = b[8+(size+7)/8*8:]
	}
}

// TestLargestRequestsCostLittle: what a request of the largest size makes the
// server allocate is bounded.
func TestLargestRequestsCostLittle(t *testing.T) {
	l := newLab(t, nil)
	p := kmip.Principal{Node: nodeA}
	empty := st(tagAttribute, tx(tagAttributeName, "x"), st(tagAttributeValue))
	for name, b := range map[string][]byte{
		"one long text":   mongocrypt(0, opGet, tx(tagID, strings.Repeat("x", kmip.MaxRequest-200))),
		"many attributes": mongocrypt(0, opLocate, bytes.Repeat(empty, 650)),
		"many names":      mongocrypt(0, opGetAttributes, bytes.Repeat(tx(tagAttributeName, "a"), 2000)),
		"many items":      message(0, nil, bytes.Repeat(op(opQuery), 600)),
		"structures":      st(tagRequest, bytes.Repeat(st(tagVersion), 8000)),
		"claims 4 GB":     {0x42, 0, 0x78, 1, 0xff, 0xff, 0xff, 0xf8},
	} {
		if len(b) > kmip.MaxRequest {
			t.Fatalf("%s: %d bytes", name, len(b))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		l.server.Handle(t.Context(), p, b)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
}
