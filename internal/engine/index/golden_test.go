package index

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// goldenFile holds the key bytes of version 1, a line each. Indexes on disk are in
// this order: it may only change together with FormatVersion. UPDATE_GOLDEN=1 writes
// it anew.
const goldenFile = "testdata/keys.txt"

// byHand are keys worked out from the description of the format, not by this program.
var byHand = []struct {
	v    any
	want string
}{
	{nil, "28"},
	{bson.MinKey{}, "10"},
	{bson.MaxKey{}, "f0"},
	{int32(0), "30" + "8000000000000000" + "01"},
	{int32(1), "30" + "bff0000000000000" + "01"},
	{int64(-1), "30" + "400fffffffffffff" + "01"},
	{1.5, "30" + "bff8000000000000" + "01"},
	{math.NaN(), "30" + "0000000000000000" + "01"},
	// 2^53+1 is cut to 2^53; then 0.9007199254740993 x 10^16.
	{int64(1<<53 + 1), "30" + "c340000000000000" + "02" + "8010" + "5b" + "08" + "14" + "5d" + "37" + "4b" + "0a" + "5e" + "00"},
	{int64(-(1<<53 + 1)), "30" + "3cbfffffffffffff" + "00" + "7fef" + "a4" + "f7" + "eb" + "a2" + "c8" + "b4" + "f5" + "a1" + "ff"},
	{"a\x00b", "40" + "61" + "00ff" + "62" + "0000"},
	{bson.D{{Key: "a", Value: int32(1)}}, "48" + "30" + "610000" + "bff000000000000001" + "00"},
	{bson.A{"x"}, "50" + "40" + "780000" + "00"},
	{bson.Binary{Subtype: 4, Data: []byte{1, 2}}, "58" + "00000002" + "04" + "0102"},
	{bson.ObjectID{1, 11: 2}, "60" + "010000000000000000000002"},
	{true, "68" + "01"},
	{bson.DateTime(1), "70" + "8000000000000001"},
	{bson.Timestamp{T: 1, I: 2}, "78" + "0000000100000002"},
	{bson.Regex{Pattern: "p", Options: "i"}, "80" + "700000" + "690000"},
	{bson.DBPointer{DB: "d", Pointer: bson.ObjectID{1}}, "88" + "640000" + "010000000000000000000000"},
	{bson.JavaScript("f"), "90" + "660000"},
	{bson.CodeWithScope{Code: "f", Scope: bson.D{}}, "98" + "660000" + "00"},
}

func TestKeysFollowTheDescription(t *testing.T) {
	for _, c := range byHand {
		got, err := EncodeValue(nil, value(t, c.v))
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%T %v is %x (%v), want %s", c.v, c.v, got, err, c.want)
		}
	}
}

func TestKeysAreFixed(t *testing.T) {
	var got []byte
	line := func(name string, key []byte, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got = fmt.Appendf(got, "%s %x\n", name, key)
	}
	for i, step := range ladder(t) {
		for j, v := range step {
			key, err := EncodeValue(nil, value(t, v))
			line(fmt.Sprintf("value %d.%d", i, j), key, err)
		}
	}
	doc, err := bson.Marshal(bson.D{{Key: "a", Value: "x"}, {Key: "b", Value: bson.A{int32(1), int32(2), bson.A{"y"}}},
		{Key: "c", Value: bson.D{{Key: "d", Value: true}}}, {Key: "e", Value: bson.A{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Spec{
		{Name: "ascending", Fields: []Field{{Path: "a"}}},
		{Name: "descending", Fields: []Field{{Path: "a", Desc: true}}},
		{Name: "compound", Fields: []Field{{Path: "a"}, {Path: "c.d", Desc: true}, {Path: "missing"}}},
		{Name: "multikey", Fields: []Field{{Path: "b"}, {Path: "a"}}},
		{Name: "empty array", Fields: []Field{{Path: "e", Desc: true}}},
	} {
		keys, _, err := s.Keys(doc)
		for _, k := range keys {
			line(s.Name, k, err)
		}
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(goldenFile, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("keys of version %d changed\n%s\nwant\n%s", FormatVersion, got, want)
	}
}

// A spec as it stands in a collection's record.
func TestSpecDocumentIsFixed(t *testing.T) {
	s := Spec{Name: "n", Fields: []Field{{Path: "a"}, {Path: "b.c", Desc: true}}, Unique: true, Sparse: true}
	const want = "44000000" + "107600" + "02000000" + "036b657900" + "15000000" + "106100" + "01000000" + "10622e6300" + "ffffffff" + "00" +
		"026e616d6500" + "02000000" + "6e00" + "08756e6971756500" + "01" + "0873706172736500" + "01" + "00"
	if got := hex.EncodeToString(s.Document()); got != want {
		t.Errorf("the spec is %s, want %s", got, want)
	}
}
