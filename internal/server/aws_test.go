package server_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	awskmssdk "github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// account is an administrator's view of a customer's AWS account.
type account struct {
	t   *testing.T
	id  string
	kms *awskmssdk.Client
	iam *iam.Client
}

func newAccount(t *testing.T, endpoint string, a awslocal.AccountSeed) *account {
	cfg := aws.Config{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider(a.AccessKeyID, a.SecretAccessKey, "")}
	return &account{t: t, id: a.AccountID, kms: awskmssdk.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg)}
}

func (a *account) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *account) key(in awskmssdk.CreateKeyInput) (arn, id string) {
	a.t.Helper()
	out, err := a.kms.CreateKey(a.t.Context(), &in)
	a.must(err)
	return *out.KeyMetadata.Arn, *out.KeyMetadata.KeyId
}

func document(statements ...map[string]any) string {
	for _, s := range statements {
		s["Effect"] = "Allow"
	}
	b, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	return string(b)
}

func trusting(principal, externalID string) string {
	s := map[string]any{"Principal": map[string]any{"AWS": principal}, "Action": "sts:AssumeRole"}
	if externalID != "" {
		s["Condition"] = map[string]any{"StringEquals": map[string]any{"sts:ExternalId": externalID}}
	}
	return document(s)
}

func (a *account) role(name, trust string) string {
	a.t.Helper()
	out, err := a.iam.CreateRole(a.t.Context(), &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	a.must(err)
	return *out.Role.Arn
}

func (a *account) allow(role string, resources []string, actions ...string) {
	a.t.Helper()
	doc := document(map[string]any{"Action": actions, "Resource": resources})
	_, err := a.iam.PutRolePolicy(a.t.Context(), &iam.PutRolePolicyInput{RoleName: &role, PolicyName: aws.String("p"), PolicyDocument: &doc})
	a.must(err)
}

// Access and key management against the local AWS, which decides by real policies.
func TestRefusalsOfRealPolicies(t *testing.T) {
	ctx := t.Context()
	srv, err := awslocal.Open(awslocal.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	serveCtx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(serveCtx) }()
	t.Cleanup(func() { stop(); <-served })
	endpoint, seed := srv.Endpoint(), srv.Seed()
	provider, err := awskms.New(ctx, awskms.Config{
		AWS:           &aws.Config{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider(seed.Platform.Server.AccessKeyID, seed.Platform.Server.SecretAccessKey, "")},
		CanaryRoleARN: seed.CanaryRoleARN,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	st, err := store.Open(ctx, store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	tenants, roles, keyring := tenant.New(st), access.New(st, provider, "us-east-1"), cmk.New(cmk.Config{Store: st, Provider: provider})
	if err := tenants.Bootstrap(ctx, tenant.Init{OrgName: "Acme", PublicKey: "k", PrivateKey: secret.FromString("a-private-key-of-the-owner")}); err != nil {
		t.Fatal(err)
	}
	orgs, err := tenants.Orgs(ctx, tenant.System())
	if err != nil {
		t.Fatal(err)
	}
	owner := tenant.System()
	pr, err := tenants.CreateProject(ctx, owner, tenant.NewProject{Org: orgs[0].ID, Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	first, second := newAccount(t, endpoint, seed.Customer), newAccount(t, endpoint, seed.Second)

	r, err := roles.Register(ctx, owner, pr.ID)
	if err != nil || r.PlatformARN != "arn:aws:iam::"+awslocal.PlatformAccount+":root" {
		t.Fatalf("%+v %v", r, err)
	}
	authorize := func(arn string) string {
		_, err := roles.Authorize(ctx, owner, pr.ID, r.ID, arn)
		return apierr.Code(err)
	}
	for name, c := range map[string]struct{ arn, code string }{
		"nobody":   {"arn:aws:iam::" + first.id + ":role/Nobody", "CANNOT_ASSUME_ROLE"},
		"other id": {first.role("Wrong", trusting(r.PlatformARN, "another-external-id")), "CANNOT_ASSUME_ROLE"},
		"no id":    {first.role("Loose", trusting(r.PlatformARN, "")), "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID"},
	} {
		if got := authorize(c.arn); got != c.code {
			t.Errorf("%s: %q, want %q", name, got, c.code)
		}
	}
	good := first.role("Good", trusting(r.PlatformARN, r.ExternalID))
	if got := authorize(good); got != "" {
		t.Fatal(got)
	}

	all := []string{"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}
	key, keyID := first.key(awskmssdk.CreateKeyInput{})
	rsa, _ := first.key(awskmssdk.CreateKeyInput{KeySpec: kmstypes.KeySpecRsa2048, KeyUsage: kmstypes.KeyUsageTypeEncryptDecrypt})
	off, _ := first.key(awskmssdk.CreateKeyInput{})
	_, err = first.kms.DisableKey(ctx, &awskmssdk.DisableKeyInput{KeyId: &off})
	first.must(err)
	hidden, _ := first.key(awskmssdk.CreateKeyInput{})
	foreign, foreignID := second.key(awskmssdk.CreateKeyInput{})
	first.allow("Good", []string{key, rsa, off, foreign}, all...)
	update := func(key, region string) error {
		on, id := true, string(r.ID)
		_, err := keyring.Update(ctx, owner, pr.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &on, CustomerMasterKeyID: &key, Region: &region, RoleID: &id}})
		return err
	}
	for _, c := range []struct {
		name, key, region, code string
		says                    []string
	}{
		{"asymmetric", rsa, "US_EAST_1", "AWS_KMS_CUSTOMER_MASTER_KEY_WRONG_TYPE", []string{"symmetric"}},
		{"disabled", off, "US_EAST_1", "AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED", []string{"Enable the key"}},
		{"no permission at all", hidden, "US_EAST_1", "NO_PERMISSION_TO_ENCRYPT_DECRYPT", append([]string{hidden}, all...)},
		{"foreign by id", foreignID, "US_EAST_1", "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"full ARN"}},
		{"foreign without its policy", foreign, "US_EAST_1", "NO_PERMISSION_TO_ENCRYPT_DECRYPT", []string{"Add this statement to the key's policy", good}},
		{"wrong region", keyID, "EU_WEST_1", "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"EU_WEST_1"}},
		{"fine by id", keyID, "US_EAST_1", "", nil},
	} {
		err := update(c.key, c.region)
		if got := apierr.Code(err); got != c.code || (c.code == "" && err != nil) {
			t.Errorf("%s: %q, want %q (%v)", c.name, got, c.code, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s does not say %q: %v", c.name, s, err)
			}
		}
	}
	for _, missing := range all {
		var rest []string
		for _, a := range all {
			if a != missing {
				rest = append(rest, a)
			}
		}
		other, _ := first.key(awskmssdk.CreateKeyInput{})
		first.allow("Good", []string{key, other}, rest...)
		err := update(other, "US_EAST_1")
		if apierr.Code(err) != "NO_PERMISSION_TO_ENCRYPT_DECRYPT" || !strings.Contains(err.Error(), "lacks "+missing+" on the key") || !strings.Contains(err.Error(), `"Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"`+other+`"`) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
	// The key of another account by its full ARN works once both policies allow it.
	policy := document(
		map[string]any{"Principal": map[string]any{"AWS": "arn:aws:iam::" + second.id + ":root"}, "Action": "kms:*", "Resource": "*"},
		map[string]any{"Principal": map[string]any{"AWS": good}, "Action": all, "Resource": "*"})
	_, err = second.kms.PutKeyPolicy(ctx, &awskmssdk.PutKeyPolicyInput{KeyId: &foreignID, Policy: &policy})
	second.must(err)
	first.allow("Good", []string{key, foreign}, all...)
	if err := update(foreign, "US_EAST_1"); err != nil {
		t.Errorf("foreign by ARN: %v", err)
	}
	v, err := keyring.Get(ctx, owner, pr.ID)
	if err != nil || !v.Valid || v.KeyARN != foreign || v.Project != pr.ID {
		t.Errorf("%+v %v", v, err)
	}
}
