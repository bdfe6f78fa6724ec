package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// FormatVersion is the version of the canonical form.
const FormatVersion = 1

// Hash is the SHA-256 of an event's canonical form.
type Hash [sha256.Size]byte

// String gives the hash in lower-case hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	d, err := ParseHash(string(b))
	if err == nil {
		*h = d
	}
	return err
}

// ParseHash reads the hexadecimal form.
func ParseHash(s string) (Hash, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size {
		return Hash{}, fmt.Errorf("%q is not a hash of 64 hexadecimal digits", s)
	}
	return Hash(b), nil
}

// Event is one thing that happened. All fields but Hash are covered by Hash.
type Event struct {
	// Seq counts from 1 without gaps.
	Seq uint64 `json:"seq"`
	// ID is 24 hexadecimal digits, unique.
	ID string `json:"id"`
	// Time is in UTC, with microseconds.
	Time time.Time `json:"time"`
	// Type is the event type's stable name, upper case with underscores.
	Type string `json:"type"`
	// Actor is who caused it: "apikey:PUBLIC", "host:ID", "node:ID", "system".
	Actor string `json:"actor"`
	// Org, Project, Cluster, Node and Host are identifiers; empty where none fits.
	Org     string `json:"org,omitempty"`
	Project string `json:"project,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	Node    string `json:"node,omitempty"`
	Host    string `json:"host,omitempty"`
	// Message is one sentence for people. It holds no secret.
	Message string `json:"message"`
	// Data are details for programs. They hold no secret.
	Data map[string]string `json:"data,omitempty"`
	// Prev is the hash of the event before, zero for the first.
	Prev Hash `json:"prev"`
	// Hash is the hash of this event.
	Hash Hash `json:"hash"`
}

// Head names the end of a chain.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Canonical gives the bytes that the hash covers: the text
// "keywright/audit", the version byte, the sequence number and the time in
// microseconds since 1970 as big-endian 64-bit integers, the hash of the event
// before, then ID, Type, Actor, Org, Project, Cluster, Node, Host and Message,
// each as a big-endian 32-bit length and UTF-8 bytes, then the number of data
// pairs (32 bits) and the pairs sorted by name, each name and value with its
// length.
func (e Event) Canonical() []byte {
	b := append([]byte("keywright/audit"), FormatVersion)
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time.UnixMicro()))
	b = append(b, e.Prev[:]...)
	for _, s := range []string{e.ID, e.Type, e.Actor, e.Org, e.Project, e.Cluster, e.Node, e.Host, e.Message} {
		b = appendText(b, s)
	}
	names := make([]string, 0, len(e.Data))
	for k := range e.Data {
		names = append(names, k)
	}
	slices.Sort(names)
	b = binary.BigEndian.AppendUint32(b, uint32(len(names))) //nolint:gosec // bounded by memory
	for _, k := range names {
		b = appendText(appendText(b, k), e.Data[k])
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s))) //nolint:gosec // bounded by memory
	return append(b, s...)
}

// Chain puts an event at the end of the chain that head names: it sets Seq,
// Prev, Hash, and cuts Time to the precision that the hash covers.
func Chain(head Head, e Event) Event {
	e.Seq, e.Prev = head.Seq+1, head.Hash
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	e.Hash = sha256.Sum256(e.Canonical())
	return e
}

// Head is the chain's end after this event.
func (e Event) Head() Head { return Head{Seq: e.Seq, Hash: e.Hash} }

// ErrBroken is the class of every finding of Verifier.
var ErrBroken = errors.New("audit chain is broken")

// Verifier checks events in order. Its zero value starts at the first event.
type Verifier struct{ head Head }

// Check verifies that e follows what was checked before.
func (v *Verifier) Check(e Event) error {
	switch {
	case e.Seq != v.head.Seq+1:
		return fmt.Errorf("%w: event %d follows event %d", ErrBroken, e.Seq, v.head.Seq)
	case e.Prev != v.head.Hash:
		return fmt.Errorf("%w: event %d does not name the event before it", ErrBroken, e.Seq)
	case Hash(sha256.Sum256(e.Canonical())) != e.Hash:
		return fmt.Errorf("%w: event %d was changed", ErrBroken, e.Seq)
	}
	v.head = e.Head()
	return nil
}

// Head is the end of what was checked.
func (v *Verifier) Head() Head { return v.head }

// Covers checks that a head kept elsewhere lies on the chain: at is the hash of
// the event with the head's sequence number, as found while verifying.
func Covers(kept Head, at Hash, length uint64) error {
	switch {
	case kept.Seq > length:
		return fmt.Errorf("%w: the kept head names event %d, the chain ends at %d", ErrBroken, kept.Seq, length)
	case kept.Seq > 0 && kept.Hash != at:
		return fmt.Errorf("%w: event %d is not the one that the kept head names", ErrBroken, kept.Seq)
	}
	return nil
}
