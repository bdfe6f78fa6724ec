package kms_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
	"github.com/keywright/keywright/internal/secret"
)

func TestAsFailureClassifiesTheNetwork(t *testing.T) {
	if kms.AsFailure(nil) != nil {
		t.Fatal("nil is a failure")
	}
	inner := &kms.Failure{Outcome: kms.Revoked, Reason: kms.KeyDisabled, Operation: kms.OpEncrypt}
	if kms.AsFailure(fmt.Errorf("wrap key: %w", inner)) != inner {
		t.Error("a wrapped failure was not found")
	}
	for want, err := range map[kms.Reason]error{
		kms.Timeout: fmt.Errorf("x: %w", context.DeadlineExceeded),
		kms.DNS:     &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host"}},
		kms.Connect: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		kms.TLS:     fmt.Errorf("x: %w", x509.UnknownAuthorityError{}),
		kms.Unknown: errors.New("something else"),
	} {
		f := kms.AsFailure(err)
		if f.Outcome != kms.Unreachable || f.Reason != want || f.Remedy == "" || !errors.Is(f, err) {
			t.Errorf("%v is %v, want %s", err, f, want)
		}
	}
	if f := kms.AsFailure(io.ErrUnexpectedEOF); f.Reason != kms.Connect {
		t.Errorf("a cut connection is %s", f.Reason)
	}
}

func TestFailureIsFoundByReason(t *testing.T) {
	err := fmt.Errorf("unwrap key: %w", &kms.Failure{Outcome: kms.Revoked, Reason: kms.KeyDisabled, Code: "DisabledException", Message: "arn:aws:kms:x is disabled"})
	if !errors.Is(err, &kms.Failure{Reason: kms.KeyDisabled}) || errors.Is(err, &kms.Failure{Reason: kms.KeyNotFound}) {
		t.Error("errors.Is does not go by the reason")
	}
	if strings.Contains(err.Error(), "arn:") {
		t.Errorf("the error names the customer's key: %v", err)
	}
	if f := kms.AsFailure(err); !strings.Contains(f.Detail(), "is disabled") {
		t.Errorf("the detail hides the text: %s", f.Detail())
	}
}

// TestReasonsHaveAReach: key-plane section 1.
func TestReasonsHaveAReach(t *testing.T) {
	for r, local := range map[kms.Reason]bool{
		kms.KeyAccessDenied: true, kms.RoleNotAssumable: true, kms.KeyDisabled: false, kms.KeyPendingDeletion: false,
		kms.KeyNotFound: false, kms.KeyMaterialMissing: false, kms.KeyStoreDisconnected: false, kms.KeyWrongType: false,
	} {
		if r.Local() != local {
			t.Errorf("%s local: %v", r, r.Local())
		}
	}
}

func TestTargetKeyARN(t *testing.T) {
	target := kms.Target{RoleARN: "arn:aws-cn:iam::123456789012:role/x", KeyID: "abc", Region: "cn-north-1"}
	if got := target.KeyARN(); got != "arn:aws-cn:kms:cn-north-1:123456789012:key/abc" {
		t.Errorf("by id: %s", got)
	}
	target.KeyID = "arn:aws:kms:us-east-1:210987654321:key/abc"
	if got := target.KeyARN(); got != target.KeyID {
		t.Errorf("by ARN: %s", got)
	}
}

func probe() map[string]string { return keys.ProbeContext("d", "p").Map() }

func TestRunNamesAllThatIsMissing(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	c.Deny(target.RoleARN, true, kms.OpDescribeKey, kms.OpEncrypt)
	res := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe()})
	if want := []string{"kms:DescribeKey", "kms:Encrypt"}; !slices.Equal(res.Denied, want) || res.Failure.Operation != kms.OpDescribeKey {
		t.Errorf("denied %v, failure %v", res.Denied, res.Failure)
	}
}

func TestRunPutsTheWorstFirst(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	c.Deny(target.RoleARN, true, kms.OpDescribeKey)
	c.SetState(target.KeyID, "Disabled")
	if res := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe()}); res.Reason != kms.KeyDisabled {
		t.Errorf("a disabled key behind a missing permission: %s", res.Reason)
	}
	c.Deny(target.RoleARN, false, kms.OpDescribeKey)
	c.SetState(target.KeyID, "Enabled")
	f := kms.NewFault(c)
	c.Deny(target.RoleARN, true, kms.OpEncrypt)
	stored := kms.Probe{Ciphertext: []byte("not ours"), Digest: make([]byte, 32)}
	if res := kms.Run(t.Context(), f, kms.RunInput{Target: target, Context: probe(), Stored: stored}); res.Reason != kms.KeyAccessDenied {
		t.Errorf("a denied Encrypt and a foreign probe: %s", res.Reason)
	}
}

