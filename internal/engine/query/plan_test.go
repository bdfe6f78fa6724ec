package query

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

func mustFilter(t testing.TB, s string) *Filter {
	t.Helper()
	f, err := ParseFilter(j(t, s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return f
}

func mustSort(t testing.TB, s string) *Sort {
	t.Helper()
	if s == "" {
		return nil
	}
	o, err := ParseSort(j(t, s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return o
}

func spec(keys ...string) index.Spec {
	s := index.Spec{Name: strings.Join(keys, "_")}
	for _, k := range keys {
		s.Fields = append(s.Fields, index.Field{Path: strings.TrimPrefix(k, "-"), Desc: k[0] == '-'})
	}
	return s
}

func TestChoosePlan(t *testing.T) {
	sparse := spec("s")
	sparse.Sparse = true
	unique := spec("u")
	unique.Unique = true
	indexes := []index.Spec{index.IDSpec(), spec("a"), spec("a", "b"), spec("-c"), spec("d", "-e"), sparse, unique}
	tests := []struct {
		filter, sort, hint string
		multi              bool
		want               string // kind, index, number of bounds, then R for reverse and S for a covered sort
	}{
		{`{}`, "", "", false, "COLLSCAN S"},
		{`{"x":1}`, `{"y":1}`, "", false, "COLLSCAN"},
		{`{"_id":1}`, "", "", false, "ID 1 S"},
		{`{"_id":{"$in":[3,1,1.0]}}`, "", "", false, "ID 2 S"},
		{`{"_id":{"$gt":1,"$lte":5}}`, `{"_id":-1}`, "", false, "ID 1 R S"},
		{`{}`, `{"_id":1}`, "", false, "ID 1 S"},
		{`{"a":1}`, "", "", false, "a 1 S"},
		{`{"a":1,"b":{"$gt":2}}`, "", "", false, "a_b 1 S"},
		{`{"a":1}`, `{"b":-1}`, "", false, "a_b 1 R S"},
		{`{"a":{"$in":[1,2]}}`, `{"b":1}`, "", false, "a 2"},
		{`{"a":{"$in":[1,2]}}`, `{"a":-1}`, "", false, "a 2 R S"},
		{`{"c":{"$gte":1}}`, `{"c":1}`, "", false, "-c 1 R S"},
		{`{"d":5}`, `{"e":-1}`, "", false, "d_-e 1 S"},
		{`{}`, `{"d":-1,"e":1}`, "", false, "d_-e 1 R S"},
		{`{}`, `{"d":1,"e":1}`, "", false, "COLLSCAN"},
		{`{"s":{"$gt":1}}`, "", "", false, "s 1 S"},
		{`{"s":null}`, "", "", false, "COLLSCAN S"},
		{`{}`, `{"s":1}`, "", false, "COLLSCAN"},
		{`{"s":{"$exists":true}}`, "", "", false, "s 1 S"},
		{`{"u":1,"a":1}`, "", "", false, "u 1 S"},
		{`{"a":{"$ne":1}}`, "", "", false, "COLLSCAN S"},
		{`{"a":{"$gt":5,"$lt":3}}`, "", "", false, "a 0 S"},
		{`{"a":{"$regex":"^ab"}}`, "", "", false, "a 2 S"},
		{`{"a":{"$regex":"ab"}}`, "", "", false, "COLLSCAN S"},
		{`{"a":{"$gt":3,"$lt":5}}`, "", "", true, "a 1 S"},
		{`{"a":{"$gt":3}}`, `{"a":1}`, "", true, "a 1"},
		{`{}`, `{"a":1}`, "", true, "a 1 S"},
		{`{"a":1}`, "", `{"h":"a_b"}`, false, "a_b 1 S"},
		{`{"x":1}`, "", `{"h":{"c":-1}}`, false, "-c 1 S"},
		{`{"x":1}`, "", `{"h":{"_id":1}}`, false, "ID 1 S"},
		{`{"a":1}`, "", `{"h":{"$natural":-1}}`, false, "COLLSCAN R S"},
		{`{"a":1}`, "", `{"h":{}}`, false, "a 1 S"},
	}
	for _, tt := range tests {
		var hint bson.RawValue
		if tt.hint != "" {
			hint, _ = index.Lookup(j(t, tt.hint), "h")
		}
		p, err := ChoosePlan(mustFilter(t, tt.filter), mustSort(t, tt.sort), hint, indexes, func(string) bool { return tt.multi })
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		got := "COLLSCAN"
		switch p.Kind {
		case IDLookup:
			got = fmt.Sprintf("ID %d", len(p.Bounds))
		case IndexScan:
			got = fmt.Sprintf("%s %d", p.Index, len(p.Bounds))
		}
		if p.Reverse {
			got += " R"
		}
		if p.SortCovered {
			got += " S"
		}
		if got != tt.want {
			t.Errorf("filter %s sort %s hint %s: %s, want %s", tt.filter, tt.sort, tt.hint, got, tt.want)
		}
	}
	for _, h := range []string{`{"h":"nope"}`, `{"h":{"zz":1}}`, `{"h":{"a":-1}}`, `{"h":5}`} {
		hint, _ := index.Lookup(j(t, h), "h")
		if _, err := ChoosePlan(nil, nil, hint, indexes, nil); !mongoerr.HasCode(err, mongoerr.BadValue) {
			t.Errorf("hint %s: %v", h, err)
		}
	}
}

func TestExplain(t *testing.T) {
	f, s := mustFilter(t, `{"a":1,"b":{"$gt":2}}`), mustSort(t, `{"z":1}`)
	p, err := ChoosePlan(f, s, bson.RawValue{}, []index.Spec{spec("a", "b")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := bson.Marshal(p.Explain(ExplainOptions{Filter: f, Sort: s, Limit: 5, Skip: 1}))
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	for doc := bson.Raw(got); ; {
		name, _ := doc.Lookup("stage").StringValueOK()
		stages = append(stages, name)
		if name == "IXSCAN" {
			if b := doc.Lookup("indexBounds").String(); !strings.Contains(b, "inf.0]") || !strings.Contains(doc.Lookup("keyPattern").String(), "a") {
				t.Errorf("bounds %s", b)
			}
		}
		in, ok := doc.Lookup("inputStage").DocumentOK()
		if !ok {
			break
		}
		doc = in
	}
	if want := []string{"LIMIT", "SKIP", "SORT", "FETCH", "IXSCAN"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
}

// memoryIndex carries a plan out over documents held in memory.
func memoryIndex(t *rapid.T, p Plan, sp index.Spec, docs []bson.Raw, f *Filter) []int {
	type entry struct {
		key []byte
		doc int
	}
	var entries []entry
	for i, d := range docs {
		keys, _, err := sp.Keys(d)
		if err != nil {
			t.Fatalf("keys: %v", err)
		}
		for _, k := range keys {
			entries = append(entries, entry{k, i})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	for i := 1; i < len(p.Bounds); i++ {
		if bytes.Compare(p.Bounds[i].Lower, p.Bounds[i-1].Upper) < 0 || p.Bounds[i-1].Upper == nil {
			t.Fatalf("bounds are not sorted and disjoint: %x", p.Bounds)
		}
	}
	if p.Reverse {
		slices.Reverse(entries)
	}
	seen := map[int]bool{}
	var out []int
	for _, e := range entries {
		if seen[e.doc] || !slices.ContainsFunc(p.Bounds, func(b index.Bound) bool { return b.Contains(e.key) }) {
			continue
		}
		seen[e.doc] = true
		if ok, err := f.Match(docs[e.doc]); err != nil {
			t.Fatal(err)
		} else if ok {
			out = append(out, e.doc)
		}
	}
	return out
}

func genScalar() *rapid.Generator[any] {
	return rapid.SampledFrom([]any{nil, int32(0), int32(1), 1.0, int64(2), 2.5, "a", "ab", "b", "", true, bson.D{{Key: "b", Value: 1}}, bson.MinKey{}, bson.MaxKey{}, bson.Undefined{}, bson.Regex{Pattern: "^a"}})
}

func genField(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch k := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case k < 5 || depth == 0:
			return genScalar().Draw(t, "scalar")
		case k < 8:
			return bson.A(rapid.SliceOfN(genField(depth-1), 0, 3).Draw(t, "array"))
		}
		d := bson.D{}
		for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"b", "c"}), 0, 2, rapid.ID[string]).Draw(t, "names") {
			d = append(d, bson.E{Key: n, Value: genField(depth-1).Draw(t, n)})
		}
		return d
	})
}

// genArrayOfDocs draws what makes multikey indexes hard: several elements
// with the same few small values.
func genArrayOfDocs() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		list := bson.A{}
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			d := bson.D{}
			for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"b", "c"}), 0, 2, rapid.ID[string]).Draw(t, "names") {
				d = append(d, bson.E{Key: n, Value: rapid.IntRange(0, 3).Draw(t, n)})
			}
			list = append(list, d)
		}
		return list
	})
}

