package command

import (
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// params reads fields of one document by name and remembers the first error, so
// that a handler reads all it needs and looks at err once.
type params struct {
	command string
	find    func(name string) (bson.RawValue, bool)
	err     error
}

func (r *request) params() *params {
	return &params{command: r.cmd.name, find: func(name string) (bson.RawValue, bool) {
		a, ok := r.arg(name)
		if !ok || a.isSeq {
			return bson.RawValue{}, false
		}
		return a.value, true
	}}
}

// subParams reads a document inside a command, refusing fields that it does not
// know.
func subParams(command string, doc bson.Raw, known ...string) *params {
	p := &params{command: command}
	values := map[string]bson.RawValue{}
	elements, err := doc.Elements()
	if err != nil {
		p.err = mongoerr.Of(mongoerr.InvalidBSON, "malformed document")
	}
	for _, e := range elements {
		key := e.Key()
		if !contains(known, key) {
			p.fail(unknownField(command, key))
		}
		values[key] = e.Value()
	}
	p.find = func(name string) (bson.RawValue, bool) { v, ok := values[name]; return v, ok }
	return p
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *params) wrong(name string, v bson.RawValue, want string) {
	p.fail(wrongType(p.command, name, v, want))
}

func (p *params) value(name string) (bson.RawValue, bool) {
	v, ok := p.find(name)
	return v, ok && v.Type != bson.TypeNull && v.Type != bson.TypeUndefined
}

func (p *params) has(name string) bool { _, ok := p.find(name); return ok }

func (p *params) str(name string) string {
	v, ok := p.value(name)
	if !ok {
		return ""
	}
	s, ok := v.StringValueOK()
	if !ok {
		p.wrong(name, v, "string")
	}
	return s
}

func (p *params) need(name string) {
	if !p.has(name) {
		p.fail(mongoerr.Of(40414, "BSON field '%s.%s' is missing but a required field", p.command, name))
	}
}

func (p *params) doc(name string) bson.Raw {
	v, ok := p.value(name)
	if !ok {
		return nil
	}
	d, ok := v.DocumentOK()
	if !ok {
		p.wrong(name, v, "object")
	}
	return d
}

func (p *params) boolean(name string, otherwise bool) bool {
	v, ok := p.value(name)
	if !ok {
		return otherwise
	}
	if b, ok := v.BooleanOK(); ok {
		return b
	}
	if f, ok := v.AsFloat64OK(); ok {
		return f != 0
	}
	p.wrong(name, v, "bool")
	return otherwise
}

// count reads a whole number that is not negative.
func (p *params) count(name string, otherwise int64) int64 {
	n := p.number(name, otherwise)
	if n < 0 {
		p.fail(mongoerr.Of(51024, "BSON field '%s' value must be >= 0, actual value '%d'", name, n))
	}
	return n
}

func (p *params) number(name string, otherwise int64) int64 {
	v, ok := p.value(name)
	if !ok {
		return otherwise
	}
	if f, isDouble := v.DoubleOK(); isDouble && !math.IsNaN(f) && math.Abs(f) < 1<<62 {
		return int64(f) // MongoDB cuts fractions here
	}
	n, ok := wholeNumber(v)
	if !ok {
		p.wrong(name, v, "long")
	}
	return n
}

func (p *params) docs(name string) []bson.Raw {
	return elements(p, name, "object", bson.RawValue.DocumentOK)
}

func (p *params) strings(name string) []string {
	return elements(p, name, "string", bson.RawValue.StringValueOK)
}

// elements reads an array whose elements are all of one kind; nil if it is not
// there.
func elements[T any](p *params, name, kind string, read func(bson.RawValue) (T, bool)) []T {
	v, ok := p.value(name)
	if !ok {
		return nil
	}
	list, ok := v.ArrayOK()
	if !ok {
		p.wrong(name, v, "array")
		return nil
	}
	values, err := list.Values()
	if err != nil {
		p.fail(mongoerr.Of(mongoerr.InvalidBSON, "malformed array"))
		return nil
	}
	out := make([]T, 0, len(values))
	for _, e := range values {
		t, ok := read(e)
		if !ok {
			p.wrong(name, e, kind)
			return nil
		}
		out = append(out, t)
	}
	return out
}

// sequence gives an array of documents that came in the body or beside it.
func (r *request) sequence(p *params, name string) []bson.Raw {
	a, ok := r.arg(name)
	if ok && a.isSeq {
		return a.docs
	}
	p.need(name)
	return p.docs(name)
}

// collection reads the collection's name, which is the command's first field.
func (r *request) collection(p *params) string {
	v := r.args[0].value
	s, ok := v.StringValueOK()
	if !ok {
		p.fail(mongoerr.Of(mongoerr.InvalidNamespace, "collection name has invalid type %s", typeName(v.Type)))
		return ""
	}
	if err := checkCollectionName(r.db, s); err != nil {
		p.fail(err)
	}
	return s
}
