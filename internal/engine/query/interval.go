package query

import (
	"bytes"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// edge is a place between key bytes of one field: before or after all keys
// that begin with prefix. An empty prefix stands for the ends of all values.
type edge struct {
	prefix []byte
	after  bool
	text   string // for explain
}

// interval is a range of one field's key bytes, ascending.
type interval struct {
	lo, hi edge
	point  bool // exactly one value
}

var everything = interval{lo: edge{text: "MinKey"}, hi: edge{after: true, text: "MaxKey"}}

// position gives the edge as a key: everything at or above it lies behind it.
// nil means behind all keys.
func (e edge) position() []byte {
	if !e.after {
		return e.prefix
	}
	return index.PrefixEnd(e.prefix)
}

// beyond tells whether e lies at or behind o.
func (e edge) beyond(o edge) bool {
	a, b := e.position(), o.position()
	switch {
	case a == nil && e.after:
		return true
	case b == nil && o.after:
		return false
	}
	return bytes.Compare(a, b) >= 0
}

// place turns an ascending edge into a key position behind the keys of the
// leading fields. Descending fields have all bytes inverted, so that before
// and after change sides.
func (e edge) place(lead []byte, desc bool) []byte {
	key := append(slices.Clone(lead), e.prefix...)
	if !desc {
		if e.after {
			return index.PrefixEnd(key)
		}
		return key
	}
	for i := len(lead); i < len(key); i++ {
		key[i] = ^key[i]
	}
	if e.after {
		return key
	}
	return index.PrefixEnd(key)
}

// bound is the interval as a range of whole keys behind lead.
func (iv interval) bound(lead []byte, desc bool) index.Bound {
	if desc {
		return index.Bound{Lower: iv.hi.place(lead, true), Upper: iv.lo.place(lead, true)}
	}
	return index.Bound{Lower: iv.lo.place(lead, false), Upper: iv.hi.place(lead, false)}
}

// intersect gives what lies in both sorted, disjoint lists.
func intersect(a, b []interval) []interval {
	out := []interval{}
	for len(a) > 0 && len(b) > 0 {
		iv := interval{lo: a[0].lo, hi: a[0].hi, point: a[0].point || b[0].point}
		if b[0].lo.beyond(iv.lo) {
			iv.lo = b[0].lo
		}
		if iv.hi.beyond(b[0].hi) {
			iv.hi = b[0].hi
		}
		if !iv.lo.beyond(iv.hi) {
			out = append(out, iv)
		}
		if b[0].hi.beyond(a[0].hi) {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// normalize sorts intervals and joins those that overlap.
func normalize(list []interval) []interval {
	slices.SortFunc(list, func(a, b interval) int {
		switch aFirst, bFirst := b.lo.beyond(a.lo), a.lo.beyond(b.lo); {
		case aFirst && !bFirst:
			return -1
		case bFirst && !aFirst:
			return 1
		}
		return 0
	})
	out := list[:0]
	for _, iv := range list {
		if n := len(out); n > 0 && out[n-1].hi.beyond(iv.lo) && !touches(out[n-1], iv) {
			if iv.hi.beyond(out[n-1].hi) && !out[n-1].hi.beyond(iv.hi) {
				out[n-1].hi, out[n-1].point = iv.hi, false
			}
			continue
		}
		out = append(out, iv)
	}
	return out
}

// touches tells whether b begins exactly where a ends.
func touches(a, b interval) bool { return b.lo.beyond(a.hi) }

func point(v bson.RawValue) (interval, bool) {
	key, err := index.EncodeValue(nil, v)
	if err != nil {
		return interval{}, false
	}
	text := show(v)
	return interval{lo: edge{prefix: key, text: text}, hi: edge{prefix: key, after: true, text: text}, point: true}, true
}

// bracket is the interval of all values that compare with v.
func bracket(v bson.RawValue) interval {
	tag := []byte{index.Bracket(v.Type)}
	name := index.TypeName(v.Type)
	low, high := "lowest "+name, "highest "+name
	if tag[0] == index.Bracket(bson.TypeInt32) {
		low, high = "-inf.0", "inf.0"
	}
	return interval{lo: edge{prefix: tag, text: low}, hi: edge{prefix: tag, after: true, text: high}}
}

// show prints a value as extended JSON, cut to a readable length.
func show(v bson.RawValue) string {
	const most = 120
	s := v.String()
	if s == "" {
		s = index.TypeName(v.Type)
	}
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}

func (iv interval) String() string {
	open, end := "[", "]"
	if iv.lo.after {
		open = "("
	}
	if !iv.hi.after {
		end = ")"
	}
	return open + iv.lo.text + ", " + iv.hi.text + end
}
