package command

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
)

// stamps gives timestamps that rise. A top-level field of the empty timestamp
// stands for "now" in documents that are inserted or replace others.
type stamps struct{ last atomic.Uint64 }

// next gives a timestamp as its bytes in a document count: seconds in the upper
// half, a counter in the lower.
func (s *stamps) next(now time.Time) uint64 {
	for {
		last := s.last.Load()
		next := max(uint64(now.Unix())<<32|1, last+1) //nolint:gosec // seconds since 1970
		if s.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// fill gives the document with its empty timestamps replaced, but for that of
// _id. The document itself stays as it is.
func (s *stamps) fill(doc bson.Raw) bson.Raw {
	out := doc
	offset := 4
	for e := range index.Elements(doc) {
		value := offset + 1 + len(e.Key) + 1
		offset = value + len(e.Value.Value)
		if e.Value.Type != bson.TypeTimestamp || binary.LittleEndian.Uint64(e.Value.Value) != 0 || string(e.Key) == "_id" {
			continue
		}
		if &out[0] == &doc[0] {
			out = append(bson.Raw(nil), doc...)
		}
		binary.LittleEndian.PutUint64(out[value:], s.next(time.Now()))
	}
	return out
}

// fillReplacement does so for the u of an update that is a replacement.
func (s *stamps) fillReplacement(u bson.RawValue) bson.RawValue {
	if u.Type != bson.TypeEmbeddedDocument || index.Validate(u.Value) != nil {
		return u
	}
	for e := range index.Elements(u.Value) {
		if strings.HasPrefix(string(e.Key), "$") {
			return u
		}
		break
	}
	return bson.RawValue{Type: u.Type, Value: s.fill(u.Value)}
}
