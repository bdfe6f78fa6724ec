package command

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/storage"
)

// maxSortMemory bounds what one sort holds, as MongoDB's default does.
const maxSortMemory = 100 << 20

// source gives documents one by one.
type source interface {
	// next gives the next document; false at the end.
	next(ctx context.Context) (bson.Raw, bool, error)
	// close releases what the source holds; it may be called again.
	close()
}

// scan carries out a plan: it gives the documents that the filter matches, in
// the plan's order, and counts what it looked at.
type scan struct {
	coll   *storage.Collection // nil: there is no collection
	plan   query.Plan
	filter *query.Filter

	it      *storage.Iterator
	bound   int // the next of plan.Bounds for scans by _id
	started bool
	done    bool

	keys, docs int64
	steps      int
	idKey      []byte
}

// planFor chooses how to find the documents of a query in a collection.
func planFor(coll *storage.Collection, f *query.Filter, sort *query.Sort, hint bson.RawValue) (query.Plan, error) {
	if coll == nil {
		return query.ChoosePlan(f, sort, bson.RawValue{}, nil, func(string) bool { return false })
	}
	indexes := coll.Info().Indexes
	specs := make([]index.Spec, len(indexes))
	for i := range indexes {
		specs[i] = indexes[i].Spec
	}
	return query.ChoosePlan(f, sort, hint, specs, func(name string) bool {
		for i := range indexes {
			if indexes[i].Name == name {
				return indexes[i].Multikey
			}
		}
		return false
	})
}

func newScan(coll *storage.Collection, plan query.Plan, f *query.Filter) *scan {
	return &scan{coll: coll, plan: plan, filter: f}
}

func (s *scan) next(ctx context.Context) (bson.Raw, bool, error) {
	for {
		if s.steps++; s.steps%64 == 1 {
			if err := ctx.Err(); err != nil {
				return nil, false, err
			}
		}
		doc, err := s.step()
		if doc == nil || err != nil {
			return nil, false, err
		}
		ok, err := s.filter.Match(doc)
		if err != nil {
			return nil, false, err
		}
		if ok {
			return doc, true, nil
		}
	}
}

// step gives the next document of the plan, nil at the end.
func (s *scan) step() (bson.Raw, error) {
	if s.coll == nil || s.done {
		return nil, nil
	}
	if s.plan.Kind == query.IDLookup && s.plan.Point {
		return s.point()
	}
	for {
		if s.it == nil {
			more, err := s.open()
			if !more || err != nil {
				s.done = true
				return nil, err
			}
		}
		if s.it.Next() {
			if s.plan.Kind == query.IDLookup {
				s.keys++
			}
			s.docs++
			s.idKey = append(s.idKey[:0], s.it.IDKey()...)
			return s.it.Doc()
		}
		if err := s.it.Err(); err != nil {
			return nil, err
		}
		s.closeIterator()
	}
}

// point reads the one document that an equality on _id names.
func (s *scan) point() (bson.Raw, error) {
	s.done = true
	if len(s.plan.Bounds) == 0 {
		return nil, nil
	}
	key := s.plan.Bounds[0].Lower
	doc, err := s.coll.Get(key)
	if doc != nil {
		s.keys, s.docs = 1, 1
		s.idKey = bytes.Clone(key)
	}
	return doc, err
}

// open starts on the next part of the plan; false if there is none.
func (s *scan) open() (bool, error) {
	switch s.plan.Kind {
	case query.CollScan:
		if s.started {
			return false, nil
		}
		s.it = s.coll.Scan(index.Bound{}, s.plan.Reverse)
	case query.IDLookup:
		if s.bound == len(s.plan.Bounds) {
			return false, nil
		}
		i := s.bound
		if s.plan.Reverse {
			i = len(s.plan.Bounds) - 1 - s.bound
		}
		s.bound++
		s.it = s.coll.Scan(s.plan.Bounds[i], s.plan.Reverse)
	case query.IndexScan:
		if s.started || len(s.plan.Bounds) == 0 {
			return false, nil
		}
		var err error
		if s.it, err = s.coll.IndexScan(s.plan.Index, s.plan.Bounds, s.plan.Reverse); err != nil {
			return false, fmt.Errorf("scan index: %w", err)
		}
	default:
		return false, fmt.Errorf("plan of kind %d is unknown", s.plan.Kind)
	}
	s.started = true
	return true, nil
}

