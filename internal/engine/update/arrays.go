package update

import (
	"math"
	"slices"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/query"
)

func elements(array []byte) []bson.RawValue {
	var out []bson.RawValue
	for e := range index.Elements(array) {
		out = append(out, e.Value)
	}
	return out
}

func arrayOf(list []bson.RawValue) bson.RawValue {
	out := []byte{0, 0, 0, 0}
	for i, v := range list {
		out = appendElement(out, strconv.Itoa(i), v)
	}
	return bson.RawValue{Type: bson.TypeArray, Value: endDocument(out, 0)}
}

// onArray makes a change of a function on an array's elements. A missing
// field is an empty array if create says so, else it stays missing.
func onArray(op string, create bool, f func(list []bson.RawValue) ([]bson.RawValue, error)) change {
	return func(path string, old bson.RawValue) (bson.RawValue, error) {
		switch {
		case old.Type == 0 && !create:
			return old, nil
		case old.Type != 0 && old.Type != bson.TypeArray:
			return old, badValue("The field '%s' must be an array but is of type %s; %s needs an array", path, index.TypeName(old.Type), op)
		}
		list, err := f(elements(old.Value))
		if err != nil {
			return old, err
		}
		return arrayOf(list), nil
	}
}

// push is the argument of $push with its modifiers.
type push struct {
	each     []bson.RawValue
	position int64 // where to put them; MaxInt64 is the end
	slice    *int64
	order    *pushSort
}

func buildPush(path string, arg bson.RawValue) (change, error) {
	p := push{each: []bson.RawValue{arg}, position: math.MaxInt64}
	if query.IsOperators(arg) {
		var err error
		if p, err = parsePush(path, arg.Value); err != nil {
			return nil, err
		}
	}
	return onArray("$push", true, p.apply), nil
}

