package index

import (
	"bytes"
	"math"
	"math/big"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"
)

func value(t interface{ Fatalf(string, ...any) }, v any) bson.RawValue {
	if v == nil {
		return bson.RawValue{Type: bson.TypeNull}
	}
	typ, b, err := bson.MarshalValue(v)
	if err != nil {
		t.Fatalf("marshal %v: %v", v, err)
	}
	return bson.RawValue{Type: typ, Value: b}
}

func dec(t interface{ Fatalf(string, ...any) }, s string) bson.Decimal128 {
	d, err := bson.ParseDecimal128(s)
	if err != nil {
		t.Fatalf("decimal %s: %v", s, err)
	}
	return d
}

// ladder is in strictly ascending order; each step holds equal values.
func ladder(t *testing.T) [][]any {
	oid := bson.ObjectID{1}
	return [][]any{
		{bson.MinKey{}},
		{bson.Undefined{}},
		{bson.Null{}, nil},
		{math.NaN(), dec(t, "NaN")},
		{math.Inf(-1), dec(t, "-Infinity")},
		{dec(t, "-1E6111")},
		{-math.MaxFloat64},
		{int64(math.MinInt64), -0x1p63},
		{int64(-(1<<53 + 1)), dec(t, "-9007199254740993")},
		{int64(-(1 << 53)), -0x1p53},
		{int32(-1), int64(-1), -1.0, dec(t, "-1"), dec(t, "-1.000")},
		{-0.1}, {dec(t, "-0.10000000000000000000001")}, {dec(t, "-0.1")},
		{dec(t, "-1E-6176")},
		{int32(0), int64(0), 0.0, math.Copysign(0, -1), dec(t, "0"), dec(t, "-0"), dec(t, "0E+3")},
		{dec(t, "1E-6176")}, {dec(t, "1E-400")},
		{math.SmallestNonzeroFloat64},
		{dec(t, "1E-320")},
		{dec(t, "0.1")}, {dec(t, "0.10000000000000000000001")}, {0.1},
		{dec(t, "0.5"), 0.5},
		{int32(1), 1.0, dec(t, "1E0")},
		{int64(1 << 53), 0x1p53},
		{int64(1<<53 + 1), dec(t, "9007199254740993")},
		{int64(1<<53 + 2), 0x1p53 + 2},
		{int64(math.MaxInt64)}, {dec(t, "9223372036854775807.5")}, {0x1p63},
		{math.MaxFloat64},
		{dec(t, "1E400")}, {dec(t, "9.999E6111")},
		{math.Inf(1), dec(t, "Infinity")},
		{"", bson.Symbol("")}, {"\x00"}, {"\x00\x00"}, {"\x00a"}, {"\x01"}, {"a", bson.Symbol("a")}, {"a\x00"}, {"a\x00b"}, {"ab"}, {"b"}, {"é"},
		{bson.D{}}, {bson.D{{Key: "b", Value: nil}}}, {bson.D{{Key: "a", Value: 1}}, bson.D{{Key: "a", Value: 1.0}}},
		{bson.D{{Key: "a", Value: 1}, {Key: "b", Value: 1}}}, {bson.D{{Key: "a", Value: 2}}}, {bson.D{{Key: "aa", Value: 0}}},
		{bson.D{{Key: "a", Value: "x"}}},
		{bson.A{}}, {bson.A{1}}, {bson.A{1, 1}}, {bson.A{2}}, {bson.A{"a"}}, {bson.A{bson.A{}}},
		{bson.Binary{}}, {bson.Binary{Data: []byte{9}}}, {bson.Binary{Subtype: 5, Data: []byte{1}}}, {bson.Binary{Data: []byte{0, 0}}},
		{bson.ObjectID{}}, {oid},
		{false}, {true},
		{bson.DateTime(math.MinInt64)}, {bson.DateTime(-1)}, {bson.DateTime(0)}, {bson.DateTime(5)},
		{bson.Timestamp{}}, {bson.Timestamp{T: 1, I: 2}}, {bson.Timestamp{T: math.MaxUint32}},
		{bson.Regex{Pattern: "a"}}, {bson.Regex{Pattern: "a", Options: "i"}}, {bson.Regex{Pattern: "b"}},
		{bson.DBPointer{DB: "a", Pointer: oid}},
		{bson.JavaScript("f")},
		{bson.CodeWithScope{Code: "f", Scope: bson.D{}}}, {bson.CodeWithScope{Code: "f", Scope: bson.D{{Key: "a", Value: 1}}}},
		{bson.MaxKey{}},
	}
}

