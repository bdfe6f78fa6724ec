package aggregate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

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

// list reads a JSON array of documents.
func list(t testing.TB, s string) []bson.Raw {
	t.Helper()
	v, _ := index.Lookup(j(t, `{"v":`+s+`}`), "v")
	var out []bson.Raw
	for e := range index.Elements(v.Value) {
		out = append(out, bson.Raw(e.Value.Value))
	}
	return out
}

func parse(t testing.TB, s string) *Pipeline {
	t.Helper()
	p, err := ParsePipeline(list(t, s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return p
}

// stream gives docs in one buffer that is overwritten, as a cursor may.
func stream(docs []bson.Raw) Next {
	at := 0
	var buf []byte
	return func() (bson.Raw, error) {
		clear(buf)
		if at == len(docs) {
			return nil, io.EOF
		}
		buf = append(buf[:0], docs[at]...)
		at++
		return buf, nil
	}
}

func collect(p *Pipeline, in Next) ([]bson.Raw, error) {
	next, err := p.Run(context.Background(), in)
	if err != nil {
		return nil, err
	}
	var out []bson.Raw
	for {
		d, err := next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, clone(d))
	}
}

func show(docs []bson.Raw) string {
	var parts []string
	for _, d := range docs {
		parts = append(parts, d.String())
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func TestRun(t *testing.T) {
	const docs = `[{"_id":1,"k":"x","n":1,"t":[1,2]},{"_id":2,"k":"y","n":2.5,"t":[]},{"_id":3,"k":"x","n":{"$numberLong":"4"},"s":{"d":9}},{"_id":4,"n":"no"}]`
	tests := []struct{ pipeline, want string }{
		{`[]`, docs},
		{`[{"$match":{"k":"x"}},{"$group":{"_id":1,"n":{"$sum":1}}}]`, `[{"_id":1,"n":2}]`},
		{`[{"$match":{"k":"zz"}},{"$group":{"_id":1,"n":{"$sum":1}}}]`, `[]`},
		{`[{"$group":{"_id":"$k","n":{"$sum":"$n"},"c":{"$count":{}}}},{"$sort":{"_id":1}}]`,
			`[{"_id":null,"n":0,"c":1},{"_id":"x","n":{"$numberLong":"5"},"c":2},{"_id":"y","n":2.5,"c":1}]`},
		{`[{"$group":{"_id":null,"s":{"$sum":"$n"},"a":{"$avg":"$n"},"lo":{"$min":"$n"},"hi":{"$max":"$n"},"f":{"$first":"$k"},"l":{"$last":"$k"},"p":{"$push":"$k"},"u":{"$addToSet":"$k"}}}]`,
			`[{"_id":null,"s":7.5,"a":2.5,"lo":1,"hi":"no","f":"x","l":null,"p":["x","y","x"],"u":["x","y"]}]`},
		{`[{"$group":{"_id":{"k":"$k"},"n":{"$sum":1}}},{"$sort":{"n":-1}},{"$limit":1}]`, `[{"_id":{"k":"x"},"n":2}]`},
		{`[{"$sort":{"_id":-1}},{"$skip":1},{"$limit":2},{"$project":{"_id":1}}]`, `[{"_id":3},{"_id":2}]`},
		{`[{"$match":{"k":{"$exists":true}}},{"$count":"n"}]`, `[{"n":3}]`},
		{`[{"$match":{"k":"zz"}},{"$count":"n"}]`, `[]`},
		{`[{"$limit":1},{"$project":{"_id":0,"a":"$k","b":{"c":"$n"},"l":{"$literal":"$k"},"r":"$$REMOVE"}}]`, `[{"a":"x","b":{"c":1},"l":"$k"}]`},
		{`[{"$match":{"_id":3}},{"$addFields":{"s.e":"$n","z":["$k","$zz"]}}]`,
			`[{"_id":3,"k":"x","n":{"$numberLong":"4"},"s":{"d":9,"e":{"$numberLong":"4"}},"z":["x",null]}]`},
		{`[{"$match":{"_id":3}},{"$project":{"k":0,"n":0,"_id":0}}]`, `[{"s":{"d":9}}]`},
		{`[{"$match":{"_id":3}},{"$unset":["k","n","s.d"]}]`, `[{"_id":3,"s":{}}]`},
		{`[{"$unwind":"$t"},{"$project":{"t":1}}]`, `[{"_id":1,"t":1},{"_id":1,"t":2}]`},
		{`[{"$unwind":{"path":"$t","preserveNullAndEmptyArrays":true,"includeArrayIndex":"i"}},{"$project":{"t":1,"i":1}},{"$limit":3}]`,
			`[{"_id":1,"t":1,"i":{"$numberLong":"0"}},{"_id":1,"t":2,"i":{"$numberLong":"1"}},{"_id":2,"i":null}]`},
	}
	for _, tt := range tests {
		got, err := collect(parse(t, tt.pipeline), stream(list(t, docs)))
		if err != nil {
			t.Errorf("%s: %v", tt.pipeline, err)
			continue
		}
		want := list(t, tt.want)
		if len(got) != len(want) {
			t.Errorf("%s: %s, want %s", tt.pipeline, show(got), tt.want)
			continue
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%s: %s, want %s", tt.pipeline, show(got), tt.want)
				break
			}
		}
	}
}

func TestSumKeepsTheNarrowestExactType(t *testing.T) {
	tests := []struct{ docs, want string }{
		{`[{"n":2147483647},{"n":1}]`, `{"$numberLong":"2147483648"}`},
		{`[{"n":{"$numberLong":"9223372036854775807"}},{"n":1}]`, `9223372036854775808.0`},
		{`[{"n":0.1},{"n":0.2},{"n":0.3},{"n":-0.6}]`, `2.7755575615628914e-17`},
		{`[{"n":{"$numberDecimal":"0.1"}},{"n":{"$numberDecimal":"0.2"}},{"n":1}]`, `{"$numberDecimal":"1.3"}`},
		{`[{"n":1},{"n":null},{},{"n":"x"},{"n":[5]}]`, `1`},
	}
	for _, tt := range tests {
		got, err := collect(parse(t, `[{"$group":{"_id":null,"n":{"$sum":"$n"}}}]`), stream(list(t, tt.docs)))
		if err != nil {
			t.Fatal(err)
		}
		n, _ := index.Lookup(got[0], "n")
		want, _ := index.Lookup(j(t, `{"v":`+tt.want+`}`), "v")
		if n.Type != want.Type || index.Compare(n, want) != 0 {
			t.Errorf("%s: %s, want %s", tt.docs, n, want)
		}
	}
}

func TestParsePipelineRefuses(t *testing.T) {
	tests := map[string]int32{
		`[{"$foo":1}]`:                                   mongoerr.UnrecognizedStage,
		`[{"$lookup":{}}]`:                               mongoerr.NotImplemented,
		`[{"$search":{}}]`:                               mongoerr.CommandNotSupported,
		`[{}]`:                                           codeStageFields,
		`[{"$match":{},"$sort":{"a":1}}]`:                codeStageFields,
		`[{"$match":1}]`:                                 codeMatchObject,
		`[{"$match":{"$foo":1}}]`:                        mongoerr.BadValue,
		`[{"$limit":0}]`:                                 codeLimitZero,
		`[{"$limit":-1}]`:                                codeLimitValue,
		`[{"$skip":1.5}]`:                                codeSkipValue,
		`[{"$sort":{}}]`:                                 codeSortEmpty,
		`[{"$sort":{"a":7}}]`:                            15975,
		`[{"$group":{"n":{"$sum":1}}}]`:                  codeGroupID,
		`[{"$group":{"_id":1,"n":1}}]`:                   codeGroupField,
		`[{"$group":{"_id":1,"n":{"$foo":1}}}]`:          codeGroupOperator,
		`[{"$group":{"_id":1,"n":{}}}]`:                  codeGroupMany,
		`[{"$group":{"_id":1,"n":{"$sum":1,"$avg":1}}}]`: codeGroupMany,
		`[{"$group":{"_id":1,"a.b":{"$sum":1}}}]`:        codeGroupDot,
		`[{"$group":{"_id":{"$foo":1}}}]`:                mongoerr.InvalidPipelineOperator,
		`[{"$group":{"_id":"$$NOPE"}}]`:                  17276,
		`[{"$count":""}]`:                                codeCountEmpty,
		`[{"$count":"$a"}]`:                              codeCountDollar,
		`[{"$project":{}}]`:                              codeProjectEmpty,
		`[{"$project":{"a":1,"b":0}}]`:                   mongoerr.ExclusionInInclusion,
		`[{"$project":{"a":"$x","b":0}}]`:                mongoerr.ExclusionInInclusion,
		`[{"$addFields":{"a":1,"a.b":2}}]`:               mongoerr.PathCollision,
		`[{"$unwind":"t"}]`:                              28818,
	}
	for in, code := range tests {
		if _, err := ParsePipeline(list(t, in)); !mongoerr.HasCode(err, code) {
			t.Errorf("%s: got %v, want code %d", in, err, code)
		}
	}
}

func TestLeadingMatch(t *testing.T) {
	tests := []struct {
		pipeline, filter, sort string
		rest                   int
	}{
		{`[{"$match":{"a":1}},{"$match":{"b":2}},{"$sort":{"c":1}},{"$limit":5}]`, `{"$and":[{"a":1},{"b":2}]}`, `{"c":1}`, 1},
		{`[{"$match":{"a":1}},{"$group":{"_id":1}}]`, `{"a":1}`, ``, 1},
		{`[{"$sort":{"c":1}}]`, `{}`, `{"c":1}`, 0},
		{`[{"$limit":1},{"$match":{"a":1}}]`, `{}`, ``, 2},
	}
	docs := list(t, `[{"a":1,"b":2,"c":3},{"a":1,"b":2,"c":1},{"a":2}]`)
	for _, tt := range tests {
		p := parse(t, tt.pipeline)
		filter, sort, rest := p.LeadingMatch()
		if !bytes.Equal(filter, j(t, tt.filter)) || (tt.sort == "") != (sort == nil) || sort != nil && !bytes.Equal(sort, j(t, tt.sort)) || len(rest.stages) != tt.rest {
			t.Errorf("%s: filter %s sort %s rest %d", tt.pipeline, filter, sort, len(rest.stages))
		}
		// Taken apart and put together again it gives the same.
		whole, err := collect(p, stream(docs))
		if err != nil {
			t.Fatal(err)
		}
		f, err := query.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		var matched []bson.Raw
		for _, d := range docs {
			if ok, err := f.Match(d); err == nil && ok {
				matched = append(matched, d)
			}
		}
		if order, err := query.ParseSort(sort); err != nil {
			t.Fatal(err)
		} else if order != nil {
			rest = rest.WithSort(order)
		}
		split, err := collect(rest, stream(matched))
		if err != nil || show(split) != show(whole) {
			t.Errorf("%s: in parts %s, whole %s, %v", tt.pipeline, show(split), show(whole), err)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var docs []bson.Raw
	for i := range 400 {
		docs = append(docs, j(t, fmt.Sprintf(`{"_id":%d,"k":"%s"}`, i, strings.Repeat("x", 100))))
	}
	for _, in := range []string{`[{"$sort":{"k":1}}]`, `[{"$group":{"_id":"$_id"}}]`, `[{"$group":{"_id":null,"p":{"$push":"$k"}}}]`, `[{"$group":{"_id":null,"p":{"$addToSet":"$_id"}}}]`} {
		p := parse(t, in)
		p.memory = 8 << 10
		if _, err := collect(p, stream(docs)); !mongoerr.HasCode(err, mongoerr.QueryExceededMemoryLimitNoDiskUseAllowed) {
			t.Errorf("%s: %v", in, err)
		}
	}
	p := parse(t, `[{"$sort":{"_id":-1}},{"$skip":2},{"$limit":3},{"$project":{"_id":1}}]`)
	p.memory = 16 << 10
	got, err := collect(p, stream(docs))
	if err != nil || show(got) != show(list(t, `[{"_id":397},{"_id":396},{"_id":395}]`)) {
		t.Errorf("sort with a limit: %s, %v", show(got), err)
	}
	grow := `{"$project":{"a":["$$ROOT","$$ROOT"]}}`
	p = parse(t, "["+strings.Repeat(grow+",", 60)+grow+"]")
	if _, err := collect(p, stream(docs[:1])); !mongoerr.HasCode(err, mongoerr.BSONObjectTooLarge) {
		t.Errorf("growing values: %v", err)
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	next, err := parse(t, `[{"$match":{"a":5}}]`).Run(ctx, func() (bson.Raw, error) {
		cancel()
		return bson.Raw{5, 0, 0, 0, 0}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzPipeline(f *testing.F) {
	for _, s := range []string{`[{"$match":{"a":1}},{"$group":{"_id":"$k","n":{"$sum":"$n"}}},{"$sort":{"n":-1}}]`,
		`[{"$unwind":"$a"},{"$project":{"x":"$a.b","y":{"z":["$a"]}}},{"$limit":3}]`, `[{"$addFields":{"a.b":"$n"}},{"$unset":"n"},{"$count":"c"}]`} {
		v, _ := index.Lookup(j(f, `{"v":`+s+`}`), "v")
		f.Add([]byte(v.Value), []byte(j(f, `{"a":[{"b":1},2],"k":"x","n":5}`)))
	}
	f.Fuzz(func(t *testing.T, pipeline, doc []byte) {
		if index.Validate(pipeline) != nil || index.Validate(doc) != nil {
			return
		}
		var stages []bson.Raw
		for e := range index.Elements(pipeline) {
			stages = append(stages, bson.Raw(e.Value.Value))
		}
		p, err := ParsePipeline(stages)
		if err != nil || len(stages) > 8 {
			return
		}
		docs, err := collect(p, stream([]bson.Raw{doc, doc}))
		if err != nil {
			return
		}
		for _, d := range docs {
			if err := index.Validate(d); mongoerr.HasCode(err, mongoerr.InvalidBSON) {
				t.Fatalf("damaged result %x", d)
			}
		}
	})
}
