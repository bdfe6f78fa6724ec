package query

import (
	"encoding/binary"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func appendHeader(out []byte, t bson.Type, key []byte) []byte {
	return append(append(append(out, byte(t)), key...), 0)
}

func appendElement(out, key []byte, v bson.RawValue) []byte {
	return append(appendHeader(out, v.Type, key), v.Value...)
}

func appendPosition(out []byte, i int) []byte { return strconv.AppendInt(out, int64(i), 10) }

// endDocument closes the document that began at start.
func endDocument(out []byte, start int) []byte {
	out = append(out, 0)
	binary.LittleEndian.PutUint32(out[start:], uint32(len(out)-start)) //nolint:gosec // documents are far below 4 GiB
	return out
}
