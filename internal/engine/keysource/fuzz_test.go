package keysource_test

import (
	"testing"

	"github.com/keywright/keywright/internal/engine/keysource"
)

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(response(done(0x0A, enum(0x57, 2), text(0x94, string(id)), key(1, make([]byte, 32)))))
	f.Add(response(failure(0x0A, 1, "gone")))
	f.Add(response(done(0x0B, text(0x94, string(id)), structure(0x08, text(0x0A, "State"), enum(0x0B, 2)))))
	f.Add(structure(0x7B, structure(0x7A, structure(0x69, item(0x6A, 2, nil)))))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if len(raw) <= 8192 {
			_ = keysource.DecodeAnswer(raw) // must not panic
		}
	})
}
