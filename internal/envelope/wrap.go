package envelope

import (
	"context"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// Wrap encrypts key under the session's CMK with the encryption context kctx, opens
// the result again and compares, and only then answers (key-plane rule 2.2). key has 1
// to kms.MaxPlaintext bytes and stays the caller's. Refusals of the service come out
// as *kms.Failure.
func Wrap(ctx context.Context, s kms.Session, kctx keys.Context, key secret.Bytes) (Wrapped, error) {
	if n := key.Len(); n == 0 || n > kms.MaxPlaintext {
		return Wrapped{}, fmt.Errorf("wrap key: it has %d bytes, 1 to %d can be wrapped", n, kms.MaxPlaintext)
	}
	ectx := kctx.Map()
	ciphertext, arn, err := s.Encrypt(ctx, key, ectx)
	if err != nil {
		return Wrapped{}, fmt.Errorf("wrap key: %w", err)
	}
	w := Wrapped{Version: Version, KeyARN: arn, Ciphertext: ciphertext, Created: time.Now().UTC().Truncate(time.Millisecond)}
	if err := w.Check(); err != nil {
		return Wrapped{}, fmt.Errorf("wrap key: the answer of KMS cannot be kept: %w", err)
	}
	back, err := s.Decrypt(ctx, ciphertext, ectx)
	if err != nil {
		return Wrapped{}, fmt.Errorf("verify wrapped key: %w", err)
	}
	defer back.Wipe()
	if !back.Equal(key) {
		return Wrapped{}, fmt.Errorf("verify wrapped key: %w", &kms.Failure{
			Outcome: kms.Unreachable, Reason: kms.CiphertextMismatch, Operation: kms.OpDecrypt,
			Message: "the ciphertext opens to another key than was encrypted",
			Remedy:  kms.RemedyFor(kms.CiphertextMismatch, kms.OpDecrypt),
		})
	}
	return w, nil
}

// Unwrap opens w under the encryption context kctx. The caller wipes the key.
// Refusals of the service come out as *kms.Failure; one with kms.CiphertextMismatch
// means that w was not made for kctx or not by the session's CMK. The other errors
// are ErrNewer and ErrDamaged.
func Unwrap(ctx context.Context, s kms.Session, kctx keys.Context, w Wrapped) (secret.Bytes, error) {
	if err := w.Check(); err != nil {
		return secret.Bytes{}, fmt.Errorf("unwrap key: %w", err)
	}
	key, err := s.Decrypt(ctx, w.Ciphertext, kctx.Map())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("unwrap key: %w", err)
	}
	return key, nil
}
