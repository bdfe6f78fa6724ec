package aggregate

import (
	"bytes"
	"context"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// sortStage sorts; with keep it holds only so many of the first documents.
type sortStage struct {
	order *query.Sort
	keep  int64
}

func parseSort(v bson.RawValue) (stage, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, mongoerr.Of(codeSortObject, "the $sort key specification must be an object")
	}
	s, err := query.ParseSort(v.Value)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, mongoerr.Of(codeSortEmpty, "$sort stage must have at least one sort key")
	case s.Natural() != 0:
		return nil, mongoerr.Of(mongoerr.FieldPathPrefixed, "FieldPath field names may not start with '$'. Consider using $getField or $setField.")
	}
	return sortStage{order: s}, nil
}

type sorted struct {
	key []byte
	doc bson.Raw
}

func (s sortStage) run(ctx context.Context, in Next, memory int) Next {
	return blocking(func() (Next, error) {
		var held []sorted
		size := 0
		err := drain(ctx, in, func(doc bson.Raw) error {
			key, err := s.order.Key(doc)
			if err != nil {
				return err
			}
			held = append(held, sorted{key, clone(doc)})
			size += len(key) + len(doc) + 64
			if s.keep > 0 && (int64(len(held)) >= 2*s.keep+64 || size > memory) {
				held, size = s.cut(held)
			}
			if size > memory {
				return memoryExceeded("$sort")
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		held, _ = s.cut(held)
		docs := make([]bson.Raw, len(held))
		for i, h := range held {
			docs[i] = h.doc
		}
		return fromSlice(docs), nil
	})
}

// cut sorts what is held and drops what is beyond keep. It is stable: equal
// documents stay in the order in which they came.
func (s sortStage) cut(held []sorted) ([]sorted, int) {
	slices.SortStableFunc(held, func(a, b sorted) int { return bytes.Compare(a.key, b.key) })
	if s.keep > 0 && int64(len(held)) > s.keep {
		clear(held[s.keep:])
		held = held[:s.keep]
	}
	size := 0
	for _, h := range held {
		size += len(h.key) + len(h.doc) + 64
	}
	return held, size
}
