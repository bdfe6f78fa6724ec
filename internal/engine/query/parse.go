package query

import (
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// ParseFilter reads a filter. Unknown operators are BadValue, those that
// MongoDB has and this engine does not are NotImplemented. The filter keeps f.
func ParseFilter(f bson.Raw) (*Filter, error) {
	if len(f) == 0 {
		f = bson.Raw{5, 0, 0, 0, 0}
	}
	if err := index.Validate(f); err != nil {
		return nil, err
	}
	root, err := parseDoc(f)
	if err != nil {
		return nil, err
	}
	return &Filter{raw: f, root: root}, nil
}

func badValue(format string, args ...any) error {
	return mongoerr.Of(mongoerr.BadValue, format, args...)
}

func notHere(op string) error {
	return mongoerr.Of(mongoerr.NotImplemented, "This engine does not have %s yet", op)
}

func notSingle(path string) error {
	return mongoerr.Of(mongoerr.NotSingleValueField, "cannot infer query fields to set, path '%s' is matched twice", path)
}

// samePathOrParent tells whether path is parent or lies below it.
func samePathOrParent(parent, path string) bool {
	return path == parent || strings.HasPrefix(path, parent+".")
}

func parseDoc(doc []byte) (andNode, error) {
	root := andNode{}
	for e := range index.Elements(doc) {
		key := string(e.Key)
		var n node
		var err error
		if strings.HasPrefix(key, "$") {
			n, err = parseTop(key, e.Value)
		} else {
			n, err = parseField(key, e.Value)
		}
		if err != nil {
			return nil, err
		}
		if n != nil {
			root = append(root, n)
		}
	}
	return root, nil
}

// parseTop reads an operator in the place of a field name.
func parseTop(op string, v bson.RawValue) (node, error) {
	switch op {
	case "$and", "$or", "$nor":
		list, err := parseList(op, v)
		switch {
		case err != nil:
			return nil, err
		case op == "$and":
			return andNode(list), nil
		case op == "$or":
			return orNode(list), nil
		}
		return norNode(list), nil
	case "$comment":
		return nil, nil
	case "$alwaysTrue":
		return constNode(true), nil
	case "$alwaysFalse":
		return constNode(false), nil
	case "$expr", "$text", "$where", "$jsonSchema", "$sampleRate":
		return nil, notHere(op)
	}
	return nil, badValue("unknown top level operator: %s. If you have a field name that starts with a '$' symbol, "+
		"consider using $getField or $setField.", op)
}

func parseList(op string, v bson.RawValue) ([]node, error) {
	if v.Type != bson.TypeArray {
		return nil, badValue("%s must be an array", op)
	}
	var list []node
	for e := range index.Elements(v.Value) {
		if e.Value.Type != bson.TypeEmbeddedDocument {
			return nil, badValue("$or/$and/$nor entries need to be full objects")
		}
		n, err := parseDoc(e.Value.Value)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	if len(list) == 0 {
		return nil, badValue("$and/$or/$nor must be a nonempty array")
	}
	return list, nil
}

func parseField(name string, v bson.RawValue) (node, error) {
	p, err := parsePath(name)
	if err != nil {
		return nil, err
	}
	preds, err := parseCondition(v)
	if err != nil {
		return nil, err
	}
	if len(preds) == 1 {
		return toNode(p, preds[0]), nil
	}
	return toNode(p, allPred(preds)), nil
}

// parseCondition reads what stands beside a field name: operators, a regular
// expression, or a value to equal.
func parseCondition(v bson.RawValue) ([]pred, error) {
	if isOperators(v) {
		return parseOperators(v.Value)
	}
	switch v.Type {
	case bson.TypeRegex:
		r, err := newRegex(v.Regex())
		return []pred{r}, err
	case bson.TypeUndefined:
		return nil, badValue("cannot compare to undefined")
	}
	return []pred{cmpPred{op: opEq, value: v}}, nil
}

// isOperators tells whether v is a document of operators, not one to equal.
func isOperators(v bson.RawValue) bool {
	if v.Type != bson.TypeEmbeddedDocument {
		return false
	}
	for e := range index.Elements(v.Value) {
		switch string(e.Key) {
		case "$ref", "$id", "$db":
			return false
		}
		return len(e.Key) > 0 && e.Key[0] == '$'
	}
	return false
}

func parseOperators(doc []byte) ([]pred, error) {
	preds := []pred{}
	for e := range index.Elements(doc) {
		op := string(e.Key)
		if op == "$options" {
			if _, ok := index.Lookup(doc, "$regex"); !ok {
				return nil, badValue("$options needs a $regex")
			}
			continue
		}
		if op == "$regex" {
			options, _ := index.Lookup(doc, "$options")
			r, err := parseRegex(e.Value, options)
			if err != nil {
				return nil, err
			}
			preds = append(preds, r)
			continue
		}
		p, err := parseOperator(op, e.Value)
		if err != nil {
			return nil, err
		}
		if p != nil {
			preds = append(preds, p)
		}
	}
	return preds, nil
}

func parseOperator(op string, v bson.RawValue) (pred, error) {
	switch op {
	case "$eq":
		return newCompare(opEq, v)
	case "$lt":
		return newCompare(opLt, v)
	case "$lte":
		return newCompare(opLte, v)
	case "$gt":
		return newCompare(opGt, v)
	case "$gte":
		return newCompare(opGte, v)
	case "$ne":
		if v.Type == bson.TypeRegex {
			return nil, badValue("Can't have regex as arg to $ne.")
		}
		p, err := newCompare(opEq, v)
		return notPred{p}, err
	case "$in":
		return parseIn(op, v)
	case "$nin":
		p, err := parseIn(op, v)
		return notPred{p}, err
	case "$not":
		return parseNot(v)
	case "$exists":
		if truthy(v) {
			return existsPred{}, nil
		}
		return notPred{existsPred{}}, nil
	case "$type":
		return parseType(v)
	case "$size":
		return parseSize(v)
	case "$mod":
		return parseMod(v)
	case "$all":
		return parseAll(v)
	case "$elemMatch":
		return parseElemMatch(v)
	case "$comment":
		return nil, nil
	case "$expr", "$geoWithin", "$geoIntersects", "$near", "$nearSphere", "$within", "$bitsAllSet", "$bitsAllClear",
		"$bitsAnySet", "$bitsAnyClear", "$jsonSchema":
		return nil, notHere(op)
	}
	return nil, badValue("unknown operator: %s", op)
}

func newCompare(op compareOp, v bson.RawValue) (pred, error) {
	switch {
	case v.Type == bson.TypeUndefined:
		return nil, badValue("cannot compare to undefined")
	case v.Type == bson.TypeRegex && op != opEq:
		return nil, badValue("Can't have RegEx as arg to predicate over field")
	}
	return cmpPred{op: op, value: v}, nil
}

func parseIn(op string, v bson.RawValue) (pred, error) {
	if v.Type != bson.TypeArray {
		return nil, badValue("%s needs an array", op)
	}
	var p inPred
	for e := range index.Elements(v.Value) {
		switch {
		case isOperators(e.Value):
			return nil, badValue("cannot nest $ under %s", op)
		case e.Value.Type == bson.TypeUndefined:
			return nil, badValue("cannot compare to undefined")
		case e.Value.Type == bson.TypeRegex:
			r, err := newRegex(e.Value.Regex())
			if err != nil {
				return nil, err
			}
			p.regexes = append(p.regexes, r)
			continue
		case e.Value.Type == bson.TypeNull:
			p.null = true
		}
		p.values = append(p.values, e.Value)
	}
	slices.SortFunc(p.values, index.Compare)
	p.values = slices.CompactFunc(p.values, func(a, b bson.RawValue) bool { return index.Compare(a, b) == 0 })
	return p, nil
}

func parseNot(v bson.RawValue) (pred, error) {
	switch {
	case v.Type == bson.TypeRegex:
		r, err := newRegex(v.Regex())
		return notPred{r}, err
	case v.Type != bson.TypeEmbeddedDocument:
		return nil, badValue("$not needs a regex or a document")
	case !isOperators(v):
		return nil, badValue("$not cannot be empty and needs operators inside")
	}
	preds, err := parseOperators(v.Value)
	return notPred(preds), err
}

func parseSize(v bson.RawValue) (pred, error) {
	n, ok := exactInt(v)
	if !ok {
		return nil, badValue("Failed to parse $size. Expected an integer")
	}
	if n < 0 {
		return nil, badValue("Failed to parse $size. Expected a non-negative number in: $size: %d", n)
	}
	return sizePred(n), nil
}

func parseMod(v bson.RawValue) (pred, error) {
	if v.Type != bson.TypeArray {
		return nil, badValue("malformed mod, needs to be an array")
	}
	var n []int64
	for e := range index.Elements(v.Value) {
		i, ok := wholeNumber(e.Value)
		if !ok {
			return nil, badValue("malformed mod, divisor and remainder must be finite numbers")
		}
		if n = append(n, i); len(n) > 2 {
			return nil, badValue("malformed mod, too many elements")
		}
	}
	switch {
	case len(n) < 2:
		return nil, badValue("malformed mod, not enough elements")
	case n[0] == 0:
		return nil, badValue("divisor cannot be 0")
	}
	return modPred{n[0], n[1]}, nil
}

func parseAll(v bson.RawValue) (pred, error) {
	if v.Type != bson.TypeArray {
		return nil, badValue("$all needs an array")
	}
	all := allPred{}
	for e := range index.Elements(v.Value) {
		if e.Value.Type == bson.TypeEmbeddedDocument {
			if m, ok := index.Lookup(e.Value.Value, "$elemMatch"); ok {
				p, err := parseElemMatch(m)
				if err != nil {
					return nil, err
				}
				all = append(all, p)
				continue
			}
		}
		if isOperators(e.Value) {
			return nil, badValue("no $ expressions in $all")
		}
		p, err := parseCondition(e.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, p...)
	}
	if len(all) == 0 {
		return neverPred{}, nil
	}
	return all, nil
}

func parseElemMatch(v bson.RawValue) (pred, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, badValue("$elemMatch needs an Object")
	}
	if isOperators(v) && !startsLogical(v.Value) {
		preds, err := parseOperators(v.Value)
		return elemMatchValue(preds), err
	}
	n, err := parseDoc(v.Value)
	return elemMatchDoc{n}, err
}

// startsLogical tells whether the first operator joins whole conditions.
func startsLogical(doc []byte) bool {
	for e := range index.Elements(doc) {
		switch string(e.Key) {
		case "$and", "$or", "$nor", "$where", "$expr":
			return true
		}
		return false
	}
	return false
}
