package command

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/storage"
)

func readCommands() []command {
	return []command{
		{
			name: "find", needs: onCollection(auth.Find), run: find, stable: true,
			fields: []string{
				"filter", "sort", "projection", "hint", "skip", "limit", "batchSize", "singleBatch", "collation", "let", "allowDiskUse",
				"noCursorTimeout", "allowPartialResults", "tailable", "awaitData", "oplogReplay", "returnKey", "showRecordId", "min", "max", "term",
			},
		},
		{name: "count", needs: onCollection(auth.Find), run: count, fields: []string{"query", "limit", "skip", "hint", "collation", "fields"}, stable: true},
		{name: "distinct", needs: onCollection(auth.Find), run: distinct, fields: []string{"key", "query", "collation", "hint"}},
		aggregateCommand(),
		explainCommand(),
	}
}

// findQuery is a parsed find.
type findQuery struct {
	coll       string
	filter     *query.Filter
	sort       *query.Sort
	projection bson.Raw
	shown      *query.Projection
	hint       bson.RawValue
	skip       int64
	limit      int64
	batchSize  int64
	single     bool
}

func parseFind(req *request) (*findQuery, error) {
	p := req.params()
	q := &findQuery{coll: req.collection(p), skip: p.count("skip", 0), limit: p.count("limit", 0), batchSize: firstBatch, single: p.boolean("singleBatch", false)}
	if p.has("batchSize") {
		q.batchSize = p.count("batchSize", 0)
	}
	q.projection = p.doc("projection")
	q.hint = p.hint()
	filter, sort := p.doc("filter"), p.doc("sort")
	p.refuse("tailable", "awaitData", "returnKey", "showRecordId")
	p.refuseDoc("let", "min", "max")
	p.collation()
	if p.err != nil {
		return nil, p.err
	}
	var err error
	if q.filter, err = query.ParseFilter(filter); err != nil {
		return nil, err
	}
	if q.sort, err = query.ParseSort(sort); err != nil {
		return nil, err
	}
	if q.shown, err = query.ParseProjection(q.projection); err != nil {
		return nil, err
	}
	return q, nil
}

// refuse refuses options that are switched on.
func (p *params) refuse(names ...string) {
	for _, name := range names {
		if p.boolean(name, false) {
			p.fail(mongoerr.Of(mongoerr.NotImplemented, "%s is not supported by this engine yet", name))
		}
	}
}

// refuseDoc refuses options that say something.
func (p *params) refuseDoc(names ...string) {
	for _, name := range names {
		if len(p.doc(name)) > 5 {
			p.fail(mongoerr.Of(mongoerr.NotImplemented, "%s is not supported by this engine yet", name))
		}
	}
}

// collation accepts only the order of bytes.
func (p *params) collation() {
	c := p.doc("collation")
	if len(c) <= 5 {
		return
	}
	if locale, ok := c.Lookup("locale").StringValueOK(); !ok || locale != "simple" {
		p.fail(mongoerr.Of(mongoerr.NotImplemented, "collation is not supported by this engine yet"))
	}
}

// hint reads the field hint: an index's name or key pattern; the zero value is none.
func (p *params) hint() bson.RawValue {
	v, ok := p.value("hint")
	if !ok {
		return bson.RawValue{}
	}
	switch v.Type {
	case bson.TypeString:
	case bson.TypeEmbeddedDocument:
		if len(v.Value) <= 5 {
			return bson.RawValue{}
		}
	default:
		p.fail(mongoerr.Of(mongoerr.FailedToParse, "Hint must be a string or an object"))
	}
	return v
}

// opened is a find that was started.
type opened struct {
	source
	scan *scan
	plan query.Plan
}

// open starts the query on a snapshot, which it takes over unless it fails.
func (q *findQuery) open(reader *storage.Reader) (*opened, error) {
	coll, _ := reader.Collection(q.coll)
	plan, err := planFor(coll, q.filter, q.sort, q.hint)
	if err != nil {
		return nil, err
	}
	o := &opened{scan: newScan(coll, plan, q.filter), plan: plan}
	var from source = o.scan
	if q.sort != nil && !plan.SortCovered {
		from = &sorter{from: from, sort: q.sort, limit: q.wanted()}
	}
	if q.skip > 0 || q.limit > 0 {
		from = &window{from: from, skip: q.skip, limit: q.limit}
	}
	if q.shown != nil {
		from = &projected{from: from, by: q.shown}
	}
	o.source = &holding{source: from, reader: reader}
	return o, nil
}

// maxKept is the highest number of documents that a sort is told to keep; above
// it all are kept.
const maxKept = 1 << 31

// wanted is how many of the first documents are asked for; 0: all.
func (q *findQuery) wanted() int64 {
	if q.limit <= 0 || q.limit > maxKept || q.skip > maxKept {
		return 0
	}
	return q.skip + q.limit
}

// openable is what can be started on a snapshot.
type openable interface {
	open(*storage.Reader) (*opened, error)
}

// openQuery starts a query on a snapshot of a database; closing what it gives
// closes the snapshot too.
func (s *Server) openQuery(ctx context.Context, db string, q openable) (*opened, error) {
	reader, err := s.cfg.Node.Store().Read(ctx, db)
	if err != nil {
		return nil, err
	}
	o, err := q.open(reader)
	if err != nil {
		reader.Close()
		return nil, err
	}
	return o, nil
}

func find(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	s.counters.query.Add(1)
	q, err := parseFind(req)
	if err != nil {
		return nil, err
	}
	o, err := s.openQuery(ctx, req.db, q)
	if err != nil {
		return nil, err
	}
	return s.firstReply(ctx, req, user, req.db+"."+q.coll, o, q.batchSize, q.single)
}

// countQuery is a parsed count.
type countQuery struct {
	findQuery
}

func parseCount(req *request) (*countQuery, error) {
	p := req.params()
	q := &countQuery{findQuery{coll: req.collection(p), skip: p.count("skip", 0), limit: p.number("limit", 0), hint: p.hint()}}
	if q.limit < 0 {
		q.limit = -q.limit
	}
	filter := p.doc("query")
	p.collation()
	if p.err != nil {
		return nil, p.err
	}
	var err error
	q.filter, err = query.ParseFilter(filter)
	return q, err
}

func count(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	q, err := parseCount(req)
	if err != nil {
		return nil, err
	}
	n, err := s.countDocuments(ctx, req.db, q)
	if err != nil {
		return nil, err
	}
	return newDoc().number("n", n), nil
}

// countDocuments counts on a snapshot; the number of all is known without a look.
func (s *Server) countDocuments(ctx context.Context, db string, q *countQuery) (int64, error) {
	if q.filter.Empty() && q.hint.Type == 0 {
		return s.countAll(ctx, db, q)
	}
	o, err := s.openQuery(ctx, db, q)
	if err != nil {
		return 0, err
	}
	defer o.close()
	return drain(ctx, o)
}

func (s *Server) countAll(ctx context.Context, db string, q *countQuery) (int64, error) {
	reader, err := s.cfg.Node.Store().Read(ctx, db)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	coll, ok := reader.Collection(q.coll)
	if !ok {
		return 0, nil
	}
	n, err := coll.Count()
	n = max(0, n-q.skip)
	if q.limit > 0 {
		n = min(n, q.limit)
	}
	return n, err
}

// drain reads a source to its end and counts.
func drain(ctx context.Context, from source) (n int64, err error) {
	for ; ; n++ {
		_, ok, err := from.next(ctx)
		if err != nil || !ok {
			return n, err
		}
	}
}
