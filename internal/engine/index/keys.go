package index

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// Limits on what one document may put into one index, so that a large array
// beside a large field cannot make a write of gigabytes.
const (
	maxKeysPerDocument     = 100_000 // MongoDB's indexMaxNumGeneratedKeysPerDocument
	maxKeyBytesPerDocument = 64 << 20
)

// Keys gives the index's keys for doc, sorted and distinct: order-preserving
// bytes, compound fields concatenated, descending ones inverted. An array
// gives one key per element ([] gives undefined, an array within it stands
// as it is), a missing field null. multikey tells that an array lay on a path.
// In a sparse index a document without any of the fields has no key. Two
// different arrays in one compound index are CannotIndexParallelArrays.
func (s Spec) Keys(doc bson.Raw) (keys [][]byte, multikey bool, err error) {
	g := keyGen{spec: s}
	fixed := make([]bson.RawValue, len(s.Fields))
	open := make([]pathState, len(s.Fields))
	for i, f := range s.Fields {
		open[i] = pathState{at: bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, rest: f.Path, open: true}
	}
	if err := g.expand(open, fixed); err != nil {
		return nil, false, err
	}
	slices.SortFunc(g.keys, bytes.Compare)
	return slices.CompactFunc(g.keys, bytes.Equal), g.multikey, nil
}

// pathState is how far one field's path has been followed. While open, at is
// where it stands and rest what is left of the path.
type pathState struct {
	at   bson.RawValue
	rest string
	open bool
}

type keyGen struct {
	spec     Spec
	keys     [][]byte
	size     int
	multikey bool
	// want is a key whose values are looked for, found those values.
	want, found []byte
}

// expand follows every open path until its end or an array; if there is an
// array, it goes on once per element with all the paths that met in it.
func (g *keyGen) expand(states []pathState, fixed []bson.RawValue) error {
	arr := -1
	for i := range states {
		if !states[i].open {
			continue
		}
		if err := states[i].follow(); err != nil {
			return err
		}
		st := states[i]
		switch {
		case st.at.Type != bson.TypeArray:
			fixed[i], states[i].open = st.at, false
		case arr < 0:
			arr = i
		case &st.at.Value[0] != &states[arr].at.Value[0]:
			return mongoerr.Of(mongoerr.CannotIndexParallelArrays, "cannot index parallel arrays [%s] [%s]",
				g.spec.Fields[i].Path, g.spec.Fields[arr].Path)
		}
	}
	if arr < 0 {
		return g.emit(fixed)
	}
	g.multikey = true
	return g.eachElement(states[arr].at.Value, states, fixed)
}

func (g *keyGen) eachElement(array []byte, states []pathState, fixed []bson.RawValue) error {
	empty := true
	for e := range Elements(array) {
		empty = false
		if err := g.element(e.Value, states, fixed); err != nil {
			return err
		}
	}
	if empty {
		return g.element(bson.RawValue{Type: bson.TypeUndefined}, states, fixed)
	}
	return nil
}

// element goes on with one element of the array in which the open paths stand.
func (g *keyGen) element(v bson.RawValue, states []pathState, fixed []bson.RawValue) error {
	sub := slices.Clone(states)
	values := slices.Clone(fixed)
	for i := range sub {
		switch {
		case !sub[i].open:
		case sub[i].rest == "":
			values[i], sub[i].open = v, false
		case v.Type == bson.TypeEmbeddedDocument:
			sub[i].at = v
		default:
			// Neither scalars nor arrays directly within an array are walked into.
			values[i], sub[i].open = bson.RawValue{}, false
		}
	}
	return g.expand(sub, values)
}

// follow walks along the path until it ends or stands in an array whose
// elements have to be taken one by one.
func (st *pathState) follow() error {
	for st.rest != "" {
		name, rest, _ := strings.Cut(st.rest, ".")
		switch st.at.Type {
		case bson.TypeEmbeddedDocument:
			st.at, _ = Lookup(st.at.Value, name)
		case bson.TypeArray:
			v, positional, err := position(st.at.Value, name)
			if err != nil || !positional {
				return err
			}
			st.at = v
		default:
			st.at, rest = bson.RawValue{}, ""
		}
		st.rest = rest
	}
	return nil
}

// position resolves a numeric path part against an array. It is ambiguous when
// an element is an object with a field of that name.
func position(array []byte, name string) (v bson.RawValue, found bool, err error) {
	n, ok := arrayIndex(name)
	if !ok {
		return bson.RawValue{}, false, nil
	}
	i, named := 0, false
	for e := range Elements(array) {
		if i == n {
			v, found = e.Value, true
		}
		if e.Value.Type == bson.TypeEmbeddedDocument && !named {
			_, named = Lookup(e.Value.Value, name)
		}
		i++
	}
	if found && named {
		return v, false, mongoerr.Of(mongoerr.AmbiguousArrayIndex, "Ambiguous field name found in array "+
			"(do not use numeric field names in embedded elements in an array), field: '%s'", name)
	}
	return v, found, nil
}

// arrayIndex reads a path part as a position: digits without leading zeros.
func arrayIndex(name string) (int, bool) {
	if name == "" || len(name) > 8 || name[0] == '0' && len(name) > 1 {
		return 0, false
	}
	for _, c := range []byte(name) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(name)
	return n, err == nil
}

// emit makes one key of the values of all fields.
func (g *keyGen) emit(values []bson.RawValue) error {
	if g.spec.Sparse && !slices.ContainsFunc(values, func(v bson.RawValue) bool { return v.Type != 0 }) {
		return nil
	}
	key := make([]byte, 0, 16*len(values))
	for i, v := range values {
		start := len(key)
		var err error
		if key, err = EncodeValue(key, v); err != nil {
			return err
		}
		if g.spec.Fields[i].Desc {
			invert(key[start:])
		}
	}
	if g.want != nil && g.found == nil && bytes.Equal(key, g.want) {
		g.found = g.spec.valuesDocument(values)
	}
	g.keys = append(g.keys, key)
	g.size += len(key)
	if len(g.keys) > maxKeysPerDocument || g.size > maxKeyBytesPerDocument {
		return mongoerr.Of(mongoerr.CannotBuildIndexKeys, "the document gives more than %d keys or %d MiB of keys in index '%s'",
			maxKeysPerDocument, maxKeyBytesPerDocument>>20, g.spec.Name)
	}
	return nil
}
