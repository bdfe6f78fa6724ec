package keys

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// The identifiers of Keywright's objects: 24 lower-case hexadecimal digits, the
// form that Atlas's clients check.
type (
	// DeploymentID names one installation of Keywright.
	DeploymentID string
	// OrgID names an organization.
	OrgID string
	// ProjectID names a project ("group" in the API).
	ProjectID string
	// RoleID names the registration of a customer's IAM role in a project.
	RoleID string
	// ClusterID names a cluster for its whole life, whatever it is called.
	ClusterID string
	// NodeID names one database process of a cluster.
	NodeID string
	// HostID names one host that runs an agent.
	HostID string
	// EventID names an audit event.
	EventID string
)

// KeyID is the KMIP unique identifier of a key: "kw-" and 32 lower-case
// hexadecimal digits (35 bytes; the keyring's field holds 40). It is chosen by the
// agent before the key is wrapped, and is part of the encryption context.
type KeyID string

// NewID makes an identifier of 24 hexadecimal digits: four bytes of the time in
// seconds, eight random bytes.
func NewID(now time.Time) string {
	var b [12]byte
	binary.BigEndian.PutUint32(b[:4], uint32(now.Unix())) //nolint:gosec // wraps in 2106, as ObjectIDs do
	_, _ = rand.Read(b[4:])
	return hex.EncodeToString(b[:])
}

// NewKeyID makes a fresh KMIP identifier.
func NewKeyID() KeyID {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return KeyID("kw-" + hex.EncodeToString(b[:]))
}

// ValidID tells whether s has the form of NewID.
func ValidID(s string) bool { return len(s) == 24 && lowerHex(s) }

// Valid tells whether the identifier has the form of NewKeyID. A well-formed
// identifier that is unknown is an alarm, any other is simply not found
// (key-plane rule 2.6).
func (k KeyID) Valid() bool { return len(k) == 35 && k[:3] == "kw-" && lowerHex(string(k[3:])) }

// CheckID returns an error that names what and s unless s is an identifier.
func CheckID(what, s string) error {
	if !ValidID(s) {
		return fmt.Errorf("%s %q is not an identifier: 24 lower-case hexadecimal digits are expected", what, s)
	}
	return nil
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