func genCondition(t *rapid.T) any {
	simple := rapid.Bool().Draw(t, "simple")
	operand := func() any {
		if simple {
			return rapid.SampledFrom([]any{nil, 0, 1, 2, 3}).Draw(t, "small")
		}
		for {
			v := genField(1).Draw(t, "operand")
			if _, undefined := v.(bson.Undefined); !undefined {
				return v
			}
		}
	}
	switch rapid.IntRange(0, 7).Draw(t, "condition") {
	case 0:
		return operand()
	case 1:
		return bson.D{{Key: "$in", Value: bson.A{operand(), operand()}}}
	case 2:
		return bson.D{{Key: "$gte", Value: operand()}, {Key: "$lt", Value: operand()}}
	case 3:
		return bson.D{{Key: rapid.SampledFrom([]string{"$gt", "$lte", "$ne", "$eq"}).Draw(t, "op"), Value: operand()}}
	case 4:
		return bson.D{{Key: "$elemMatch", Value: bson.D{{Key: "$gte", Value: operand()}, {Key: "$lte", Value: operand()}}}}
	case 5:
		return bson.D{{Key: "$elemMatch", Value: bson.D{{Key: "b", Value: operand()}}}}
	case 6:
		return bson.D{{Key: "$exists", Value: rapid.Bool().Draw(t, "exists")}}
	}
	return bson.D{{Key: "$all", Value: bson.A{operand(), operand()}}}
}

