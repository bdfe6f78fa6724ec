package update

import (
	"bytes"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
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

func docValue(d bson.Raw) bson.RawValue {
	return bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: d}
}

func TestApply(t *testing.T) {
	tests := []struct {
		update, doc, want string // want is empty for no change
		code              int32
	}{
		{`{"$set":{"a":2}}`, `{"_id":1,"a":1,"b":3}`, `{"_id":1,"a":2,"b":3}`, 0},
		{`{"$set":{"a":1}}`, `{"a":1}`, ``, 0},
		{`{"$set":{"a":1.0}}`, `{"a":1}`, `{"a":1.0}`, 0},
		{`{"$set":{"c":1,"b":2,"a.z":3,"a.y":4}}`, `{"_id":1}`, `{"_id":1,"a":{"y":4,"z":3},"b":2,"c":1}`, 0},
		{`{"$set":{"10":1,"9":2}}`, `{}`, `{"9":2,"10":1}`, 0},
		{`{"$set":{"a.b.c":1}}`, `{"a":{"x":1}}`, `{"a":{"x":1,"b":{"c":1}}}`, 0},
		{`{"$set":{"a.b":1}}`, `{"a":5}`, ``, mongoerr.PathNotViable},
		{`{"$set":{"a.b":1}}`, `{"a":null}`, ``, mongoerr.PathNotViable},
		{`{"$set":{"a.1":9}}`, `{"a":[1,2]}`, `{"a":[1,9]}`, 0},
		{`{"$set":{"a.3":9}}`, `{"a":[1]}`, `{"a":[1,null,null,9]}`, 0},
		{`{"$set":{"a.0.b":9}}`, `{"a":[{"b":1},2]}`, `{"a":[{"b":9},2]}`, 0},
		{`{"$set":{"a.x":9}}`, `{"a":[1]}`, ``, mongoerr.PathNotViable},
		{`{"$set":{"a.99999999":9}}`, `{"a":[1]}`, ``, mongoerr.BadValue},
		{`{"$set":{"_id":2}}`, `{"_id":1}`, ``, mongoerr.ImmutableField},
		{`{"$set":{"_id":1}}`, `{"_id":1}`, ``, 0},
		{`{"$unset":{"_id":1}}`, `{"_id":1}`, ``, mongoerr.ImmutableField},
		{`{"$set":{"_id.x":2}}`, `{"_id":{"x":1}}`, ``, mongoerr.ImmutableField},
		{`{"$set":{}}`, `{"a":1}`, ``, 0},
		{`{"$unset":{"a":1,"b.c":1,"zz.y":1}}`, `{"a":1,"b":{"c":1,"d":2}}`, `{"b":{"d":2}}`, 0},
		{`{"$unset":{"a.0":1}}`, `{"a":[1,2]}`, `{"a":[null,2]}`, 0},
		{`{"$inc":{"a":1,"n.m":5}}`, `{"a":1}`, `{"a":2,"n":{"m":5}}`, 0},
		{`{"$inc":{"a":1}}`, `{"a":2147483647}`, `{"a":{"$numberLong":"2147483648"}}`, 0},
		{`{"$inc":{"a":1}}`, `{"a":{"$numberLong":"9223372036854775807"}}`, ``, mongoerr.BadValue},
		{`{"$inc":{"a":1}}`, `{"a":"x"}`, ``, mongoerr.TypeMismatch},
		{`{"$inc":{"a":0}}`, `{"a":5}`, ``, 0},
		{`{"$mul":{"a":2,"b":3}}`, `{"a":1.5}`, `{"a":3.0,"b":0}`, 0},
		{`{"$min":{"a":1,"b":9},"$max":{"c":5,"d":1}}`, `{"a":2,"b":3,"c":4}`, `{"a":1,"b":3,"c":5,"d":1}`, 0},
		{`{"$setOnInsert":{"a":1}}`, `{"b":1}`, ``, 0},
		{`{"$rename":{"a":"c.d"}}`, `{"a":1,"b":2}`, `{"b":2,"c":{"d":1}}`, 0},
		{`{"$rename":{"x":"c.d"}}`, `{"b":2}`, ``, 0},
		{`{"$rename":{"a.0":"c"}}`, `{"a":[1]}`, ``, mongoerr.BadValue},
		{`{"$push":{"a":3,"b":1}}`, `{"a":[1]}`, `{"a":[1,3],"b":[1]}`, 0},
		{`{"$push":{"a":{"$each":[3,4],"$position":0,"$slice":3}}}`, `{"a":[1,2]}`, `{"a":[3,4,1]}`, 0},
		{`{"$push":{"a":{"$each":[2],"$sort":-1,"$slice":-2}}}`, `{"a":[1,3]}`, `{"a":[2,1]}`, 0},
		{`{"$push":{"a":{"$each":[{"s":1}],"$sort":{"s":1}}}}`, `{"a":[{"s":2}]}`, `{"a":[{"s":1},{"s":2}]}`, 0},
		{`{"$push":{"a":{"$each":[1],"$slice":0}}}`, `{"a":[1,2]}`, `{"a":[]}`, 0},
		{`{"$push":{"a":1}}`, `{"a":1}`, ``, mongoerr.BadValue},
		{`{"$addToSet":{"a":1.0}}`, `{"a":[1,1]}`, ``, 0},
		{`{"$addToSet":{"a":{"$each":[1,2,2]}}}`, `{"a":[1]}`, `{"a":[1,2]}`, 0},
		{`{"$pull":{"a":{"$gt":1},"b":{"x":1},"c":5}}`, `{"a":[1,2,3],"b":[{"x":1,"y":2},{"x":2},1],"c":[5,6]}`, `{"a":[1],"b":[{"x":2},1],"c":[6]}`, 0},
		{`{"$pullAll":{"a":[1,2]}}`, `{"a":[2,1.0,3]}`, `{"a":[3]}`, 0},
		{`{"$pop":{"a":1,"b":-1,"c":1}}`, `{"a":[1,2],"b":[1,2]}`, `{"a":[1],"b":[2]}`, 0},
		{`{"b":2}`, `{"_id":1,"a":1}`, `{"_id":1,"b":2}`, 0},
		{`{}`, `{"_id":1,"a":1}`, `{"_id":1}`, 0},
		{`{"b":2,"_id":1.0}`, `{"_id":1,"a":1}`, `{"_id":1,"b":2}`, 0},
		{`{"_id":2}`, `{"_id":1}`, ``, mongoerr.ImmutableField},
	}
	for _, tt := range tests {
		u, err := ParseUpdate(docValue(j(t, tt.update)))
		if err != nil {
			t.Errorf("%s: %v", tt.update, err)
			continue
		}
		doc := j(t, tt.doc)
		before := bytes.Clone(doc)
		out, modified, err := u.Apply(doc)
		if tt.code != 0 {
			if !mongoerr.HasCode(err, tt.code) {
				t.Errorf("%s on %s: got %v, want code %d", tt.update, tt.doc, err, tt.code)
			}
			continue
		}
		want := doc
		if tt.want != "" {
			want = j(t, tt.want)
		}
		if err != nil || modified != (tt.want != "") || !bytes.Equal(out, want) {
			t.Errorf("%s on %s: %s, %v, %v; want %s", tt.update, tt.doc, out, modified, err, want)
		}
		if !bytes.Equal(doc, before) {
			t.Errorf("%s changed its input", tt.update)
		}
	}
}

