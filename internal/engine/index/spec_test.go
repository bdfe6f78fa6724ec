package index

import (
	"bytes"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// j reads relaxed extended JSON.
func j(t testing.TB, s string) bson.Raw {
	t.Helper()
	var d bson.D
	if err := bson.UnmarshalExtJSON([]byte(s), false, &d); err != nil {
		t.Fatalf("json %s: %v", s, err)
	}
	b, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeys(t *testing.T) {
	a, ab := []Field{{Path: "a"}}, []Field{{Path: "a"}, {Path: "b", Desc: true}}
	dotted := []Field{{Path: "a.b"}, {Path: "a.c"}}
	tests := []struct {
		name   string
		fields []Field
		sparse bool
		doc    string
		multi  bool
		want   string // one array of component values per key
	}{
		{"scalar", a, false, `{"a":1}`, false, `{"k":[[1]]}`},
		{"missing is null", a, false, `{"b":1}`, false, `{"k":[[null]]}`},
		{"sparse leaves missing out", a, true, `{"b":1}`, false, `{"k":[]}`},
		{"sparse keeps null", a, true, `{"a":null}`, false, `{"k":[[null]]}`},
		{"sparse compound needs one", ab, true, `{"b":1}`, false, `{"k":[[null,1]]}`},
		{"array", a, false, `{"a":[2,1,2.0]}`, true, `{"k":[[1],[2]]}`},
		{"empty array", a, false, `{"a":[]}`, true, `{"k":[[{"$undefined":true}]]}`},
		{"nested array stands", a, false, `{"a":[[1,2],3]}`, true, `{"k":[[3],[[1,2]]]}`},
		{"compound with one array", ab, false, `{"a":[1,2],"b":5}`, true, `{"k":[[1,5],[2,5]]}`},
		{"one shared array", dotted, false, `{"a":[{"b":1,"c":2},{"b":3},4]}`, true, `{"k":[[null,null],[1,2],[3,null]]}`},
		{"array below array", []Field{{Path: "a.b"}}, false, `{"a":[{"b":[1,2]},{"b":3}]}`, true, `{"k":[[1],[2],[3]]}`},
		{"scalar on the way", []Field{{Path: "a.b"}}, false, `{"a":1}`, false, `{"k":[[null]]}`},
		{"empty array on the way", []Field{{Path: "a.b"}}, false, `{"a":[]}`, true, `{"k":[[null]]}`},
		{"position", []Field{{Path: "a.1"}}, false, `{"a":[5,6]}`, false, `{"k":[[6]]}`},
		{"name of digits", []Field{{Path: "a.1"}}, false, `{"a":{"1":7}}`, false, `{"k":[[7]]}`},
		{"array and its inside", []Field{{Path: "a"}, {Path: "a.b"}}, false, `{"a":[{"b":1}]}`, true, `{"k":[[{"b":1},1]]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, multi, err := Spec{Name: "i", Fields: tt.fields, Sparse: tt.sparse}.Keys(j(t, tt.doc))
			if err != nil || multi != tt.multi {
				t.Fatalf("multikey %v, error %v", multi, err)
			}
			var want [][]byte
			k, _ := Lookup(j(t, tt.want), "k")
			for e := range Elements(k.Value) {
				key, i := []byte{}, 0
				for v := range Elements(e.Value.Value) {
					start := len(key)
					key, _ = EncodeValue(key, v.Value)
					if tt.fields[i].Desc {
						invert(key[start:])
					}
					i++
				}
				want = append(want, key)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("got %x\nwant %x", got, want)
			}
		})
	}
}

func TestKeysRefuses(t *testing.T) {
	many := bson.A{}
	for i := range 100_001 {
		many = append(many, i)
	}
	big, err := bson.Marshal(bson.D{{Key: "a", Value: many}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		doc  bson.Raw
		path string
		code int32
	}{
		{"parallel arrays", j(t, `{"a":[1],"b":[2]}`), "a", mongoerr.CannotIndexParallelArrays},
		{"ambiguous position", j(t, `{"a":[{"0":1}],"b":1}`), "a.0", mongoerr.AmbiguousArrayIndex},
		{"too many keys", big, "a", mongoerr.CannotBuildIndexKeys},
	}
	for _, tt := range tests {
		_, _, err := Spec{Name: "i", Fields: []Field{{Path: tt.path}, {Path: "b"}}}.Keys(tt.doc)
		if !mongoerr.HasCode(err, tt.code) {
			t.Errorf("%s: got %v, want code %d", tt.name, err, tt.code)
		}
	}
}

func TestParseSpec(t *testing.T) {
	tests := []struct {
		in, want string // want is listIndexes' document, or empty
		code     int32
	}{
		{`{"key":{"a":1,"b.c":-1},"name":"x","unique":true,"background":true,"ns":"d.c","v":1}`,
			`{"v":2,"key":{"a":1,"b.c":-1},"name":"x","unique":true}`, 0},
		{`{"key":{"a":1.0},"name":"x","sparse":1}`, `{"v":2,"key":{"a":1},"name":"x","sparse":true}`, 0},
		{`{"key":{"_id":1},"name":"whatever"}`, `{"v":2,"key":{"_id":1},"name":"_id_"}`, 0},
		{`{"key":{"_id":1},"name":"_id_","sparse":true}`, "", mongoerr.InvalidIndexSpecificationOption},
		{`{"key":{"a":1},"name":"_id_"}`, "", mongoerr.BadValue},
		{`{"key":{"a":0},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"a":true},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"a":"text"},"name":"x"}`, "", mongoerr.NotImplemented},
		{`{"key":{"a":"foo"},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"a..b":1},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"$a":1},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"$**":1},"name":"x"}`, "", mongoerr.NotImplemented},
		{`{"key":{},"name":"x"}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"a":1},"name":""}`, "", mongoerr.CannotCreateIndex},
		{`{"key":{"a":1}}`, "", mongoerr.FailedToParse},
		{`{"name":"x"}`, "", mongoerr.FailedToParse},
		{`{"key":[],"name":"x"}`, "", mongoerr.TypeMismatch},
		{`{"key":{"a":1},"name":"x","unique":"yes"}`, "", mongoerr.TypeMismatch},
		{`{"key":{"a":1},"name":"x","expireAfterSeconds":5}`, "", mongoerr.NotImplemented},
		{`{"key":{"a":1},"name":"x","collation":5}`, "", mongoerr.NotImplemented},
		{`{"key":{"a":1},"name":"x","nonsense":5}`, "", mongoerr.InvalidIndexSpecificationOption},
	}
	for _, tt := range tests {
		s, err := ParseSpec(j(t, tt.in))
		if tt.code != 0 {
			if !mongoerr.HasCode(err, tt.code) {
				t.Errorf("%s: got %v, want code %d", tt.in, err, tt.code)
			}
			continue
		}
		if err != nil || !bytes.Equal(s.Document(), j(t, tt.want)) {
			t.Errorf("%s: got %v, %v", tt.in, s.Document(), err)
			continue
		}
		if again, err := ParseSpec(s.Document()); err != nil || !again.Equal(s) {
			t.Errorf("%s: document does not read back: %v", tt.in, err)
		}
	}
	if _, err := ParseSpecIgnoringUnknown(j(t, `{"key":{"a":1},"name":"x","nonsense":5}`)); err != nil {
		t.Errorf("unknown option is not ignored: %v", err)
	}
}

func TestEncodeIDRefuses(t *testing.T) {
	for _, v := range []any{bson.A{1}, bson.Regex{Pattern: "a"}, bson.Undefined{}} {
		if _, err := EncodeID(value(t, v)); !mongoerr.HasCode(err, mongoerr.BadValue) {
			t.Errorf("%v: got %v", v, err)
		}
	}
	if _, err := EncodeID(bson.RawValue{}); err == nil {
		t.Error("a missing _id is accepted")
	}
}

func TestValidate(t *testing.T) {
	deep := func(n int) bson.Raw {
		d := bson.D{}
		for range n - 1 {
			d = bson.D{{Key: "a", Value: d}}
		}
		b, err := bson.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := Validate(deep(MaxDepth)); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
	if err := Validate(deep(MaxDepth + 1)); !mongoerr.HasCode(err, mongoerr.Overflow) {
		t.Errorf("depth %d: %v", MaxDepth+1, err)
	}
	good := j(t, `{"a":"x"}`)
	for i := range good {
		if err := Validate(good[:i]); !mongoerr.HasCode(err, mongoerr.InvalidBSON) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for _, tt := range []struct{ in, want []byte }{{[]byte{1}, []byte{2}}, {[]byte{1, 0xFF}, []byte{2}}, {[]byte{0xFF}, nil}, {nil, nil}} {
		if got := PrefixEnd(tt.in); !bytes.Equal(got, tt.want) {
			t.Errorf("PrefixEnd(%x) = %x, want %x", tt.in, got, tt.want)
		}
	}
}
