package awskms_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

const accessKeyUser = "keywright-legacy"

// user makes an IAM user with an access key who may use a new key.
func (w *localWorld) user(t *testing.T) kms.Target {
	t.Helper()
	user := accessKeyUser
	if _, err := w.iam().CreateUser(t.Context(), &iam.CreateUserInput{UserName: &user}); err != nil {
		t.Fatal(err)
	}
	key := w.createKey(t)
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"` + key + `"}]}`
	if _, err := w.iam().PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &user, PolicyName: aws.String("use"), PolicyDocument: &policy}); err != nil {
		t.Fatal(err)
	}
	out, err := w.iam().CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: &user})
	if err != nil {
		t.Fatal(err)
	}
	return kms.Target{
		AccessKey: kms.AccessKey{ID: *out.AccessKey.AccessKeyId, Secret: secret.FromString(*out.AccessKey.SecretAccessKey)},
		KeyID:     key, Region: awslocal.DefaultRegion,
	}
}

// What the customer does to an access key, and what a run with it says then.
func TestRunsWithAnAccessKey(t *testing.T) {
	user := accessKeyUser
	for name, c := range map[string]struct {
		change  func(t *testing.T, w *localWorld, in *kms.RunInput)
		outcome kms.Outcome
		reason  kms.Reason
		remedy  string
		bare    bool // the run of a candidate
	}{
		"active": {change: func(*testing.T, *localWorld, *kms.RunInput) {}, outcome: kms.OK},
		"a key by its id": {change: func(_ *testing.T, _ *localWorld, in *kms.RunInput) {
			in.Target.KeyID = in.Target.KeyID[strings.LastIndex(in.Target.KeyID, "/")+1:]
		}, outcome: kms.OK},
		"deactivated": {change: func(t *testing.T, w *localWorld, in *kms.RunInput) {
			if _, err := w.iam().UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: &user, AccessKeyId: &in.Target.AccessKey.ID, Status: iamtypes.StatusTypeInactive}); err != nil {
				t.Fatal(err)
			}
		}, outcome: kms.Revoked, reason: kms.AccessKeyInvalid, remedy: "Activate the access key"},
		"deleted": {change: func(t *testing.T, w *localWorld, in *kms.RunInput) {
			if _, err := w.iam().DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: &user, AccessKeyId: &in.Target.AccessKey.ID}); err != nil {
				t.Fatal(err)
			}
		}, outcome: kms.Revoked, reason: kms.AccessKeyInvalid},
		"wrong secret": {change: func(_ *testing.T, _ *localWorld, in *kms.RunInput) {
			in.Target.AccessKey.Secret = secret.FromString("this-is-not-the-secret")
		}, outcome: kms.Unreachable, reason: kms.AccessKeySecretWrong},
		"wrong secret of a candidate": {change: func(_ *testing.T, _ *localWorld, in *kms.RunInput) {
			in.Target.AccessKey.Secret = secret.FromString("this-is-not-the-secret")
		}, outcome: kms.Revoked, reason: kms.AccessKeySecretWrong, bare: true},
		"no secret here": {change: func(_ *testing.T, _ *localWorld, in *kms.RunInput) { in.Target.AccessKey.Secret = secret.Bytes{} },
			outcome: kms.Unreachable, reason: kms.AccessKeySecretWrong},
		"policy removed": {change: func(t *testing.T, w *localWorld, _ *kms.RunInput) {
			if _, err := w.iam().DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: &user, PolicyName: aws.String("use")}); err != nil {
				t.Fatal(err)
			}
		}, outcome: kms.Revoked, reason: kms.KeyAccessDenied, remedy: "the IAM user of the access key"},
		"key disabled": {change: func(t *testing.T, w *localWorld, in *kms.RunInput) {
			if _, err := w.kms().DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &in.Target.KeyID}); err != nil {
				t.Fatal(err)
			}
		}, outcome: kms.Revoked, reason: kms.KeyDisabled},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLocalWorld(t)
			in := kms.RunInput{Target: w.user(t), Context: map[string]string{"purpose": "validation"}}
			first := kms.Run(t.Context(), w.p, in)
			if first.Outcome != kms.OK {
				t.Fatalf("before: %+v", first.Failure)
			}
			if !c.bare {
				in.Stored = first.Probe
			}
			clear := string(in.Target.AccessKey.Secret.Reveal())
			c.change(t, w, &in)
			r := kms.Run(t.Context(), w.p, in)
			if r.Outcome != c.outcome || r.Reason != c.reason {
				t.Fatalf("%s %s, want %s %s: %+v", r.Outcome, r.Reason, c.outcome, c.reason, r.Failure)
			}
			if c.remedy != "" && !strings.Contains(r.Failure.Remedy, c.remedy) {
				t.Errorf("remedy %q", r.Failure.Remedy)
			}
			if r.Failure != nil && strings.Contains(r.Failure.Error(), clear) || strings.Contains(w.log.String(), clear) {
				t.Error("the secret is told")
			}
			if in.Target.AccessKey.Secret.Len() > 0 && in.Target.AccessKey.Secret.Reveal()[0] == 0 {
				t.Error("the caller's secret was wiped")
			}
		})
	}
}

// A cached session with an access key notices its end at the next call, takes a new
// secret, and can be forgotten.
func TestCachedSessionsWithAnAccessKey(t *testing.T) {
	w := newLocalWorld(t)
	target, user := w.user(t), accessKeyUser
	use := func(target kms.Target) error {
		s, err := w.p.Session(t.Context(), target)
		if err != nil {
			return err
		}
		_, err = s.Describe(t.Context())
		return err
	}
	if err := use(target); err != nil {
		t.Fatal(err)
	}
	wrong := target
	wrong.AccessKey.Secret = secret.FromString("this-is-not-the-secret")
	if f := kms.AsFailure(use(wrong)); f.Reason != kms.AccessKeySecretWrong {
		t.Errorf("a wrong secret: %+v", f)
	}
	if err := use(target); err != nil {
		t.Errorf("the right one again: %v", err)
	}
	w.p.Forget(target)
	if err := use(target); err != nil {
		t.Errorf("forgotten: %v", err)
	}
	if _, err := w.iam().UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: &user, AccessKeyId: &target.AccessKey.ID, Status: iamtypes.StatusTypeInactive}); err != nil {
		t.Fatal(err)
	}
	if f := kms.AsFailure(use(target)); f.Outcome != kms.Revoked || f.Reason != kms.AccessKeyInvalid {
		t.Errorf("deactivated: %+v", f)
	}
}
