package query

import (
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// maxPathParts bounds a dotted path; documents do not nest deeper.
const maxPathParts = index.MaxDepth

// path is a dotted path, cut into its parts.
type path struct {
	text    string
	parts   []string
	numeric int // how many parts are array positions
}

func parsePath(text string) (path, error) {
	p := path{text: text, parts: strings.Split(text, ".")}
	if len(p.parts) > maxPathParts {
		return p, mongoerr.Of(mongoerr.BadValue, "FieldPath has %d parts, more than %d", len(p.parts), maxPathParts)
	}
	for _, part := range p.parts {
		if isPosition(part) {
			p.numeric++
		}
	}
	return p, nil
}

func isPosition(part string) bool {
	if part == "" || len(part) > 8 || part[0] == '0' && len(part) > 1 {
		return false
	}
	return strings.Trim(part, "0123456789") == ""
}

// walker offers the values of a path to a test until one passes. Arrays on
// the way are entered, by position and element by element; an array at the end
// is offered element by element and then as a whole if leaf says so. A missing
// value is offered as the zero RawValue.
type walker struct {
	leaf bool
	test func(bson.RawValue) bool
	// seen keeps a path with many positions from visiting the same place by
	// exponentially many ways; nil for the usual paths, which cannot.
	seen map[place]bool
}

type place struct {
	at   *byte
	rest int
}

// anyValue tells whether test passes for one value of the path in doc.
func (p path) anyValue(doc []byte, leaf bool, test func(bson.RawValue) bool) bool {
	w := walker{leaf: leaf, test: test}
	if p.numeric > 3 {
		w.seen = map[place]bool{}
	}
	return w.doc(doc, p.parts)
}

func (w *walker) doc(doc []byte, parts []string) bool {
	v, ok := index.Lookup(doc, parts[0])
	if !ok {
		return w.test(bson.RawValue{})
	}
	return w.value(v, parts[1:])
}

func (w *walker) value(v bson.RawValue, rest []string) bool {
	if len(rest) == 0 {
		return w.end(v)
	}
	switch v.Type {
	case bson.TypeEmbeddedDocument:
		return w.doc(v.Value, rest)
	case bson.TypeArray:
		return w.array(v.Value, rest)
	}
	return w.test(bson.RawValue{})
}

func (w *walker) array(array []byte, rest []string) bool {
	if w.seen != nil {
		here := place{&array[0], len(rest)}
		if w.seen[here] {
			return false
		}
		w.seen[here] = true
	}
	at := -1
	if isPosition(rest[0]) {
		at, _ = strconv.Atoi(rest[0])
	}
	i := 0
	for e := range index.Elements(array) {
		if e.Value.Type == bson.TypeEmbeddedDocument && w.doc(e.Value.Value, rest) {
			return true
		}
		if i == at && w.value(e.Value, rest[1:]) {
			return true
		}
		i++
	}
	return false
}

func (w *walker) end(v bson.RawValue) bool {
	if w.leaf && v.Type == bson.TypeArray {
		for e := range index.Elements(v.Value) {
			if w.test(e.Value) {
				return true
			}
		}
	}
	return w.test(v)
}
