package awskms_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

// localWorld is the local AWS as a customer works it, with the provider under test.
type localWorld struct {
	server *awslocal.Server
	p      *awskms.Provider
	log    *bytes.Buffer
	n      atomic.Int32
}

var _ kmstest.World = (*localWorld)(nil)

func newLocalWorld(t *testing.T) *localWorld {
	t.Helper()
	s, err := awslocal.Open(awslocal.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	w := &localWorld{server: s, log: &bytes.Buffer{}}
	cfg := w.config(s.Seed().Platform.Server)
	w.p, err = awskms.New(ctx, awskms.Config{
		AWS: &cfg, CanaryRoleARN: s.Seed().CanaryRoleARN, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.p.Close() })
	return w
}

func (w *localWorld) config(c awslocal.Credentials) aws.Config {
	return aws.Config{
		Region: awslocal.DefaultRegion, BaseEndpoint: aws.String(w.server.Endpoint()),
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, ""),
	}
}

func (w *localWorld) kms() *sdk.Client {
	return sdk.NewFromConfig(w.config(w.server.Seed().Customer.Credentials))
}

func (w *localWorld) iam() *iam.Client {
	return iam.NewFromConfig(w.config(w.server.Seed().Customer.Credentials))
}

func (w *localWorld) Provider() kms.Provider { return w.p }

func (w *localWorld) createKey(t testing.TB) string {
	t.Helper()
	out, err := w.kms().CreateKey(t.Context(), &sdk.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

func (w *localWorld) permit(t testing.TB, role string, keyARNs []string, without kms.Operation) {
	t.Helper()
	var actions []string
	for _, op := range []kms.Operation{kms.OpDescribeKey, kms.OpEncrypt, kms.OpDecrypt} {
		if op != without {
			actions = append(actions, `"`+op.Permission()+`"`)
		}
	}
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[%s],"Resource":["%s"]}]}`,
		strings.Join(actions, ","), strings.Join(keyARNs, `","`))
	if _, err := w.iam().PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: &role, PolicyName: aws.String("use"), PolicyDocument: &policy}); err != nil {
		t.Fatal(err)
	}
}

func (w *localWorld) Project(t testing.TB) kms.Target {
	t.Helper()
	n := w.n.Add(1)
	role, external := fmt.Sprintf("keywright-%d", n), fmt.Sprintf("8f3b1c52-7d1e-4a63-9d0a-%012d", n)
	trust := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"%s"}}}]}`,
		awslocal.PlatformAccount, external)
	out, err := w.iam().CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &role, AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	key := w.createKey(t)
	w.permit(t, role, []string{key}, "")
	return kms.Target{RoleARN: *out.Role.Arn, ExternalID: external, KeyID: key, Region: awslocal.DefaultRegion}
}

func roleName(t kms.Target) string {
	a, _ := keys.ParseARN(t.RoleARN)
	return strings.TrimPrefix(a.Resource, "role/")
}

func (w *localWorld) OtherKey(t testing.TB, target kms.Target) string {
	key := w.createKey(t)
	w.permit(t, roleName(target), []string{target.KeyID, key}, "")
	return key
}

func (w *localWorld) Disable(t testing.TB, target kms.Target) {
	if _, err := w.kms().DisableKey(t.Context(), &sdk.DisableKeyInput{KeyId: &target.KeyID}); err != nil {
		t.Fatal(err)
	}
}

func (w *localWorld) Enable(t testing.TB, target kms.Target) {
	if _, err := w.kms().EnableKey(t.Context(), &sdk.EnableKeyInput{KeyId: &target.KeyID}); err != nil {
		t.Fatal(err)
	}
}

func (w *localWorld) ScheduleDeletion(t testing.TB, target kms.Target) {
	if _, err := w.kms().ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &target.KeyID, PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
}

func (w *localWorld) DenyRole(t testing.TB, target kms.Target, op kms.Operation) {
	if op != kms.OpAssumeRole {
		w.permit(t, roleName(target), []string{target.KeyID}, op)
		return
	}
	trust := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"sts:AssumeRole"}]}`, awslocal.SecondAccount)
	if _, err := w.iam().UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String(roleName(target)), PolicyDocument: &trust}); err != nil {
		t.Fatal(err)
	}
}

func TestProviderKeepsTheContract(t *testing.T) {
	kmstest.Provider(t, func(t *testing.T) kmstest.World { return newLocalWorld(t) })
}

// TestSessionPolicyNarrowsTheSession: a role may use two keys, a session opened for one
// of them cannot use the other.
func TestSessionPolicyNarrowsTheSession(t *testing.T) {
	w := newLocalWorld(t)
	target := w.Project(t)
	key := target.KeyID
	target.KeyID = w.OtherKey(t, target)
	target.KeyID, key = key, target.KeyID
	w.DenyRole(t, kms.Target{RoleARN: target.RoleARN, KeyID: key}, kms.OpDescribeKey)
	res := kms.Run(t.Context(), w.p, kms.RunInput{Target: target})
	if res.Outcome != kms.Revoked || len(res.Denied) != 2 {
		t.Errorf("the role's policy names another key only: %s (%s), denied %v", res.Outcome, res.Reason, res.Denied)
	}
}

// TestKeyOfAnotherAccount: the role is in the first account, the key in the second. The
// full ARN works, the bare id does not.
func TestKeyOfAnotherAccount(t *testing.T) {
	w := newLocalWorld(t)
	target := w.Project(t)
	second := sdk.NewFromConfig(w.config(w.server.Seed().Second.Credentials))
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"%s"},"Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"*"}]}`,
		awslocal.SecondAccount, target.RoleARN)
	out, err := second.CreateKey(t.Context(), &sdk.CreateKeyInput{Policy: &policy})
	if err != nil {
		t.Fatal(err)
	}
	target.KeyID = *out.KeyMetadata.Arn
	w.permit(t, roleName(target), []string{target.KeyID}, "")
	res := kms.Run(t.Context(), w.p, kms.RunInput{Target: target})
	if res.Outcome != kms.OK || res.Key.Account != awslocal.SecondAccount {
		t.Errorf("by ARN: %s (%s) %v, account %s", res.Outcome, res.Reason, res.Failure, res.Key.Account)
	}
	target.KeyID = *out.KeyMetadata.KeyId
	if res := kms.Run(t.Context(), w.p, kms.RunInput{Target: target}); res.Outcome != kms.Revoked || res.Reason != kms.KeyNotFound && res.Reason != kms.KeyAccessDenied {
		t.Errorf("by id: %s (%s)", res.Outcome, res.Reason)
	}
}

func TestEndpointInUseIsLogged(t *testing.T) {
	w := newLocalWorld(t)
	if !strings.Contains(w.log.String(), w.server.Endpoint()) {
		t.Errorf("the log does not name %s:\n%s", w.server.Endpoint(), w.log)
	}
	other := w.p.Endpoints(kms.Target{Region: "eu-west-1", KMSEndpoint: "https://kms.example.net"})
	if other.KMS != "https://kms.example.net" || other.STS != w.server.Endpoint() {
		t.Errorf("endpoints %+v", other)
	}
	plain, err := awskms.New(t.Context(), awskms.Config{AWS: &aws.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	if ep := plain.Endpoints(kms.Target{Region: "eu-west-1"}); ep.KMS != "https://kms.eu-west-1.amazonaws.com" || ep.STS != "https://sts.eu-west-1.amazonaws.com" {
		t.Errorf("endpoints of AWS %+v", ep)
	}
}
