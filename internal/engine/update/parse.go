package update

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// mod is one operator on one path.
type mod struct {
	path       string
	parts      []string
	onlyInsert bool
	change     change
	renameTo   string // $rename; change is unused
}

// change computes a field's new value of its old one; the zero RawValue is a
// missing field, as old and as result.
type change func(path string, old bson.RawValue) (bson.RawValue, error)

func parseOperators(doc bson.Raw) (*Update, error) {
	u := &Update{}
	for e := range index.Elements(doc) {
		op := string(e.Key)
		build, err := builder(op)
		if err != nil {
			return nil, err
		}
		if e.Value.Type != bson.TypeEmbeddedDocument {
			return nil, mongoerr.Of(mongoerr.FailedToParse, "Modifiers operate on fields but we found type %s instead. "+
				"For example: {$mod: {<field>: ...}} not {%s: %s}", index.TypeName(e.Value.Type), op, index.TypeName(e.Value.Type))
		}
		for f := range index.Elements(e.Value.Value) {
			m, err := parseMod(op, build, string(f.Key), f.Value)
			if err != nil {
				return nil, err
			}
			u.mods = append(u.mods, m)
		}
	}
	if err := conflicts(u.mods); err != nil {
		return nil, err
	}
	slices.SortStableFunc(u.mods, func(a, b mod) int { return comparePaths(a.parts, b.parts) })
	return u, nil
}

func parseMod(op string, build func(string, bson.RawValue) (change, error), path string, arg bson.RawValue) (mod, error) {
	m := mod{path: path, onlyInsert: op == "$setOnInsert"}
	var err error
	if m.parts, err = splitPath(path); err != nil {
		return m, err
	}
	if op == "$rename" {
		return m.parseRename(arg)
	}
	m.change, err = build(path, arg)
	return m, err
}

func (m mod) parseRename(arg bson.RawValue) (mod, error) {
	to, ok := arg.StringValueOK()
	if !ok {
		return m, badValue("The 'to' field for $rename must be a string: %s", m.path)
	}
	m.renameTo = to
	if to == m.path {
		return m, badValue("The source and target field for $rename must differ: %s", to)
	}
	_, err := splitPath(to)
	return m, err
}

func badValue(format string, args ...any) error {
	return mongoerr.Of(mongoerr.BadValue, format, args...)
}

// builder finds the operator by its name.
func builder(op string) (func(path string, arg bson.RawValue) (change, error), error) {
	switch op {
	case "$set", "$setOnInsert":
		return func(_ string, arg bson.RawValue) (change, error) { return set(arg), nil }, nil
	case "$unset":
		return func(string, bson.RawValue) (change, error) { return set(bson.RawValue{}), nil }, nil
	case "$rename":
		return nil, nil
	case "$inc":
		return buildInc, nil
	case "$mul":
		return buildMul, nil
	case "$min":
		return func(_ string, arg bson.RawValue) (change, error) { return extreme(arg, -1), nil }, nil
	case "$max":
		return func(_ string, arg bson.RawValue) (change, error) { return extreme(arg, 1), nil }, nil
	case "$push":
		return buildPush, nil
	case "$addToSet":
		return buildAddToSet, nil
	case "$pull":
		return buildPull, nil
	case "$pullAll":
		return buildPullAll, nil
	case "$pop":
		return buildPop, nil
	case "$currentDate", "$bit":
		return nil, notHere("the update operator " + op)
	}
	return nil, mongoerr.Of(mongoerr.FailedToParse, "Unknown modifier: %s. Expected a valid update modifier or "+
		"pipeline-style update specified as an array", op)
}

// splitPath cuts and checks the path of an operator.
func splitPath(path string) ([]string, error) {
	if path == "" {
		return nil, mongoerr.Of(mongoerr.EmptyFieldName, "An empty update path is not valid.")
	}
	parts := strings.Split(path, ".")
	if len(parts) > index.MaxDepth {
		return nil, mongoerr.Of(mongoerr.Overflow, "The update path has more than %d parts", index.MaxDepth)
	}
	for i, p := range parts {
		switch {
		case p == "":
			return nil, mongoerr.Of(mongoerr.EmptyFieldName, "The update path '%s' contains an empty field name, which is not allowed.", path)
		case strings.ContainsRune(p, 0):
			return nil, badValue("The update path contains a zero byte")
		case i > 0 && (p == "$" || strings.HasPrefix(p, "$[")):
			return nil, notHere("positional updates ($, $[], $[id])")
		case p[0] == '$' && (i == 0 || p != "$id" && p != "$ref" && p != "$db"):
			return nil, mongoerr.Of(mongoerr.DollarPrefixedFieldName, "The dollar ($) prefixed field '%s' in '%s' is not valid for storage.", p, path)
		}
	}
	return parts, nil
}

// conflicts refuses two paths of which one is the other or lies below it.
func conflicts(mods []mod) error {
	ends, parents := map[string]bool{}, map[string]bool{}
	add := func(path string) error {
		if ends[path] || parents[path] {
			return conflict(path, path)
		}
		ends[path] = true
		for i, c := range []byte(path) {
			if c == '.' {
				if ends[path[:i]] {
					return conflict(path, path[:i])
				}
				parents[path[:i]] = true
			}
		}
		return nil
	}
	for _, m := range mods {
		if err := add(m.path); err != nil {
			return err
		}
		if m.renameTo != "" {
			if err := add(m.renameTo); err != nil {
				return err
			}
		}
	}
	return nil
}

func conflict(path, at string) error {
	return mongoerr.Of(mongoerr.ConflictingUpdateOperators, "Updating the path '%s' would create a conflict at '%s'", path, at)
}

// comparePaths orders paths part by part, names of digits by number, so that
// new fields come in MongoDB's order.
func comparePaths(a, b []string) int {
	return slices.CompareFunc(a, b, func(x, y string) int {
		i, okx := position(x)
		j, oky := position(y)
		if okx && oky {
			return i - j
		}
		return strings.Compare(x, y)
	})
}
