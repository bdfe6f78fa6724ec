package aggregate

import (
	"context"
	"io"
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
)

// Codes that only single stages give.
const (
	codeStageFields  = 40323
	codeMatchObject  = 15959
	codeSortObject   = 15973
	codeSortEmpty    = 15976
	codeLimitValue   = 5107201
	codeLimitZero    = 15958
	codeSkipValue    = 5107200
	codeCountString  = 40156
	codeCountEmpty   = 40157
	codeCountDollar  = 40158
	codeCountDot     = 40160
	codeSpecNotDoc   = 40272
	codeProjectEmpty = 51272
)

func parseStage(raw bson.Raw) ([]stage, error) {
	var name string
	var v bson.RawValue
	n := 0
	for e := range index.Elements(raw) {
		name, v = string(e.Key), e.Value
		n++
	}
	if n != 1 {
		return nil, mongoerr.Of(codeStageFields, "A pipeline stage specification object must contain exactly one field.")
	}
	st, err := parseNamed(name, v)
	if err != nil {
		return nil, err
	}
	return st, nil
}

func one(st stage, err error) ([]stage, error) { return []stage{st}, err }

func parseNamed(name string, v bson.RawValue) ([]stage, error) {
	switch name {
	case "$match":
		return one(parseMatch(v))
	case "$sort":
		return one(parseSort(v))
	case "$limit":
		return one(parseLimit(v))
	case "$skip":
		return one(parseSkip(v))
	case "$group":
		return one(parseGroup(v))
	case "$count":
		return parseCount(v)
	case "$project":
		return one(parseProject(v))
	case "$addFields", "$set":
		return one(parseAddFields(name, v))
	case "$unset":
		return one(parseUnset(v))
	case "$unwind":
		return one(parseUnwind(v))
	case "$lookup", "$facet", "$replaceRoot", "$replaceWith", "$sortByCount", "$out", "$merge", "$sample", "$bucket",
		"$bucketAuto", "$graphLookup", "$unionWith", "$setWindowFields", "$redact", "$documents", "$collStats", "$indexStats",
		"$currentOp", "$geoNear", "$changeStream", "$fill", "$densify", "$listSessions", "$listLocalSessions",
		"$planCacheStats", "$changeStreamSplitLargeEvent":
		return nil, mongoerr.Of(mongoerr.NotImplemented, "This engine does not have the pipeline stage %s yet", name)
	case "$search", "$searchMeta", "$vectorSearch", "$listSearchIndexes":
		return nil, mongoerr.Of(mongoerr.CommandNotSupported, "%s is only available on MongoDB Atlas", name)
	}
	return nil, mongoerr.Of(mongoerr.UnrecognizedStage, "Unrecognized pipeline stage name: '%s'", name)
}

type matchStage struct{ filter *query.Filter }

func parseMatch(v bson.RawValue) (stage, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, mongoerr.Of(codeMatchObject, "the match filter must be an expression in an object")
	}
	f, err := query.ParseFilter(v.Value)
	return matchStage{f}, err
}

func (s matchStage) run(ctx context.Context, in Next, _ int) Next {
	return func() (bson.Raw, error) {
		for {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			doc, err := in()
			if err != nil {
				return nil, err
			}
			if ok, err := s.filter.Match(doc); ok || err != nil {
				return doc, err
			}
		}
	}
}

type limitStage int64

func stageNumber(name string, code int32, v bson.RawValue) (int64, error) {
	f := query.ToDouble(v)
	if f != math.Trunc(f) || f < 0 || math.IsInf(f, 0) {
		return 0, mongoerr.Of(code, "invalid argument to %s stage: Expected a non-negative whole number, but got a %s", name, index.TypeName(v.Type))
	}
	if f >= 1<<62 {
		return 1 << 62, nil
	}
	return int64(f), nil
}

func parseLimit(v bson.RawValue) (stage, error) {
	n, err := stageNumber("$limit", codeLimitValue, v)
	if err == nil && n == 0 {
		err = mongoerr.Of(codeLimitZero, "the limit must be positive")
	}
	return limitStage(n), err
}

func (s limitStage) run(_ context.Context, in Next, _ int) Next {
	left := int64(s)
	return func() (bson.Raw, error) {
		if left <= 0 {
			return nil, io.EOF
		}
		left--
		return in()
	}
}

type skipStage int64

func parseSkip(v bson.RawValue) (stage, error) {
	n, err := stageNumber("$skip", codeSkipValue, v)
	return skipStage(n), err
}

func (s skipStage) run(ctx context.Context, in Next, _ int) Next {
	left := int64(s)
	return func() (bson.Raw, error) {
		for ; left > 0; left-- {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if _, err := in(); err != nil {
				return nil, err
			}
		}
		return in()
	}
}

// parseCount makes $count the $group and $project that it stands for.
func parseCount(v bson.RawValue) ([]stage, error) {
	name, ok := v.StringValueOK()
	switch {
	case !ok:
		return nil, mongoerr.Of(codeCountString, "the count field must be a non-empty string")
	case name == "":
		return nil, mongoerr.Of(codeCountEmpty, "the count field must be a non-empty string")
	case name[0] == '$':
		return nil, mongoerr.Of(codeCountDollar, "the count field cannot be a $-prefixed path")
	case strings.ContainsAny(name, ".\x00"):
		return nil, mongoerr.Of(codeCountDot, "the count field cannot contain '.' or a zero byte")
	}
	g := groupStage{
		id:     literalExpr(null()),
		fields: []groupField{{name: name, of: literalExpr(query.Int32(1)), start: newSum}},
		bare:   name != "_id",
	}
	return []stage{g}, nil
}
