package tenant

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/secret"
)

// The cost of new hashes: what OWASP's password storage cheat sheet recommends for
// Argon2id (19 MiB, two passes, one lane).
const (
	hashMemory = 19 << 10 // KiB
	hashTime   = 2
	hashLanes  = 1
	saltLen    = 16
	hashLen    = 32
	// maxHashMemory and maxHashTime bound what a stored hash may demand of us.
	maxHashMemory, maxHashTime = 256 << 10, 16
)

// MinPassword and MaxPassword are the bounds of a person's password, in bytes.
const (
	MinPassword = 12
	MaxPassword = 256
)

func checkPersonPassword(pw secret.Bytes) error {
	if pw.Len() < MinPassword || pw.Len() > MaxPassword {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute password specified: %d to %d characters are expected.", MinPassword, MaxPassword).With("password")
	}
	return nil
}

// hashPassword hashes with a fresh salt into PHC string format, which names algorithm,
// version and cost: "$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH" in unpadded base64.
func hashPassword(pw secret.Bytes) secret.Bytes {
	salt := secret.Random(saltLen).Reveal()
	sum := argon2.IDKey(pw.Reveal(), salt, hashTime, hashMemory, hashLanes, hashLen)
	b64 := base64.RawStdEncoding
	return secret.FromString(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, hashMemory, hashTime, hashLanes, b64.EncodeToString(salt), b64.EncodeToString(sum)))
}

// errHash never quotes the hash.
var errHash = errors.New("read password hash: it is not an argon2id hash that this program knows")

// passwordIs tells whether a password belongs to a hash.
func passwordIs(pw, hash secret.Bytes) (bool, error) {
	parts := strings.Split(string(hash.Reveal()), "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return false, errHash
	}
	var memory, passes uint32
	var lanes uint8
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes)
	if err != nil || n != 3 || memory == 0 || memory > maxHashMemory || passes == 0 || passes > maxHashTime || lanes == 0 {
		return false, errHash
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(want) < 16 || len(want) > 64 {
		return false, errHash
	}
	got := argon2.IDKey(pw.Reveal(), salt, passes, memory, lanes, uint32(len(want))) //nolint:gosec // at most 64
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// hashers bounds how many passwords are hashed at once, and with that the memory.
type hashers chan struct{}

// check compares under the bound. An empty hash costs the same and never fits, so that
// the time of an answer does not tell which usernames exist.
func (h hashers) check(ctx context.Context, pw, hash secret.Bytes) (bool, error) {
	select {
	case h <- struct{}{}:
		defer func() { <-h }()
	case <-ctx.Done():
		return false, fmt.Errorf("check password: %w", ctx.Err())
	}
	if hash.IsEmpty() {
		argon2.IDKey(pw.Reveal(), bytes.Repeat([]byte{0}, saltLen), hashTime, hashMemory, hashLanes, hashLen)
		return false, nil
	}
	return passwordIs(pw, hash)
}
