package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what every printed form of a secret says.
const Redacted = "[redacted]"

// ErrNotSerializable is returned by every marshaller of Bytes: a secret never
// enters a stored or sent structure by accident.
var ErrNotSerializable = errors.New("secret: not serializable")

// Bytes is secret material. The zero value is an empty secret. A Bytes shares
// its backing array with its copies: wiping one wipes all. It is not safe to
// Wipe while another goroutine reads.
type Bytes struct{ b []byte }

// New takes ownership of b: the caller must not use b afterwards.
func New(b []byte) Bytes { return Bytes{b: b} }

// Copy makes a secret from a copy of b.
func Copy(b []byte) Bytes { return Bytes{b: append([]byte(nil), b...)} }

// FromString makes a secret from a string. The string itself cannot be wiped.
func FromString(s string) Bytes { return Bytes{b: []byte(s)} }

// Random makes a secret of n random bytes.
func Random(n int) Bytes {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails (it ends the process instead)
	return Bytes{b: b}
}

// RandomText makes a secret of n random bytes in unpadded base64url, for
// passwords and tokens that people or files carry.
func RandomText(n int) Bytes {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	out := make([]byte, base64.RawURLEncoding.EncodedLen(n))
	base64.RawURLEncoding.Encode(out, b)
	clear(b)
	return Bytes{b: out}
}

// Reveal gives the plaintext, shared and not copied. It is the only way to it;
// keep the result out of structures that outlive the call.
func (s Bytes) Reveal() []byte { return s.b }

// Clone gives an independent copy with its own lifetime.
func (s Bytes) Clone() Bytes { return Copy(s.b) }

// Len is the number of bytes.
func (s Bytes) Len() int { return len(s.b) }

// IsEmpty tells whether there is nothing in it.
func (s Bytes) IsEmpty() bool { return len(s.b) == 0 }

// Equal compares in constant time.
func (s Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(s.b, o.b) == 1 }

// Wipe overwrites the secret with zeros, in all its copies.
func (s Bytes) Wipe() { clear(s.b) }

// String implements fmt.Stringer.
func (Bytes) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (Bytes) GoString() string { return Redacted }

// Format implements fmt.Formatter, so that no verb shows the content.
func (Bytes) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, Redacted) }

// LogValue implements slog.LogValuer.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalJSON always fails.
func (Bytes) MarshalJSON() ([]byte, error) { return nil, ErrNotSerializable }

// MarshalText always fails.
func (Bytes) MarshalText() ([]byte, error) { return nil, ErrNotSerializable }

// MarshalBinary always fails.
func (Bytes) MarshalBinary() ([]byte, error) { return nil, ErrNotSerializable }
