package index

import (
	"encoding/binary"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// docBuilder writes a small document field by field.
type docBuilder []byte

func newDoc() docBuilder { return make(docBuilder, 4, 64) }

func (b docBuilder) head(t bson.Type, key string) docBuilder {
	return append(append(append(b, byte(t)), key...), 0)
}

func (b docBuilder) int32(key string, v int32) docBuilder {
	return binary.LittleEndian.AppendUint32(b.head(bson.TypeInt32, key), uint32(v)) //nolint:gosec // two's complement on purpose
}

func (b docBuilder) str(key, v string) docBuilder {
	b = binary.LittleEndian.AppendUint32(b.head(bson.TypeString, key), uint32(len(v)+1)) //nolint:gosec // small
	return append(append(b, v...), 0)
}

func (b docBuilder) boolean(key string, v bool) docBuilder {
	return append(b.head(bson.TypeBoolean, key), byte(boolInt(v))) //nolint:gosec // 0 or 1
}

func (b docBuilder) doc(key string, v bson.Raw) docBuilder {
	return append(b.head(bson.TypeEmbeddedDocument, key), v...)
}

func (b docBuilder) done() bson.Raw {
	b = append(b, 0)
	binary.LittleEndian.PutUint32(b, uint32(len(b))) //nolint:gosec // small
	return bson.Raw(b)
}
