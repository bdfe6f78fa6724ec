package command

import (
	"context"
	"errors"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/aggregate"
	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/storage"
)

func aggregateCommand() command {
	return command{
		name: "aggregate", needs: onCollection(auth.Find), run: runAggregate, stable: true,
		fields: []string{"pipeline", "cursor", "allowDiskUse", "bypassDocumentValidation", "collation", "hint", "let", "explain"},
	}
}

// pipelineQuery is a parsed aggregate: a find, and the stages after it.
type pipelineQuery struct {
	findQuery
	rest *aggregate.Pipeline
}

func parseAggregate(req *request) (*pipelineQuery, error) {
	p := req.params()
	if n, ok := wholeNumber(req.args[0].value); ok && n == 1 {
		return nil, mongoerr.Of(mongoerr.NotImplemented, "aggregations on a whole database are not supported by this engine yet")
	}
	q := &pipelineQuery{findQuery: findQuery{coll: req.collection(p), hint: p.hint(), batchSize: p.cursorSize()}}
	p.need("pipeline")
	p.refuse("explain")
	p.refuseDoc("let")
	p.collation()
	stages := p.docs("pipeline")
	if p.err != nil {
		return nil, p.err
	}
	if !p.has("cursor") {
		return nil, mongoerr.Of(mongoerr.FailedToParse, "The 'cursor' option is required, except for aggregate with the explain argument")
	}
	pipeline, err := aggregate.ParsePipeline(stages)
	if err != nil {
		return nil, err
	}
	filter, sort, rest := pipeline.LeadingMatch()
	if q.filter, err = query.ParseFilter(filter); err != nil {
		return nil, err
	}
	if q.sort, err = query.ParseSort(sort); err != nil {
		return nil, err
	}
	q.rest = rest
	return q, nil
}

// open starts the pipeline on a snapshot, which it takes over unless it fails.
func (q *pipelineQuery) open(reader *storage.Reader) (*opened, error) {
	coll, _ := reader.Collection(q.coll)
	plan, err := planFor(coll, q.filter, q.sort, q.hint)
	if err != nil {
		return nil, err
	}
	o := &opened{scan: newScan(coll, plan, q.filter), plan: plan}
	rest := q.rest
	if q.sort != nil && !plan.SortCovered {
		rest = rest.WithSort(q.sort)
	}
	var from source = o.scan
	if !rest.Empty() {
		from = &staged{from: o.scan, pipeline: rest}
	}
	o.source = &holding{source: from, reader: reader}
	return o, nil
}

// staged passes documents through the stages of a pipeline.
type staged struct {
	from     source
	pipeline *aggregate.Pipeline
	ctx      context.Context // of the call under way
	out      aggregate.Next
}

func (s *staged) next(ctx context.Context) (bson.Raw, bool, error) {
	s.ctx = ctx
	if s.out == nil {
		out, err := s.pipeline.Run(followed{s}, func() (bson.Raw, error) {
			doc, ok, err := s.from.next(s.ctx)
			if err == nil && !ok {
				err = io.EOF
			}
			return doc, err
		})
		if err != nil {
			return nil, false, err
		}
		s.out = out
	}
	doc, err := s.out()
	if errors.Is(err, io.EOF) {
		return nil, false, nil
	}
	return append(bson.Raw(nil), doc...), err == nil, err
}

func (s *staged) close() { s.from.close() }

func runAggregate(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	s.counters.query.Add(1)
	q, err := parseAggregate(req)
	if err != nil {
		return nil, err
	}
	o, err := s.openQuery(ctx, req.db, q)
	if err != nil {
		return nil, err
	}
	return s.firstReply(ctx, req, user, req.db+"."+q.coll, o, q.batchSize, false)
}

// distinct gives the different values of a path; those within arrays count one
// by one.
func distinct(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	q := &findQuery{coll: req.collection(p), hint: p.hint()}
	p.need("key")
	key, filterDoc := p.str("key"), p.doc("query")
	p.collation()
	if p.err != nil {
		return nil, p.err
	}
	if key == "" {
		return nil, mongoerr.Of(mongoerr.BadValue, "key must not be empty")
	}
	var err error
	if q.filter, err = query.ParseFilter(filterDoc); err != nil {
		return nil, err
	}
	o, err := s.openQuery(ctx, req.db, q)
	if err != nil {
		return nil, err
	}
	defer o.close()
	out, seen := newArray(), map[string]bool{}
	for {
		doc, ok, err := o.next(ctx)
		if err != nil {
			return nil, err
		}
		if !ok {
			return newDoc().array("values", out), nil
		}
		err = valuesAt(bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: doc}, key, func(v bson.RawValue) error {
			enc, err := index.EncodeValue(nil, v)
			if err != nil || seen[string(enc)] {
				return err
			}
			seen[string(enc)] = true
			out.value(v)
			if out.size() > maxBatchBytes {
				return mongoerr.New(17217, "Location17217", "distinct too big, 16mb cap")
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
}