func TestOrderOfAllTypes(t *testing.T) {
	type entry struct {
		step int
		v    bson.RawValue
	}
	var all []entry
	for i, step := range ladder(t) {
		for _, v := range step {
			all = append(all, entry{i, value(t, v)})
		}
	}
	for _, a := range all {
		for _, b := range all {
			want := max(-1, min(1, a.step-b.step))
			if got := Compare(a.v, b.v); got != want {
				t.Errorf("Compare(%v, %v) = %d, want %d", a.v, b.v, got, want)
			}
			checkBytes(t, a.v, b.v, want)
		}
	}
}

type fataler interface {
	Fatalf(format string, args ...any)
}

// checkBytes compares the encodings, ascending and descending, alone and
// followed by another component.
func checkBytes(t fataler, a, b bson.RawValue, want int) {
	ea, erra := EncodeValue(nil, a)
	eb, errb := EncodeValue(nil, b)
	if erra != nil || errb != nil {
		t.Fatalf("encode %v, %v: %v, %v", a, b, erra, errb)
	}
	if got := bytes.Compare(ea, eb); got != want {
		t.Fatalf("encoded order of %v and %v is %d, want %d", a, b, got, want)
	}
	invert(ea)
	invert(eb)
	if got := bytes.Compare(ea, eb); got != -want {
		t.Fatalf("descending order of %v and %v is %d, want %d", a, b, got, -want)
	}
	if want != 0 && (bytes.HasPrefix(ea, eb) || bytes.HasPrefix(eb, ea)) {
		t.Fatalf("encoding of one of %v, %v is a prefix of the other", a, b)
	}
}

// genValue draws a value of any type, nested ones included, with collisions
// between number types likely.
func genValue(depth int) *rapid.Generator[any] {
	ints := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-3, 3), rapid.Int64Range(1<<53-3, 1<<53+3), rapid.Int64Range(-(1<<53)-3, -(1<<53)+3))
	text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.SampledFrom([]rune{0, 1, 'a', 'b', 0xFF}), 0, 4, -1))
	gens := []*rapid.Generator[any]{
		rapid.Custom(func(t *rapid.T) any { return ints.Draw(t, "long") }),
		rapid.Custom(func(t *rapid.T) any { return rapid.Int32().Draw(t, "int") }),
		rapid.Custom(func(t *rapid.T) any { return float64(ints.Draw(t, "whole double")) }),
		rapid.Custom(func(t *rapid.T) any { return math.Float64frombits(rapid.Uint64().Draw(t, "double")) }),
		rapid.Custom(func(t *rapid.T) any {
			return bson.NewDecimal128(rapid.Uint64().Draw(t, "high"), rapid.Uint64().Draw(t, "low"))
		}),
		rapid.Custom(func(t *rapid.T) any {
			exp := rapid.OneOf(rapid.IntRange(-20, 20), rapid.IntRange(-6176, 6111)).Draw(t, "exp")
			d, ok := bson.ParseDecimal128FromBigInt(big.NewInt(ints.Draw(t, "coef")), exp)
			if !ok {
				return nil
			}
			return d
		}),
		rapid.Custom(func(t *rapid.T) any { return text.Draw(t, "string") }),
		rapid.Custom(func(t *rapid.T) any { return bson.Symbol(text.Draw(t, "symbol")) }),
		rapid.Custom(func(t *rapid.T) any { return bson.JavaScript(text.Draw(t, "code")) }),
		rapid.Custom(func(t *rapid.T) any {
			return bson.Binary{Subtype: byte(rapid.IntRange(0, 6).Draw(t, "subtype")), Data: rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "data")}
		}),
		rapid.Custom(func(t *rapid.T) any { return bson.DateTime(rapid.Int64().Draw(t, "date")) }),
		rapid.Custom(func(t *rapid.T) any {
			return bson.Timestamp{T: rapid.Uint32().Draw(t, "t"), I: rapid.Uint32().Draw(t, "i")}
		}),
		rapid.SampledFrom([]any{nil, true, false, bson.MinKey{}, bson.MaxKey{}, bson.Undefined{}, math.NaN(), bson.ObjectID{7}, bson.Regex{Pattern: "a"}, bson.Regex{Pattern: "a", Options: "i"}}),
	}
	if depth > 0 {
		gens = append(gens,
			rapid.Custom(func(t *rapid.T) any { return bson.A(rapid.SliceOfN(genValue(depth-1), 0, 3).Draw(t, "array")) }),
			rapid.Custom(func(t *rapid.T) any {
				d := bson.D{}
				for _, k := range rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "0", "é"}), 0, 3).Draw(t, "keys") {
					d = append(d, bson.E{Key: k, Value: genValue(depth-1).Draw(t, "field")})
				}
				return d
			}))
	}
	return rapid.OneOf(gens...)
}

