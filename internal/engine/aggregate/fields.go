package aggregate

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// mapStage changes documents one by one.
type mapStage func(bson.Raw) (bson.Raw, error)

func (s mapStage) run(_ context.Context, in Next, _ int) Next {
	return func() (bson.Raw, error) {
		doc, err := in()
		if err != nil {
			return nil, err
		}
		return s(doc)
	}
}

// setTree is the computed fields of $addFields and $project, by path.
type setTree struct {
	names []string
	kids  map[string]*setTree
	leaf  expr
}

func (t *setTree) add(path string, x expr) error {
	parts, err := parsePath(path)
	if err != nil {
		return err
	}
	for i, name := range parts {
		if t.leaf != nil {
			return collision(path)
		}
		if t.kids == nil {
			t.kids = map[string]*setTree{}
		}
		kid := t.kids[name]
		if kid == nil {
			kid = &setTree{}
			t.kids[name] = kid
			t.names = append(t.names, name)
		} else if i == len(parts)-1 {
			return collision(path)
		}
		t = kid
	}
	t.leaf = x
	return nil
}

func collision(path string) error {
	return mongoerr.Of(mongoerr.PathCollision, "Invalid specification: path collision at '%s'", path)
}

// set gives v with the computed fields: in a document they replace or follow
// what is there, in an array they go into each element, anything else becomes
// a new document.
func (t *setTree) set(v bson.RawValue, root bson.Raw) (bson.RawValue, error) {
	switch {
	case t.leaf != nil:
		return t.leaf.eval(root)
	case v.Type == bson.TypeArray:
		out, n := newDoc(), 0
		for e := range index.Elements(v.Value) {
			x, err := t.set(e.Value, root)
			if err != nil {
				return x, err
			}
			out = out.add(position(n), x)
			if err := checkGrowth(out); err != nil {
				return x, err
			}
			n++
		}
		return bson.RawValue{Type: bson.TypeArray, Value: out.done()}, nil
	case v.Type != bson.TypeEmbeddedDocument:
		v = bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: newDoc().done()}
	}
	return t.merge(v.Value, root)
}

// merge is set for a document.
func (t *setTree) merge(doc, root bson.Raw) (bson.RawValue, error) {
	out, seen := newDoc(), map[string]bool{}
	for e := range index.Elements(doc) {
		name, x := string(e.Key), e.Value
		if kid := t.kids[name]; kid != nil {
			seen[name] = true
			var err error
			if x, err = kid.set(x, root); err != nil {
				return x, err
			}
		}
		if x.Type != 0 {
			out = out.add(name, x)
		}
	}
	for _, name := range t.names {
		if !seen[name] {
			x, err := t.kids[name].set(bson.RawValue{}, root)
			if err != nil {
				return x, err
			}
			if x.Type != 0 {
				out = out.add(name, x)
			}
			if err := checkGrowth(out); err != nil {
				return x, err
			}
		}
	}
	return bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: out.done()}, checkGrowth(out)
}

// setDoc computes fields of root and puts them into doc.
func (t *setTree) setDoc(doc, root bson.Raw) (bson.Raw, error) {
	v, err := t.set(bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, root)
	return v.Value, err
}

// nested tells whether v is a document of further fields, not an expression.
func nested(v bson.RawValue) bool {
	if v.Type != bson.TypeEmbeddedDocument {
		return false
	}
	for e := range index.Elements(v.Value) {
		return !strings.HasPrefix(string(e.Key), "$")
	}
	return false
}

// walkSpec goes through a specification; {a: {b: x}} is the path a.b.
func walkSpec(prefix string, doc []byte, each func(path string, v bson.RawValue) error) error {
	for e := range index.Elements(doc) {
		path := prefix + string(e.Key)
		if nested(e.Value) {
			if err := walkSpec(path+".", e.Value.Value, each); err != nil {
				return err
			}
		} else if err := each(path, e.Value); err != nil {
			return err
		}
	}
	return nil
}

func parseAddFields(stageName string, v bson.RawValue) (stage, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, mongoerr.Of(codeSpecNotDoc, "%s specification stage must be an object", stageName)
	}
	tree := &setTree{}
	err := walkSpec("", v.Value, func(path string, x bson.RawValue) error {
		e, err := parseExpr(x)
		if err != nil {
			return err
		}
		return tree.add(path, e)
	})
	if err == nil && len(tree.names) == 0 {
		err = mongoerr.Of(40177, "Invalid %s :: caused by :: specification must have at least one field", stageName)
	}
	return mapStage(func(doc bson.Raw) (bson.Raw, error) { return tree.setDoc(doc, doc) }), err
}

// projectSpec is a $project taken apart: flags for query.Projection, and
// computed fields.
type projectSpec struct {
	flags    rawDoc
	computed *setTree
	included bool
}

func parseProject(v bson.RawValue) (stage, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, mongoerr.Of(15969, "$project specification must be an object")
	}
	p := projectSpec{flags: newDoc(), computed: &setTree{}}
	excluded, empty := "", true
	err := walkSpec("", v.Value, func(path string, x bson.RawValue) error {
		empty = false
		if x.Type != bson.TypeBoolean && !query.IsNumber(x) {
			e, err := parseExpr(x)
			if err != nil {
				return err
			}
			return p.computed.add(path, e)
		}
		on := x.Type == bson.TypeBoolean && x.Boolean() || query.IsNumber(x) && query.ToDouble(x) != 0
		if on {
			p.included = true
		} else if path != "_id" {
			excluded = path
		}
		p.flags = p.flags.add(path, x)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case empty:
		return nil, mongoerr.Of(codeProjectEmpty, "Invalid $project :: caused by :: projection specification must have at least one field")
	case excluded != "" && len(p.computed.names) > 0:
		return nil, mongoerr.Of(mongoerr.ExclusionInInclusion, "Invalid $project :: caused by :: Cannot do exclusion on field %s in inclusion projection", excluded)
	}
	return p.stage()
}

func (p projectSpec) stage() (stage, error) {
	flags := p.flags.done()
	if len(p.computed.names) > 0 && !p.included {
		// Only computed fields: an inclusion of _id, unless that is off or computed.
		_, off := index.Lookup(flags, "_id")
		if off || p.computed.kids["_id"] != nil {
			return mapStage(func(doc bson.Raw) (bson.Raw, error) { return p.computed.setDoc(newDoc().done(), doc) }), nil
		}
		flags = newDoc().add("_id", oneValue()).done()
	}
	pr, err := query.ParseProjection(flags)
	if err != nil {
		return nil, err
	}
	return mapStage(func(doc bson.Raw) (bson.Raw, error) {
		out, err := pr.Apply(doc)
		if err != nil || len(p.computed.names) == 0 {
			return out, err
		}
		return p.computed.setDoc(out, doc)
	}), nil
}

func parseUnset(v bson.RawValue) (stage, error) {
	flags := newDoc()
	list := []bson.RawValue{v}
	if v.Type == bson.TypeArray {
		list = nil
		for e := range index.Elements(v.Value) {
			list = append(list, e.Value)
		}
	}
	if len(list) == 0 {
		return nil, mongoerr.Of(31119, "$unset specification must be a string or an array with at least one field")
	}
	for _, x := range list {
		name, ok := x.StringValueOK()
		if !ok || strings.ContainsRune(name, 0) {
			return nil, mongoerr.Of(31120, "$unset specification must be a string or an array containing only string values")
		}
		flags = flags.add(name, query.Int32(0))
	}
	p, err := query.ParseProjection(flags.done())
	return mapStage(p.Apply), err
}