// genSort draws a sort that an index often covers: some of its fields in
// their order, forwards or backwards; now and then another one, or none.
func genSort(t *rapid.T, sp index.Spec) *Sort {
	sd := bson.D{}
	flip := rapid.SampledFrom([]int{1, -1}).Draw(t, "flip")
	for _, f := range sp.Fields {
		if rapid.IntRange(0, 2).Draw(t, "skip field") == 0 {
			continue
		}
		dir := flip
		if f.Desc {
			dir = -flip
		}
		if rapid.IntRange(0, 7).Draw(t, "turn field") == 0 {
			dir = -dir
		}
		sd = append(sd, bson.E{Key: f.Path, Value: dir})
	}
	if rapid.IntRange(0, 3).Draw(t, "another") == 0 {
		sd = append(sd, bson.E{Key: "y", Value: 1})
	}
	raw, err := bson.Marshal(sd)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSort(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPlanFindsWhatAScanFinds is the promise of the planner: an index plan
// with the filter after it gives exactly the documents of a scan, and their
// order where it claims to cover the sort.
func TestPlanFindsWhatAScanFinds(t *testing.T) {
	patterns := [][]string{{"a"}, {"-a"}, {"a", "x"}, {"x", "-a"}, {"a.b"}, {"-a.b", "a.c"}, {"a", "a.b"}, {"x", "a.b", "-a.c"}, {"a.0"}, {"a.0.b", "x"}}
	paths := []string{"a", "a", "x", "a.b", "a.c", "a.0", "a.0.b"}
	used := 0
	rapid.Check(t, func(t *rapid.T) {
		sp := spec(rapid.SampledFrom(patterns).Draw(t, "index")...)
		paths := slices.Clone(paths)
		if rapid.Bool().Draw(t, "only indexed paths") {
			paths = nil
			for _, f := range sp.Fields {
				paths = append(paths, f.Path)
			}
		}
		sp.Sparse = rapid.IntRange(0, 3).Draw(t, "sparse") == 0
		var docs []bson.Raw
		multi := false
		for range rapid.IntRange(1, 6).Draw(t, "documents") {
			d := bson.D{}
			if rapid.IntRange(0, 5).Draw(t, "has a") > 0 {
				d = append(d, bson.E{Key: "a", Value: rapid.OneOf(genField(2), genArrayOfDocs()).Draw(t, "a")})
			}
			if rapid.Bool().Draw(t, "has x") {
				d = append(d, bson.E{Key: "x", Value: genScalar().Draw(t, "x")})
			}
			raw, err := bson.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			_, m, err := sp.Keys(raw)
			if err != nil {
				continue // the index would refuse the document
			}
			multi = multi || m
			docs = append(docs, raw)
		}
		fd := bson.D{}
		for range rapid.IntRange(0, 3).Draw(t, "conditions") {
			fd = append(fd, bson.E{Key: rapid.SampledFrom(paths).Draw(t, "path"), Value: genCondition(t)})
		}
		raw, err := bson.Marshal(fd)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(raw)
		if mongoerr.HasCode(err, mongoerr.BadValue) {
			return // operands that no operator takes
		} else if err != nil {
			t.Fatal(err)
		}
		order := genSort(t, sp)
		pl := planner{cands: candidates(f), sort: order}
		r := pl.plan(sp, multi, false)
		if r.Kind != IndexScan {
			return // a sparse index that cannot be used
		}
		used++
		got := memoryIndex(t, r.Plan, sp, docs, f)
		var want []int
		for i, d := range docs {
			if ok, err := f.Match(d); err != nil {
				t.Fatal(err)
			} else if ok {
				want = append(want, i)
			}
		}
		if order != nil && r.SortCovered {
			for i := 1; i < len(got); i++ {
				if order.Compare(docs[got[i-1]], docs[got[i]]) > 0 {
					t.Fatalf("index %v multikey %v filter %s sort %s: %s comes before %s", sp.Fields, multi, raw, order.Raw(), docs[got[i-1]], docs[got[i]])
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("index %v sparse %v multikey %v filter %s: plan finds %v, scan %v of %s", sp.Fields, sp.Sparse, multi, raw, got, want, docs)
		}
	})
	if used == 0 {
		t.Error("no plan was tried")
	}
}

// An element without the path meets $gte null, and has no key in a sparse index:
// such a condition must not limit a scan of it.
func TestASparseMultikeyIndexIsNotLimitedToNull(t *testing.T) {
	doc := j(t, `{"a": [{}, {"b": 0}]}`)
	spec := index.Spec{Name: "a.b_1", Fields: []index.Field{{Path: "a.b"}}, Sparse: true}
	f := mustFilter(t, `{"a.b": {"$gte": null, "$lt": 3}}`)
	if ok, err := f.Match(doc); err != nil || !ok {
		t.Fatalf("the document does not match: %t, %v", ok, err)
	}
	p, err := ChoosePlan(f, nil, bson.RawValue{}, []index.Spec{spec}, func(string) bool { return true })
	if err != nil || p.Kind != IndexScan {
		t.Fatalf("plan %+v, %v", p, err)
	}
	keys, _, err := spec.Keys(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		for _, b := range p.Bounds {
			if b.Contains(k) {
				return
			}
		}
	}
	t.Errorf("bounds %x hold none of the keys %x", p.Bounds, keys)
}