// examined tells how many index keys and documents were looked at.
func (s *scan) examined() (keys, docs int64) {
	keys = s.keys
	if s.it != nil && s.plan.Kind == query.IndexScan {
		keys += s.it.KeysExamined()
	}
	return keys, s.docs
}

func (s *scan) closeIterator() {
	if s.it == nil {
		return
	}
	if s.plan.Kind == query.IndexScan {
		s.keys += s.it.KeysExamined()
	}
	_ = s.it.Close()
	s.it = nil
}

func (s *scan) close() {
	s.done = true
	s.closeIterator()
}

// sorter sorts what another source gives; with a limit it keeps only the first.
type sorter struct {
	from  source
	sort  *query.Sort
	limit int64 // 0: all

	sorted bool
	rows   []sortRow
	held   int64
	at     int
}

type sortRow struct {
	key []byte
	doc bson.Raw
}

func (s *sorter) next(ctx context.Context) (bson.Raw, bool, error) {
	if !s.sorted {
		if err := s.fill(ctx); err != nil {
			return nil, false, err
		}
	}
	if s.at == len(s.rows) {
		return nil, false, nil
	}
	doc := s.rows[s.at].doc
	s.rows[s.at] = sortRow{}
	s.at++
	return doc, true, nil
}

func (s *sorter) fill(ctx context.Context) error {
	const slack = 1000
	for {
		doc, ok, err := s.from.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		key, err := s.sort.Key(doc)
		if err != nil {
			return err
		}
		s.rows = append(s.rows, sortRow{key: key, doc: doc})
		s.held += int64(len(key) + len(doc))
		if s.limit > 0 && int64(len(s.rows)) >= 2*s.limit+slack {
			s.cut()
		}
		if s.held > maxSortMemory {
			if s.limit > 0 {
				s.cut()
			}
			if s.held > maxSortMemory {
				return mongoerr.Of(mongoerr.QueryExceededMemoryLimitNoDiskUseAllowed,
					"Sort exceeded memory limit of %d bytes; use an index for the sort, or a limit", maxSortMemory)
			}
		}
	}
	s.cut()
	s.from.close()
	s.sorted = true
	return nil
}

func (s *sorter) cut() {
	slices.SortStableFunc(s.rows, func(a, b sortRow) int { return bytes.Compare(a.key, b.key) })
	if s.limit > 0 && int64(len(s.rows)) > s.limit {
		clear(s.rows[s.limit:])
		s.rows = s.rows[:s.limit]
	}
	s.held = 0
	for i := range s.rows {
		s.held += int64(len(s.rows[i].key) + len(s.rows[i].doc))
	}
}

func (s *sorter) close() {
	s.rows, s.sorted, s.at = nil, true, 0
	s.from.close()
}

// window skips documents, and ends after limit ones (0: no limit).
type window struct {
	from        source
	skip, limit int64
	given       int64
}

func (w *window) next(ctx context.Context) (bson.Raw, bool, error) {
	for ; w.skip > 0; w.skip-- {
		if _, ok, err := w.from.next(ctx); !ok || err != nil {
			return nil, false, err
		}
	}
	if w.limit > 0 && w.given == w.limit {
		return nil, false, nil
	}
	w.given++
	return w.from.next(ctx)
}

func (w *window) close() { w.from.close() }

// projected shows of each document what a projection leaves.
type projected struct {
	from source
	by   *query.Projection
}

func (p *projected) next(ctx context.Context) (bson.Raw, bool, error) {
	doc, ok, err := p.from.next(ctx)
	if !ok || err != nil {
		return nil, false, err
	}
	doc, err = p.by.Apply(doc)
	return doc, err == nil, err
}

func (p *projected) close() { p.from.close() }

// holding closes a snapshot together with the source that reads from it.
type holding struct {
	source
	reader *storage.Reader
}

func (h *holding) close() {
	h.source.close()
	h.reader.Close()
}