func TestParseUpdateRefuses(t *testing.T) {
	tests := map[string]int32{
		`{"$set":{"a":1},"b":1}`:               mongoerr.FailedToParse,
		`{"b":1,"$set":{"a":1}}`:               mongoerr.DollarPrefixedFieldName,
		`{"$foo":{"a":1}}`:                     mongoerr.FailedToParse,
		`{"$set":5}`:                           mongoerr.FailedToParse,
		`{"$set":{"a":1},"$inc":{"a":1}}`:      mongoerr.ConflictingUpdateOperators,
		`{"$set":{"a":1,"a.b":1}}`:             mongoerr.ConflictingUpdateOperators,
		`{"$set":{"a.b":1},"$unset":{"a":1}}`:  mongoerr.ConflictingUpdateOperators,
		`{"$rename":{"a":"b"},"$set":{"b":1}}`: mongoerr.ConflictingUpdateOperators,
		`{"$rename":{"a":"a"}}`:                mongoerr.BadValue,
		`{"$rename":{"a":5}}`:                  mongoerr.BadValue,
		`{"$set":{"":1}}`:                      mongoerr.EmptyFieldName,
		`{"$set":{"a..b":1}}`:                  mongoerr.EmptyFieldName,
		`{"$set":{"$x":1}}`:                    mongoerr.DollarPrefixedFieldName,
		`{"$set":{"a.$":1}}`:                   mongoerr.NotImplemented,
		`{"$set":{"a.$[].b":1}}`:               mongoerr.NotImplemented,
		`{"$inc":{"a":"x"}}`:                   mongoerr.TypeMismatch,
		`{"$bit":{"a":{"and":1}}}`:             mongoerr.NotImplemented,
		`{"$push":{"a":{"$each":1}}}`:          mongoerr.BadValue,
		`{"$push":{"a":{"$slice":1}}}`:         mongoerr.BadValue,
		`{"$pop":{"a":2}}`:                     mongoerr.BadValue,
		`{"$pullAll":{"a":1}}`:                 mongoerr.BadValue,
	}
	for in, code := range tests {
		if _, err := ParseUpdate(docValue(j(t, in))); !mongoerr.HasCode(err, code) {
			t.Errorf("%s: got %v, want code %d", in, err, code)
		}
	}
	if _, err := ParseUpdate(bson.RawValue{Type: bson.TypeArray, Value: []byte{5, 0, 0, 0, 0}}); !mongoerr.HasCode(err, mongoerr.NotImplemented) {
		t.Errorf("pipeline: %v", err)
	}
	if _, err := ParseUpdate(bson.RawValue{Type: bson.TypeInt32, Value: []byte{1, 0, 0, 0}}); !mongoerr.HasCode(err, mongoerr.FailedToParse) {
		t.Errorf("number: %v", err)
	}
}

