package policydoc_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/policydoc"
)

// account is the local AWS with a customer who does what the texts say.
type account struct {
	*testing.T
	server   *awslocal.Server
	provider *awskms.Provider
	a        policydoc.Access
}

const ownProject = "65a0f0c2e4b0a1b2c3d4e5f6"

// newAccount makes a role that trusts nobody and a key, in another account if cross.
func newAccount(t *testing.T, cross bool) *account {
	t.Helper()
	s, err := awslocal.Open(awslocal.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	w := &account{T: t, server: s}
	cfg := w.as(s.Seed().Platform.Server)
	w.provider, err = awskms.New(t.Context(), awskms.Config{AWS: &cfg, CanaryRoleARN: s.Seed().CanaryRoleARN})
	must(t, err)
	t.Cleanup(func() { _ = w.provider.Close() })
	nobody := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + awslocal.SecondAccount + `:root"},"Action":"sts:AssumeRole"}}`
	role, err := iam.NewFromConfig(w.as(s.Seed().Customer.Credentials)).CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("kw"), Path: aws.String("/data/"), AssumeRolePolicyDocument: &nobody})
	must(t, err)
	owner := s.Seed().Customer.Credentials
	if cross {
		owner = s.Seed().Second.Credentials
	}
	key, err := sdk.NewFromConfig(w.as(owner)).CreateKey(t.Context(), &sdk.CreateKeyInput{})
	must(t, err)
	w.a = policydoc.Access{
		PlatformARN: "arn:aws:iam::" + awslocal.PlatformAccount + ":root", ExternalID: "8f3b1c52-7d1e-4a63-9d0a-6f1f0b7f2a10",
		RoleARN: *role.Role.Arn, KeyARN: *key.KeyMetadata.Arn,
		Projects: []string{ownProject}, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *account) as(c awslocal.Credentials) aws.Config {
	return aws.Config{Region: awslocal.DefaultRegion, BaseEndpoint: aws.String(w.server.Endpoint()), Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")}
}

// apply puts a document in its place through the SDK.
func (w *account) apply(x policydoc.Text) {
	w.Helper()
	roles := iam.NewFromConfig(w.as(w.server.Seed().Customer.Credentials))
	var err error
	switch x.Kind {
	case policydoc.KindTrust:
		_, err = roles.UpdateAssumeRolePolicy(w.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String("kw"), PolicyDocument: &x.JSON})
	case policydoc.KindIdentity:
		_, err = roles.PutRolePolicy(w.Context(), &iam.PutRolePolicyInput{RoleName: aws.String("kw"), PolicyName: aws.String("keywright"), PolicyDocument: &x.JSON})
	case policydoc.KindKey:
		_, err = sdk.NewFromConfig(w.as(w.owner())).PutKeyPolicy(w.Context(), &sdk.PutKeyPolicyInput{KeyId: &w.a.KeyARN, Policy: &x.JSON})
	default:
		w.Fatalf("what is a %s?", x.Kind)
	}
	must(w.T, err)
}

func (w *account) owner() awslocal.Credentials {
	if w.a.CrossAccount() {
		return w.server.Seed().Second.Credentials
	}
	return w.server.Seed().Customer.Credentials
}

func (w *account) run(project keys.ProjectID) kms.Result {
	return kms.Run(w.Context(), w.provider, kms.RunInput{
		Target:  kms.Target{RoleARN: w.a.RoleARN, ExternalID: w.a.ExternalID, KeyID: w.a.KeyARN, Region: awslocal.DefaultRegion},
		Context: keys.ProbeContext("d", project).Map(),
	})
}

// TestEveryStatementIsNeeded: with all documents a run passes; without any one of them
// it fails, and the remedy for what AWS says then is the document that was left out.
func TestEveryStatementIsNeeded(t *testing.T) {
	for name, cross := range map[string]bool{"same account": false, "other account": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := newAccount(t, cross)
			for _, x := range all.a.Setup() {
				all.apply(x)
			}
			if r := all.run(ownProject); r.Outcome != kms.OK {
				t.Fatalf("with everything: %s %v", r.Reason, r.Failure.Detail())
			}
			if r := all.run("65a0f0c2e4b0a1b2c3d4e5f7"); r.Reason != kms.KeyAccessDenied || r.Denied[0] != "kms:Encrypt" {
				t.Errorf("another project's context: %s %v", r.Reason, r.Denied)
			}
			for i, left := range all.a.Setup() {
				w := newAccount(t, cross)
				for j, x := range w.a.Setup() {
					if i != j {
						w.apply(x)
					}
				}
				r := w.run(ownProject)
				if r.Outcome != kms.Revoked || len(r.Refused) == 0 {
					t.Fatalf("without %s: %s (%s)", left.Kind, r.Outcome, r.Reason)
				}
				advice := w.a.Remedy(r.Refused)
				if len(advice.Texts) == 0 || advice.Texts[0].Kind != left.Kind {
					t.Fatalf("without %s (%v) the remedy is %s", left.Kind, r.Refused, advice.Sentence)
				}
				w.apply(advice.Texts[0])
				if r := w.run(ownProject); r.Outcome != kms.OK {
					t.Errorf("after the remedy for %s: %s", left.Kind, r.Failure.Detail())
				}
			}
		})
	}
}

