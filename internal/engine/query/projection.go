package query

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// Projection says which fields of a document a client gets.
type Projection struct {
	root    *projNode
	include bool
}

// projNode is a field of the projection; a leaf is named by it as a whole.
type projNode struct {
	kids map[string]*projNode
}

func (n *projNode) isLeaf() bool { return n.kids == nil }

// ParseProjection reads a projection: inclusion or exclusion, _id, dotted
// paths. Expressions, $slice, $elemMatch, $meta and the positional $ are
// NotImplemented. An empty document is no projection: the result is nil.
func ParseProjection(doc bson.Raw) (*Projection, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	if err := index.Validate(doc); err != nil {
		return nil, err
	}
	p := &Projection{root: &projNode{kids: map[string]*projNode{}}}
	var id *bool
	decided, empty := false, true
	for e := range index.Elements(doc) {
		path := string(e.Key)
		on, err := projectionValue(path, e.Value)
		if err != nil {
			return nil, err
		}
		empty = false
		if path == "_id" {
			id = &on
			continue
		}
		if decided && on != p.include {
			return nil, mixed(path, on)
		}
		decided, p.include = true, on
		if err := p.root.add(path); err != nil {
			return nil, err
		}
	}
	if empty {
		return nil, nil
	}
	if !decided {
		p.include = id != nil && *id
	}
	return p, p.placeID(id)
}

// placeID adds _id to the tree: an inclusion has it unless told otherwise, an
// exclusion drops it only if told.
func (p *Projection) placeID(id *bool) error {
	named := p.root.kids["_id"] != nil // by a dotted path
	if named && id != nil {
		return collision("_id", "")
	}
	if !named && (id == nil && p.include || id != nil && *id == p.include) {
		p.root.kids["_id"] = &projNode{}
	}
	return nil
}

func mixed(path string, on bool) error {
	if on {
		return mongoerr.Of(mongoerr.InclusionInExclusion, "Cannot do inclusion on field %s in exclusion projection", path)
	}
	return mongoerr.Of(mongoerr.ExclusionInInclusion, "Cannot do exclusion on field %s in inclusion projection", path)
}

func collision(path, rest string) error {
	return mongoerr.Of(mongoerr.PathCollision, "Path collision at %s remaining portion %s", path, rest)
}

func projectionValue(path string, v bson.RawValue) (bool, error) {
	switch index.Bracket(v.Type) {
	case index.Bracket(bson.TypeInt32), index.Bracket(bson.TypeBoolean):
	default:
		return false, notHere("projections by expression ($slice, $elemMatch, $meta, literals); field '" + path + "'")
	}
	parts := strings.Split(path, ".")
	if len(parts) > maxPathParts {
		return false, badValue("the path of a projection has more than %d parts", maxPathParts)
	}
	for _, part := range parts {
		switch {
		case part == "":
			return false, mongoerr.Of(40353, "FieldPath must not end with a '.' nor have an empty part: '%s'", path)
		case part == "$":
			return false, notHere("the positional projection")
		case part[0] == '$':
			return false, mongoerr.Of(mongoerr.FieldPathPrefixed, "FieldPath field names may not start with '$': '%s'", path)
		}
	}
	return truthy(v), nil
}

func (n *projNode) add(path string) error {
	rest := path
	for {
		name, tail, more := strings.Cut(rest, ".")
		kid, there := n.kids[name]
		if there && (!more || kid.isLeaf()) {
			return collision(path, tail)
		}
		if !there {
			kid = &projNode{}
			if more {
				kid.kids = map[string]*projNode{}
			}
			n.kids[name] = kid
		}
		if !more {
			return nil
		}
		n, rest = kid, tail
	}
}

// Apply makes the projected document. A nil projection gives doc itself.
func (p *Projection) Apply(doc bson.Raw) (bson.Raw, error) {
	if p == nil {
		return doc, nil
	}
	out := make([]byte, 0, len(doc))
	return p.document(out, doc, p.root), nil
}

func (p *Projection) document(out, doc []byte, n *projNode) []byte {
	start := len(out)
	out = append(out, 0, 0, 0, 0)
	for e := range index.Elements(doc) {
		kid := n.kids[string(e.Key)]
		switch {
		case kid == nil && p.include, kid != nil && kid.isLeaf() && !p.include:
		case kid == nil || kid.isLeaf():
			out = appendElement(out, e.Key, e.Value)
		default:
			out = p.below(out, e, kid)
		}
	}
	return endDocument(out, start)
}

// below applies a dotted path's rest: documents and arrays are entered, a
// scalar has no such field.
func (p *Projection) below(out []byte, e index.Element, n *projNode) []byte {
	switch e.Value.Type {
	case bson.TypeEmbeddedDocument:
		return p.document(appendHeader(out, e.Value.Type, e.Key), e.Value.Value, n)
	case bson.TypeArray:
		return p.array(appendHeader(out, e.Value.Type, e.Key), e.Value.Value, n)
	}
	if p.include {
		return out
	}
	return appendElement(out, e.Key, e.Value)
}

func (p *Projection) array(out, array []byte, n *projNode) []byte {
	start := len(out)
	out = append(out, 0, 0, 0, 0)
	i := 0
	for e := range index.Elements(array) {
		before := len(out)
		e.Key = appendPosition(nil, i)
		if out = p.below(out, e, n); len(out) > before {
			i++
		}
	}
	return endDocument(out, start)
}
