package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Version of the format.
const Version = 1

// Limits of an entry. An entry with several operations is cut at TargetSize; one
// operation alone may fill MaxSize.
const (
	TargetSize    = 4 << 20
	MaxSize       = 17 << 20
	MaxLSID       = 256
	MaxStatements = 200_000
	MaxOps        = 1 << 20
	opHead        = 1 + 16 + 16
	timeOffset    = 1
)

// Kind says what an operation does. The numbers are part of the format.
type Kind uint8

// The kinds of operations.
const (
	Insert    Kind = 1
	Replace   Kind = 2
	Delete    Kind = 3
	Catalogue Kind = 4
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Replace:
		return "replace"
	case Delete:
		return "delete"
	case Catalogue:
		return "catalogue"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Op is one effect on one collection.
type Op struct {
	Kind       Kind
	Database   [16]byte
	Collection [16]byte
	// Payload is a BSON document.
	Payload bson.Raw
}

// Size is how many bytes the operation takes in an entry, at most.
func (o Op) Size() int { return opHead + 5 + len(o.Payload) }

// Statement is a statement of a retryable write with its result.
type Statement struct {
	ID     int32
	Result bson.Raw
}

// Size is how many bytes the statement takes in an entry, at most.
func (s Statement) Size() int { return 4 + 5 + len(s.Result) }

// Entry is one entry of the log.
type Entry struct {
	// Time is the cluster time, strictly growing along the log.
	Time bson.Timestamp
	// LSID names the session of a retryable write; nil for other writes, which
	// have no TxnNumber and no Statements.
	LSID       []byte
	TxnNumber  int64
	Statements []Statement
	Ops        []Op
}

// ErrTooLarge is the reason why an entry cannot be encoded.
var ErrTooLarge = errors.New("the log entry is too large")

// Encode gives the entry's bytes.
func (e *Entry) Encode() ([]byte, error) {
	size := 32 + len(e.LSID)
	for _, s := range e.Statements {
		size += s.Size()
	}
	for _, o := range e.Ops {
		size += o.Size()
	}
	if err := e.check(size); err != nil {
		return nil, err
	}
	b := make([]byte, 0, size)
	b = append(b, Version)
	b = binary.BigEndian.AppendUint32(b, e.Time.T)
	b = binary.BigEndian.AppendUint32(b, e.Time.I)
	b = appendBytes(b, e.LSID)
	if len(e.LSID) > 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(e.TxnNumber)) //nolint:gosec // two's complement
		b = AppendStatements(b, e.Statements)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Ops)))
	for _, o := range e.Ops {
		b = append(b, byte(o.Kind))
		b = append(b, o.Database[:]...)
		b = append(b, o.Collection[:]...)
		b = appendBytes(b, o.Payload)
	}
	return b, nil
}

func (e *Entry) check(size int) error {
	switch {
	case size > MaxSize || len(e.Ops) > MaxOps || len(e.Statements) > MaxStatements:
		return fmt.Errorf("%d bytes, %d operations, %d statements: %w", size, len(e.Ops), len(e.Statements), ErrTooLarge)
	case len(e.LSID) > MaxLSID:
		return fmt.Errorf("a session's id of %d bytes: at most %d are allowed", len(e.LSID), MaxLSID)
	case len(e.LSID) == 0 && (e.TxnNumber != 0 || len(e.Statements) > 0):
		return errors.New("a transaction number needs a session's id")
	}
	return nil
}

// SetTime puts the cluster time into an encoded entry.
func SetTime(encoded []byte, t bson.Timestamp) {
	binary.BigEndian.PutUint32(encoded[timeOffset:], t.T)
	binary.BigEndian.PutUint32(encoded[timeOffset+4:], t.I)
}

