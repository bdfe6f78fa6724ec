package aggregate

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// unwindStage gives one document per element of an array.
type unwindStage struct {
	path     pathExpr
	preserve bool
	indexAs  string
}

func parseUnwind(v bson.RawValue) (stage, error) {
	var s unwindStage
	path := v
	if v.Type == bson.TypeEmbeddedDocument {
		path = bson.RawValue{}
		for e := range index.Elements(v.Value) {
			var ok bool
			switch string(e.Key) {
			case "path":
				path, ok = e.Value, true
			case "preserveNullAndEmptyArrays":
				s.preserve, ok = e.Value.BooleanOK()
			case "includeArrayIndex":
				s.indexAs, ok = e.Value.StringValueOK()
				ok = ok && s.indexAs != "" && s.indexAs[0] != '$' && !strings.ContainsRune(s.indexAs, 0)
			default:
				return nil, mongoerr.Of(28811, "unrecognized option to $unwind stage: %s", e.Key)
			}
			if !ok {
				return nil, mongoerr.Of(28810, "the option %s of $unwind has a wrong type or value", e.Key)
			}
		}
	}
	text, ok := path.StringValueOK()
	if !ok {
		return nil, mongoerr.Of(28812, "no path specified to $unwind stage: it must be a string or an object with a path")
	}
	if !strings.HasPrefix(text, "$") {
		return nil, mongoerr.Of(28818, "path option to $unwind stage should be prefixed with a '$': %s", text)
	}
	var err error
	s.path, err = parsePath(text[1:])
	return s, err
}

func (s unwindStage) run(_ context.Context, in Next, _ int) Next {
	var doc bson.Raw
	var elements []bson.RawValue
	at := 0
	return func() (bson.Raw, error) {
		for at >= len(elements) {
			d, err := in()
			if err != nil {
				return nil, err
			}
			v := s.find(d)
			switch {
			case v.Type == bson.TypeArray && len(v.Value) > 5:
				doc, elements, at = clone(d), nil, 0
				for e := range index.Elements(s.find(doc).Value) {
					elements = append(elements, e.Value)
				}
			case v.Type == bson.TypeArray || v.Type == 0 || v.Type == bson.TypeNull || v.Type == bson.TypeUndefined:
				if s.preserve {
					if v.Type == bson.TypeArray {
						if d, err = s.put(d, bson.RawValue{}); err != nil {
							return nil, err
						}
					}
					return s.withIndex(d, null())
				}
			default:
				return s.withIndex(d, null())
			}
		}
		at++
		out, err := s.put(doc, elements[at-1])
		if err != nil {
			return nil, err
		}
		return s.withIndex(out, query.Int64(int64(at-1)))
	}
}

// find follows the path through documents only.
func (s unwindStage) find(doc bson.Raw) bson.RawValue {
	v := bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}
	for _, name := range s.path {
		if v.Type != bson.TypeEmbeddedDocument {
			return bson.RawValue{}
		}
		v, _ = index.Lookup(v.Value, name)
	}
	return v
}

func (s unwindStage) put(doc bson.Raw, v bson.RawValue) (bson.Raw, error) {
	t := &setTree{leaf: literalExpr(v)}
	for i := len(s.path) - 1; i >= 0; i-- {
		t = &setTree{names: []string{s.path[i]}, kids: map[string]*setTree{s.path[i]: t}}
	}
	return t.setDoc(doc, doc)
}

func (s unwindStage) withIndex(doc bson.Raw, v bson.RawValue) (bson.Raw, error) {
	if s.indexAs == "" {
		return doc, nil
	}
	t := &setTree{}
	if err := t.add(s.indexAs, literalExpr(v)); err != nil {
		return nil, err
	}
	return t.setDoc(doc, doc)
}
