package aggregate

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// Codes of $group.
const (
	codeGroupObject   = 15947
	codeGroupID       = 15955
	codeGroupOperator = 15952
	codeGroupField    = 40234
	codeGroupDot      = 40235
	codeGroupDollar   = 40236
	codeGroupMany     = 40238
)

// groupStage is $group. Groups come out in the order of their first document.
type groupStage struct {
	id     expr
	fields []groupField
	bare   bool // leave _id out, for $count
}

type groupField struct {
	name  string
	of    expr
	start func() accumulator
}

func parseGroup(v bson.RawValue) (stage, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, mongoerr.Of(codeGroupObject, "a group's fields must be specified in an object")
	}
	var g groupStage
	seen := map[string]bool{}
	for e := range index.Elements(v.Value) {
		name := string(e.Key)
		if seen[name] {
			return nil, mongoerr.Of(mongoerr.FailedToParse, "the field '%s' of $group is given twice", name)
		}
		seen[name] = true
		var err error
		if name == "_id" {
			g.id, err = parseExpr(e.Value)
		} else {
			err = g.parseField(name, e.Value)
		}
		if err != nil {
			return nil, err
		}
	}
	if g.id == nil {
		return nil, mongoerr.Of(codeGroupID, "a group specification must include an _id")
	}
	return g, nil
}

func (g *groupStage) parseField(name string, v bson.RawValue) error {
	switch {
	case strings.Contains(name, "."):
		return mongoerr.Of(codeGroupDot, "The field name '%s' cannot contain '.'", name)
	case strings.HasPrefix(name, "$"):
		return mongoerr.Of(codeGroupDollar, "The field name '%s' cannot be an operator name", name)
	case v.Type != bson.TypeEmbeddedDocument:
		return mongoerr.Of(codeGroupField, "The field '%s' must be an accumulator object", name)
	}
	n := 0
	for e := range index.Elements(v.Value) {
		if n++; n > 1 {
			break
		}
		op := string(e.Key)
		start := accumulatorOf(op)
		if start == nil {
			return mongoerr.Of(codeGroupOperator, "unknown group operator '%s'", op)
		}
		arg := e.Value
		if op == "$count" {
			if arg.Type != bson.TypeEmbeddedDocument || len(arg.Value) != 5 {
				return mongoerr.Of(mongoerr.TypeMismatch, "$count takes no arguments, i.e. $count:{}")
			}
			arg = oneValue()
		} else if arg.Type == bson.TypeArray && op != "$push" && op != "$addToSet" {
			return mongoerr.Of(40237, "The %s accumulator is a unary operator", op)
		}
		x, err := parseExpr(arg)
		if err != nil {
			return err
		}
		g.fields = append(g.fields, groupField{name, x, start})
	}
	if n != 1 {
		return mongoerr.Of(codeGroupMany, "The field '%s' must specify one accumulator", name)
	}
	return nil
}

type group struct {
	id   bson.RawValue
	accs []accumulator
}

// groupOverhead is about what a group costs beside its values, in bytes.
const groupOverhead = 200

func (g groupStage) run(ctx context.Context, in Next, memory int) Next {
	return blocking(func() (Next, error) {
		var order []*group
		groups := map[string]*group{}
		size := 0
		err := drain(ctx, in, func(doc bson.Raw) error {
			id, err := g.id.eval(doc)
			if err != nil {
				return err
			}
			key, err := index.EncodeValue(nil, id)
			if err != nil {
				return err
			}
			gr := groups[string(key)]
			if gr == nil {
				gr = g.newGroup(id)
				groups[string(key)] = gr
				order = append(order, gr)
				size += len(key) + len(id.Value) + groupOverhead + 64*len(gr.accs)
			}
			for i, f := range g.fields {
				v, err := f.of.eval(doc)
				if err != nil {
					return err
				}
				grown, err := gr.accs[i].add(v)
				if err != nil {
					return err
				}
				size += grown
			}
			if size > memory {
				return memoryExceeded("$group")
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return g.results(order), nil
	})
}

func (g groupStage) newGroup(id bson.RawValue) *group {
	if id.Type == 0 {
		id = null()
	}
	gr := &group{id: cloneValue(id)}
	for _, f := range g.fields {
		gr.accs = append(gr.accs, f.start())
	}
	return gr
}

func (g groupStage) results(order []*group) Next {
	at := 0
	return func() (bson.Raw, error) {
		if at == len(order) {
			return fromSlice(nil)()
		}
		gr := order[at]
		order[at] = nil
		at++
		out := newDoc()
		if !g.bare {
			out = out.add("_id", gr.id)
		}
		for i, f := range g.fields {
			out = out.add(f.name, gr.accs[i].result())
		}
		return out.done(), nil
	}
}