func TestEncodedOrderIsCompare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := value(t, genValue(3).Draw(t, "a"))
		b := value(t, genValue(3).Draw(t, "b"))
		checkBytes(t, a, b, Compare(a, b))
		if Compare(a, b) != -Compare(b, a) {
			t.Fatalf("Compare of %v and %v is not antisymmetric", a, b)
		}
	})
}

// rational is the exact value of a finite number, computed another way.
func rational(v bson.RawValue) (*big.Rat, bool) {
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64:
		return new(big.Rat).SetInt64(v.AsInt64()), true
	case bson.TypeDouble:
		r := new(big.Rat).SetFloat64(v.Double())
		return r, r != nil
	case bson.TypeDecimal128:
		r, ok := new(big.Rat).SetString(v.Decimal128().String())
		return r, ok
	}
	return nil, false
}

func TestNumbersCompareByExactValue(t *testing.T) {
	ints := rapid.OneOf(rapid.Int64(), rapid.Int64Range(1<<53-3, 1<<53+3), rapid.Int64Range(-3, 3))
	number := rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return ints.Draw(t, "long")
		case 1:
			return rapid.Float64().Draw(t, "double")
		case 2:
			return float64(ints.Draw(t, "whole"))
		}
		d, ok := bson.ParseDecimal128FromBigInt(big.NewInt(ints.Draw(t, "coef")), rapid.IntRange(-345, 320).Draw(t, "exp"))
		if !ok {
			return 0
		}
		return d
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := value(t, number.Draw(t, "a")), value(t, number.Draw(t, "b"))
		ra, oka := rational(a)
		rb, okb := rational(b)
		if !oka || !okb {
			return
		}
		if got := Compare(a, b); got != ra.Cmp(rb) {
			t.Fatalf("Compare(%v, %v) = %d, want %d", a, b, got, ra.Cmp(rb))
		}
	})
}

func FuzzEncodeValue(f *testing.F) {
	for _, step := range [][]any{{bson.A{1, "a", bson.D{{Key: "x", Value: 1.5}}}}, {bson.D{{Key: "a", Value: int64(1 << 60)}}}, {"a\x00"}} {
		v := value(f, step[0])
		f.Add(byte(v.Type), v.Value, byte(v.Type), v.Value)
	}
	f.Add(byte(bson.TypeDecimal128), bytes.Repeat([]byte{0x30}, 16), byte(bson.TypeDouble), make([]byte, 8))
	f.Add(byte(bson.TypeCodeWithScope), []byte{14, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0}, byte(bson.TypeBinary), []byte{0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, ta byte, ba []byte, tb byte, bb []byte) {
		a := bson.RawValue{Type: bson.Type(ta), Value: ba}
		b := bson.RawValue{Type: bson.Type(tb), Value: bb}
		c := Compare(a, b)
		ea, erra := EncodeValue(nil, a)
		eb, errb := EncodeValue(nil, b)
		if erra == nil && errb == nil && max(-1, min(1, c)) != bytes.Compare(ea, eb) {
			t.Fatalf("Compare says %d, bytes say %d", c, bytes.Compare(ea, eb))
		}
		doc := bson.Raw(ba)
		if Validate(doc) == nil {
			_, _, _ = Spec{Fields: []Field{{Path: "a"}, {Path: "b.0", Desc: true}}}.Keys(doc)
			_, _ = ParseSpec(doc)
		}
	})
}
