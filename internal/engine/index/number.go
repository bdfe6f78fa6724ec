package index

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// number is the exact value of a BSON number: cut toward zero to a double,
// whether something was cut off, and then the exact decimal.
type number struct {
	nan   bool
	trunc float64 // never -0
	cut   int     // 0 exact, +1 the value is above trunc, -1 below
	dec   decimal // set when cut != 0
}

// decimal is 0.DIGITS x 10^exp, digits without zeros at either end.
type decimal struct {
	exp    int
	digits string
}

func compareNumbers(a, b bson.RawValue) int {
	if a.Type == bson.TypeInt32 && b.Type == bson.TypeInt32 {
		return cmp.Compare(a.Int32(), b.Int32())
	}
	if a.Type == bson.TypeInt64 && b.Type == bson.TypeInt64 {
		return cmp.Compare(a.Int64(), b.Int64())
	}
	x, y := numberOf(a), numberOf(b)
	if x.nan || y.nan {
		return boolInt(y.nan) - boolInt(x.nan)
	}
	if c := cmp.Or(cmp.Compare(x.trunc, y.trunc), cmp.Compare(x.cut, y.cut)); c != 0 || x.cut == 0 {
		return c
	}
	return x.cut * cmp.Or(cmp.Compare(x.dec.exp, y.dec.exp), cmp.Compare(x.dec.digits, y.dec.digits))
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// numberOf reads a number whose bytes have the right length.
func numberOf(v bson.RawValue) number {
	switch v.Type {
	case bson.TypeInt32:
		return number{trunc: float64(v.Int32())}
	case bson.TypeInt64:
		return numberOfInt64(v.Int64())
	case bson.TypeDouble:
		f := v.Double()
		return number{nan: math.IsNaN(f), trunc: f + 0} // -0 + 0 is 0
	case bson.TypeDecimal128:
		return numberOfDecimal(v.Value)
	}
	return number{nan: true}
}

func numberOfInt64(i int64) number {
	mag := uint64(i) //nolint:gosec // two's complement on purpose
	if i < 0 {
		mag = -mag
	}
	shift := max(bits.Len64(mag)-53, 0)
	kept := mag >> shift << shift
	n := number{trunc: float64(kept)}
	if i < 0 {
		n.trunc = -n.trunc
	}
	n.trunc += 0
	if kept != mag {
		n.cut = sign(i < 0)
		n.dec = decimalOf(strconv.FormatUint(mag, 10), 0)
	}
	return n
}

func sign(negative bool) int {
	if negative {
		return -1
	}
	return 1
}

// decimalOf normalizes digits x 10^exp; digits is not zero.
func decimalOf(digits string, exp int) decimal {
	exp += len(digits)
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	return decimal{exp: exp, digits: digits}
}

// maxCoefficient is 10^34-1, the largest coefficient of a Decimal128.
const maxCoefficientHigh, maxCoefficientLow = 0x1ED09BEAD87C0, 0x378D8E63FFFFFFFF

// numberOfDecimal reads the binary (BID) form of IEEE 754-2008 decimal128.
// Coefficients above 10^34-1 and the second form of exponent are not canonical
// and mean zero.
func numberOfDecimal(v []byte) number {
	low, high := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
	negative := high>>63 == 1
	switch high >> 58 & 0x1F {
	case 0x1F:
		return number{nan: true}
	case 0x1E:
		return number{trunc: math.Inf(sign(negative))}
	}
	if high>>61&3 == 3 {
		return number{}
	}
	exp := int(high>>49&0x3FFF) - 6176
	coefHigh := high & (1<<49 - 1)
	if coefHigh > maxCoefficientHigh || coefHigh == maxCoefficientHigh && low > maxCoefficientLow {
		return number{}
	}
	if coefHigh == 0 && low == 0 {
		return number{}
	}
	if coefHigh == 0 && exp == 0 && low < 1<<53 {
		return number{trunc: float64(sign(negative)) * float64(low)}
	}
	coef := new(big.Int).SetUint64(coefHigh)
	coef.Lsh(coef, 64).Or(coef, new(big.Int).SetUint64(low))
	trunc, exact := truncate(coef, exp)
	n := number{trunc: float64(sign(negative))*trunc + 0}
	if !exact {
		n.cut = sign(negative)
		n.dec = decimalOf(coef.String(), exp)
	}
	return n
}

// smallestNormal is the smallest double that is not subnormal.
const smallestNormal = 0x1p-1022

// truncate gives the largest double not above coef x 10^exp (coef > 0) and
// whether it is the very value.
func truncate(coef *big.Int, exp int) (float64, bool) {
	// coef has at most 34 digits: everything outside of these is decided.
	switch {
	case exp > 309:
		return math.MaxFloat64, false
	case exp < -360:
		return 0, false
	}
	num, den := new(big.Int).Set(coef), big.NewInt(1)
	pow := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exp, -exp))), nil)
	if exp >= 0 {
		num.Mul(num, pow)
	} else {
		den = pow
	}
	f := new(big.Float).SetPrec(53).SetMode(big.ToZero)
	f.SetRat(new(big.Rat).SetFrac(num, den))
	if f.Cmp(big.NewFloat(math.MaxFloat64)) > 0 {
		return math.MaxFloat64, false
	}
	if f.Cmp(big.NewFloat(smallestNormal)) >= 0 {
		v, _ := f.Float64() // fits: 53 bits in the normal range
		return v, f.Acc() == big.Exact
	}
	// A subnormal is a whole multiple of 2^-1074.
	rest := new(big.Int)
	units, _ := new(big.Int).QuoRem(new(big.Int).Lsh(num, 1074), den, rest)
	return math.Float64frombits(units.Uint64()), rest.Sign() == 0
}
