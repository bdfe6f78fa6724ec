package envelope

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Version is the format that Wrap makes; a newer one is refused.
const Version = 1

// The limits of the format.
const (
	// MaxKeyARN is the longest ARN that fits.
	MaxKeyARN = 2048
	// MaxEncoded is the longest encoding of a Wrapped.
	MaxEncoded = headerSize + 2 + MaxKeyARN + 2 + kms.MaxCiphertext + sha256.Size
)

const (
	magic      = "KWWK"
	headerSize = len(magic) + 1 + 8
)

// The errors of decoding. They are wrapped with what was found.
var (
	// ErrNewer: the record was written by a newer Keywright.
	ErrNewer = errors.New("envelope: the wrapped key was written by a newer version")
	// ErrDamaged: the record is not one of ours, cut short, too long, or changed.
	ErrDamaged = errors.New("envelope: the wrapped key is damaged")
)

// Wrapped is a key under a CMK.
//
// Its binary form, version 1 (all numbers big endian):
//
//	bytes      field
//	4          magic "KWWK"
//	1          version, 1
//	8          created: milliseconds since 1970-01-01 UTC, signed
//	2          length of the key ARN, 1 to 2048
//	n          key ARN, ASCII
//	2          length of the ciphertext, 1 to 6144
//	m          ciphertext, opaque, as KMS Encrypt gave it
//	32         SHA-256 over all bytes before it
//
// Nothing follows. The checksum finds damage before the service is asked; it proves
// nothing about who wrote the record. That the ciphertext belongs to the key and to
// its owner is proven by the service alone (key id and encryption context). In JSON a
// Wrapped is the base64 text (standard alphabet, padded) of its binary form.
type Wrapped struct {
	// Version is 1.
	Version uint8
	// KeyARN is the CMK that wrapped, from the service's answer.
	KeyARN string
	// Ciphertext is the service's ciphertext.
	Ciphertext []byte
	// Created is when it was wrapped, UTC, to the millisecond.
	Created time.Time
}

// Check reports whether the record could have been made by Wrap.
func (w Wrapped) Check() error {
	if w.Version > Version {
		return fmt.Errorf("%w: version %d, this one reads up to %d", ErrNewer, w.Version, Version)
	}
	if w.Version != Version {
		return fmt.Errorf("%w: version %d", ErrDamaged, w.Version)
	}
	if len(w.KeyARN) > MaxKeyARN {
		return fmt.Errorf("%w: a key ARN of %d bytes", ErrDamaged, len(w.KeyARN))
	}
	if a, err := keys.ParseARN(w.KeyARN); err != nil || a.Service != "kms" || !printable(w.KeyARN) {
		return fmt.Errorf("%w: %q is not the ARN of a KMS key", ErrDamaged, w.KeyARN)
	}
	if n := len(w.Ciphertext); n == 0 || n > kms.MaxCiphertext {
		return fmt.Errorf("%w: a ciphertext of %d bytes", ErrDamaged, n)
	}
	return nil
}

// MarshalBinary gives the form described at Wrapped.
func (w Wrapped) MarshalBinary() ([]byte, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, headerSize+2+len(w.KeyARN)+2+len(w.Ciphertext)+sha256.Size)
	b = append(b, magic...)
	b = append(b, w.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(w.Created.UnixMilli()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.KeyARN))) //nolint:gosec // bounded by Check
	b = append(b, w.KeyARN...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(w.Ciphertext))) //nolint:gosec // bounded by Check
	b = append(b, w.Ciphertext...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// UnmarshalBinary reads the form described at Wrapped. The errors are ErrNewer and
// ErrDamaged. It keeps no reference to b.
func (w *Wrapped) UnmarshalBinary(b []byte) error {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: it does not begin as one", ErrDamaged)
	}
	if v := b[len(magic)]; v > Version {
		return fmt.Errorf("%w: version %d, this one reads up to %d", ErrNewer, v, Version)
	}
	if len(b) > MaxEncoded || len(b) < headerSize+4+sha256.Size {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(body); subtle.ConstantTimeCompare(want[:], sum) != 1 {
		return fmt.Errorf("%w: its checksum differs", ErrDamaged)
	}
	out := Wrapped{
		Version: b[len(magic)],
		Created: time.UnixMilli(int64(binary.BigEndian.Uint64(b[len(magic)+1:]))).UTC(), //nolint:gosec // two's complement
	}
	arn, rest, ok := field(body[headerSize:])
	if !ok {
		return fmt.Errorf("%w: its key ARN is cut short", ErrDamaged)
	}
	ciphertext, rest, ok := field(rest)
	if !ok || len(rest) != 0 {
		return fmt.Errorf("%w: its ciphertext has another length than it says", ErrDamaged)
	}
	out.KeyARN, out.Ciphertext = string(arn), bytes.Clone(ciphertext)
	if err := out.Check(); err != nil {
		return err
	}
	*w = out
	return nil
}

// MarshalJSON gives the binary form in base64.
func (w Wrapped) MarshalJSON() ([]byte, error) {
	b, err := w.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(b))
}

// UnmarshalJSON reads what MarshalJSON gave.
func (w *Wrapped) UnmarshalJSON(b []byte) error {
	if len(b) > 2*MaxEncoded {
		return fmt.Errorf("%w: %d bytes of JSON", ErrDamaged, len(b))
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return w.UnmarshalBinary(raw)
}

// field reads a length of two bytes and as many bytes.
func field(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
