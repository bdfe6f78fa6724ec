package kms

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/secret"
)

// RunTimeout is how long one validation run may take; longer is Unreachable with
// Timeout (key-plane rule 31).
const RunTimeout = 10 * time.Second

// probeSize is the number of random bytes in a probe.
const probeSize = 32

// Probe is a ciphertext kept to recognize a key: 32 random bytes encrypted under
// the project's probe context when the key was configured. It is no secret and
// protects nothing.
type Probe struct {
	// Ciphertext is the service's ciphertext of the random bytes.
	Ciphertext []byte `json:"ciphertext,omitempty"`
	// Digest is the SHA-256 of the random bytes.
	Digest []byte `json:"digest,omitempty"`
}

// IsZero tells whether there is no probe.
func (p Probe) IsZero() bool { return len(p.Ciphertext) == 0 }

// RunInput is what a validation run needs.
type RunInput struct {
	Target Target
	// Context is the encryption context of probes (keys.ProbeContext).
	Context map[string]string
	// Stored is the probe made when the key was configured. Without one the run is
	// that of a candidate: a key name that the service cannot read, or the wrong secret
	// of an access key, is then Revoked.
	Stored Probe
}

// Result is what a validation run found.
type Result struct {
	Outcome Outcome
	Reason  Reason
	// Failure is nil if the outcome is OK.
	Failure *Failure
	// Key is what DescribeKey told, zero if it was not reached.
	Key KeyInfo
	// Denied lists every permission that was refused, in the order of the run; the
	// Failure names one of them if nothing worse was found.
	Denied []string
	// Refused says of each of them whether it is denied or missing, and where.
	Refused []Finding
	// Done are the operations that the service carried out, in the order of the run.
	Done           []Operation
	Started, Ended time.Time
	// Probe is the run's own probe, to be stored when a configuration is accepted.
	// Set if the outcome is OK.
	Probe Probe
}

// Failed makes the result of a run that could not be made.
func Failed(err error, started, ended time.Time) Result {
	f := AsFailure(err)
	return Result{Outcome: f.Outcome, Reason: f.Reason, Failure: f, Started: started, Ended: ended}
}

// Run makes one validation run (key-plane section 1, rule 31): a fresh AssumeRole,
// DescribeKey, Encrypt and Decrypt of a new probe, Decrypt of the stored one. It
// takes at most RunTimeout. With an access key the run begins with a new connection
// instead of AssumeRole.
//
// A refused permission does not end the run at once: the remaining operations are
// tried, so that Denied names all that is missing. A stored probe that this key does
// not open gives Unreachable with CiphertextMismatch: AWS has said nothing about the
// customer's key, role or permissions then, so nothing may be stopped, but the key is
// not the one that protects the data, so the run is not OK either.
func Run(ctx context.Context, p Provider, in RunInput) Result {
	ctx, cancel := context.WithTimeout(ctx, RunTimeout)
	defer cancel()
	r := Result{Started: time.Now()}
	f := r.run(ctx, p, in)
	r.Ended = time.Now()
	if f == nil && r.Ended.Sub(r.Started) > RunTimeout {
		f = &Failure{Outcome: Unreachable, Reason: Timeout, Remedy: RemedyFor(Timeout, "")}
	}
	if f == nil {
		r.Outcome = OK
		return r
	}
	r.Probe = Probe{}
	r.Outcome, r.Reason, r.Failure = f.Outcome, f.Reason, f
	return r
}

