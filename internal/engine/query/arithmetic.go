package query

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// IsNumber tells whether v is of one of the four number types.
func IsNumber(v bson.RawValue) bool { return index.Bracket(v.Type) == index.Bracket(bson.TypeInt32) }

// Overflow says what becomes of whole numbers beyond 64 bits.
type Overflow int

const (
	// OverflowFails makes the operation report failure, as $inc and $mul do.
	OverflowFails Overflow = iota
	// OverflowToDouble goes on with a double, as aggregation does.
	OverflowToDouble
)

// Add adds two numbers: int and int give int, on overflow long; a double
// makes it double, a decimal decimal. It fails if one is no number, or by o.
func Add(a, b bson.RawValue, o Overflow) (bson.RawValue, bool) {
	return arithmetic(a, b, o, operation{
		whole: func(x, y int64) (int64, bool) {
			s := x + y
			return s, (s > x) == (y > 0)
		},
		double:  func(x, y float64) float64 { return x + y },
		decimal: addDecimals,
	})
}

// Multiply multiplies two numbers, with the types of Add.
func Multiply(a, b bson.RawValue, o Overflow) (bson.RawValue, bool) {
	return arithmetic(a, b, o, operation{
		whole:   multiplyWhole,
		double:  func(x, y float64) float64 { return x * y },
		decimal: multiplyDecimals,
	})
}

type operation struct {
	whole   func(x, y int64) (int64, bool)
	double  func(x, y float64) float64
	decimal func(x, y bigDecimal) bigDecimal
}

func arithmetic(a, b bson.RawValue, o Overflow, op operation) (bson.RawValue, bool) {
	if !IsNumber(a) || !IsNumber(b) {
		return bson.RawValue{}, false
	}
	if a.Type == bson.TypeDecimal128 || b.Type == bson.TypeDecimal128 {
		return calculateDecimal(a, b, op), true
	}
	if a.Type == bson.TypeDouble || b.Type == bson.TypeDouble {
		return Double(op.double(toDouble(a), toDouble(b))), true
	}
	r, ok := op.whole(a.AsInt64(), b.AsInt64())
	switch {
	case !ok && o == OverflowFails:
		return bson.RawValue{}, false
	case !ok:
		return Double(op.double(toDouble(a), toDouble(b))), true
	case a.Type == bson.TypeInt32 && b.Type == bson.TypeInt32 && r == int64(int32(r)): //nolint:gosec // this is the range check
		return Int32(int32(r)), true //nolint:gosec // checked
	}
	return Int64(r), true
}

func multiplyWhole(x, y int64) (int64, bool) {
	hi, lo := bits.Mul64(magnitude(x), magnitude(y))
	negative := (x < 0) != (y < 0)
	switch {
	case hi != 0 || lo > 1<<63:
		return 0, false
	case negative:
		return -int64(lo), true //nolint:gosec // 1<<63 negates to itself
	}
	return int64(lo), lo < 1<<63 //nolint:gosec // checked
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x) //nolint:gosec // two's complement on purpose
	}
	return uint64(x)
}

func toDouble(v bson.RawValue) float64 {
	if f, ok := v.DoubleOK(); ok {
		return f
	}
	if d, ok := v.Decimal128OK(); ok {
		f, err := strconv.ParseFloat(d.String(), 64)
		if err != nil && f == 0 {
			return math.NaN()
		}
		return f
	}
	n, _ := v.AsInt64OK()
	return float64(n)
}

// ToDouble gives a number as a double; other values are NaN.
func ToDouble(v bson.RawValue) float64 {
	if !IsNumber(v) {
		return math.NaN()
	}
	return toDouble(v)
}

// Int32 makes a BSON int.
func Int32(n int32) bson.RawValue {
	return bson.RawValue{Type: bson.TypeInt32, Value: binary.LittleEndian.AppendUint32(nil, uint32(n))} //nolint:gosec // two's complement on purpose
}

// Int64 makes a BSON long.
func Int64(n int64) bson.RawValue {
	return bson.RawValue{Type: bson.TypeInt64, Value: binary.LittleEndian.AppendUint64(nil, uint64(n))} //nolint:gosec // two's complement on purpose
}

// Double makes a BSON double.
func Double(f float64) bson.RawValue {
	return bson.RawValue{Type: bson.TypeDouble, Value: binary.LittleEndian.AppendUint64(nil, math.Float64bits(f))}
}

func decimalValue(d bson.Decimal128) bson.RawValue {
	h, l := d.GetBytes()
	b := binary.LittleEndian.AppendUint64(nil, l)
	return bson.RawValue{Type: bson.TypeDecimal128, Value: binary.LittleEndian.AppendUint64(b, h)}
}

// bigDecimal is coef x 10^exp.
type bigDecimal struct {
	coef *big.Int
	exp  int
}

