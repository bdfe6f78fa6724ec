package query

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// candidate is what one condition says about the keys of its path.
type candidate struct {
	intervals []interval
	// present: a document without the path cannot match, so a sparse index has
	// every document that matters.
	present bool
	rank    int
}

// How much a condition narrows an index down.
const (
	rankNone = iota // says only that the path is there
	rankRange
	rankPoints
	rankPoint
)

func candidateOf(list []interval, present bool) candidate {
	list = normalize(list)
	c := candidate{intervals: list, present: present, rank: rankPoints}
	for _, iv := range list {
		if !iv.point {
			c.rank = rankRange
		}
	}
	if c.rank == rankPoints && len(list) == 1 {
		c.rank = rankPoint
	}
	return c
}

// candidates collects, by path, what the filter says about index keys.
func candidates(f *Filter) map[string][]candidate {
	out := map[string][]candidate{}
	for _, n := range f.conjuncts() {
		collect(out, "", n)
	}
	return out
}

func collect(out map[string][]candidate, parent string, n fieldNode) {
	name := parent + n.path.text
	if m, ok := n.pred.(elemMatchDoc); ok {
		for _, c := range conjuncts(nil, m.of) {
			// Below an element a position may name a place within a nested array.
			if c.path.numeric == 0 {
				collect(out, name+".", c)
			}
		}
		return
	}
	if c, ok := boundsOf(n.pred, n.path.numeric > 0 || parent != ""); ok {
		out[name] = append(out[name], c)
	}
}

// boundsOf gives intervals that hold at least one key of every document that
// the condition matches. For tricky paths (positions, elements) conditions
// that a missing value meets give none.
func boundsOf(p pred, tricky bool) (candidate, bool) {
	switch p := p.(type) {
	case cmpPred:
		return p.bounds(tricky)
	case inPred:
		return p.bounds(tricky)
	case regexPred:
		if p.prefix == "" {
			return candidate{intervals: []interval{everything}, present: true}, true
		}
		return candidateOf(p.intervals(), true), true
	case existsPred, typePred, modPred, sizePred:
		return candidate{intervals: []interval{everything}, present: true}, true
	case elemMatchValue:
		return p.bounds()
	case neverPred:
		return candidateOf(nil, true), true
	}
	return candidate{}, false
}

func (p cmpPred) bounds(tricky bool) (candidate, bool) {
	if isNullish(p.value) {
		if !p.orEqual() {
			return candidateOf(nil, true), true
		}
		return candidateOf([]interval{nullish()}, false), !tricky
	}
	if p.op == opEq {
		return candidateOf(equalTo(p.value), true), true
	}
	switch p.value.Type {
	case bson.TypeArray, bson.TypeMinKey, bson.TypeMaxKey:
		return candidate{}, false
	}
	iv, ok := point(p.value)
	if !ok {
		return candidate{}, false
	}
	if isNaN(p.value) {
		if !p.orEqual() {
			return candidateOf(nil, true), true
		}
		return candidateOf([]interval{iv}, true), true
	}
	all := bracket(p.value)
	switch p.op {
	case opLt:
		all.hi = iv.lo
	case opLte:
		all.hi = iv.hi
	case opGt:
		all.lo = iv.hi
	case opGte:
		all.lo = iv.lo
	}
	return candidateOf([]interval{all}, true), true
}

// nullish covers undefined and null; missing values are null in an index.
func nullish() interval {
	lo, _ := point(bson.RawValue{Type: bson.TypeUndefined})
	hi, _ := point(bson.RawValue{Type: bson.TypeNull})
	return interval{lo: lo.lo, hi: hi.hi}
}

// equalTo covers a value; an array is found by its first element, or as a
// whole where it is itself an element.
func equalTo(v bson.RawValue) []interval {
	values := []bson.RawValue{v}
	if v.Type == bson.TypeArray {
		first := bson.RawValue{Type: bson.TypeUndefined}
		for e := range index.Elements(v.Value) {
			first = e.Value
			break
		}
		values = append(values, first)
	}
	var out []interval
	for _, v := range values {
		if iv, ok := point(v); ok {
			out = append(out, iv)
		}
	}
	return out
}

func (p inPred) bounds(tricky bool) (candidate, bool) {
	if p.null && tricky {
		return candidate{}, false
	}
	var list []interval
	for _, v := range p.values {
		list = append(list, equalTo(v)...)
	}
	if p.null {
		list = append(list, nullish())
	}
	for _, r := range p.regexes {
		list = append(list, r.intervals()...)
	}
	return candidateOf(list, !p.null), true
}

// intervals covers the strings with the expression's prefix, and the
// expression itself as a value.
func (p regexPred) intervals() []interval {
	iv := bracket(bson.RawValue{Type: bson.TypeString})
	if p.prefix != "" {
		// The bytes of a string are its tag and text; without the end mark they
		// are a prefix of all longer ones.
		key := append([]byte{index.Bracket(bson.TypeString)}, escaped(p.prefix)...)
		iv = interval{lo: edge{prefix: key, text: `"` + p.prefix + `"`}, hi: edge{prefix: key, after: true, text: `"` + p.prefix + `..."`}}
	}
	if re, ok := point(p.value); ok {
		return []interval{iv, re}
	}
	return []interval{iv}
}

// escaped is text as key bytes have it, without the end mark.
func escaped(text string) []byte {
	return slices.Concat(splitZeros(text)...)
}

func splitZeros(text string) [][]byte {
	var out [][]byte
	for _, c := range []byte(text) {
		if c == 0 {
			out = append(out, []byte{0, 0xFF})
			continue
		}
		out = append(out, []byte{c})
	}
	return out
}

// bounds of $elemMatch on one element: its conditions meet in one key.
func (p elemMatchValue) bounds() (candidate, bool) {
	list := []interval{everything}
	for _, c := range p {
		switch c.(type) {
		case cmpPred, inPred, regexPred:
			if b, ok := boundsOf(c, true); ok {
				list = intersect(list, b.intervals)
			}
		}
	}
	c := candidateOf(list, true)
	if len(list) == 1 && list[0].lo.prefix == nil && list[0].hi.prefix == nil {
		c.rank = rankNone
	}
	return c, true
}