// run gives nil or the failure that decides.
func (r *Result) run(ctx context.Context, p Provider, in RunInput) *Failure {
	if in.Target.KeyID == "" {
		return candidate(in, &Failure{Outcome: Unreachable, Reason: KeyARNInvalid, Operation: OpDescribeKey, Remedy: RemedyFor(KeyARNInvalid, "")})
	}
	s, err := p.Assume(ctx, in.Target)
	if err != nil {
		f := AsFailure(err)
		if x, ok := f.Finding(); ok {
			r.Refused = append(r.Refused, x)
		}
		return candidate(in, f)
	}
	defer func() { _ = s.Close() }()
	if in.Target.AccessKey.IsZero() {
		r.Done = append(r.Done, OpAssumeRole)
	}

	var worst *Failure
	// note keeps the failure that decides and tells whether the run goes on.
	note := func(f *Failure) (goOn bool) {
		if worst == nil || rank(f) > rank(worst) {
			worst = f
		}
		if f.MissingPermission != "" && !slices.Contains(r.Denied, f.MissingPermission) {
			r.Denied = append(r.Denied, f.MissingPermission)
			if x, ok := f.Finding(); ok {
				r.Refused = append(r.Refused, x)
			}
		}
		return f.Reason == KeyAccessDenied
	}
	if r.Key, err = s.Describe(ctx); err != nil {
		if !note(AsFailure(err)) {
			return candidate(in, worst)
		}
	} else {
		r.Done = append(r.Done, OpDescribeKey)
		if f := r.Key.Usable(); f != nil {
			return f
		}
	}
	if f := r.newProbe(ctx, s, in.Context); f != nil && !note(f) {
		return candidate(in, worst)
	}
	if f := openStored(ctx, s, in); f != nil {
		note(f)
	} else if !in.Stored.IsZero() && !slices.Contains(r.Done, OpDecrypt) {
		r.Done = append(r.Done, OpDecrypt)
	}
	return candidate(in, worst)
}

// rank orders the failures of one run: what AWS says about the key for everybody
// decides over what may hold for this host only, and both over not knowing.
func rank(f *Failure) int {
	switch {
	case f.Outcome != Revoked:
		return 0
	case f.Reason.Local():
		return 1
	default:
		return 2
	}
}

// newProbe encrypts fresh random bytes, opens them again and compares.
func (r *Result) newProbe(ctx context.Context, s Session, ectx map[string]string) *Failure {
	plain := secret.Random(probeSize)
	defer plain.Wipe()
	ciphertext, _, err := s.Encrypt(ctx, plain, ectx)
	if err != nil {
		return AsFailure(err)
	}
	r.Done = append(r.Done, OpEncrypt)
	back, err := s.Decrypt(ctx, ciphertext, ectx)
	if err != nil {
		return AsFailure(err)
	}
	r.Done = append(r.Done, OpDecrypt)
	defer back.Wipe()
	if !back.Equal(plain) {
		return mismatch("the new probe opens to other bytes than were encrypted")
	}
	digest := sha256.Sum256(plain.Reveal())
	r.Probe = Probe{Ciphertext: ciphertext, Digest: digest[:]}
	return nil
}

// openStored proves that the key is the one that was configured.
func openStored(ctx context.Context, s Session, in RunInput) *Failure {
	if in.Stored.IsZero() {
		return nil
	}
	if len(in.Stored.Ciphertext) > MaxCiphertext {
		return mismatch(fmt.Sprintf("the stored probe has %d bytes, at most %d are possible", len(in.Stored.Ciphertext), MaxCiphertext))
	}
	plain, err := s.Decrypt(ctx, in.Stored.Ciphertext, in.Context)
	if err != nil {
		return AsFailure(err)
	}
	defer plain.Wipe()
	digest := sha256.Sum256(plain.Reveal())
	if subtle.ConstantTimeCompare(digest[:], in.Stored.Digest) != 1 {
		return mismatch("the stored probe opens to other bytes than it was made from")
	}
	return nil
}

func mismatch(text string) *Failure {
	return &Failure{
		Outcome: Unreachable, Reason: CiphertextMismatch, Operation: OpDecrypt,
		Message: text, Remedy: RemedyFor(CiphertextMismatch, OpDecrypt),
	}
}

// candidate turns a name that the service cannot read, and a secret that does not fit,
// into a refusal when the run is that of a candidate.
func candidate(in RunInput, f *Failure) *Failure {
	if f == nil || f.Reason != KeyARNInvalid && f.Reason != AccessKeySecretWrong || !in.Stored.IsZero() {
		return f
	}
	g := *f
	g.Outcome = Revoked
	return &g
}
