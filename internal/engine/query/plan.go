package query

import (
	"cmp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// PlanKind is how documents are found.
type PlanKind int

const (
	// CollScan reads every document, in natural order.
	CollScan PlanKind = iota
	// IDLookup reads documents whose EncodeID bytes lie in Bounds, in the order
	// of these bytes.
	IDLookup
	// IndexScan reads the keys of Index that lie in Bounds, and then the
	// documents that they name.
	IndexScan
)

// Plan says where to look for the documents of a query. Whoever carries it out
// reads Bounds in order (backwards, from the last, if Reverse), gives each
// document once (by its first key met), and filters again with Filter.Match.
type Plan struct {
	Kind PlanKind
	// Index is the index's name; for IDLookup "_id_", for CollScan empty.
	Index string
	// Reverse reads from the end to the beginning.
	Reverse bool
	// Bounds are sorted, disjoint ranges of key bytes. For IDLookup and
	// IndexScan an empty list means that nothing can match.
	Bounds []index.Bound
	// Point is set for an IDLookup of at most one document.
	Point bool
	// SortCovered tells that documents come in the wanted order.
	SortCovered bool
	// Multikey tells that documents may be met by several keys.
	Multikey bool

	spec  index.Spec
	shown [][]interval // by field, for explain
}

// maxBounds is how many ranges a compound index may be cut into; a single
// field's $in may have more.
const maxBounds = 1000

// ChoosePlan picks the plan for a filter and a sort (either may be nil). hint
// is an index name, a key pattern, {$natural: ±1} or the zero value; a hint for
// no index is BadValue. multikey must tell for an index's name whether any
// document may have put more than one key into it, at the state of the data
// that the plan will read.
func ChoosePlan(f *Filter, s *Sort, hint bson.RawValue, indexes []index.Spec, multikey func(name string) bool) (Plan, error) {
	if f == nil {
		f = &Filter{}
	}
	pl := planner{cands: candidates(f), sort: s}
	only, natural, err := resolveHint(hint, indexes)
	switch {
	case err != nil:
		return Plan{}, err
	case natural != 0 || s.Natural() != 0:
		return naturalPlan(natural, s), nil
	case only != nil:
		return pl.plan(*only, isMulti(*only, multikey), true).Plan, nil
	}
	best := rated{Plan: Plan{Kind: CollScan, SortCovered: s == nil}}
	options := append([]index.Spec{index.IDSpec()}, indexes...)
	for i, spec := range options {
		if i > 0 && spec.IsID() {
			continue
		}
		if r := pl.plan(spec, isMulti(spec, multikey), false); r.score > best.score {
			best = r
		}
	}
	return best.Plan, nil
}

func isMulti(spec index.Spec, multikey func(string) bool) bool {
	return !spec.IsID() && multikey != nil && multikey(spec.Name)
}

func naturalPlan(hint int, s *Sort) Plan {
	dir := cmp.Or(s.Natural(), hint)
	return Plan{Kind: CollScan, Reverse: dir < 0, SortCovered: s == nil || s.natural != 0}
}

// resolveHint finds the index that a hint names.
func resolveHint(hint bson.RawValue, indexes []index.Spec) (*index.Spec, int, error) {
	id := index.IDSpec()
	switch hint.Type {
	case 0:
		return nil, 0, nil
	case bson.TypeString:
		name, ok := hint.StringValueOK()
		if !ok {
			return nil, 0, unknownHint()
		}
		if name == id.Name {
			return &id, 0, nil
		}
		for i := range indexes {
			if indexes[i].Name == name {
				return &indexes[i], 0, nil
			}
		}
		return nil, 0, unknownHint()
	case bson.TypeEmbeddedDocument:
		return hintByPattern(hint.Value, append([]index.Spec{id}, indexes...))
	}
	return nil, 0, badValue("the hint must be the name of an index or its key pattern")
}

func unknownHint() error {
	return badValue("error processing query: planner returned error: hint provided does not correspond to an existing index")
}

func hintByPattern(pattern bson.Raw, indexes []index.Spec) (*index.Spec, int, error) {
	s, err := ParseSort(pattern)
	switch {
	case err != nil:
		return nil, 0, unknownHint()
	case s == nil:
		return nil, 0, nil // {} is no hint
	case s.natural != 0:
		return nil, s.natural, nil
	}
	for i := range indexes {
		if indexes[i].SameKeys(s.spec) {
			if indexes[i].IsID() {
				indexes[i] = index.IDSpec()
			}
			return &indexes[i], 0, nil
		}
	}
	return nil, 0, unknownHint()
}

// rated is a plan and how promising it looks; 0 is no better than reading all.
type rated struct {
	Plan
	score int
}

type planner struct {
	cands map[string][]candidate
	sort  *Sort
}

// Scores. Points are better than ranges, those better than a covered sort.
const (
	scoreID     = 2000
	scoreUnique = 1000
	scorePoint  = 20
	scorePoints = 15
	scoreRange  = 10
	scoreSort   = 5
	scoreSparse = 1
)

// plan makes the plan for one index. forced plans (by hint) use the index
// even where it cannot help, or misses documents because it is sparse.
func (pl planner) plan(spec index.Spec, multi, forced bool) rated {
	if spec.Sparse && !forced && !pl.coversSparse(spec) {
		return rated{}
	}
	r := rated{Plan: Plan{Kind: IndexScan, Index: spec.Name, Multikey: multi, spec: spec}}
	if spec.IsID() {
		r.Kind, r.Index = IDLookup, index.IDIndexName
	}
	points := r.fill(pl.fieldIntervals(spec, multi), spec)
	for i, list := range r.shown {
		switch {
		case isEverything(list):
		case i < points && len(list) == 1:
			r.score += scorePoint
		case i < points:
			r.score += scorePoints
		default:
			r.score += scoreRange
		}
	}
	if points == len(spec.Fields) && len(r.Bounds) <= 1 {
		r.Point = spec.IsID()
		switch {
		case r.Point:
			r.score += scoreID
		case spec.Unique:
			r.score += scoreUnique
		}
	}
	if spec.Sparse {
		r.score += scoreSparse
	}
	pl.coverSort(&r, points)
	return r
}

func (pl planner) coversSparse(spec index.Spec) bool {
	for _, f := range spec.Fields {
		if slices.ContainsFunc(pl.cands[f.Path], func(c candidate) bool { return c.present }) {
			return true
		}
	}
	return false
}

// fieldIntervals gives for each field of the index what its keys are limited
// to. In a multikey index two conditions on one field may be met by different
// elements, so that only one of them counts; and only one field below the same
// first name, because they may share the array.
func (pl planner) fieldIntervals(spec index.Spec, multi bool) [][]interval {
	all := make([][]interval, len(spec.Fields))
	taken := map[string]bool{}
	for i, f := range spec.Fields {
		all[i] = []interval{everything}
		top, _, _ := strings.Cut(f.Path, ".")
		best := candidate{intervals: all[i]}
		for _, c := range pl.cands[f.Path] {
			switch {
			case !multi:
				all[i] = intersect(all[i], c.intervals)
			case spec.Sparse && !c.present:
				// Met by an element without the path, which has no key of its own here.
			case c.rank > best.rank && !taken[top]:
				best, all[i] = c, c.intervals
			}
		}
		if !isEverything(all[i]) {
			taken[top] = true
		}
	}
	return all
}

func isEverything(list []interval) bool {
	return len(list) == 1 && list[0].lo.prefix == nil && list[0].hi.prefix == nil
}

// fill sets Bounds from the fields' intervals: the leading fields while they
// are points, then one field of ranges. It returns how many were points.
func (p *Plan) fill(fields [][]interval, spec index.Spec) (points int) {
	leads := [][]byte{nil}
	for points < len(fields) && allPoints(fields[points]) &&
		(points == 0 || len(leads)*len(fields[points]) <= maxBounds) {
		leads = extend(leads, fields[points], spec.Fields[points].Desc)
		points++
	}
	last := []interval{everything}
	if points < len(fields) && (points == 0 || len(leads)*len(fields[points]) <= maxBounds) {
		last = fields[points]
	}
	desc := points < len(fields) && spec.Fields[points].Desc
	p.Bounds = []index.Bound{}
	for _, lead := range leads {
		for _, iv := range last {
			p.Bounds = append(p.Bounds, iv.bound(lead, desc))
		}
	}
	slices.SortFunc(p.Bounds, func(a, b index.Bound) int { return slices.Compare(a.Lower, b.Lower) })
	p.shown = make([][]interval, len(fields))
	for i := range fields {
		switch {
		case i < points:
			p.shown[i] = fields[i]
		case i == points:
			p.shown[i] = last
		default:
			p.shown[i] = []interval{everything}
		}
	}
	return points
}

func allPoints(list []interval) bool {
	return !slices.ContainsFunc(list, func(iv interval) bool { return !iv.point })
}

func extend(leads [][]byte, list []interval, desc bool) [][]byte {
	var out [][]byte
	for _, lead := range leads {
		for _, iv := range list {
			b := iv.lo
			if desc {
				b = edge{prefix: iv.lo.prefix, after: true} // inverted, this is the key itself
			}
			out = append(out, b.place(lead, desc))
		}
	}
	return out
}

// coverSort finds out whether the index gives the wanted order.
func (pl planner) coverSort(r *rated, points int) {
	if pl.sort == nil || len(pl.sort.spec.Fields) == 0 {
		r.SortCovered = true
		return
	}
	reverse, ok := pl.sortOrder(r, points)
	if !ok {
		return
	}
	r.SortCovered, r.Reverse = true, reverse
	if !r.spec.Sparse || r.score > scoreSparse {
		r.score += scoreSort
	}
}

// sortOrder matches the sort with the index's fields; those pinned to one value
// may be left out of either.
func (pl planner) sortOrder(r *rated, points int) (reverse, ok bool) {
	pinned := func(i int) bool { return i < points && len(r.shown[i]) == 1 }
	wanted := pl.sort.spec.Fields
	decided, at := false, 0
	for i, f := range r.spec.Fields {
		for at < len(wanted) && pl.skips(r, points, wanted[at]) {
			at++
		}
		if at == len(wanted) {
			return reverse, true
		}
		if f.Path != wanted[at].Path {
			if pinned(i) {
				continue
			}
			return false, false
		}
		if r.Multikey && sharesBounds(r, i) {
			return false, false
		}
		if rev := f.Desc != wanted[at].Desc; decided && rev != reverse {
			return false, false
		} else if !pinned(i) || r.Multikey {
			decided, reverse = true, rev
		}
		at++
	}
	for at < len(wanted) && pl.skips(r, points, wanted[at]) {
		at++
	}
	return reverse, at == len(wanted)
}

// skips tells whether the sort field is pinned to one value by the plan.
func (pl planner) skips(r *rated, points int, f index.Field) bool {
	if r.Multikey {
		return false
	}
	for i := range points {
		if r.spec.Fields[i].Path == f.Path {
			return len(r.shown[i]) == 1
		}
	}
	return false
}

// sharesBounds tells whether field i, or one that may share its array, is
// bounded: the first key met is then not the one that a sort goes by.
func sharesBounds(r *rated, i int) bool {
	top, _, _ := strings.Cut(r.spec.Fields[i].Path, ".")
	for j, list := range r.shown {
		other, _, _ := strings.Cut(r.spec.Fields[j].Path, ".")
		if other == top && !isEverything(list) {
			return true
		}
	}
	return false
}
