package query

import (
	"math"
	"regexp"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// pred is a condition on one value; the zero RawValue is a missing one.
type pred interface {
	single(v bson.RawValue) bool
	// leaf tells whether an array at the end of the path is also offered
	// element by element.
	leaf() bool
}

type compareOp int

const (
	opEq compareOp = iota
	opLt
	opLte
	opGt
	opGte
)

// cmpPred compares within the operand's type bracket.
type cmpPred struct {
	op    compareOp
	value bson.RawValue
}

func (cmpPred) leaf() bool { return true }

func (p cmpPred) orEqual() bool { return p.op == opEq || p.op == opLte || p.op == opGte }

func (p cmpPred) single(v bson.RawValue) bool {
	if isNullish(p.value) {
		return isNullish(v) && p.orEqual()
	}
	if index.Bracket(v.Type) != index.Bracket(p.value.Type) {
		switch p.value.Type {
		case bson.TypeMaxKey:
			return p.op == opLt || p.op == opLte
		case bson.TypeMinKey:
			return p.op == opGt || p.op == opGte
		}
		return false
	}
	if va, vb := isNaN(v), isNaN(p.value); va || vb {
		return va && vb && p.orEqual()
	}
	c := index.Compare(v, p.value)
	switch p.op {
	case opEq:
		return c == 0
	case opLt:
		return c < 0
	case opLte:
		return c <= 0
	case opGt:
		return c > 0
	}
	return c >= 0
}

// isNullish tells whether v is null, undefined or missing.
func isNullish(v bson.RawValue) bool {
	return v.Type == 0 || v.Type == bson.TypeNull || v.Type == bson.TypeUndefined
}

func isNaN(v bson.RawValue) bool {
	if f, ok := v.DoubleOK(); ok {
		return math.IsNaN(f)
	}
	d, ok := v.Decimal128OK()
	return ok && d.IsNaN()
}

// inPred is $in: values in index order, and regular expressions.
type inPred struct {
	values  []bson.RawValue
	null    bool
	regexes []regexPred
}

func (inPred) leaf() bool { return true }

func (p inPred) single(v bson.RawValue) bool {
	if isNullish(v) && p.null {
		return true
	}
	if v.Type == 0 {
		return false
	}
	if _, ok := slices.BinarySearchFunc(p.values, v, index.Compare); ok {
		return true
	}
	return slices.ContainsFunc(p.regexes, func(r regexPred) bool { return r.single(v) })
}

// existsPred is $exists: true.
type existsPred struct{}

func (existsPred) leaf() bool { return true }

func (existsPred) single(v bson.RawValue) bool { return v.Type != 0 }

// typePred is $type.
type typePred struct{ types map[bson.Type]bool }

func (typePred) leaf() bool { return true }

func (p typePred) single(v bson.RawValue) bool { return v.Type != 0 && p.types[v.Type] }

// regexPred matches strings, symbols, and the same expression as a value.
type regexPred struct {
	re    *regexp.Regexp
	value bson.RawValue // as a BSON regular expression
	// prefix starts every string that matches; empty if unknown.
	prefix string
}

func (regexPred) leaf() bool { return true }

func (p regexPred) single(v bson.RawValue) bool {
	switch v.Type {
	case bson.TypeString, bson.TypeSymbol:
		return len(v.Value) > 4 && p.re.Match(v.Value[4:len(v.Value)-1])
	case bson.TypeRegex:
		return index.Compare(v, p.value) == 0
	}
	return false
}

// sizePred is $size; it looks at the array itself.
type sizePred int64

func (sizePred) leaf() bool { return false }

func (p sizePred) single(v bson.RawValue) bool {
	if v.Type != bson.TypeArray {
		return false
	}
	var n int64
	for range index.Elements(v.Value) {
		n++
	}
	return n == int64(p)
}

// modPred is $mod.
type modPred struct{ divisor, remainder int64 }

func (modPred) leaf() bool { return true }

func (p modPred) single(v bson.RawValue) bool {
	n, ok := wholeNumber(v)
	return ok && n%p.divisor == p.remainder
}

// elemMatchDoc is $elemMatch with conditions on fields of one element.
type elemMatchDoc struct{ of node }

func (elemMatchDoc) leaf() bool { return false }

func (p elemMatchDoc) single(v bson.RawValue) bool {
	if v.Type != bson.TypeArray {
		return false
	}
	for e := range index.Elements(v.Value) {
		if (e.Value.Type == bson.TypeEmbeddedDocument || e.Value.Type == bson.TypeArray) && p.of.match(e.Value.Value) {
			return true
		}
	}
	return false
}

// elemMatchValue is $elemMatch with conditions on one element itself.
type elemMatchValue []pred

func (elemMatchValue) leaf() bool { return false }

func (p elemMatchValue) single(v bson.RawValue) bool {
	if v.Type != bson.TypeArray {
		return false
	}
	for e := range index.Elements(v.Value) {
		if allPred(p).single(e.Value) {
			return true
		}
	}
	return false
}

// allPred is met when all its members are, each by any value of the path.
type allPred []pred

func (allPred) leaf() bool { return true }

func (p allPred) single(v bson.RawValue) bool {
	for _, c := range p {
		if !c.single(v) {
			return false
		}
	}
	return true
}

// neverPred matches nothing ($all: []).
type neverPred struct{}

func (neverPred) leaf() bool { return false }

func (neverPred) single(bson.RawValue) bool { return false }

// notPred is the complement of a conjunction.
type notPred []pred

func (notPred) leaf() bool { return true }

func (p notPred) single(v bson.RawValue) bool { return !allPred(p).single(v) }

// toNode binds a condition to a path. Negation and conjunction move outside,
// so that a negation is the complement over the whole document.
func toNode(p path, c pred) node {
	switch c := c.(type) {
	case notPred:
		return notNode{toNode(p, allPred(c))}
	case allPred:
		var n andNode
		for _, m := range c {
			n = append(n, toNode(p, m))
		}
		return n
	}
	return fieldNode{path: p, pred: c}
}
