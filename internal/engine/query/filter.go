package query

import (
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// Filter is a parsed query filter.
type Filter struct {
	raw  bson.Raw
	root andNode
}

// Raw is the filter as it was given.
func (f *Filter) Raw() bson.Raw { return f.raw }

// Empty tells whether the filter matches every document.
func (f *Filter) Empty() bool { return len(f.root) == 0 }

// Match tells whether doc matches. It fails only for a document that is not
// BSON at all.
func (f *Filter) Match(doc bson.Raw) (bool, error) {
	if len(doc) < 5 {
		return false, index.Validate(doc)
	}
	return f.root.match(doc), nil
}

// node is one condition on a document.
type node interface {
	match(doc []byte) bool
}

type (
	andNode []node
	orNode  []node
	norNode []node
	notNode struct{ of node }
	// constNode is $alwaysTrue, $alwaysFalse and what can never match.
	constNode bool
	// fieldNode is a condition on the values of one path.
	fieldNode struct {
		path path
		pred pred
	}
)

func (n andNode) match(doc []byte) bool {
	for _, c := range n {
		if !c.match(doc) {
			return false
		}
	}
	return true
}

func (n orNode) match(doc []byte) bool {
	return slices.ContainsFunc(n, func(c node) bool { return c.match(doc) })
}

func (n norNode) match(doc []byte) bool { return !orNode(n).match(doc) }

func (n notNode) match(doc []byte) bool { return !n.of.match(doc) }

func (n constNode) match([]byte) bool { return bool(n) }

func (n fieldNode) match(doc []byte) bool {
	return n.path.anyValue(doc, n.pred.leaf(), n.pred.single)
}

// Equality is a part of a filter that pins a path to one value.
type Equality struct {
	Path  string
	Value bson.RawValue
}

// EqualityFields gives the parts of the filter that an upsert turns into
// fields: equalities at the top, within $and, and within an $or of one. A path
// pinned twice, or beside its own parent, is NotSingleValueField.
func EqualityFields(f *Filter) ([]Equality, error) {
	var out []Equality
	for _, n := range f.conjuncts() {
		c, ok := n.pred.(cmpPred)
		if !ok || c.op != opEq {
			continue
		}
		for _, o := range out {
			if samePathOrParent(o.Path, n.path.text) || samePathOrParent(n.path.text, o.Path) {
				return nil, notSingle(n.path.text)
			}
		}
		out = append(out, Equality{Path: n.path.text, Value: c.value})
	}
	return out, nil
}

// conjuncts are the field conditions that every matching document meets.
func (f *Filter) conjuncts() []fieldNode { return conjuncts(nil, f.root) }

func conjuncts(out []fieldNode, n node) []fieldNode {
	switch n := n.(type) {
	case andNode:
		for _, c := range n {
			out = conjuncts(out, c)
		}
	case orNode:
		if len(n) == 1 {
			out = conjuncts(out, n[0])
		}
	case fieldNode:
		out = append(out, n)
	}
	return out
}
