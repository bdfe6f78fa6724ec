package entry_test

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

func doc(t testing.TB, d bson.D) bson.Raw {
	t.Helper()
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func sample(t testing.TB) *entry.Entry {
	id, coll := [16]byte{0: 0xd0, 15: 1}, [16]byte{0: 0xc0, 15: 2}
	return &entry.Entry{
		Time: bson.Timestamp{T: 0x65a0f0c2, I: 7}, LSID: []byte{0xaa, 0xbb}, TxnNumber: 5,
		Statements: []entry.Statement{{ID: 0, Result: doc(t, bson.D{{Key: "n", Value: int32(1)}})}, {ID: 1}},
		Ops: []entry.Op{
			{Kind: entry.Insert, Database: id, Collection: coll, Payload: doc(t, bson.D{{Key: "_id", Value: int32(1)}})},
			{Kind: entry.Delete, Database: id, Collection: coll, Payload: doc(t, bson.D{{Key: "_id", Value: int32(2)}})},
		},
	}
}

// golden is the sample's bytes as stored by version 1; they never change.
const golden = "0165a0f0c200000007" + "02aabb" + "0000000000000005" + "02" +
	"00000000" + "0c0c000000106e000100000000" + "00000001" + "00" + "02" +
	"01" + "d0000000000000000000000000000001" + "c0000000000000000000000000000002" + "0e0e000000105f6964000100000000" +
	"03" + "d0000000000000000000000000000001" + "c0000000000000000000000000000002" + "0e0e000000105f6964000200000000"

func TestBytesOfVersionOne(t *testing.T) {
	b, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != golden {
		t.Fatalf("encoded\n%s, want\n%s", got, golden)
	}
	e, err := entry.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(e, sample(t)) {
		t.Fatalf("decoded %+v", e)
	}
}

func TestDecodeRefusesWhatEncodeDoesNotWrite(t *testing.T) {
	good, _ := hex.DecodeString(golden)
	for i := range good {
		if _, err := entry.Decode(good[:i]); err == nil {
			t.Errorf("%d of %d bytes were accepted", i, len(good))
		}
	}
	newer := bytes.Clone(good)
	newer[0] = 2
	if _, err := entry.Decode(newer); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("newer version: %v", err)
	}
	for name, text := range map[string]string{
		"left over":     golden + "00",
		"long length":   strings.Replace(golden, "02aabb", "8200aabb", 1),
		"unknown kind":  strings.Replace(golden, "0201d0", "0209d0", 1),
		"no document":   strings.Replace(golden, "0e0e000000", "0e0f000000", 1),
		"huge count":    golden[:18] + "00" + "ffffff7f",
		"lone huge len": "0165a0f0c20000000700" + "01" + strings.Repeat("01", 33) + "ffffff07",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := entry.Decode(b); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestEncodeRefusesWhatIsTooLarge(t *testing.T) {
	big := doc(t, bson.D{{Key: "_id", Value: 1}, {Key: "b", Value: make([]byte, 16<<20)}})
	e := &entry.Entry{Ops: []entry.Op{{Kind: entry.Insert, Payload: big}}}
	if _, err := e.Encode(); err != nil {
		t.Fatalf("one operation of 16 MiB: %v", err)
	}
	e.Ops = append(e.Ops, e.Ops[0])
	if _, err := e.Encode(); err == nil {
		t.Fatal("two operations of 16 MiB were accepted")
	}
}

func TestSetTime(t *testing.T) {
	b, _ := sample(t).Encode()
	entry.SetTime(b, bson.Timestamp{T: 9, I: 8})
	e, err := entry.Decode(b)
	if err != nil || e.Time != (bson.Timestamp{T: 9, I: 8}) {
		t.Fatalf("%v, %v", e, err)
	}
}

func TestChangeRoundTrip(t *testing.T) {
	c := entry.Change{Op: entry.CreateIndexes, Indexes: []bson.Raw{doc(t, bson.D{{Key: "v", Value: int32(2)}})}}
	op, err := c.Encode([16]byte{1}, [16]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	got, err := entry.DecodeChange(op.Payload)
	c.Version = entry.ChangeVersion
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []bson.D{{{Key: "v", Value: int32(2)}, {Key: "op", Value: "dropDatabase"}}, {{Key: "v", Value: int32(1)}, {Key: "op", Value: "x"}}} {
		if _, err := entry.DecodeChange(doc(t, bad)); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := hex.DecodeString(golden)
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := entry.Decode(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("not canonical: %x became %x (%v)", b, again, err)
		}
		for _, o := range e.Ops {
			_, _ = entry.DecodeChange(o.Payload)
		}
	})
}