// AppendStatements appends the statements in the entry's form. Retry records are
// kept in it too.
func AppendStatements(b []byte, stmts []Statement) []byte {
	b = binary.AppendUvarint(b, uint64(len(stmts)))
	for _, s := range stmts {
		b = binary.BigEndian.AppendUint32(b, uint32(s.ID)) //nolint:gosec // two's complement
		b = appendBytes(b, s.Result)
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// Decode reads an entry. It accepts exactly what Encode gives: a newer version, a
// longer form of a number, a payload that is not a BSON document by its length, or bytes left over are
// refused. Payloads and results point into b.
func Decode(b []byte) (*Entry, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("decode log entry: %w", ErrTooLarge)
	}
	r := reader{rest: b}
	if v := r.byte(); r.err == nil && v != Version {
		return nil, fmt.Errorf("decode log entry: version %d is not known, this program knows version %d", v, Version)
	}
	e := &Entry{Time: bson.Timestamp{T: r.uint32(), I: r.uint32()}}
	if e.LSID = r.bytes(MaxLSID); len(e.LSID) > 0 {
		e.TxnNumber = int64(r.uint64()) //nolint:gosec // two's complement
		e.Statements = r.statements()
	}
	n := r.count(MaxOps, opHead+1)
	for i := 0; i < n && r.err == nil; i++ {
		o := Op{Kind: Kind(r.byte())}
		copy(o.Database[:], r.take(16))
		copy(o.Collection[:], r.take(16))
		o.Payload = r.document()
		if o.Kind < Insert || o.Kind > Catalogue {
			r.fail("operation of %s", o.Kind)
		}
		e.Ops = append(e.Ops, o)
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes are left over", len(r.rest))
	}
	if r.err != nil {
		return nil, fmt.Errorf("decode log entry: %w", r.err)
	}
	return e, nil
}

// DecodeStatements reads what AppendStatements wrote.
func DecodeStatements(b []byte) ([]Statement, error) {
	r := reader{rest: b}
	s := r.statements()
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes are left over", len(r.rest))
	}
	if r.err != nil {
		return nil, fmt.Errorf("decode retry record: %w", r.err)
	}
	return s, nil
}

// reader takes fields off the front; after the first error everything is zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.rest = nil
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.rest) < n {
		r.fail("it ends early")
		return make([]byte, min(n, 16))
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	switch {
	case r.err != nil || n <= 0:
		r.fail("a number ends early")
		return 0
	case n > 1 && r.rest[n-1] == 0:
		r.fail("a number is not in its shortest form")
		return 0
	case v > limit:
		r.fail("a length of %d is above %d", v, limit)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads how many things of at least size bytes follow.
func (r *reader) count(limit, size int) int {
	n := r.uvarint(uint64(limit))             //nolint:gosec // a constant
	if n*uint64(size) > uint64(len(r.rest)) { //nolint:gosec // small constants
		r.fail("%d things do not fit into %d bytes", n, len(r.rest))
		return 0
	}
	return int(n) //nolint:gosec // bounded by limit
}

func (r *reader) bytes(limit uint64) []byte {
	n := r.uvarint(limit)
	if n == 0 {
		return nil
	}
	if n > uint64(len(r.rest)) {
		r.fail("it ends early")
		return nil
	}
	return r.take(int(n)) //nolint:gosec // bounded by the input
}

// document reads a BSON document; only its length is checked here.
func (r *reader) document() bson.Raw {
	d := bson.Raw(r.bytes(MaxSize))
	if r.err == nil && !framed(d) {
		r.fail("a payload is not a document")
		return nil
	}
	return d
}

func framed(d []byte) bool {
	return len(d) >= 5 && len(d) <= math.MaxInt32 && binary.LittleEndian.Uint32(d) == uint32(len(d)) && d[len(d)-1] == 0 //nolint:gosec // bounded beside it
}

func (r *reader) statements() []Statement {
	n := r.count(MaxStatements, 5)
	var out []Statement
	for i := 0; i < n && r.err == nil; i++ {
		s := Statement{ID: int32(r.uint32())} //nolint:gosec // two's complement
		if s.Result = r.bytes(MaxSize); s.Result != nil && !framed(s.Result) {
			r.fail("a result is not a document")
		}
		out = append(out, s)
	}
	return out
}
