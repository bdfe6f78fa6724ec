package command

import (
	"encoding/binary"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// builder makes a document field by field.
type builder struct{ b []byte }

func newDoc() *builder { return &builder{b: make([]byte, 4, 128)} }

func (d *builder) str(key, v string) *builder {
	d.b = bsoncore.AppendStringElement(d.b, key, v)
	return d
}

func (d *builder) int32(key string, v int32) *builder {
	d.b = bsoncore.AppendInt32Element(d.b, key, v)
	return d
}

func (d *builder) int64(key string, v int64) *builder {
	d.b = bsoncore.AppendInt64Element(d.b, key, v)
	return d
}

// number is an int32 where that is enough, as MongoDB counts.
func (d *builder) number(key string, v int64) *builder {
	if v == int64(int32(v)) { //nolint:gosec // just what is asked
		return d.int32(key, int32(v)) //nolint:gosec // just asked
	}
	return d.int64(key, v)
}

func (d *builder) double(key string, v float64) *builder {
	d.b = bsoncore.AppendDoubleElement(d.b, key, v)
	return d
}

func (d *builder) boolean(key string, v bool) *builder {
	d.b = bsoncore.AppendBooleanElement(d.b, key, v)
	return d
}

func (d *builder) null(key string) *builder {
	d.b = bsoncore.AppendNullElement(d.b, key)
	return d
}

func (d *builder) oid(key string, v bson.ObjectID) *builder {
	d.b = bsoncore.AppendObjectIDElement(d.b, key, v)
	return d
}

func (d *builder) date(key string, v time.Time) *builder {
	d.b = bsoncore.AppendDateTimeElement(d.b, key, v.UnixMilli())
	return d
}

func (d *builder) timestamp(key string, v bson.Timestamp) *builder {
	d.b = bsoncore.AppendTimestampElement(d.b, key, v.T, v.I)
	return d
}

func (d *builder) binary(key string, subtype byte, v []byte) *builder {
	d.b = bsoncore.AppendBinaryElement(d.b, key, subtype, v)
	return d
}

func (d *builder) doc(key string, v bson.Raw) *builder {
	d.b = bsoncore.AppendDocumentElement(d.b, key, bsoncore.Document(v))
	return d
}

func (d *builder) value(key string, v bson.RawValue) *builder {
	d.b = bsoncore.AppendValueElement(d.b, key, bsoncore.Value{Type: bsoncore.Type(v.Type), Data: v.Value})
	return d
}

func (d *builder) strs(key string, list []string) *builder {
	a := newArray()
	for _, s := range list {
		a.str(s)
	}
	return d.array(key, a)
}

func (d *builder) array(key string, a *array) *builder {
	d.b = bsoncore.AppendArrayElement(d.b, key, a.done())
	return d
}

// done ends the document; the builder must not be used afterwards.
func (d *builder) done() bson.Raw {
	d.b = append(d.b, 0)
	binary.LittleEndian.PutUint32(d.b, uint32(len(d.b))) //nolint:gosec // a reply is bounded
	return d.b
}

// array makes an array element by element.
type array struct {
	b []byte
	n int
	// key is room for the decimal index
	key [12]byte
}

func newArray() *array { return &array{b: make([]byte, 4, 128)} }

func (a *array) head(t bson.Type) {
	a.b = append(a.b, byte(t))
	i, n := len(a.key), a.n
	for {
		i--
		a.key[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			break
		}
	}
	a.b = append(a.b, a.key[i:]...)
	a.b = append(a.b, 0)
	a.n++
}

func (a *array) doc(v bson.Raw) {
	a.head(bson.TypeEmbeddedDocument)
	a.b = append(a.b, v...)
}

func (a *array) str(v string) {
	a.head(bson.TypeString)
	a.b = bsoncore.AppendString(a.b, v)
}

func (a *array) int64(v int64) {
	a.head(bson.TypeInt64)
	a.b = bsoncore.AppendInt64(a.b, v)
}

func (a *array) value(v bson.RawValue) {
	a.head(v.Type)
	a.b = append(a.b, v.Value...)
}

func (a *array) size() int { return len(a.b) }

func (a *array) done() []byte {
	a.b = append(a.b, 0)
	binary.LittleEndian.PutUint32(a.b, uint32(len(a.b))) //nolint:gosec // a reply is bounded
	return a.b
}
