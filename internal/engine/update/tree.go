package update

import (
	"encoding/binary"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// value is a BSON value that is taken apart only where an operator goes.
type value struct {
	raw  bson.RawValue
	open bool // kids stand for raw
	kids []field
	// names finds the kids of a large document, made when first needed.
	names map[string]int
	// filled counts, in the root, the nulls made so far.
	filled int
}

// field is a member of an open value; removed ones have no value.
type field struct {
	key string // not used in arrays
	v   *value
}

// manyFields is from where on a lookup by map pays.
const manyFields = 16

// maxBackfill is how many nulls one update's writes beyond an array's end may
// make in all.
const maxBackfill = 200_000

func emptyDocument() bson.RawValue {
	return bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: []byte{5, 0, 0, 0, 0}}
}

func (v *value) isArray() bool { return v.raw.Type == bson.TypeArray }

func (v *value) isContainer() bool { return v.isArray() || v.raw.Type == bson.TypeEmbeddedDocument }

// expand takes a document or array apart by one level.
func (v *value) expand() {
	if v.open {
		return
	}
	v.open = true
	for e := range index.Elements(v.raw.Value) {
		f := field{v: &value{raw: e.Value}}
		if !v.isArray() {
			f.key = string(e.Key)
		}
		v.kids = append(v.kids, f)
	}
}

// find gives the place of a member, or -1.
func (v *value) find(name string) int {
	v.expand()
	if v.isArray() {
		if i, ok := position(name); ok && i < len(v.kids) {
			return i
		}
		return -1
	}
	if len(v.kids) < manyFields {
		for i, k := range v.kids {
			if k.v != nil && k.key == name {
				return i
			}
		}
		return -1
	}
	if v.names == nil {
		v.names = make(map[string]int, len(v.kids))
		for i := len(v.kids) - 1; i >= 0; i-- {
			if v.kids[i].v != nil {
				v.names[v.kids[i].key] = i
			}
		}
	}
	if i, ok := v.names[name]; ok {
		return i
	}
	return -1
}

// position reads a path part as an array position.
func position(name string) (int, bool) {
	if name == "" || len(name) > 8 || name[0] == '0' && len(name) > 1 {
		return 0, false
	}
	for _, c := range []byte(name) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	i, err := strconv.Atoi(name)
	return i, err == nil
}

// look follows parts as far as they exist.
func (v *value) look(parts []string) (*value, bool) {
	for _, name := range parts {
		if !v.isContainer() {
			return nil, false
		}
		i := v.find(name)
		if i < 0 {
			return nil, false
		}
		v = v.kids[i].v
	}
	return v, true
}

// put sets the value at the end of parts, making documents on the way and
// filling up arrays with null.
func (v *value) put(path string, parts []string, raw bson.RawValue) error {
	root := v
	for n, name := range parts {
		last := n == len(parts)-1
		if !v.isContainer() {
			return notViable(path, name, v)
		}
		i := v.find(name)
		if i < 0 {
			var err error
			if i, err = v.add(root, path, name); err != nil {
				return err
			}
		}
		v = v.kids[i].v
		if last {
			*v = value{raw: raw}
		}
	}
	return nil
}

// add makes a new member: an empty document, to be filled or replaced.
func (v *value) add(root *value, path, name string) (int, error) {
	if !v.isArray() {
		v.kids = append(v.kids, field{key: name, v: &value{raw: emptyDocument()}})
		if v.names != nil {
			v.names[name] = len(v.kids) - 1
		}
		return len(v.kids) - 1, nil
	}
	i, ok := position(name)
	if !ok {
		return 0, notViable(path, name, v)
	}
	if root.filled += max(i-len(v.kids), 0); root.filled > maxBackfill {
		return 0, mongoerr.Of(mongoerr.BadValue, "cannot write position %d of the array at '%s': more than %d places would be filled with null",
			i, path, maxBackfill)
	}
	for len(v.kids) < i {
		v.kids = append(v.kids, field{v: &value{raw: bson.RawValue{Type: bson.TypeNull}}})
	}
	v.kids = append(v.kids, field{v: &value{raw: emptyDocument()}})
	return i, nil
}

func notViable(path, name string, v *value) error {
	return mongoerr.Of(mongoerr.PathNotViable, "Cannot create field '%s' in element of type %s (path '%s')",
		name, index.TypeName(v.raw.Type), path)
}

// remove takes away the member at the end of parts; an array keeps a null.
func (v *value) remove(parts []string) {
	parent, ok := v.look(parts[:len(parts)-1])
	if !ok || !parent.isContainer() {
		return
	}
	i := parent.find(parts[len(parts)-1])
	switch {
	case i < 0:
	case parent.isArray():
		parent.kids[i].v = &value{raw: bson.RawValue{Type: bson.TypeNull}}
	default:
		parent.kids[i].v = nil
		delete(parent.names, parts[len(parts)-1])
	}
}

// appendBody writes the value's bytes.
func (v *value) appendBody(out []byte) []byte {
	if !v.open {
		return append(out, v.raw.Value...)
	}
	start := len(out)
	out = append(out, 0, 0, 0, 0)
	for i, k := range v.kids {
		if k.v == nil {
			continue
		}
		out = append(out, byte(k.v.raw.Type))
		if v.isArray() {
			out = strconv.AppendInt(out, int64(i), 10)
		} else {
			out = append(out, k.key...)
		}
		out = k.v.appendBody(append(out, 0))
	}
	return endDocument(out, start)
}

func appendElement(out []byte, key string, v bson.RawValue) []byte {
	out = append(append(append(out, byte(v.Type)), key...), 0)
	return append(out, v.Value...)
}

// endDocument closes the document whose length field is at start.
func endDocument(out []byte, start int) []byte {
	out = append(out, 0)
	binary.LittleEndian.PutUint32(out[start:], uint32(len(out)-start)) //nolint:gosec // sizes are checked before they are used
	return out
}
