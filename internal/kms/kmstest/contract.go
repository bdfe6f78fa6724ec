package kmstest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// World is a service behind a provider under test, as its customer works it.
type World interface {
	// Provider is the provider under test; one for all calls.
	Provider() kms.Provider
	// Project makes a symmetric key and a role that may use it, assumable by the
	// provider with the external id only.
	Project(t testing.TB) kms.Target
	// OtherKey makes another key that the target's role may use, and gives its ARN.
	OtherKey(t testing.TB, target kms.Target) string
	// Disable and Enable switch the target's key.
	Disable(t testing.TB, target kms.Target)
	Enable(t testing.TB, target kms.Target)
	// ScheduleDeletion puts the target's key into PendingDeletion.
	ScheduleDeletion(t testing.TB, target kms.Target)
	// DenyRole takes one operation on the key away from the role, or, with
	// kms.OpAssumeRole, the trust.
	DenyRole(t testing.TB, target kms.Target, op kms.Operation)
}

// Provider checks that a provider keeps the contract of kms.Provider. newWorld is
// called once for each part.
func Provider(t *testing.T, newWorld func(t *testing.T) World) {
	for name, part := range map[string]func(*testing.T, World){
		"round trip":          roundTrip,
		"context is bound":    contextBound,
		"key is bound":        keyBound,
		"trust":               trust,
		"states":              states,
		"permissions":         permissions,
		"key names":           keyNames,
		"runs":                runs,
		"cached session":      cachedSession,
		"contexts are obeyed": contexts,
	} {
		t.Run(name, func(t *testing.T) { part(t, newWorld(t)) })
	}
}

var probeContext = map[string]string{"keywright:project": "p", "keywright:purpose": "validation"}

// want checks that err is a failure of an outcome and reason.
func want(t testing.TB, err error, o kms.Outcome, r kms.Reason, op kms.Operation) {
	t.Helper()
	var f *kms.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want %s (%s)", err, o, r)
	}
	if f.Outcome != o || f.Reason != r || f.Operation != op {
		t.Fatalf("got %v, want %s: %s (%s); message %q", f, op, o, r, f.Message)
	}
	if f.Remedy == "" {
		t.Errorf("%v has no remedy", f)
	}
}