func TestRunUsesTheProbeContextOnly(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	if res := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe()}); res.Outcome != kms.OK {
		t.Fatal(res.Failure)
	}
	var ops []kms.Operation
	for _, call := range c.Calls() {
		ops = append(ops, call.Operation)
		if (call.Operation == kms.OpEncrypt || call.Operation == kms.OpDecrypt) && (len(call.Context) != 3 || call.Context[keys.ContextPurpose] != "validation") {
			t.Errorf("%s with context %v", call.Operation, call.Context)
		}
	}
	if want := []kms.Operation{kms.OpAssumeRole, kms.OpDescribeKey, kms.OpEncrypt, kms.OpDecrypt}; !slices.Equal(ops, want) {
		t.Errorf("calls %v", ops)
	}
}

func TestRunOfACandidateRefusesAnUnreadableName(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	ok := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe()})
	target.KeyID = "alias/x"
	if res := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe()}); res.Outcome != kms.Revoked || res.Reason != kms.KeyARNInvalid {
		t.Errorf("candidate: %s (%s)", res.Outcome, res.Reason)
	}
	if res := kms.Run(t.Context(), c, kms.RunInput{Target: target, Context: probe(), Stored: ok.Probe}); res.Outcome != kms.Unreachable || res.Reason != kms.KeyARNInvalid {
		t.Errorf("accepted once: %s (%s)", res.Outcome, res.Reason)
	}
}

func TestRunTakesTenSecondsAtMost(t *testing.T) {
	for _, op := range []kms.Operation{kms.OpAssumeRole, kms.OpDescribeKey, kms.OpEncrypt, kms.OpDecrypt} {
		synctest.Test(t, func(t *testing.T) {
			c := kmstest.NewCloud()
			target := c.Project()
			f := kms.NewFault(c)
			f.Delay(op, time.Hour)
			begin := time.Now()
			res := kms.Run(t.Context(), f, kms.RunInput{Target: target, Context: probe()})
			if res.Outcome != kms.Unreachable || res.Reason != kms.Timeout || res.Failure.Operation != op || time.Since(begin) != kms.RunTimeout {
				t.Errorf("%s hangs: %s (%s) after %v", op, res.Outcome, res.Reason, time.Since(begin))
			}
		})
	}
}

func TestFault(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	f := kms.NewFault(c)
	f.Fail(kms.OpDecrypt, 1, &kms.Failure{Outcome: kms.Unreachable, Reason: kms.Throttled})
	in := kms.RunInput{Target: target, Context: probe()}
	if res := kms.Run(t.Context(), f, in); res.Reason != kms.Throttled {
		t.Errorf("first run: %s", res.Reason)
	}
	if res := kms.Run(t.Context(), f, in); res.Outcome != kms.OK {
		t.Errorf("second run: %v", res.Failure)
	}
	f.Fail(kms.OpAssumeRole, -1, errors.New("boom"))
	for range 3 {
		if res := kms.Run(t.Context(), f, in); res.Reason != kms.Unknown {
			t.Errorf("with a lasting fault: %s", res.Reason)
		}
	}
	f.Clear()
	if res := kms.Run(t.Context(), f, in); res.Outcome != kms.OK {
		t.Errorf("after Clear: %v", res.Failure)
	}
}

func TestMeterSeesEveryCall(t *testing.T) {
	c := kmstest.NewCloud()
	target := c.Project()
	var mu sync.Mutex
	var seen []kms.Observation
	m := kms.Meter(c, func(o kms.Observation) { mu.Lock(); defer mu.Unlock(); seen = append(seen, o) })
	c.Deny(target.RoleARN, true, kms.OpEncrypt)
	kms.Run(t.Context(), m, kms.RunInput{Target: target, Context: probe()})
	if len(seen) != 3 || seen[2].Operation != kms.OpEncrypt || seen[2].Outcome != kms.Revoked || seen[2].Reason != kms.KeyAccessDenied || !seen[2].Target.Equal(target) || seen[1].Outcome != kms.OK {
		t.Errorf("observations %+v", seen)
	}
}

// liar answers Decrypt with other bytes.
type liar struct {
	kms.Provider
}

func (l liar) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	s, err := l.Provider.Assume(ctx, t)
	return lyingSession{s}, err
}

type lyingSession struct{ kms.Session }

func (lyingSession) Decrypt(context.Context, []byte, map[string]string) (secret.Bytes, error) {
	return secret.Random(32), nil
}

func TestRunComparesWhatItDecrypts(t *testing.T) {
	c := kmstest.NewCloud()
	if res := kms.Run(t.Context(), liar{c}, kms.RunInput{Target: c.Project(), Context: probe()}); res.Outcome != kms.Unreachable || res.Reason != kms.CiphertextMismatch {
		t.Errorf("%s (%s)", res.Outcome, res.Reason)
	}
}
