package query

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
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

func TestMatch(t *testing.T) {
	tests := []struct {
		filter  string
		yes, no []string
	}{
		{`{}`, []string{`{}`, `{"a":1}`}, nil},
		{`{"a":1}`, []string{`{"a":1}`, `{"a":1.0}`, `{"a":{"$numberLong":"1"}}`, `{"a":{"$numberDecimal":"1.00"}}`, `{"a":[3,1]}`},
			[]string{`{"a":2}`, `{}`, `{"a":"1"}`, `{"a":[[1]]}`, `{"a":{"b":1}}`}},
		{`{"a":{"$numberLong":"9007199254740993"}}`, []string{`{"a":{"$numberDecimal":"9007199254740993"}}`}, []string{`{"a":9007199254740992.0}`}},
		{`{"a":null}`, []string{`{"a":null}`, `{}`, `{"a":[null]}`, `{"a":{"$undefined":true}}`}, []string{`{"a":[]}`, `{"a":0}`, `{"a":false}`}},
		{`{"a.b":null}`, []string{`{}`, `{"a":1}`, `{"a":{}}`, `{"a":[{"b":1},{}]}`}, []string{`{"a":[]}`, `{"a":[1,2]}`, `{"a":[{"b":1}]}`}},
		{`{"a":{"$ne":1}}`, []string{`{}`, `{"a":2}`, `{"a":[2]}`}, []string{`{"a":1}`, `{"a":[1,2]}`}},
		{`{"a.b":{"$ne":1}}`, []string{`{"a":[{"b":2}]}`}, []string{`{"a":[{"b":1},{"b":2}]}`}},
		{`{"a":{"$nin":[1,null]}}`, []string{`{"a":2}`}, []string{`{}`, `{"a":1}`, `{"a":[3,1]}`}},
		{`{"a":{"$in":[1,"x",{"$regularExpression":{"pattern":"^y","options":""}}]}}`,
			[]string{`{"a":1.0}`, `{"a":"x"}`, `{"a":"yes"}`, `{"a":[0,"x"]}`}, []string{`{"a":2}`, `{"a":"xy"}`, `{}`}},
		{`{"a":{"$in":[null]}}`, []string{`{}`, `{"a":null}`}, []string{`{"a":1}`}},
		{`{"a":{"$in":[[1,2]]}}`, []string{`{"a":[1,2]}`, `{"a":[[1,2]]}`}, []string{`{"a":[1]}`}},
		{`{"a":{"$gt":5}}`, []string{`{"a":6}`, `{"a":[1,9]}`}, []string{`{"a":5}`, `{"a":"x"}`, `{}`, `{"a":{"$numberDouble":"NaN"}}`}},
		{`{"a":{"$lt":5}}`, []string{`{"a":-1}`}, []string{`{"a":{"$numberDouble":"NaN"}}`, `{"a":null}`}},
		{`{"a":{"$gt":3,"$lt":5}}`, []string{`{"a":4}`, `{"a":[2,9]}`}, []string{`{"a":9}`}},
		{`{"a":{"$elemMatch":{"$gt":3,"$lt":5}}}`, []string{`{"a":[4]}`}, []string{`{"a":[2,9]}`, `{"a":4}`}},
		{`{"a":{"$gte":null}}`, []string{`{}`, `{"a":null}`}, []string{`{"a":1}`}},
		{`{"a":{"$gt":{"$minKey":1}}}`, []string{`{"a":1}`, `{}`, `{"a":null}`}, []string{`{"a":{"$minKey":1}}`}},
		{`{"a":{"$numberDouble":"NaN"}}`, []string{`{"a":{"$numberDecimal":"NaN"}}`}, []string{`{"a":1}`}},
		{`{"a":0}`, []string{`{"a":-0.0}`}, nil},
		{`{"a":[1,2]}`, []string{`{"a":[1,2]}`, `{"a":[[1,2],3]}`, `{"a":[1.0,2]}`}, []string{`{"a":[2,1]}`, `{"a":1}`}},
		{`{"a":{"b":1,"c":2}}`, []string{`{"a":{"b":1.0,"c":2}}`}, []string{`{"a":{"c":2,"b":1}}`, `{"a":{"b":1}}`}},
		{`{"a.b":1}`, []string{`{"a":{"b":1}}`, `{"a":[{"b":2},{"b":1}]}`, `{"a":{"b":[1]}}`}, []string{`{"a":[[{"b":1}]]}`, `{"a.b":1}`}},
		{`{"a.0":1}`, []string{`{"a":[1,2]}`, `{"a":{"0":1}}`, `{"a":[{"0":1}]}`, `{"a":[[1]]}`}, []string{`{"a":[2,1]}`}},
		{`{"a.1.b":1}`, []string{`{"a":[0,{"b":1}]}`}, []string{`{"a":[{"b":1}]}`}},
		{`{"a":{"$exists":true}}`, []string{`{"a":null}`, `{"a":[]}`}, []string{`{}`}},
		{`{"a":{"$exists":false}}`, []string{`{}`}, []string{`{"a":null}`}},
		{`{"a.b":{"$exists":false}}`, []string{`{"a":[]}`, `{"a":1}`}, []string{`{"a":[{},{"b":1}]}`}},
		{`{"a":{"$type":"number"}}`, []string{`{"a":1}`, `{"a":1.5}`, `{"a":["x",1]}`}, []string{`{"a":"1"}`}},
		{`{"a":{"$type":["string",8]}}`, []string{`{"a":true}`, `{"a":"x"}`}, []string{`{"a":1}`, `{}`}},
		{`{"a":{"$type":"array"}}`, []string{`{"a":[]}`, `{"a":[1]}`}, []string{`{"a":1}`}},
		{`{"a":{"$size":2}}`, []string{`{"a":[1,2]}`}, []string{`{"a":[[1,2]]}`, `{"a":2}`}},
		{`{"a":{"$all":[1,2]}}`, []string{`{"a":[2,3,1]}`}, []string{`{"a":[1]}`, `{"a":1}`}},
		{`{"a":{"$all":[]}}`, nil, []string{`{"a":[]}`, `{}`}},
		{`{"a":{"$all":[{"$elemMatch":{"b":1}},{"$elemMatch":{"b":2}}]}}`, []string{`{"a":[{"b":1},{"b":2}]}`}, []string{`{"a":[{"b":1}]}`}},
		{`{"a":{"$elemMatch":{"b":1,"c":2}}}`, []string{`{"a":[{"b":1,"c":2}]}`}, []string{`{"a":[{"b":1},{"c":2}]}`, `{"a":{"b":1,"c":2}}`}},
		{`{"a":{"$elemMatch":{"$or":[{"b":1},{"c":1}]}}}`, []string{`{"a":[{"c":1}]}`}, []string{`{"a":[{"b":2}]}`}},
		{`{"a":{"$mod":[4,1]}}`, []string{`{"a":5}`, `{"a":5.9}`, `{"a":[2,9]}`}, []string{`{"a":4}`, `{"a":-5}`, `{"a":"5"}`}},
		{`{"a":{"$regex":"^AB","$options":"i"}}`, []string{`{"a":"abc"}`, `{"a":["x","ab"]}`}, []string{`{"a":"xab"}`, `{"a":1}`}},
		{`{"a":{"$not":{"$gt":5}}}`, []string{`{}`, `{"a":5}`, `{"a":"x"}`}, []string{`{"a":6}`, `{"a":[1,6]}`}},
		{`{"a":{"$not":{"$regularExpression":{"pattern":"x","options":""}}}}`, []string{`{"a":"y"}`, `{}`}, []string{`{"a":"x"}`}},
		{`{"$or":[{"a":1},{"b":1}]}`, []string{`{"b":1}`}, []string{`{"a":2}`}},
		{`{"$nor":[{"a":1},{"b":1}]}`, []string{`{"a":2}`}, []string{`{"b":1}`}},
		{`{"$and":[{"a":{"$gt":1}},{"a":{"$lt":3}}],"$comment":"x"}`, []string{`{"a":2}`}, []string{`{"a":3}`}},
		{`{"a":{"$ref":"x","$id":1}}`, []string{`{"a":{"$ref":"x","$id":1}}`}, []string{`{"a":1}`}},
		{`{"a":{}}`, []string{`{"a":{}}`}, []string{`{"a":{"b":1}}`, `{}`}},
	}
	for _, tt := range tests {
		f, err := ParseFilter(j(t, tt.filter))
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		for want, docs := range map[bool][]string{true: tt.yes, false: tt.no} {
			for _, d := range docs {
				if got, err := f.Match(j(t, d)); err != nil || got != want {
					t.Errorf("%s on %s: %v, %v; want %v", tt.filter, d, got, err, want)
				}
			}
		}
	}
}