func assume(t testing.TB, w World, target kms.Target) kms.Session {
	t.Helper()
	s, err := w.Provider().Assume(ctxOf(t), target)
	if err != nil {
		t.Fatalf("assume: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func roundTrip(t *testing.T, w World) {
	target := w.Project(t)
	s := assume(t, w, target)
	info, err := s.Describe(ctxOf(t))
	if err != nil || info.State != "Enabled" || info.ARN == "" || info.Account == "" || info.KeyID == "" || info.Region == "" || info.Usable() != nil {
		t.Fatalf("describe: %+v, %v", info, err)
	}
	for _, n := range []int{1, 32, kms.MaxPlaintext} {
		plain := secret.Random(n)
		blob, arn, err := s.Encrypt(ctxOf(t), plain, probeContext)
		if err != nil || arn != info.ARN || len(blob) > kms.MaxCiphertext || bytes.Contains(blob, plain.Reveal()) && n > 1 {
			t.Fatalf("encrypt %d bytes: %d bytes under %s, %v", n, len(blob), arn, err)
		}
		back, err := s.Decrypt(ctxOf(t), blob, probeContext)
		if err != nil || !back.Equal(plain) {
			t.Fatalf("decrypt %d bytes: %v", n, err)
		}
	}
	account, arn, err := w.Provider().CallerIdentity(ctxOf(t))
	if err != nil || account == "" || arn == "" || account == info.Account {
		t.Fatalf("the platform is %s in account %s (%v), the key in %s", arn, account, err, info.Account)
	}
}

func contextBound(t *testing.T, w World) {
	s := assume(t, w, w.Project(t))
	blob, _, err := s.Encrypt(ctxOf(t), secret.Random(32), probeContext)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []map[string]string{nil, {"keywright:project": "q", "keywright:purpose": "validation"}, {"keywright:project": "p"}} {
		_, err := s.Decrypt(ctxOf(t), blob, other)
		want(t, err, kms.Unreachable, kms.CiphertextMismatch, kms.OpDecrypt)
	}
	damaged := bytes.Clone(blob)
	damaged[len(damaged)-1] ^= 1
	_, err = s.Decrypt(ctxOf(t), damaged, probeContext)
	want(t, err, kms.Unreachable, kms.CiphertextMismatch, kms.OpDecrypt)
}

func keyBound(t *testing.T, w World) {
	target := w.Project(t)
	other := target
	other.KeyID = w.OtherKey(t, target)
	blob, _, err := assume(t, w, other).Encrypt(ctxOf(t), secret.Random(32), probeContext)
	if err != nil {
		t.Fatal(err)
	}
	_, err = assume(t, w, target).Decrypt(ctxOf(t), blob, probeContext)
	want(t, err, kms.Unreachable, kms.CiphertextMismatch, kms.OpDecrypt)
}

func trust(t *testing.T, w World) {
	target := w.Project(t)
	p := w.Provider()
	if err := p.TryAssume(ctxOf(t), target.RoleARN, &target.ExternalID, target.Region); err != nil {
		t.Fatalf("with the external id: %v", err)
	}
	wrong := target.ExternalID + "x"
	want(t, p.TryAssume(ctxOf(t), target.RoleARN, &wrong, target.Region), kms.Revoked, kms.RoleNotAssumable, kms.OpAssumeRole)
	want(t, p.TryAssume(ctxOf(t), target.RoleARN, nil, target.Region), kms.Revoked, kms.RoleNotAssumable, kms.OpAssumeRole)
	want(t, p.TryAssume(ctxOf(t), target.RoleARN+"x", &target.ExternalID, target.Region), kms.Revoked, kms.RoleNotAssumable, kms.OpAssumeRole)
	w.DenyRole(t, target, kms.OpAssumeRole)
	_, err := p.Assume(ctxOf(t), target)
	want(t, err, kms.Revoked, kms.RoleNotAssumable, kms.OpAssumeRole)
}

func states(t *testing.T, w World) {
	target := w.Project(t)
	s := assume(t, w, target)
	blob, _, err := s.Encrypt(ctxOf(t), secret.Random(32), probeContext)
	if err != nil {
		t.Fatal(err)
	}
	check := func(state string, r kms.Reason) {
		t.Helper()
		info, err := s.Describe(ctxOf(t))
		if err != nil || info.State != state {
			t.Fatalf("describe: %+v, %v; want state %s", info, err, state)
		}
		if f := info.Usable(); f == nil || f.Reason != r {
			t.Fatalf("a key in state %s is judged %v", state, f)
		}
		_, _, err = s.Encrypt(ctxOf(t), secret.Random(32), probeContext)
		want(t, err, kms.Revoked, r, kms.OpEncrypt)
		_, err = s.Decrypt(ctxOf(t), blob, probeContext)
		want(t, err, kms.Revoked, r, kms.OpDecrypt)
	}
	w.Disable(t, target)
	check("Disabled", kms.KeyDisabled)
	w.Enable(t, target)
	if _, err := s.Decrypt(ctxOf(t), blob, probeContext); err != nil {
		t.Fatalf("decrypt after enable: %v", err)
	}
	w.ScheduleDeletion(t, target)
	check("PendingDeletion", kms.KeyPendingDeletion)
	if info, err := s.Describe(ctxOf(t)); err != nil || info.DeletionDate.IsZero() {
		t.Errorf("no deletion date: %+v, %v", info, err)
	}
}

func permissions(t *testing.T, w World) {
	for _, op := range []kms.Operation{kms.OpDescribeKey, kms.OpEncrypt, kms.OpDecrypt} {
		target := w.Project(t)
		w.DenyRole(t, target, op)
		res := kms.Run(ctxOf(t), w.Provider(), kms.RunInput{Target: target, Context: probeContext})
		if res.Outcome != kms.Revoked || res.Reason != kms.KeyAccessDenied || len(res.Denied) != 1 || res.Denied[0] != op.Permission() {
			t.Errorf("without %s: %s (%s), denied %v", op, res.Outcome, res.Reason, res.Denied)
		}
		if f := res.Failure; f == nil || f.Operation != op || f.MissingPermission != op.Permission() {
			t.Errorf("without %s: failure %v", op, f)
		}
	}
}

func keyNames(t *testing.T, w World) {
	target := w.Project(t)
	info, err := assume(t, w, target).Describe(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	byID := target
	byID.KeyID = info.KeyID
	if got, err := assume(t, w, byID).Describe(ctxOf(t)); err != nil || got.ARN != info.ARN {
		t.Errorf("by id: %+v, %v", got, err)
	}
	for name, change := range map[string]func(*kms.Target){
		"missing key":  func(t *kms.Target) { t.KeyID = "00000000-0000-4000-8000-00000000dead" },
		"other region": func(t *kms.Target) { t.Region = "eu-west-1" },
	} {
		x := target
		change(&x)
		res := kms.Run(ctxOf(t), w.Provider(), kms.RunInput{Target: x, Context: probeContext})
		if res.Outcome != kms.Revoked || res.Reason != kms.KeyNotFound && res.Reason != kms.KeyAccessDenied {
			t.Errorf("%s: %s (%s) %v", name, res.Outcome, res.Reason, res.Failure)
		}
	}
	for _, bad := range []string{"alias/x", "", "*"} {
		x := target
		x.KeyID = bad
		if res := kms.Run(ctxOf(t), w.Provider(), kms.RunInput{Target: x, Context: probeContext}); res.Outcome == kms.OK {
			t.Errorf("key %q was accepted", bad)
		}
	}
}

func runs(t *testing.T, w World) {
	target := w.Project(t)
	in := kms.RunInput{Target: target, Context: probeContext}
	first := kms.Run(ctxOf(t), w.Provider(), in)
	if first.Outcome != kms.OK || first.Failure != nil || first.Probe.IsZero() || first.Key.ARN == "" || first.Ended.Before(first.Started) {
		t.Fatalf("run: %+v", first)
	}
	in.Stored = first.Probe
	if res := kms.Run(ctxOf(t), w.Provider(), in); res.Outcome != kms.OK {
		t.Fatalf("run with the stored probe: %v", res.Failure)
	}
	other := in
	other.Target.KeyID = w.OtherKey(t, target)
	if res := kms.Run(ctxOf(t), w.Provider(), other); res.Outcome != kms.Unreachable || res.Reason != kms.CiphertextMismatch || !res.Probe.IsZero() {
		t.Errorf("run with another key's probe: %s (%s)", res.Outcome, res.Reason)
	}
	w.Disable(t, target)
	if res := kms.Run(ctxOf(t), w.Provider(), in); res.Outcome != kms.Revoked || res.Reason != kms.KeyDisabled || res.Key.State != "Disabled" {
		t.Errorf("run on a disabled key: %s (%s)", res.Outcome, res.Reason)
	}
	w.Enable(t, target)
	w.DenyRole(t, target, kms.OpAssumeRole)
	if res := kms.Run(ctxOf(t), w.Provider(), in); res.Outcome != kms.Revoked || res.Reason != kms.RoleNotAssumable {
		t.Errorf("run without trust: %s (%s)", res.Outcome, res.Reason)
	}
}

func cachedSession(t *testing.T, w World) {
	target := w.Project(t)
	p := w.Provider()
	s, err := p.Session(ctxOf(t), target)
	if err != nil {
		t.Fatal(err)
	}
	blob, _, err := s.Encrypt(ctxOf(t), secret.Random(32), probeContext)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	again, err := p.Session(ctxOf(t), target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Decrypt(ctxOf(t), blob, probeContext); err != nil {
		t.Errorf("after closing the first: %v", err)
	}
	p.Forget(target)
	if _, err := again.Decrypt(ctxOf(t), blob, probeContext); err != nil {
		t.Errorf("after Forget: %v", err)
	}
}

func contexts(t *testing.T, w World) {
	target := w.Project(t)
	s := assume(t, w, target)
	ctx, cancel := context.WithCancel(ctxOf(t))
	cancel()
	var f *kms.Failure
	if _, err := s.Describe(ctx); !errors.As(err, &f) || f.Outcome != kms.Unreachable {
		t.Errorf("with an ended context: %v", err)
	}
	if res := kms.Run(ctx, w.Provider(), kms.RunInput{Target: target, Context: probeContext}); res.Outcome != kms.Unreachable {
		t.Errorf("run with an ended context: %s", res.Outcome)
	}
}
