package query

import (
	"bytes"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

func TestProjection(t *testing.T) {
	const doc = `{"_id":1,"a":{"b":1,"c":2},"d":[{"b":1,"c":2},5,[{"b":3,"c":4}]],"e":9}`
	tests := []struct {
		in, want string
		code     int32
	}{
		{`{}`, doc, 0},
		{`{"e":1}`, `{"_id":1,"e":9}`, 0},
		{`{"e":1,"_id":0}`, `{"e":9}`, 0},
		{`{"_id":1}`, `{"_id":1}`, 0},
		{`{"_id":0}`, `{"a":{"b":1,"c":2},"d":[{"b":1,"c":2},5,[{"b":3,"c":4}]],"e":9}`, 0},
		{`{"a.b":1,"d.b":1}`, `{"_id":1,"a":{"b":1},"d":[{"b":1},[{"b":3}]]}`, 0},
		{`{"a.b":0,"d.b":false}`, `{"_id":1,"a":{"c":2},"d":[{"c":2},5,[{"c":4}]],"e":9}`, 0},
		{`{"e.x":1}`, `{"_id":1}`, 0},
		{`{"a":0,"_id":1}`, `{"_id":1,"d":[{"b":1,"c":2},5,[{"b":3,"c":4}]],"e":9}`, 0},
		{`{"a":1,"e":0}`, "", mongoerr.ExclusionInInclusion},
		{`{"a":0,"e":1}`, "", mongoerr.InclusionInExclusion},
		{`{"a":1,"a.b":1}`, "", mongoerr.PathCollision},
		{`{"a.b":1,"a":1}`, "", mongoerr.PathCollision},
		{`{"a":{"$slice":1}}`, "", mongoerr.NotImplemented},
		{`{"a.$":1}`, "", mongoerr.NotImplemented},
		{`{"$a":1}`, "", mongoerr.FieldPathPrefixed},
	}
	for _, tt := range tests {
		p, err := ParseProjection(j(t, tt.in))
		if tt.code != 0 {
			if !mongoerr.HasCode(err, tt.code) {
				t.Errorf("%s: got %v, want code %d", tt.in, err, tt.code)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		got, err := p.Apply(j(t, doc))
		if err != nil || !bytes.Equal(got, j(t, tt.want)) {
			t.Errorf("%s: %s, %v; want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestSort(t *testing.T) {
	tests := []struct {
		sort string
		docs []string // in order, all different
	}{
		{`{"a":1}`, []string{`{"a":[]}`, `{}`, `{"a":1}`, `{"a":[9,2]}`, `{"a":3}`, `{"a":"x"}`}},
		{`{"a":-1}`, []string{`{"a":"x"}`, `{"a":[9,2]}`, `{"a":3}`, `{"a":1}`, `{}`, `{"a":[]}`}},
		{`{"a":1,"b":-1}`, []string{`{"a":1,"b":2}`, `{"a":1,"b":1}`, `{"a":2}`}},
		{`{"a.b":1}`, []string{`{"a":5}`, `{"a":[{"b":7},{"b":1}]}`, `{"a":{"b":2}}`}},
	}
	for _, tt := range tests {
		s := mustSort(t, tt.sort)
		for i, a := range tt.docs {
			for k, b := range tt.docs {
				want := max(-1, min(1, i-k))
				if got := s.Compare(j(t, a), j(t, b)); got != want {
					t.Errorf("%s: %s against %s is %d, want %d", tt.sort, a, b, got, want)
				}
			}
		}
	}
	if _, err := mustSort(t, `{"a":1,"b":1}`).Key(j(t, `{"a":[1],"b":[1]}`)); !mongoerr.HasCode(err, mongoerr.BadValue) {
		t.Errorf("parallel arrays: %v", err)
	}
	for in, code := range map[string]int32{`{"a":2}`: codeSortOrder, `{"a":"x"}`: codeSortValue, `{"$a":1}`: mongoerr.FieldPathPrefixed} {
		if _, err := ParseSort(j(t, in)); !mongoerr.HasCode(err, code) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestArithmetic(t *testing.T) {
	tests := []struct{ a, b, sum, product string }{
		{`1`, `2`, `3`, `2`},
		{`2147483647`, `1`, `{"$numberLong":"2147483648"}`, `2147483647`},
		{`{"$numberLong":"1"}`, `2`, `{"$numberLong":"3"}`, `{"$numberLong":"2"}`},
		{`1`, `0.5`, `1.5`, `0.5`},
		{`{"$numberLong":"9223372036854775807"}`, `2`, ``, ``},
		{`{"$numberLong":"-9223372036854775808"}`, `-1`, ``, ``},
		{`{"$numberLong":"-9223372036854775808"}`, `1`, `{"$numberLong":"-9223372036854775807"}`, `{"$numberLong":"-9223372036854775808"}`},
		{`{"$numberDecimal":"0.1"}`, `{"$numberDecimal":"0.2"}`, `{"$numberDecimal":"0.3"}`, `{"$numberDecimal":"0.02"}`},
		{`{"$numberDecimal":"1"}`, `0.1`, `{"$numberDecimal":"1.1"}`, `{"$numberDecimal":"0.1"}`},
		{`{"$numberDecimal":"9999999999999999999999999999999999"}`, `{"$numberDecimal":"0.5"}`,
			`{"$numberDecimal":"1.0E34"}`, `{"$numberDecimal":"5.0E33"}`},
		{`{"$numberDecimal":"9E6111"}`, `{"$numberDecimal":"1E-6000"}`, `{"$numberDecimal":"9E6111"}`, `{"$numberDecimal":"9E111"}`},
		{`{"$numberDecimal":"9.999999999999999999999999999999999E6144"}`, `{"$numberDecimal":"9.999999999999999999999999999999999E6144"}`,
			`{"$numberDecimal":"Infinity"}`, `{"$numberDecimal":"Infinity"}`},
		{`{"$numberDecimal":"Infinity"}`, `1`, `{"$numberDecimal":"Infinity"}`, `{"$numberDecimal":"Infinity"}`},
		{`"x"`, `1`, ``, ``},
	}
	read := func(s string) bson.RawValue {
		v, _ := index.Lookup(j(t, `{"v":`+s+`}`), "v")
		return v
	}
	for _, tt := range tests {
		for _, op := range []struct {
			name, want string
			f          func(a, b bson.RawValue, o Overflow) (bson.RawValue, bool)
		}{{"+", tt.sum, Add}, {"*", tt.product, Multiply}} {
			got, ok := op.f(read(tt.a), read(tt.b), OverflowFails)
			if op.want == "" {
				if ok {
					t.Errorf("%s %s %s = %s, want failure", tt.a, op.name, tt.b, got)
				}
				continue
			}
			if want := read(op.want); !ok || got.Type != want.Type || index.Compare(got, want) != 0 {
				t.Errorf("%s %s %s = %s, %v; want %s", tt.a, op.name, tt.b, got, ok, want)
			}
		}
	}
	third, _ := bson.ParseDecimal128("1")
	if got := Divide(decimalValue(third), 3).Decimal128().String(); got != "0.3333333333333333333333333333333333" {
		t.Errorf("1/3 = %s", got)
	}
}