// TestDeniesAreFound: a denying statement in each policy is told apart from a missing
// one, and the remedy sends to the policy that has it.
func TestDeniesAreFound(t *testing.T) {
	t.Parallel()
	w := newAccount(t, false)
	for _, x := range w.a.Setup() {
		w.apply(x)
	}
	deny := func(x policydoc.Text, action, principal string) policydoc.Text {
		x.JSON = strings.Replace(x.JSON, `"Statement": [`, `"Statement": [{"Effect":"Deny","Action":"`+action+`",`+principal+`},`, 1)
		return x
	}
	// Of another account's role AWS does not tell whether it denies or does not allow.
	w.apply(deny(w.a.TrustText(), "sts:AssumeRole", `"Principal":"*"`))
	if r := w.run(ownProject); len(r.Refused) != 1 || r.Refused[0] != (kms.Finding{Permission: "sts:AssumeRole", Policy: kms.TrustPolicy}) || !strings.Contains(w.a.Remedy(r.Refused).Sentence, "without a Deny") {
		t.Errorf("deny in the trust policy: %v", r.Refused)
	}
	w.apply(w.a.TrustText())
	key := w.a.KeyText()
	for _, tt := range []struct {
		broken, whole policydoc.Text
		permission    string
	}{
		{deny(w.a.UseText(), "kms:Decrypt", `"Resource":"*"`), w.a.UseText(), "kms:Decrypt"},
		{deny(key, "kms:Encrypt", `"Resource":"*","Principal":{"AWS":"`+w.a.RoleARN+`"}`), key, "kms:Encrypt"},
		{policydoc.Text{Kind: policydoc.KindIdentity, JSON: strings.Replace(deny(w.a.UseText(), "x", `"Resource":"*"`).JSON,
			`{"Effect":"Deny","Action":"x","Resource":"*"}`, elsewhere(), 1)}, w.a.UseText(), "kms:DescribeKey"},
	} {
		w.apply(tt.broken)
		r := w.run(ownProject)
		advice := w.a.Remedy(r.Refused)
		if len(r.Refused) == 0 || r.Refused[0].Permission != tt.permission || !r.Refused[0].Explicit || len(advice.Texts) != 1 || !advice.Texts[0].Deny || advice.Texts[0].Kind != tt.broken.Kind {
			t.Errorf("deny in %s: %v, %s", tt.broken.Kind, r.Refused, advice.Sentence)
		}
		w.apply(tt.whole)
		if r := w.run(ownProject); r.Outcome != kms.OK {
			t.Fatalf("without the deny: %s", r.Failure.Detail())
		}
	}
}

// elsewhere is the deny for all addresses but one that this machine does not have.
func elsewhere() string {
	return policydoc.DenyElsewhere([]netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}).Compact()
}

// TestCommandsWork pastes the commands into a shell, twice each, with the aws command
// line against the local AWS.
func TestCommandsWork(t *testing.T) {
	if testing.Short() {
		t.Skip("each run of the aws command line takes about a second")
	}
	for _, tool := range []string{"sh", "aws", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s", tool)
		}
	}
	t.Parallel()
	w := newAccount(t, true)
	dir := t.TempDir()
	paste := func(c awslocal.Credentials, text string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", text)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "AWS_CONFIG_FILE="+filepath.Join(dir, "none"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(dir, "none"),
			"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_DEFAULT_REGION="+awslocal.DefaultRegion, "AWS_ENDPOINT_URL="+w.server.Endpoint(),
			"AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey, "AWS_SESSION_TOKEN=", "NO_PROXY=127.0.0.1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
		return strings.TrimSpace(string(out))
	}
	customer := w.server.Seed().Customer.Credentials
	w.a.KeyARN = paste(w.server.Seed().Second.Credentials, policydoc.KeyCommand(awslocal.DefaultRegion, false).AWSCLI)
	w.a.RoleARN = "arn:aws:iam::" + awslocal.CustomerAccount + ":role/data/kw2"
	nobody := w.a
	nobody.ExternalID = "another"
	if arn := paste(customer, nobody.RoleText().AWSCLI); arn != w.a.RoleARN {
		t.Fatalf("made %s", arn)
	}
	for _, x := range append(w.a.Setup(), w.a.TrustText(), w.a.KeyText()) {
		as := customer
		if x.Kind == policydoc.KindKey {
			as = w.server.Seed().Second.Credentials
		}
		paste(as, x.AWSCLI)
	}
	if r := w.run(ownProject); r.Outcome != kms.OK {
		t.Fatalf("%s: %s", r.Reason, r.Failure.Detail())
	}
	trust := paste(customer, "aws iam get-role --role-name kw2 --query Role.AssumeRolePolicyDocument --output json")
	policy := paste(w.server.Seed().Second.Credentials, "aws kms get-key-policy --key-id "+w.a.KeyARN+" --policy-name default --query Policy --output text")
	if strings.Count(trust, "sts:ExternalId") != 2 || !strings.Contains(trust, "another") || strings.Count(policy, "KeywrightRole") != 2 || !strings.Contains(policy, ":root") {
		t.Errorf("other statements are kept, own ones stand once:\n%s\n%s", trust, policy)
	}
}
