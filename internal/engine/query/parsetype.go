package query

import (
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// parseType reads $type: an alias, a number, or a list of them.
func parseType(v bson.RawValue) (pred, error) {
	p := typePred{types: map[bson.Type]bool{}}
	if v.Type != bson.TypeArray {
		return p, p.add(v)
	}
	for e := range index.Elements(v.Value) {
		if err := p.add(e.Value); err != nil {
			return nil, err
		}
	}
	if len(p.types) == 0 {
		return nil, mongoerr.Of(mongoerr.FailedToParse, "$type must match at least one type")
	}
	return p, nil
}

func (p typePred) add(v bson.RawValue) error {
	if alias, ok := v.StringValueOK(); ok {
		return p.addAlias(alias)
	}
	if index.Bracket(v.Type) != index.Bracket(bson.TypeInt32) {
		return mongoerr.Of(mongoerr.TypeMismatch, "type must be represented as a number or a string")
	}
	n, ok := exactInt(v)
	if n == -1 {
		n = int64(bson.TypeMinKey)
	}
	if !ok || n < 1 || n > 255 || index.Bracket(bson.Type(n)) == 0 {
		return badValue("Invalid numerical type code: %s", show(v))
	}
	p.types[bson.Type(n)] = true
	return nil
}

func (p typePred) addAlias(alias string) error {
	if alias == "number" {
		for _, t := range []bson.Type{bson.TypeInt32, bson.TypeInt64, bson.TypeDouble, bson.TypeDecimal128} {
			p.types[t] = true
		}
		return nil
	}
	for t := 1; t < 256; t++ {
		if index.Bracket(bson.Type(t)) != 0 && index.TypeName(bson.Type(t)) == alias {
			p.types[bson.Type(t)] = true
			return nil
		}
	}
	return badValue("Unknown type name alias: %s", alias)
}
