package kms

import (
	"context"
	"time"
)

// OpenProbe makes a fresh AssumeRole and opens the stored probe, nothing else: it tells
// whether what is under a key can still be read. It takes at most RunTimeout; nil is
// success.
func OpenProbe(ctx context.Context, p Provider, in RunInput) *Failure {
	ctx, cancel := context.WithTimeout(ctx, RunTimeout)
	defer cancel()
	started := time.Now()
	if in.Stored.IsZero() {
		return mismatch("no probe was stored")
	}
	s, err := p.Assume(ctx, in.Target)
	if err != nil {
		return AsFailure(err)
	}
	defer func() { _ = s.Close() }()
	if f := openStored(ctx, s, in); f != nil {
		return f
	}
	if time.Since(started) > RunTimeout {
		return &Failure{Outcome: Unreachable, Reason: Timeout, Operation: OpDecrypt, Remedy: RemedyFor(Timeout, OpDecrypt)}
	}
	return nil
}
