package aggregate

import (
	"encoding/binary"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// rawDoc writes a document or array element by element.
type rawDoc []byte

func newDoc() rawDoc { return make(rawDoc, 4, 64) }

func (b rawDoc) add(key string, v bson.RawValue) rawDoc {
	b = append(append(append(b, byte(v.Type)), key...), 0)
	return append(b, v.Value...)
}

func (b rawDoc) done() bson.Raw {
	b = append(b, 0)
	binary.LittleEndian.PutUint32(b, uint32(len(b))) //nolint:gosec // sizes are checked at the end of the pipeline
	return bson.Raw(b)
}

func position(i int) string { return strconv.Itoa(i) }

func null() bson.RawValue { return bson.RawValue{Type: bson.TypeNull} }

func cloneValue(v bson.RawValue) bson.RawValue {
	return bson.RawValue{Type: v.Type, Value: append([]byte(nil), v.Value...)}
}
