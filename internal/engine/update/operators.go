package update

import (
	"bytes"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// apply carries the operator out. The field and its parents are made only if
// there is something to put there.
func (m *mod) apply(root *value) error {
	if m.renameTo != "" {
		return m.rename(root)
	}
	old := bson.RawValue{}
	at, exists := root.look(m.parts)
	if exists {
		old = at.raw
	}
	now, err := m.change(m.path, old)
	switch {
	case err != nil:
		return err
	case now.Type == old.Type && bytes.Equal(now.Value, old.Value):
		return nil
	case now.Type == 0:
		root.remove(m.parts)
		return nil
	}
	return root.put(m.path, m.parts, now)
}

// rename moves a field; neither end may lie within an array.
func (m *mod) rename(root *value) error {
	to, err := splitPath(m.renameTo)
	if err != nil {
		return err
	}
	from, exists := root.look(m.parts)
	if crossesArray(root, m.parts) || crossesArray(root, to) {
		return badValue("$rename cannot take a field from an array or put it into one: '%s' to '%s'", m.path, m.renameTo)
	}
	if !exists {
		return nil
	}
	root.remove(m.parts)
	return root.put(m.renameTo, to, from.raw)
}

func crossesArray(v *value, parts []string) bool {
	for _, name := range parts {
		if v.isArray() {
			return true
		}
		if !v.isContainer() {
			return false
		}
		i := v.find(name)
		if i < 0 {
			return false
		}
		v = v.kids[i].v
	}
	return false
}

func set(arg bson.RawValue) change {
	return func(string, bson.RawValue) (bson.RawValue, error) { return arg, nil }
}

func buildInc(path string, arg bson.RawValue) (change, error) {
	if !query.IsNumber(arg) {
		return nil, mongoerr.Of(mongoerr.TypeMismatch, "Cannot increment with non-numeric argument: field '%s' is given a %s", path, index.TypeName(arg.Type))
	}
	return func(path string, old bson.RawValue) (bson.RawValue, error) {
		if old.Type == 0 {
			return arg, nil
		}
		return calculate("$inc", path, old, arg, query.Add)
	}, nil
}

func buildMul(path string, arg bson.RawValue) (change, error) {
	if !query.IsNumber(arg) {
		return nil, mongoerr.Of(mongoerr.TypeMismatch, "Cannot multiply with non-numeric argument: field '%s' is given a %s", path, index.TypeName(arg.Type))
	}
	return func(path string, old bson.RawValue) (bson.RawValue, error) {
		if old.Type == 0 {
			old = query.Int32(0)
		}
		return calculate("$mul", path, old, arg, query.Multiply)
	}, nil
}

func calculate(op, path string, old, arg bson.RawValue, f func(a, b bson.RawValue, o query.Overflow) (bson.RawValue, bool)) (bson.RawValue, error) {
	if !query.IsNumber(old) {
		return old, mongoerr.Of(mongoerr.TypeMismatch, "Cannot apply %s to a value of non-numeric type. "+
			"The document has the field '%s' of non-numeric type %s", op, path, index.TypeName(old.Type))
	}
	now, ok := f(old, arg, query.OverflowFails)
	if !ok {
		return old, badValue("Failed to apply %s operations to current value of '%s': the result does not fit into 64 bits", op, path)
	}
	return now, nil
}

// extreme is $min (sign -1) and $max (sign 1).
func extreme(arg bson.RawValue, sign int) change {
	return func(_ string, old bson.RawValue) (bson.RawValue, error) {
		if old.Type == 0 || index.Compare(arg, old)*sign > 0 {
			return arg, nil
		}
		return old, nil
	}
}