// decimalDigits is the precision of Decimal128.
const decimalDigits = 34

// calculateDecimal goes by doubles where an operand is not finite.
func calculateDecimal(a, b bson.RawValue, op operation) bson.RawValue {
	x, okx := toBigDecimal(a)
	y, oky := toBigDecimal(b)
	if !okx || !oky {
		return specialDecimal(op.double(toDouble(a), toDouble(b)))
	}
	return roundDecimal(op.decimal(x, y))
}

func specialDecimal(f float64) bson.RawValue {
	text := "NaN"
	if math.IsInf(f, 1) {
		text = "Infinity"
	} else if math.IsInf(f, -1) {
		text = "-Infinity"
	}
	d, _ := bson.ParseDecimal128(text)
	return decimalValue(d)
}

func toBigDecimal(v bson.RawValue) (bigDecimal, bool) {
	switch v.Type {
	case bson.TypeDouble:
		// MongoDB takes 15 digits of a double.
		d, err := bson.ParseDecimal128(strconv.FormatFloat(v.Double(), 'e', 14, 64))
		if err != nil || d.IsNaN() || d.IsInf() != 0 {
			return bigDecimal{}, false
		}
		n, exp, err := d.BigInt()
		return trimZeros(bigDecimal{n, exp}), err == nil
	case bson.TypeDecimal128:
		n, exp, err := v.Decimal128().BigInt()
		return bigDecimal{n, exp}, err == nil
	}
	n, ok := v.AsInt64OK()
	return bigDecimal{big.NewInt(n), 0}, ok
}

func trimZeros(d bigDecimal) bigDecimal {
	ten, rest := big.NewInt(10), new(big.Int)
	for d.coef.Sign() != 0 {
		q, _ := new(big.Int).QuoRem(d.coef, ten, rest)
		if rest.Sign() != 0 {
			break
		}
		d = bigDecimal{q, d.exp + 1}
	}
	return d
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

func addDecimals(x, y bigDecimal) bigDecimal {
	if x.exp < y.exp {
		x, y = y, x
	}
	if x.coef.Sign() == 0 {
		return y
	}
	if y.coef.Sign() == 0 {
		return x
	}
	// Far below the last digit kept, only the sign of y still matters.
	if gap := x.exp - y.exp; gap > 3*decimalDigits {
		y = bigDecimal{big.NewInt(int64(y.coef.Sign())), x.exp - 2*decimalDigits}
	}
	sum := new(big.Int).Mul(x.coef, pow10(x.exp-y.exp))
	return bigDecimal{sum.Add(sum, y.coef), y.exp}
}

func multiplyDecimals(x, y bigDecimal) bigDecimal {
	return bigDecimal{new(big.Int).Mul(x.coef, y.coef), x.exp + y.exp}
}

// roundDecimal rounds half to even into a Decimal128; too large is infinite,
// too small zero.
func roundDecimal(d bigDecimal) bson.RawValue {
	digits := len(new(big.Int).Abs(d.coef).String())
	drop := max(digits-decimalDigits, bson.MinDecimal128Exp-d.exp, 0)
	switch {
	case d.coef.Sign() == 0:
		d = bigDecimal{new(big.Int), max(bson.MinDecimal128Exp, min(bson.MaxDecimal128Exp, d.exp))}
	case drop > digits:
		d = bigDecimal{new(big.Int), bson.MinDecimal128Exp}
	case drop > 0:
		d = bigDecimal{divideHalfEven(d.coef, pow10(drop)), d.exp + drop}
	}
	out, ok := bson.ParseDecimal128FromBigInt(d.coef, d.exp)
	if !ok {
		return specialDecimal(math.Inf(d.coef.Sign()))
	}
	return decimalValue(out)
}

func divideHalfEven(n, by *big.Int) *big.Int {
	rest := new(big.Int)
	q, _ := new(big.Int).QuoRem(n, by, rest)
	twice := rest.Abs(rest).Lsh(rest, 1)
	if c := twice.Cmp(by); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(int64(n.Sign())))
	}
	return q
}

// Divide divides a sum by a count above zero: a double, or a decimal if the
// sum is one.
func Divide(sum bson.RawValue, count int64) bson.RawValue {
	if sum.Type != bson.TypeDecimal128 {
		return Double(toDouble(sum) / float64(count))
	}
	x, ok := toBigDecimal(sum)
	if !ok {
		return sum
	}
	// Enough digits to round right, and a last one that remembers the rest.
	scaled, rest := new(big.Int).Mul(x.coef, pow10(2*decimalDigits)), new(big.Int)
	q, _ := scaled.QuoRem(scaled, big.NewInt(count), rest)
	q.Mul(q, big.NewInt(10)).Add(q, big.NewInt(int64(rest.Sign())))
	return roundDecimal(trimZeros(bigDecimal{q, x.exp - 2*decimalDigits - 1}))
}