func TestParseFilterRefuses(t *testing.T) {
	tests := map[string]int32{
		`{"$foo":1}`:                          mongoerr.BadValue,
		`{"a":{"$foo":1}}`:                    mongoerr.BadValue,
		`{"a":{"$gt":1,"b":2}}`:               mongoerr.BadValue,
		`{"$and":[]}`:                         mongoerr.BadValue,
		`{"$or":{"a":1}}`:                     mongoerr.BadValue,
		`{"$or":[1]}`:                         mongoerr.BadValue,
		`{"a":{"$in":1}}`:                     mongoerr.BadValue,
		`{"a":{"$in":[{"$gt":1}]}}`:           mongoerr.BadValue,
		`{"a":{"$size":-1}}`:                  mongoerr.BadValue,
		`{"a":{"$size":1.5}}`:                 mongoerr.BadValue,
		`{"a":{"$mod":[0,1]}}`:                mongoerr.BadValue,
		`{"a":{"$mod":[1]}}`:                  mongoerr.BadValue,
		`{"a":{"$not":1}}`:                    mongoerr.BadValue,
		`{"a":{"$not":{}}}`:                   mongoerr.BadValue,
		`{"a":{"$type":"nonsense"}}`:          mongoerr.BadValue,
		`{"a":{"$type":0}}`:                   mongoerr.BadValue,
		`{"a":{"$options":"i"}}`:              mongoerr.BadValue,
		`{"a":{"$regex":"(?=x)"}}`:            mongoerr.NotImplemented,
		`{"a":{"$regex":"(a)\\1"}}`:           mongoerr.NotImplemented,
		`{"a":{"$regex":"("}}`:                mongoerr.InvalidRegex,
		`{"a":{"$regex":"a","$options":"q"}}`: codeBadFlag,
		`{"a":{"$eq":{"$undefined":true}}}`:   mongoerr.BadValue,
		`{"a":{"$ne":{"$regularExpression":{"pattern":"a","options":""}}}}`: mongoerr.BadValue,
		`{"$where":"1"}`:         mongoerr.NotImplemented,
		`{"$expr":{}}`:           mongoerr.NotImplemented,
		`{"a":{"$elemMatch":1}}`: mongoerr.BadValue,
	}
	for in, code := range tests {
		if _, err := ParseFilter(j(t, in)); !mongoerr.HasCode(err, code) {
			t.Errorf("%s: got %v, want code %d", in, err, code)
		}
	}
	if _, err := ParseFilter(bson.Raw{9, 0, 0, 0, 1}); !mongoerr.HasCode(err, mongoerr.InvalidBSON) {
		t.Errorf("damaged filter: %v", err)
	}
}