func parsePush(path string, doc []byte) (push, error) {
	p := push{position: math.MaxInt64}
	each, ok := index.Lookup(doc, "$each")
	if !ok {
		return p, badValue("$push with modifiers needs $each; the field is '%s'", path)
	}
	for e := range index.Elements(doc) {
		var err error
		switch string(e.Key) {
		case "$each":
			p.each, err = eachOf("$push", each)
		case "$position":
			p.position, err = integer("$position", e.Value)
		case "$slice":
			var n int64
			n, err = integer("$slice", e.Value)
			p.slice = &n
		case "$sort":
			p.order, err = parsePushSort(e.Value)
		default:
			err = badValue("Unrecognized clause in $push: %s", e.Key)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

func eachOf(op string, v bson.RawValue) ([]bson.RawValue, error) {
	if v.Type != bson.TypeArray {
		return nil, badValue("The argument to $each in %s must be an array but it was of type: %s", op, index.TypeName(v.Type))
	}
	return elements(v.Value), nil
}

func integer(name string, v bson.RawValue) (int64, error) {
	f := query.ToDouble(v)
	if f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
		return 0, badValue("The value for %s must be an integer value but was given type: %s", name, index.TypeName(v.Type))
	}
	return int64(f), nil
}

func (p push) apply(list []bson.RawValue) ([]bson.RawValue, error) {
	n := int64(len(list))
	at := min(p.position, n)
	if at < 0 {
		at = max(n+at, 0)
	}
	list = slices.Insert(list, int(at), p.each...)
	if p.order != nil {
		if err := p.order.sort(list); err != nil {
			return nil, err
		}
	}
	if p.slice != nil {
		n = int64(len(list))
		if *p.slice >= 0 {
			list = list[:min(*p.slice, n)]
		} else {
			list = list[max(n+*p.slice, 0):]
		}
	}
	return list, nil
}

// pushSort is the $sort of $push: by the elements, or by their fields.
type pushSort struct {
	dir   int
	order *query.Sort
}

func parsePushSort(v bson.RawValue) (*pushSort, error) {
	if v.Type == bson.TypeEmbeddedDocument {
		s, err := query.ParseSort(v.Value)
		if err == nil && (s == nil || s.Natural() != 0) {
			err = badValue("The $sort pattern is empty when it should be a set of fields.")
		}
		return &pushSort{order: s}, err
	}
	n, err := integer("$sort", v)
	if err != nil || n != 1 && n != -1 {
		return nil, badValue("The $sort element value must be either 1 or -1")
	}
	return &pushSort{dir: int(n)}, nil
}

func (s *pushSort) sort(list []bson.RawValue) error {
	if s.order == nil {
		slices.SortStableFunc(list, func(a, b bson.RawValue) int { return s.dir * index.Compare(a, b) })
		return nil
	}
	keyed := make([]struct {
		v   bson.RawValue
		key []byte
	}, len(list))
	for i, v := range list {
		doc := emptyDocument().Value
		if v.Type == bson.TypeEmbeddedDocument {
			doc = v.Value
		}
		key, err := s.order.Key(doc)
		if err != nil {
			return err
		}
		keyed[i].v, keyed[i].key = v, key
	}
	slices.SortStableFunc(keyed, func(a, b struct {
		v   bson.RawValue
		key []byte
	}) int {
		return slices.Compare(a.key, b.key)
	})
	for i := range list {
		list[i] = keyed[i].v
	}
	return nil
}

func buildAddToSet(path string, arg bson.RawValue) (change, error) {
	each := []bson.RawValue{arg}
	if query.IsOperators(arg) {
		list, ok := index.Lookup(arg.Value, "$each")
		if !ok {
			return nil, badValue("$addToSet with modifiers needs $each; the field is '%s'", path)
		}
		for e := range index.Elements(arg.Value) {
			if string(e.Key) != "$each" {
				return nil, badValue("Found unexpected fields after $each in $addToSet: %s", e.Key)
			}
		}
		var err error
		if each, err = eachOf("$addToSet", list); err != nil {
			return nil, err
		}
	}
	return onArray("$addToSet", true, func(list []bson.RawValue) ([]bson.RawValue, error) { return addMissing(list, each) }), nil
}

// addMissing appends what is not there yet; duplicates that are there stay.
func addMissing(list, each []bson.RawValue) ([]bson.RawValue, error) {
	have := make(map[string]bool, len(list))
	for _, v := range list {
		key, err := index.EncodeValue(nil, v)
		if err != nil {
			return nil, err
		}
		have[string(key)] = true
	}
	for _, v := range each {
		key, err := index.EncodeValue(nil, v)
		if err != nil {
			return nil, err
		}
		if !have[string(key)] {
			have[string(key)] = true
			list = append(list, v)
		}
	}
	return list, nil
}

func buildPull(_ string, arg bson.RawValue) (change, error) {
	var drop func(bson.RawValue) bool
	if arg.Type == bson.TypeEmbeddedDocument && !query.IsOperators(arg) {
		f, err := query.ParseFilter(arg.Value)
		if err != nil {
			return nil, err
		}
		drop = func(v bson.RawValue) bool {
			if v.Type != bson.TypeEmbeddedDocument {
				return false
			}
			ok, err := f.Match(v.Value)
			return ok && err == nil
		}
	} else {
		c, err := query.ParseCondition(arg)
		if err != nil {
			return nil, err
		}
		drop = c.Matches
	}
	return dropping("$pull", drop), nil
}

func buildPullAll(path string, arg bson.RawValue) (change, error) {
	if arg.Type != bson.TypeArray {
		return nil, badValue("$pullAll requires an array argument but was given a %s for '%s'", index.TypeName(arg.Type), path)
	}
	values := elements(arg.Value)
	slices.SortFunc(values, index.Compare)
	return dropping("$pullAll", func(v bson.RawValue) bool {
		_, ok := slices.BinarySearchFunc(values, v, index.Compare)
		return ok
	}), nil
}

func dropping(op string, drop func(bson.RawValue) bool) change {
	return onArray(op, false, func(list []bson.RawValue) ([]bson.RawValue, error) { return slices.DeleteFunc(list, drop), nil })
}

func buildPop(path string, arg bson.RawValue) (change, error) {
	n, err := integer("$pop", arg)
	if err != nil || n != 1 && n != -1 {
		return nil, badValue("$pop expects 1 or -1 for '%s'", path)
	}
	return onArray("$pop", false, func(list []bson.RawValue) ([]bson.RawValue, error) {
		switch {
		case len(list) == 0:
			return list, nil
		case n < 0:
			return list[1:], nil
		}
		return list[:len(list)-1], nil
	}), nil
}