func TestUpsert(t *testing.T) {
	tests := []struct {
		update, filter, want string
		code                 int32
	}{
		{`{"$set":{"b":2},"$setOnInsert":{"c":3}}`, `{"_id":1,"a":1,"x":{"$gt":5}}`, `{"_id":1,"a":1,"b":2,"c":3}`, 0},
		{`{"$set":{"b":2}}`, `{"a.x":1,"_id":7,"a.y":{"$eq":2}}`, `{"_id":7,"a":{"x":1,"y":2},"b":2}`, 0},
		{`{"$inc":{"a":2}}`, `{"a":1,"_id":1}`, `{"_id":1,"a":3}`, 0},
		{`{"$set":{"_id":5}}`, `{"a":1}`, `{"_id":5,"a":1}`, 0},
		{`{"$set":{"_id":5}}`, `{"_id":1}`, ``, mongoerr.ImmutableField},
		{`{"b":2}`, `{"_id":1,"a":1}`, `{"_id":1,"b":2}`, 0},
		{`{"b":2,"_id":9}`, `{"a":1}`, `{"_id":9,"b":2}`, 0},
		{`{"_id":9}`, `{"_id":1}`, ``, mongoerr.ImmutableField},
		{`{"$set":{"b":2}}`, `{"_id":[1]}`, ``, mongoerr.BadValue},
		{`{"$set":{"b":2}}`, `{"a":1,"$and":[{"a":2}]}`, ``, mongoerr.NotSingleValueField},
	}
	for _, tt := range tests {
		u, err := ParseUpdate(docValue(j(t, tt.update)))
		if err != nil {
			t.Fatal(err)
		}
		f, err := query.ParseFilter(j(t, tt.filter))
		if err != nil {
			t.Fatal(err)
		}
		got, err := u.Upsert(f)
		if tt.code != 0 {
			if !mongoerr.HasCode(err, tt.code) {
				t.Errorf("%s with %s: got %v, want code %d", tt.update, tt.filter, err, tt.code)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, j(t, tt.want)) {
			t.Errorf("%s with %s: %s, %v; want %s", tt.update, tt.filter, got, err, tt.want)
		}
	}
	u, err := ParseUpdate(docValue(j(t, `{"$set":{"a":1}}`)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Upsert(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := got.Lookup("_id").ObjectIDOK(); !ok {
		t.Errorf("no ObjectId was made: %s", got)
	}
}

func TestLimits(t *testing.T) {
	big, err := bson.Marshal(bson.D{{Key: "a", Value: strings.Repeat("x", index.MaxDocumentSize-100)}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseUpdate(docValue(j(t, `{"$set":{"b":"`+strings.Repeat("y", 200)+`"}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.Apply(big); !mongoerr.HasCode(err, mongoerr.BSONObjectTooLarge) {
		t.Errorf("too large: %v", err)
	}
	deep := `1`
	for range index.MaxDepth - 10 {
		deep = `{"a":` + deep + `}`
	}
	u, err = ParseUpdate(docValue(j(t, `{"$set":{"b.c.d.e.f.g.h.i.j.k.l.m.n":{"a":1}}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.Apply(j(t, deep)); err != nil {
		t.Errorf("deep but apart: %v", err)
	}
	u, err = ParseUpdate(docValue(j(t, `{"$set":{"`+strings.Repeat("a.", index.MaxDepth-10)+`b":1,"x":{"y":1}}}`)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.Apply(j(t, `{}`)); err != nil {
		t.Errorf("a path of %d parts: %v", index.MaxDepth-9, err)
	}
	if _, err := ParseUpdate(docValue(j(t, `{"$set":{"`+strings.Repeat("a.", index.MaxDepth+1)+`b":1}}`))); !mongoerr.HasCode(err, mongoerr.Overflow) {
		t.Errorf("path too long: %v", err)
	}
}

// TestSetThenFind: what $set put at a path is found there, and a second time
// changes nothing; $unset takes it away again.
func TestSetThenFind(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "0", "1", "c"})
	rapid.Check(t, func(t *rapid.T) {
		path := strings.Join(rapid.SliceOfN(names, 1, 4).Draw(t, "path"), ".")
		doc, err := bson.Marshal(bson.D{{Key: "_id", Value: 1},
			{Key: "a", Value: rapid.SampledFrom([]any{1, bson.A{1, bson.D{{Key: "b", Value: 2}}}, bson.D{{Key: "b", Value: bson.A{}}}}).Draw(t, "a")}})
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.Int32().Draw(t, "value")
		set, err := bson.Marshal(bson.D{{Key: "$set", Value: bson.D{{Key: path, Value: n}}}})
		if err != nil {
			t.Fatal(err)
		}
		u, err := ParseUpdate(docValue(set))
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := u.Apply(doc)
		if mongoerr.HasCode(err, mongoerr.PathNotViable) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		filter, err := bson.Marshal(bson.D{{Key: path, Value: n}})
		if err != nil {
			t.Fatal(err)
		}
		f, err := query.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := f.Match(out); err != nil || !ok {
			t.Fatalf("%s is not found in %s: %v", path, out, err)
		}
		if again, modified, err := u.Apply(out); err != nil || modified || !bytes.Equal(again, out) {
			t.Fatalf("the second time gives %s, %v, %v", again, modified, err)
		}
	})
}

func FuzzUpdateApply(f *testing.F) {
	for _, s := range []string{`{"$set":{"a.b":1,"c.5":2},"$inc":{"n":1}}`, `{"$push":{"a":{"$each":[1],"$slice":-2,"$sort":1}},"$pull":{"c":{"$gt":1}}}`,
		`{"$rename":{"a":"z"},"$mul":{"n":2.5},"$min":{"m":1}}`, `{"x":1}`, `{"$unset":{"a.0":1},"$pop":{"c":-1}}`} {
		f.Add([]byte(j(f, s)), []byte(j(f, `{"_id":1,"a":{"b":[1,2]},"c":[3,4],"n":5}`)))
	}
	f.Fuzz(func(t *testing.T, update, doc []byte) {
		u, err := ParseUpdate(docValue(update))
		if err != nil || index.Validate(doc) != nil {
			return
		}
		if out, _, err := u.Apply(doc); err == nil {
			if err := index.Validate(out); err != nil {
				t.Fatalf("damaged result: %v", err)
			}
			before, had := index.Lookup(doc, "_id")
			after, _ := index.Lookup(out, "_id")
			if had && !before.Equal(after) {
				t.Fatalf("_id changed from %v to %v", before, after)
			}
		}
		if out, err := u.Upsert(nil); err == nil && index.Validate(out) != nil {
			t.Fatal("damaged upsert")
		}
	})
}