// A path of positions over arrays within arrays can be met in exponentially
// many ways; it must not take that long.
func TestMatchOfManyPositionsIsBounded(t *testing.T) {
	var v any = 1
	for range 24 {
		v = bson.A{bson.D{{Key: "0", Value: v}}}
	}
	doc, err := bson.Marshal(bson.D{{Key: "a", Value: v}})
	if err != nil {
		t.Fatal(err)
	}
	path := "a"
	for range 60 {
		path += ".0"
	}
	filter, err := bson.Marshal(bson.D{{Key: path, Value: 2}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFilter(filter)
	if err != nil {
		t.Fatal(err)
	}
	visits := 0
	p := f.root[0].(fieldNode).path
	p.anyValue(doc, true, func(bson.RawValue) bool { visits++; return false })
	if visits > 10_000 {
		t.Errorf("%d visits", visits)
	}
}

func TestEqualityFields(t *testing.T) {
	f, err := ParseFilter(j(t, `{"a":1,"b":{"$gt":2},"$and":[{"c.d":{"$eq":3}}],"$or":[{"e":4}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := EqualityFields(f)
	if err != nil || len(got) != 3 || got[0].Path != "a" || got[1].Path != "c.d" || got[2].Path != "e" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, in := range []string{`{"a":1,"$and":[{"a":2}]}`, `{"a.b":1,"$and":[{"a":{"b":1}}]}`} {
		f, err := ParseFilter(j(t, in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := EqualityFields(f); !mongoerr.HasCode(err, mongoerr.NotSingleValueField) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func FuzzParseFilterMatch(f *testing.F) {
	for _, s := range []string{`{"a":{"$gt":1}}`, `{"$or":[{"a.0.b":null},{"a":{"$elemMatch":{"b":{"$in":[1,"x"]}}}}]}`,
		`{"a":{"$not":{"$regex":"^a","$options":"i"},"$type":["int"],"$mod":[2,0]}}`, `{"a":{"$all":[1,[2]],"$size":3}}`} {
		f.Add([]byte(j(f, s)), []byte(j(f, `{"a":[1,{"b":[2,null]},"abc"],"_id":5}`)))
	}
	spec := index.Spec{Name: "i", Fields: []index.Field{{Path: "a"}, {Path: "b", Desc: true}}}
	f.Fuzz(func(t *testing.T, filter, doc []byte) {
		if index.Validate(doc) != nil {
			doc = []byte{5, 0, 0, 0, 0}
		}
		if s, err := ParseSort(filter); err == nil {
			s.Compare(doc, doc)
		}
		if p, err := ParseProjection(filter); err == nil {
			if out, err := p.Apply(doc); err != nil || index.Validate(out) != nil {
				t.Fatalf("projection made a damaged document: %x", out)
			}
		}
		q, err := ParseFilter(filter)
		if err != nil {
			return
		}
		matched, err := q.Match(doc)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = EqualityFields(q)
		keys, multi, err := spec.Keys(doc)
		if err != nil || !matched {
			return
		}
		plan, err := ChoosePlan(q, nil, bson.RawValue{Type: bson.TypeString, Value: []byte("\x02\x00\x00\x00i\x00")}, []index.Spec{spec},
			func(string) bool { return multi })
		if err != nil {
			t.Fatal(err)
		}
		plan.Explain(ExplainOptions{Filter: q})
		for _, k := range keys {
			for _, b := range plan.Bounds {
				if b.Contains(k) {
					return
				}
			}
		}
		t.Fatalf("the index plan misses a match: filter %s doc %s bounds %x keys %x", bson.Raw(filter), bson.Raw(doc), plan.Bounds, keys)
	})
}
