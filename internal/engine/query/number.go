package query

import (
	"math"
	"math/big"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// wholeNumber cuts a number toward zero; it fails for anything that is not a
// finite number within 64 bits.
func wholeNumber(v bson.RawValue) (int64, bool) {
	switch v.Type {
	case bson.TypeInt32:
		return int64(v.Int32()), true
	case bson.TypeInt64:
		return v.Int64(), true
	case bson.TypeDouble:
		f := math.Trunc(v.Double())
		if f >= -0x1p63 && f < 0x1p63 {
			return int64(f), true
		}
	case bson.TypeDecimal128:
		return wholeDecimal(v.Decimal128())
	}
	return 0, false
}

func wholeDecimal(d bson.Decimal128) (int64, bool) {
	n, exp, err := d.BigInt()
	if err != nil || exp > 19 {
		return 0, err == nil && n.Sign() == 0
	}
	if exp < -40 {
		return 0, true
	}
	pow := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exp, -exp))), nil)
	if exp >= 0 {
		n.Mul(n, pow)
	} else {
		n.Quo(n, pow)
	}
	return n.Int64(), n.IsInt64()
}

// exactInt is wholeNumber for a number without a fraction.
func exactInt(v bson.RawValue) (int64, bool) {
	n, ok := wholeNumber(v)
	if f, isDouble := v.DoubleOK(); isDouble && f != math.Trunc(f) {
		return 0, false
	}
	return n, ok
}

// truthy reads a value as a condition, as $exists and projections do.
func truthy(v bson.RawValue) bool {
	switch v.Type {
	case bson.TypeBoolean:
		return v.Boolean()
	case bson.TypeInt32, bson.TypeInt64:
		n, _ := wholeNumber(v)
		return n != 0
	case bson.TypeDouble:
		return v.Double() != 0
	case bson.TypeDecimal128:
		n, _, err := v.Decimal128().BigInt()
		return err != nil || n.Sign() != 0
	case bson.TypeNull, bson.TypeUndefined, 0:
		return false
	}
	return true
}
