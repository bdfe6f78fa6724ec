package command

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/wire"
)

func explainCommand() command {
	return command{name: "explain", needs: explainNeeds, run: explain, fields: []string{"verbosity"}, stable: true}
}

// explained parses the command inside of explain.
func explained(s *Server, req *request) (*request, error) {
	doc, ok := req.args[0].value.DocumentOK()
	if !ok {
		return nil, wrongType("explain", "explain", req.args[0].value, "object")
	}
	inner, err := s.parseRequest(req.conn, &wire.Request{Legacy: true, DB: req.db, Body: doc})
	if err != nil {
		return nil, err
	}
	switch inner.cmd.name {
	case "find", "count", "aggregate", "distinct", "update", "delete", "findAndModify":
		inner.db = req.db
		return inner, nil
	}
	return nil, mongoerr.Of(mongoerr.CommandNotSupported, "Explain failed due to unsupported command: %s", inner.cmd.name)
}

func explainNeeds(req *request) ([]need, error) {
	inner, err := explained(req.conn.server, req)
	if err != nil {
		return nil, err
	}
	return inner.cmd.needs(inner)
}

// explainable is a query whose plan can be shown, and which can be run.
type explainable struct {
	coll    string
	options query.ExplainOptions
	wrap    string // a stage around the plan
	query   openable
}

func explain(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	verbosity := p.str("verbosity")
	if p.err != nil {
		return nil, p.err
	}
	switch verbosity {
	case "", "queryPlanner", "executionStats", "allPlansExecution":
	default:
		return nil, mongoerr.Of(mongoerr.BadValue, "verbosity string must be one of {'queryPlanner', 'executionStats', 'allPlansExecution'}")
	}
	inner, err := explained(s, req)
	if err != nil {
		return nil, err
	}
	e, err := explainTarget(inner)
	if err != nil {
		return nil, err
	}
	o, err := s.openQuery(ctx, req.db, e.query)
	if err != nil {
		return nil, err
	}
	defer o.close()
	stage, err := e.stage(o)
	if err != nil {
		return nil, err
	}
	planner := newDoc().str("namespace", req.db+"."+e.coll).boolean("indexFilterSet", false)
	if f := e.options.Filter; f != nil && f.Raw() != nil {
		planner.doc("parsedQuery", f.Raw())
	} else {
		planner.doc("parsedQuery", newDoc().done())
	}
	planner.doc("winningPlan", stage).array("rejectedPlans", newArray())
	out := newDoc().str("explainVersion", "1").doc("queryPlanner", planner.done())
	if verbosity != "queryPlanner" {
		stats, err := runExplained(ctx, o, stage)
		if err != nil {
			return nil, err
		}
		out.doc("executionStats", stats)
	}
	return out.doc("command", inner.body).doc("serverInfo", s.serverInfo()), nil
}

// runExplained runs the query and tells what it cost.
func runExplained(ctx context.Context, o *opened, stage bson.Raw) (bson.Raw, error) {
	began := time.Now()
	n, err := drain(ctx, o)
	if err != nil {
		return nil, err
	}
	keys, docs := o.scan.examined()
	taken := time.Since(began).Milliseconds()
	stages := newDoc()
	stages.b = append(stages.b, stage[4:len(stage)-1]...)
	stages.number("nReturned", n).number("keysExamined", keys).number("docsExamined", docs)
	return newDoc().boolean("executionSuccess", true).number("nReturned", n).number("executionTimeMillis", taken).
		number("totalKeysExamined", keys).number("totalDocsExamined", docs).doc("executionStages", stages.done()).done(), nil
}

func (e *explainable) stage(o *opened) (bson.Raw, error) {
	stage := o.plan.Explain(e.options)
	if e.wrap != "" {
		stage = bson.D{{Key: "stage", Value: e.wrap}, {Key: "inputStage", Value: stage}}
	}
	return bson.Marshal(stage)
}

func explainTarget(inner *request) (*explainable, error) {
	p := inner.params()
	switch inner.cmd.name {
	case "find":
		q, err := parseFind(inner)
		if err != nil {
			return nil, err
		}
		return q.explainable(""), nil
	case "count":
		q, err := parseCount(inner)
		if err != nil {
			return nil, err
		}
		return q.explainable("COUNT"), nil
	case "aggregate":
		if !p.has("cursor") {
			inner.args = append(inner.args, argument{name: "cursor", value: bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: newDoc().done()}})
		}
		q, err := parseAggregate(inner)
		if err != nil {
			return nil, err
		}
		e := q.explainable("")
		e.query = q
		return e, nil
	case "distinct":
		return explainFilter(inner, p.doc("query"), "", p)
	case "findAndModify":
		m, err := parseModification(p, nil)
		if err != nil {
			return nil, err
		}
		wrap := "UPDATE"
		if m.remove {
			wrap = "DELETE"
		}
		return m.explainable(inner.collection(p), true, wrap), p.err
	case "update":
		parse := func(doc bson.Raw) (*updateStatement, error) { return parseUpdate(doc, nil) }
		return explainStatement(inner, "updates", parse, func(st *updateStatement) (*target, bool) { return st.target, !st.multi }, "UPDATE")
	default:
		return explainStatement(inner, "deletes", parseDelete, func(st *deleteStatement) (*target, bool) { return st.target, !st.multi }, "DELETE")
	}
}

func explainFilter(inner *request, filter bson.Raw, wrap string, p *params) (*explainable, error) {
	t, err := newTarget(filter, nil, p.hint())
	if err != nil {
		return nil, err
	}
	coll := inner.collection(p)
	return t.explainable(coll, false, wrap), p.err
}

func explainStatement[T any](inner *request, field string, parse func(bson.Raw) (T, error), of func(T) (*target, bool), wrap string) (*explainable, error) {
	p := inner.params()
	coll, docs := inner.collection(p), inner.sequence(p, field)
	if p.err != nil {
		return nil, p.err
	}
	if len(docs) != 1 {
		return nil, mongoerr.Of(mongoerr.BadValue, "explained write batches must be of size 1")
	}
	st, err := parse(docs[0])
	if err != nil {
		return nil, err
	}
	t, one := of(st)
	return t.explainable(coll, one, wrap), nil
}

func (t *target) explainable(coll string, one bool, wrap string) *explainable {
	q := &findQuery{coll: coll, filter: t.filter, sort: t.sort, hint: t.hint}
	if one {
		q.limit = 1
	}
	return q.explainable(wrap)
}

func (q *findQuery) explainable(wrap string) *explainable {
	return &explainable{
		coll: q.coll, wrap: wrap, query: q,
		options: query.ExplainOptions{Filter: q.filter, Sort: q.sort, Projection: q.projection, Skip: q.skip, Limit: q.limit, SortMemory: maxSortMemory},
	}
}
