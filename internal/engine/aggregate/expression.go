package aggregate

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// expr is an expression; the zero RawValue is a missing result.
type expr interface {
	eval(doc bson.Raw) (bson.RawValue, error)
}

// maxIntermediate is how large a value may grow within a pipeline, in bytes.
const maxIntermediate = 64 << 20

func checkGrowth(out rawDoc) error {
	if len(out) > maxIntermediate {
		return mongoerr.Of(mongoerr.BSONObjectTooLarge, "an expression made a value of more than %d MiB", maxIntermediate>>20)
	}
	return nil
}

type (
	literalExpr bson.RawValue
	rootExpr    struct{}
	removeExpr  struct{}
	pathExpr    []string
	arrayExpr   []expr
	objectExpr  []objectField
	objectField struct {
		name string
		of   expr
	}
)

// parseExpr reads an expression: a field path, a variable, $literal, an object
// or an array of expressions, or a constant.
func parseExpr(v bson.RawValue) (expr, error) {
	switch v.Type {
	case bson.TypeString:
		return parseString(v)
	case bson.TypeEmbeddedDocument:
		return parseObject(v.Value)
	case bson.TypeArray:
		list := arrayExpr{}
		for e := range index.Elements(v.Value) {
			x, err := parseExpr(e.Value)
			if err != nil {
				return nil, err
			}
			list = append(list, x)
		}
		return list, nil
	}
	return literalExpr(v), nil
}

func parseString(v bson.RawValue) (expr, error) {
	s := v.StringValue()
	if strings.HasPrefix(s, "$$") {
		name, rest, dotted := strings.Cut(s[2:], ".")
		switch {
		case name == "REMOVE" && !dotted:
			return removeExpr{}, nil
		case name != "ROOT" && name != "CURRENT":
			return nil, mongoerr.Of(17276, "Use of undefined variable: %s", name)
		case dotted:
			return parsePath(rest)
		}
		return rootExpr{}, nil
	}
	if strings.HasPrefix(s, "$") {
		return parsePath(s[1:])
	}
	return literalExpr(v), nil
}

// parsePath reads a field path without its '$'.
func parsePath(s string) (pathExpr, error) {
	if s == "" {
		return nil, mongoerr.Of(16872, "'$' by itself is not a valid FieldPath")
	}
	parts := strings.Split(s, ".")
	if len(parts) > index.MaxDepth {
		return nil, mongoerr.Of(mongoerr.Overflow, "FieldPath has more than %d parts", index.MaxDepth)
	}
	for _, p := range parts {
		switch {
		case p == "":
			return nil, mongoerr.Of(15998, "FieldPath field names may not be empty strings: '%s'", s)
		case p[0] == '$':
			return nil, mongoerr.Of(mongoerr.FieldPathPrefixed, "FieldPath field names may not start with '$': '%s'", s)
		}
	}
	return pathExpr(parts), nil
}

func parseObject(doc []byte) (expr, error) {
	fields := objectExpr{}
	count, op := 0, ""
	for e := range index.Elements(doc) {
		count++
		name := string(e.Key)
		if strings.HasPrefix(name, "$") {
			op = name
			continue
		}
		if name == "" || strings.Contains(name, ".") {
			return nil, mongoerr.Of(16412, "FieldPath field names may not contain '.' nor be empty: '%s'", name)
		}
		x, err := parseExpr(e.Value)
		if err != nil {
			return nil, err
		}
		fields = append(fields, objectField{name, x})
	}
	switch {
	case op == "":
		return fields, nil
	case count > 1:
		return nil, mongoerr.Of(15983, "An object representing an expression must have exactly one field; this one has %s and %d more", op, count-1)
	case op == "$literal":
		v, _ := index.Lookup(doc, op)
		return literalExpr(v), nil
	}
	return nil, mongoerr.Of(mongoerr.InvalidPipelineOperator, "Unrecognized expression '%s' (this engine has field paths, literals, objects and arrays)", op)
}

func (e literalExpr) eval(bson.Raw) (bson.RawValue, error) { return bson.RawValue(e), nil }

func (rootExpr) eval(doc bson.Raw) (bson.RawValue, error) {
	return bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, nil
}

func (removeExpr) eval(bson.Raw) (bson.RawValue, error) { return bson.RawValue{}, nil }

func (e pathExpr) eval(doc bson.Raw) (bson.RawValue, error) {
	return follow(bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, e), nil
}

// follow walks a path; an array on the way gives the array of what its
// elements have.
func follow(v bson.RawValue, parts []string) bson.RawValue {
	for len(parts) > 0 {
		switch v.Type {
		case bson.TypeEmbeddedDocument:
			v, _ = index.Lookup(v.Value, parts[0])
			parts = parts[1:]
		case bson.TypeArray:
			out, n := newDoc(), 0
			for e := range index.Elements(v.Value) {
				if x := follow(e.Value, parts); x.Type != 0 {
					out = out.add(position(n), x)
					n++
				}
			}
			return bson.RawValue{Type: bson.TypeArray, Value: out.done()}
		default:
			return bson.RawValue{}
		}
	}
	return v
}

func (e arrayExpr) eval(doc bson.Raw) (bson.RawValue, error) {
	out := newDoc()
	for i, x := range e {
		v, err := x.eval(doc)
		if err != nil {
			return v, err
		}
		out = out.add(position(i), orNull(v))
		if err := checkGrowth(out); err != nil {
			return v, err
		}
	}
	return bson.RawValue{Type: bson.TypeArray, Value: out.done()}, nil
}

func (e objectExpr) eval(doc bson.Raw) (bson.RawValue, error) {
	out := newDoc()
	for _, f := range e {
		v, err := f.of.eval(doc)
		if err != nil {
			return v, err
		}
		if v.Type != 0 {
			out = out.add(f.name, v)
		}
		if err := checkGrowth(out); err != nil {
			return v, err
		}
	}
	return bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: out.done()}, nil
}
