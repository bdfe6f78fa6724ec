package kms

import (
	"context"
	"net/netip"

	"github.com/keywright/keywright/internal/secret"
)

// around surrounds one call: it decides whether and how call runs.
type around func(ctx context.Context, op Operation, t Target, call func(context.Context) error) error

// wrapped is a Provider whose calls all go through around; the decorators are made of
// it.
type wrapped struct {
	next   Provider
	around around
}

func (w *wrapped) Assume(ctx context.Context, t Target) (Session, error) {
	return w.open(ctx, t, w.next.Assume)
}

func (w *wrapped) Session(ctx context.Context, t Target) (Session, error) {
	return w.open(ctx, t, w.next.Session)
}

func (w *wrapped) open(ctx context.Context, t Target, open func(context.Context, Target) (Session, error)) (s Session, err error) {
	err = w.around(ctx, OpAssumeRole, t, func(ctx context.Context) error {
		s, err = open(ctx, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &wrappedSession{next: s, t: t, around: w.around}, nil
}

// SourceAddresses forwards to a provider that finds the addresses it calls from (see
// awskms.Provider); none otherwise.
func (w *wrapped) SourceAddresses(ctx context.Context) []netip.Addr {
	if p, ok := w.next.(interface {
		SourceAddresses(ctx context.Context) []netip.Addr
	}); ok {
		return p.SourceAddresses(ctx)
	}
	return nil
}

func (w *wrapped) Forget(t Target) { w.next.Forget(t) }

func (w *wrapped) TryAssume(ctx context.Context, roleARN string, externalID *string, region string) error {
	return w.around(ctx, OpAssumeRole, Target{RoleARN: roleARN, Region: region}, func(ctx context.Context) error {
		return w.next.TryAssume(ctx, roleARN, externalID, region)
	})
}

func (w *wrapped) CallerIdentity(ctx context.Context) (account, arn string, err error) {
	err = w.around(ctx, OpGetCallerIdentity, Target{}, func(ctx context.Context) error {
		account, arn, err = w.next.CallerIdentity(ctx)
		return err
	})
	return account, arn, err
}

type wrappedSession struct {
	next   Session
	t      Target
	around around
}

func (s *wrappedSession) Describe(ctx context.Context) (k KeyInfo, err error) {
	err = s.around(ctx, OpDescribeKey, s.t, func(ctx context.Context) error {
		k, err = s.next.Describe(ctx)
		return err
	})
	return k, err
}

func (s *wrappedSession) Encrypt(ctx context.Context, plaintext secret.Bytes, ectx map[string]string) (ciphertext []byte, keyARN string, err error) {
	err = s.around(ctx, OpEncrypt, s.t, func(ctx context.Context) error {
		ciphertext, keyARN, err = s.next.Encrypt(ctx, plaintext, ectx)
		return err
	})
	return ciphertext, keyARN, err
}

func (s *wrappedSession) Decrypt(ctx context.Context, ciphertext []byte, ectx map[string]string) (plain secret.Bytes, err error) {
	err = s.around(ctx, OpDecrypt, s.t, func(ctx context.Context) error {
		plain, err = s.next.Decrypt(ctx, ciphertext, ectx)
		return err
	})
	return plain, err
}

func (s *wrappedSession) Close() error { return s.next.Close() }
