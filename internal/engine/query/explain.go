package query

import (
	"go.mongodb.org/mongo-driver/v2/bson"
)

// ExplainOptions is what else the query does with the documents found.
type ExplainOptions struct {
	Filter      *Filter
	Sort        *Sort
	Projection  bson.Raw
	Skip, Limit int64
	// SortMemory is how many bytes a sort may hold.
	SortMemory int64
}

// Explain gives the winningPlan document of explain: the stages from the last
// to the first, each as the inputStage of the one after it.
func (p Plan) Explain(o ExplainOptions) bson.D {
	stage := p.access(o.Filter)
	if o.Sort != nil && !p.SortCovered {
		sort := bson.D{{Key: "stage", Value: "SORT"}, {Key: "sortPattern", Value: o.Sort.Raw()}}
		if o.SortMemory > 0 {
			sort = append(sort, bson.E{Key: "memLimit", Value: o.SortMemory})
		}
		if o.Limit > 0 {
			sort = append(sort, bson.E{Key: "limitAmount", Value: o.Limit + o.Skip})
		}
		stage = append(sort, bson.E{Key: "type", Value: "simple"}, bson.E{Key: "inputStage", Value: stage})
	}
	if o.Skip > 0 {
		stage = bson.D{{Key: "stage", Value: "SKIP"}, {Key: "skipAmount", Value: o.Skip}, {Key: "inputStage", Value: stage}}
	}
	if len(o.Projection) > 5 {
		stage = bson.D{{Key: "stage", Value: "PROJECTION_SIMPLE"}, {Key: "transformBy", Value: o.Projection}, {Key: "inputStage", Value: stage}}
	}
	if o.Limit > 0 {
		stage = bson.D{{Key: "stage", Value: "LIMIT"}, {Key: "limitAmount", Value: o.Limit}, {Key: "inputStage", Value: stage}}
	}
	return stage
}

// access is the part of the plan that finds documents and filters them.
func (p Plan) access(f *Filter) bson.D {
	direction := "forward"
	if p.Reverse {
		direction = "backward"
	}
	if p.Kind == CollScan {
		return append(withFilter(bson.D{{Key: "stage", Value: "COLLSCAN"}}, f), bson.E{Key: "direction", Value: direction})
	}
	if len(p.Bounds) == 0 {
		return bson.D{{Key: "stage", Value: "EOF"}}
	}
	if p.Kind == IDLookup && p.Point && f != nil && len(f.root) == 1 {
		return bson.D{{Key: "stage", Value: "IDHACK"}}
	}
	scan := bson.D{
		{Key: "stage", Value: "IXSCAN"}, {Key: "keyPattern", Value: p.spec.KeyPattern()}, {Key: "indexName", Value: p.Index},
		{Key: "isMultiKey", Value: p.Multikey}, {Key: "isUnique", Value: p.spec.Unique}, {Key: "isSparse", Value: p.spec.Sparse},
		{Key: "isPartial", Value: false}, {Key: "indexVersion", Value: int32(2)}, {Key: "direction", Value: direction},
		{Key: "indexBounds", Value: p.explainBounds()},
	}
	fetch := withFilter(bson.D{{Key: "stage", Value: "FETCH"}}, f)
	return append(fetch, bson.E{Key: "inputStage", Value: scan})
}

func withFilter(stage bson.D, f *Filter) bson.D {
	if f == nil || f.Empty() {
		return stage
	}
	return append(stage, bson.E{Key: "filter", Value: f.Raw()})
}

// explainBounds shows each field's ranges as text; long lists are cut.
func (p Plan) explainBounds() bson.D {
	const most = 100
	out := bson.D{}
	for i, f := range p.spec.Fields {
		texts := bson.A{}
		for n, iv := range p.shown[i] {
			if n == most {
				texts = append(texts, "...")
				break
			}
			texts = append(texts, iv.String())
		}
		out = append(out, bson.E{Key: f.Path, Value: texts})
	}
	return out
}
