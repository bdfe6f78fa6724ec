package aggregate

import (
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/query"
)

// accumulator gathers one value per document of a group. add tells by how many
// bytes it grew; a missing value is the zero RawValue.
type accumulator interface {
	add(v bson.RawValue) (grown int, err error)
	result() bson.RawValue
}

func accumulatorOf(op string) func() accumulator {
	switch op {
	case "$sum", "$count":
		return newSum
	case "$avg":
		return func() accumulator { return &avgAcc{sum: newSumAcc()} }
	case "$min":
		return func() accumulator { return &extremeAcc{sign: -1} }
	case "$max":
		return func() accumulator { return &extremeAcc{sign: 1} }
	case "$first":
		return func() accumulator { return &firstAcc{} }
	case "$last":
		return func() accumulator { return &lastAcc{} }
	case "$push":
		return func() accumulator { return &pushAcc{list: newDoc()} }
	case "$addToSet":
		return func() accumulator { return &pushAcc{list: newDoc(), seen: map[string]bool{}} }
	}
	return nil
}

func oneValue() bson.RawValue { return query.Int32(1) }

// sumAcc is $sum. Whole numbers and decimals are summed exactly, doubles with
// the error carried along; the type is the narrowest that holds the result.
type sumAcc struct {
	exact    bson.RawValue
	double   float64
	lost     float64
	isDouble bool
}

func newSum() accumulator { return newSumAcc() }

func newSumAcc() *sumAcc { return &sumAcc{exact: query.Int32(0)} }

func (s *sumAcc) add(v bson.RawValue) (int, error) {
	if v.Type == bson.TypeDouble {
		s.addDouble(v.Double())
		return 0, nil
	}
	if !query.IsNumber(v) {
		return 0, nil
	}
	if sum, ok := query.Add(s.exact, v, query.OverflowFails); ok {
		s.exact = sum
		return 0, nil
	}
	// Beyond 64 bits: what was gathered moves to the double.
	s.addDouble(query.ToDouble(s.exact))
	s.exact = v
	return 0, nil
}

func (s *sumAcc) addDouble(f float64) {
	s.isDouble = true
	t := s.double + f
	if math.IsInf(t, 0) || math.IsNaN(t) {
		s.double, s.lost = t, 0
		return
	}
	if math.Abs(s.double) >= math.Abs(f) {
		s.lost += (s.double - t) + f
	} else {
		s.lost += (f - t) + s.double
	}
	s.double = t
}

func (s *sumAcc) result() bson.RawValue {
	if !s.isDouble {
		return s.exact
	}
	if s.exact.Type == bson.TypeDecimal128 {
		sum, _ := query.Add(s.exact, query.Double(s.double+s.lost), query.OverflowToDouble)
		return sum
	}
	return query.Double(s.double + (s.lost + query.ToDouble(s.exact)))
}

type avgAcc struct {
	sum *sumAcc
	n   int64
}

func (a *avgAcc) add(v bson.RawValue) (int, error) {
	if query.IsNumber(v) {
		a.n++
	}
	return a.sum.add(v)
}

func (a *avgAcc) result() bson.RawValue {
	if a.n == 0 {
		return null()
	}
	return query.Divide(a.sum.result(), a.n)
}

// extremeAcc is $min and $max: null and missing do not count.
type extremeAcc struct {
	sign int
	best bson.RawValue
}

func (a *extremeAcc) add(v bson.RawValue) (int, error) {
	switch v.Type {
	case 0, bson.TypeNull, bson.TypeUndefined:
		return 0, nil
	}
	if a.best.Type != 0 && index.Compare(v, a.best)*a.sign <= 0 {
		return 0, nil
	}
	grown := len(v.Value) - len(a.best.Value)
	a.best = cloneValue(v)
	return grown, nil
}

func (a *extremeAcc) result() bson.RawValue { return orNull(a.best) }

func orNull(v bson.RawValue) bson.RawValue {
	if v.Type == 0 {
		return null()
	}
	return v
}

type firstAcc struct {
	v   bson.RawValue
	set bool
}

func (a *firstAcc) add(v bson.RawValue) (int, error) {
	if a.set {
		return 0, nil
	}
	a.v, a.set = cloneValue(v), true
	return len(v.Value), nil
}

func (a *firstAcc) result() bson.RawValue { return orNull(a.v) }

type lastAcc struct{ v bson.RawValue }

func (a *lastAcc) add(v bson.RawValue) (int, error) {
	grown := len(v.Value) - len(a.v.Value)
	a.v = bson.RawValue{Type: v.Type, Value: append(a.v.Value[:0], v.Value...)}
	return grown, nil
}

func (a *lastAcc) result() bson.RawValue { return orNull(a.v) }

// pushAcc is $push, and $addToSet when it has seen.
type pushAcc struct {
	list rawDoc
	n    int
	seen map[string]bool
}

func (a *pushAcc) add(v bson.RawValue) (int, error) {
	if v.Type == 0 {
		return 0, nil
	}
	before, extra := len(a.list), 0
	if a.seen != nil {
		key, err := index.EncodeValue(nil, v)
		if err != nil {
			return 0, err
		}
		if a.seen[string(key)] {
			return 0, nil
		}
		a.seen[string(key)] = true
		extra = len(key) + 32
	}
	a.list = a.list.add(position(a.n), v)
	a.n++
	return len(a.list) - before + extra, nil
}

func (a *pushAcc) result() bson.RawValue {
	return bson.RawValue{Type: bson.TypeArray, Value: a.list.done()}
}
