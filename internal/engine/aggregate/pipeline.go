package aggregate

import (
	"context"
	"errors"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// MemoryLimit is how many bytes one stage may hold, as in MongoDB.
const MemoryLimit = 100 << 20

// maxStages is MongoDB's limit on the length of a pipeline.
const maxStages = 1000

// Next gives the next document; io.EOF ends the stream. The document is valid
// until the following call.
type Next = func() (bson.Raw, error)

// Pipeline is a parsed pipeline. It is immutable, and safe for concurrent use:
// each Run has its own state.
type Pipeline struct {
	stages []stage
	memory int
}

// stage is one step; run wraps the stream before it.
type stage interface {
	run(ctx context.Context, in Next, memory int) Next
}

// ParsePipeline reads the stages of an aggregate command.
func ParsePipeline(stages []bson.Raw) (*Pipeline, error) {
	if len(stages) > maxStages {
		return nil, mongoerr.Of(7749501, "Pipeline length must be no longer than %d stages", maxStages)
	}
	p := &Pipeline{memory: MemoryLimit}
	for _, raw := range stages {
		if err := index.Validate(raw); err != nil {
			return nil, err
		}
		st, err := parseStage(raw)
		if err != nil {
			return nil, err
		}
		p.stages = append(p.stages, st...)
	}
	p.limitSorts()
	return p, nil
}

// limitSorts tells each sort that is followed by a limit to keep only so many.
func (p *Pipeline) limitSorts() {
	for i, st := range p.stages {
		s, ok := st.(sortStage)
		if !ok {
			continue
		}
		var skipped int64
		for _, after := range p.stages[i+1:] {
			if skip, ok := after.(skipStage); ok && skipped < 1<<31 {
				skipped += min(int64(skip), 1<<31)
				continue
			}
			if limit, ok := after.(limitStage); ok && int64(limit) < 1<<31 {
				s.keep = skipped + int64(limit)
				p.stages[i] = s
			}
			break
		}
	}
}

// Empty tells whether documents pass unchanged.
func (p *Pipeline) Empty() bool { return len(p.stages) == 0 }

// LeadingMatch splits off what a query can answer from an index: filter is
// the conjunction of the leading $match stages (an empty document if there is
// none), sort the $sort right after them (nil if there is none), rest what is
// left to Run. If the documents do not come in the order of sort, run
// rest.WithSort instead.
func (p *Pipeline) LeadingMatch() (filter bson.Raw, sort bson.Raw, rest *Pipeline) {
	var filters []bson.Raw
	stages := p.stages
	for len(stages) > 0 {
		m, ok := stages[0].(matchStage)
		if !ok {
			break
		}
		filters, stages = append(filters, m.filter.Raw()), stages[1:]
	}
	if len(stages) > 0 {
		if s, ok := stages[0].(sortStage); ok {
			sort, stages = s.order.Raw(), stages[1:]
		}
	}
	return conjunction(filters), sort, &Pipeline{stages: stages, memory: p.memory}
}

// WithSort puts a sort in front of the pipeline.
func (p *Pipeline) WithSort(order *query.Sort) *Pipeline {
	q := &Pipeline{stages: append([]stage{sortStage{order: order}}, p.stages...), memory: p.memory}
	q.limitSorts()
	return q
}

func conjunction(filters []bson.Raw) bson.Raw {
	switch len(filters) {
	case 0:
		return newDoc().done()
	case 1:
		return filters[0]
	}
	list := newDoc()
	for i, f := range filters {
		list = list.add(position(i), bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: f})
	}
	return newDoc().add("$and", bson.RawValue{Type: bson.TypeArray, Value: list.done()}).done()
}

// Run passes the documents of next through the stages. The result's errors are
// those of next, of the stages, and ctx's; io.EOF ends it. It is for one goroutine.
func (p *Pipeline) Run(ctx context.Context, next Next) (Next, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := next
	for _, st := range p.stages {
		out = st.run(ctx, out, p.memory)
	}
	var failed error
	return func() (bson.Raw, error) {
		if failed != nil {
			return nil, failed
		}
		if failed = ctx.Err(); failed != nil {
			return nil, failed
		}
		doc, err := out()
		if err == nil && len(doc) > index.MaxDocumentSize+16*1024 {
			err = mongoerr.Of(mongoerr.BSONObjectTooLarge, "BSONObj size: %d is invalid. Size must be at most %d", len(doc), index.MaxDocumentSize)
		}
		if err != nil {
			failed = err
			return nil, err
		}
		return doc, nil
	}, nil
}

// drain reads in to its end, watching ctx.
func drain(ctx context.Context, in Next, each func(bson.Raw) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		doc, err := in()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(doc); err != nil {
			return err
		}
	}
}

// blocking makes a stream of a stage that must read all before it can give
// anything; collect runs at the first call.
func blocking(collect func() (Next, error)) Next {
	var out Next
	return func() (bson.Raw, error) {
		if out == nil {
			o, err := collect()
			if err != nil {
				return nil, err
			}
			out = o
		}
		return out()
	}
}

// fromSlice streams documents that are held already.
func fromSlice(docs []bson.Raw) Next {
	return func() (bson.Raw, error) {
		if len(docs) == 0 {
			return nil, io.EOF
		}
		d := docs[0]
		docs[0], docs = nil, docs[1:]
		return d, nil
	}
}

func memoryExceeded(stage string) error {
	return mongoerr.Of(mongoerr.QueryExceededMemoryLimitNoDiskUseAllowed,
		"Exceeded memory limit for %s: this engine does not spill to disk; narrow the input with $match or $limit", stage)
}

func clone(doc bson.Raw) bson.Raw { return append(bson.Raw(nil), doc...) }
