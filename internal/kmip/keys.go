package kmip

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Principal is an admitted client.
type Principal struct {
	Node    keys.NodeID
	Project keys.ProjectID
	Cluster keys.ClusterID
	// Fingerprint is that of the certificate shown (see pki.Fingerprint).
	Fingerprint string
}

// Admission knows the clients that the desired state names.
type Admission interface {
	// Admit maps an exact certificate fingerprint (SHA-256 of the DER, lower-case
	// hexadecimal) to its principal. It is called for every connection and every
	// request, must not block, and must be safe for concurrent use.
	Admit(fingerprint string) (Principal, bool)
}

// ObjectType is what kind of object a key is, by its KMIP name.
type ObjectType string

// The object types that are kept.
const (
	TypeSymmetricKey ObjectType = "SymmetricKey"
	TypeSecretData   ObjectType = "SecretData"
)

// Format is the key format type in which an object was registered and is given
// back.
type Format string

// The formats that are kept.
const (
	FormatRaw    Format = "Raw"
	FormatOpaque Format = "Opaque"
)

// Meta describes an object. It holds no secret and may be stored as JSON.
type Meta struct {
	Type   ObjectType `json:"type"`
	Format Format     `json:"format"`
	// Algorithm is "AES" for a symmetric key, empty for Secret Data.
	Algorithm string `json:"algorithm,omitempty"`
	// Length is in bits: 128, 192 or 256 for a symmetric key, or 352 (old
	// Percona Server registers the base64 text of a key); 0 for Secret Data.
	Length int `json:"length,omitempty"`
	// UsageMask is KMIP's Cryptographic Usage Mask.
	UsageMask uint32 `json:"usageMask"`
	// SecretType is "Password" or "Seed" for Secret Data.
	SecretType string `json:"secretType,omitempty"`
	// Name is the object's KMIP name, if it was given one.
	Name string `json:"name,omitempty"`
	// Texts holds further text attributes (custom "x-" ones, Object Group,
	// Contact Information and the like) by their exact name: at most 16, of at
	// most 256 bytes each.
	Texts map[string]string `json:"texts,omitempty"`
}

// Object is an object with its key material.
type Object struct {
	Meta
	// Material is wiped by the server once it is answered (Get) or handed over
	// (Register): Keys must keep its own copy of what it needs.
	Material secret.Bytes
}

// Attributes is what is known of an object without touching its material.
type Attributes struct {
	Meta
	// State is what the client is to see: computed from the custody verdict,
	// Deactivated under INVALID.
	State     keys.State
	Created   time.Time
	Activated time.Time // zero if it never was
}

// The errors by which Keys says why. Each becomes one result reason
// (kmip.md 6.3); any other error is a General Failure whose text stays here.
var (
	// ErrNotFound: not of our form, or recorded as destroyed. Item Not Found,
	// which stops a running mongod for good.
	ErrNotFound = errors.New("kmip: no such key")
	// ErrUnknown: of our form, and not known. General Failure, and an alarm.
	ErrUnknown = errors.New("kmip: well-formed identifier is unknown")
	// ErrForeign: another node's key, and no grant. Permission Denied.
	ErrForeign = errors.New("kmip: key of another node")
	// ErrUnavailable: cannot be said or done now, or not allowed by the custody
	// verdict. General Failure.
	ErrUnavailable = errors.New("kmip: not available now")
	// ErrIllegal: the key's state does not allow it. Permission Denied for
	// Activate, Illegal Operation otherwise.
	ErrIllegal = errors.New("kmip: the key's state does not allow this")
)

// Keys is the key plane as the server sees it. Every method acts for p's own
// keys only (and what a grant lends it), must end when ctx does, and must be
// safe for concurrent use. The server calls Create and Register of one node one
// after the other.
type Keys interface {
	// Create makes a key of 256 random bits. It answers only once the wrapped
	// key is durable on the host and escrowed. The key is Pre-Active.
	Create(ctx context.Context, p Principal, meta Meta) (keys.KeyID, error)
	// Register takes a key that the node made, as durable as Create.
	Register(ctx context.Context, p Principal, obj Object) (keys.KeyID, error)
	// Activate makes a Pre-Active key Active.
	Activate(ctx context.Context, p Principal, id keys.KeyID) error
	// Get unwraps the key through KMS. It works in every state but the destroyed
	// ones, and only while the custody verdict allows a release.
	Get(ctx context.Context, p Principal, id keys.KeyID) (Object, error)
	// Release is asked just before the answer to Create, Register or Get leaves
	// (key-plane rule 30): may id be released to p now? It must not call KMS.
	Release(ctx context.Context, p Principal, id keys.KeyID) error
	// Attributes needs no KMS call.
	Attributes(ctx context.Context, p Principal, id keys.KeyID) (Attributes, error)
	// Locate gives p's keys of that name, all of them for an empty name, newest
	// first, without the destroyed ones. It needs no KMS call.
	Locate(ctx context.Context, p Principal, name string) ([]keys.KeyID, error)
}
