package auth

import (
	"crypto/md5" //nolint:gosec // SCRAM-SHA-1 of MongoDB is defined over it
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"

	"github.com/keywright/keywright/internal/secret"
)

// Mechanism is a SASL mechanism by its registered name.
type Mechanism string

// The mechanisms that exist here.
const (
	ScramSHA1   Mechanism = "SCRAM-SHA-1"
	ScramSHA256 Mechanism = "SCRAM-SHA-256"
)

// Mechanisms are all mechanisms, in the order in which hello names them.
func Mechanisms() []Mechanism { return []Mechanism{ScramSHA1, ScramSHA256} }

// Known tells whether the mechanism exists here.
func (m Mechanism) Known() bool { return m == ScramSHA1 || m == ScramSHA256 }

func (m Mechanism) hash() scram.HashGeneratorFcn {
	if m == ScramSHA1 {
		return scram.SHA1
	}
	return scram.SHA256
}

// saltSize is MongoDB's: the hash's size less the four bytes of PBKDF2's counter.
func (m Mechanism) saltSize() int {
	if m == ScramSHA1 {
		return 16
	}
	return 28
}

func (m Mechanism) iterations() int {
	if m == ScramSHA1 {
		return 10000
	}
	return 15000
}

func (m Mechanism) keySize() int {
	if m == ScramSHA1 {
		return 20
	}
	return 32
}

// Credentials are what the server keeps of a password for one mechanism. They
// verify a proof; they do not give the password, but StoredKey with a recorded
// login would let somebody log in, so they are never shown.
type Credentials struct {
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// ErrPassword is returned for passwords that cannot be used.
var ErrPassword = errors.New("password must not be empty and must be usable text (SASLprep, RFC 4013)")

// NewCredentials derives credentials over a fresh salt. For SCRAM-SHA-256 the
// password is normalised by SASLprep; for SCRAM-SHA-1 it is first digested with
// the user's name, as MongoDB's clients do.
func NewCredentials(m Mechanism, user string, password secret.Bytes) (Credentials, error) {
	text := string(password.Reveal())
	if text == "" {
		return Credentials{}, ErrPassword
	}
	if m == ScramSHA1 {
		sum := md5.Sum([]byte(user + ":mongo:" + text)) //nolint:gosec // see the import
		text = hex.EncodeToString(sum[:])
	} else {
		prepared, err := stringprep.SASLprep.Prepare(text)
		if err != nil || prepared == "" {
			return Credentials{}, ErrPassword
		}
		text = prepared
	}
	client, err := m.hash().NewClientUnprepped(user, text, "")
	if err != nil {
		return Credentials{}, fmt.Errorf("derive credentials: %w", err)
	}
	salt := make([]byte, m.saltSize())
	_, _ = rand.Read(salt) // never fails
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: m.iterations()})
	if err != nil {
		return Credentials{}, fmt.Errorf("derive credentials: %w", err)
	}
	return Credentials{Iterations: m.iterations(), Salt: salt, StoredKey: stored.StoredKey, ServerKey: stored.ServerKey}, nil
}

// check refuses credentials that SCRAM could not work with.
func (c Credentials) check(m Mechanism) error {
	if c.Iterations < 4096 || c.Iterations > 10_000_000 {
		return fmt.Errorf("%s credentials have an iteration count of %d", m, c.Iterations)
	}
	if len(c.Salt) < 8 || len(c.Salt) > 64 || len(c.StoredKey) != m.keySize() || len(c.ServerKey) != m.keySize() {
		return fmt.Errorf("%s credentials have fields of wrong sizes", m)
	}
	return nil
}
