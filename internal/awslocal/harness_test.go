package awslocal_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/keywright/keywright/internal/awslocal"
)

const region = "us-east-1"

// clock is a movable clock: real time plus an offset.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// world is a running local AWS.
type world struct {
	t     testing.TB
	dir   string
	clock *clock
	// control opens the control path.
	control bool
	s       *awslocal.Server
	stop    func()
}

func start(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), clock: &clock{}}
	w.run()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) run() {
	w.t.Helper()
	s, err := awslocal.Open(awslocal.Config{DataDir: w.dir, Listen: "127.0.0.1:0", Now: w.clock.now, Control: w.control})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	w.s = s
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("serve: %v", err)
		}
	})
}

func (w *world) restart() {
	w.stop()
	w.run()
}

// as makes clients with an access key, in a Region.
type clients struct {
	kms *kms.Client
	sts *sts.Client
	iam *iam.Client
}

func (w *world) as(c awslocal.Credentials) clients {
	return w.with(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, ""), region)
}

func (w *world) with(p aws.CredentialsProvider, region string) clients {
	cfg := aws.Config{
		Region: region, Credentials: p, BaseEndpoint: aws.String(w.s.Endpoint()),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
	return clients{kms.NewFromConfig(cfg), sts.NewFromConfig(cfg), iam.NewFromConfig(cfg)}
}

func (w *world) customer() clients { return w.as(w.s.Seed().Customer.Credentials) }
func (w *world) second() clients   { return w.as(w.s.Seed().Second.Credentials) }
func (w *world) platform() clients { return w.as(w.s.Seed().Platform.Server) }

// key makes a symmetric key and gives its ARN.
func (w *world) key(c clients, policy string) string {
	w.t.Helper()
	in := &kms.CreateKeyInput{}
	if policy != "" {
		in.Policy = &policy
	}
	out, err := c.kms.CreateKey(context.Background(), in)
	if err != nil {
		w.t.Fatalf("create key: %v", err)
	}
	return *out.KeyMetadata.Arn
}

const externalID = "8f3b1c52-7d1e-4a63-9d0a-2f4c7f6f1a10"

// platformTrust trusts the platform account with an external id.
func platformTrust() string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":%q}}}]}`, awslocal.PlatformAccount, externalID)
}

func usePolicy(keyARN string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"Use","Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":%q}]}`, keyARN)
}

// role makes a role that the platform may assume, with an inline policy if
// one is given.
func (w *world) role(c clients, name, policy string) string {
	w.t.Helper()
	ctx := context.Background()
	out, err := c.iam.CreateRole(ctx, &iam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: aws.String(platformTrust())})
	if err != nil {
		w.t.Fatalf("create role: %v", err)
	}
	if policy != "" {
		w.putRolePolicy(c, name, policy)
	}
	return *out.Role.Arn
}

func (w *world) putRolePolicy(c clients, name, policy string) {
	w.t.Helper()
	if _, err := c.iam.PutRolePolicy(context.Background(), &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("keywright"), PolicyDocument: &policy}); err != nil {
		w.t.Fatalf("put role policy: %v", err)
	}
}

func assumeInput(roleARN, external, policy string) *sts.AssumeRoleInput {
	in := &sts.AssumeRoleInput{RoleArn: &roleARN, RoleSessionName: aws.String("keywright-test")}
	if external != "" {
		in.ExternalId = &external
	}
	if policy != "" {
		in.Policy = &policy
	}
	return in
}

// assume gives clients with a session of the role.
func (w *world) assume(c clients, in *sts.AssumeRoleInput) clients {
	w.t.Helper()
	out, err := c.sts.AssumeRole(context.Background(), in)
	if err != nil {
		w.t.Fatalf("assume role: %v", err)
	}
	return w.with(provider(out), region)
}

func provider(out *sts.AssumeRoleOutput) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

var testContext = map[string]string{"keywright:project": "p1", "purpose": "test"}

func (c clients) encrypt(keyID string) ([]byte, error) {
	out, err := c.kms.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &keyID, Plaintext: []byte("master key"), EncryptionContext: testContext})
	if err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

func (c clients) decrypt(keyID string, blob []byte, encryptionContext map[string]string) ([]byte, error) {
	in := &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: encryptionContext}
	if keyID != "" {
		in.KeyId = &keyID
	}
	out, err := c.kms.Decrypt(context.Background(), in)
	if err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

func (c clients) state(t testing.TB, keyID string) types.KeyState {
	t.Helper()
	out, err := c.kms.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &keyID})
	if err != nil {
		t.Fatalf("describe key: %v", err)
	}
	return out.KeyMetadata.KeyState
}

// want checks the name of an error and what its text says.
func want(t testing.TB, err error, code string, says ...string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	if api.ErrorCode() != code {
		t.Errorf("got %s (%s), want %s", api.ErrorCode(), api.ErrorMessage(), code)
	}
	for _, s := range says {
		if !strings.Contains(api.ErrorMessage(), s) {
			t.Errorf("%s says %q, want it to name %q", code, api.ErrorMessage(), s)
		}
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("refused: %v", err)
	}
}

// calls reads the call log.
func (w *world) calls() []awslocal.CallEntry {
	w.t.Helper()
	f, err := os.Open(filepath.Join(w.dir, "calls.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []awslocal.CallEntry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e awslocal.CallEntry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			w.t.Fatalf("call log: %v", err)
		}
		out = append(out, e)
	}
	return out
}

func (w *world) lastCall() awslocal.CallEntry {
	w.t.Helper()
	all := w.calls()
	return all[len(all)-1]
}

// keyIDOf gives "key/" and the id of a key.
func keyIDOf(t testing.TB, c clients, name string) string {
	t.Helper()
	out, err := c.kms.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &name})
	if err != nil {
		t.Fatal(err)
	}
	return "key/" + *out.KeyMetadata.KeyId
}

func keyIDs(t testing.TB, c clients) []string {
	t.Helper()
	out, err := c.kms.ListKeys(context.Background(), &kms.ListKeysInput{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range out.Keys {
		ids = append(ids, *k.KeyId)
	}
	return ids
}

// moved gives clients that know what time it is in the local AWS: the refusal of
// the first call tells them.
func (w *world) moved(c awslocal.Credentials) clients { return w.movedTo(c, region) }

func (w *world) movedTo(c awslocal.Credentials, region string) clients {
	out := w.with(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, ""), region)
	_, _ = out.kms.ListKeys(context.Background(), &kms.ListKeysInput{})
	return out
}
