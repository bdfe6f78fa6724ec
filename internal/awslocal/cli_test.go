package awslocal_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/awslocal"
)

// cli runs the aws command line against the local AWS.
type cli struct {
	t    *testing.T
	bin  string
	w    *world
	home string
	env  []string
}

func (c cli) as(id, secret, token string) cli {
	c.env = []string{
		"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH"), "AWS_CONFIG_FILE=" + filepath.Join(c.home, "none"), "AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(c.home, "none"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_DEFAULT_REGION=" + region, "AWS_MAX_ATTEMPTS=1",
		"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + secret, "NO_PROXY=127.0.0.1",
	}
	if token != "" {
		c.env = append(c.env, "AWS_SESSION_TOKEN="+token)
	}
	return c
}

func (c cli) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, append([]string{"--endpoint-url", c.w.s.Endpoint(), "--output", "json"}, args...)...)
	cmd.Env = c.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c cli) run(to any, args ...string) {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if to != nil {
		if err := json.Unmarshal([]byte(out), to); err != nil {
			c.t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func (c cli) refused(says string, args ...string) {
	c.t.Helper()
	if out, err := c.try(args...); err == nil || !strings.Contains(out, says) {
		c.t.Errorf("aws %s: %v\n%s\nwant it refused with %s", strings.Join(args, " "), err, out, says)
	}
}

func TestAWSCommandLineWalksTheStory(t *testing.T) {
	if testing.Short() {
		t.Skip("each run of the aws command line takes about a second")
	}
	bins := map[string]bool{}
	for _, name := range []string{"aws", "/usr/bin/aws"} {
		if path, err := exec.LookPath(name); err == nil {
			bins[path] = true
		}
	}
	if len(bins) == 0 {
		t.Skip("the aws command line is not installed")
	}
	for bin := range bins {
		t.Run(bin, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.CommandContext(t.Context(), bin, "--version").CombinedOutput(); err != nil {
				t.Skipf("%s does not run: %v %s", bin, err, out)
			}
			w := start(t)
			walk(cli{t: t, bin: bin, w: w, home: t.TempDir()}, w.s.Seed())
		})
	}
}

func walk(c cli, seed awslocal.Seed) {
	t := c.t
	t.Helper()
	file := func(name, content string) string {
		path := filepath.Join(c.home, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	customer := c.as(seed.Customer.AccessKeyID, seed.Customer.SecretAccessKey, "")
	platform := c.as(seed.Platform.Server.AccessKeyID, seed.Platform.Server.SecretAccessKey, "")

	var made struct {
		KeyMetadata struct{ KeyId, Arn, KeyState string } //nolint:revive // AWS's names
	}
	customer.run(&made, "kms", "create-key", "--description", "Keywright")
	key := made.KeyMetadata
	var role struct {
		Role struct {
			Arn                      string
			AssumeRolePolicyDocument struct{ Statement []json.RawMessage }
		}
	}
	customer.run(&role, "iam", "create-role", "--role-name", "keywright", "--assume-role-policy-document", "file://"+file("trust.json", platformTrust()))
	customer.run(&role, "iam", "get-role", "--role-name", "keywright")
	if len(role.Role.AssumeRolePolicyDocument.Statement) != 1 {
		t.Errorf("get-role: %+v", role)
	}
	customer.run(nil, "iam", "put-role-policy", "--role-name", "keywright", "--policy-name", "keywright", "--policy-document", usePolicy(key.Arn))

	assume := []string{"sts", "assume-role", "--role-arn", role.Role.Arn, "--role-session-name", "keywright-cli"}
	platform.refused("(AccessDenied) when calling the AssumeRole operation", assume...)
	var assumed struct {
		Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken string } //nolint:revive // AWS's names
	}
	platform.run(&assumed, append(assume, "--external-id", externalID)...)
	session := c.as(assumed.Credentials.AccessKeyId, assumed.Credentials.SecretAccessKey, assumed.Credentials.SessionToken)
	var who struct{ Arn string }
	session.run(&who, "sts", "get-caller-identity")
	if who.Arn != "arn:aws:sts::111122223333:assumed-role/keywright/keywright-cli" {
		t.Errorf("caller %s", who.Arn)
	}

	var enc struct{ CiphertextBlob string }
	session.run(&enc, "kms", "encrypt", "--key-id", key.Arn, "--plaintext", "fileb://"+file("plain", "the secret"), "--encryption-context", "project=p1")
	blob, err := base64.StdEncoding.DecodeString(enc.CiphertextBlob)
	if err != nil {
		t.Fatal(err)
	}
	decrypt := []string{"kms", "decrypt", "--key-id", key.Arn, "--ciphertext-blob", "fileb://" + file("blob", string(blob)), "--encryption-context", "project=p1"}
	var dec struct{ Plaintext string }
	session.run(&dec, decrypt...)
	if plain, _ := base64.StdEncoding.DecodeString(dec.Plaintext); string(plain) != "the secret" {
		t.Errorf("decrypted %q", plain)
	}
	customer.run(nil, "kms", "disable-key", "--key-id", key.KeyId)
	session.refused("(DisabledException)", decrypt...)
	customer.run(nil, "kms", "enable-key", "--key-id", key.KeyId)
	session.run(nil, decrypt...)
	var policy struct{ Policy string }
	customer.run(&policy, "kms", "get-key-policy", "--key-id", key.KeyId, "--policy-name", "default")
	customer.run(nil, "kms", "put-key-policy", "--key-id", key.KeyId, "--policy-name", "default", "--policy", policy.Policy)
	customer.run(nil, "iam", "update-assume-role-policy", "--role-name", "keywright", "--policy-document", strings.Replace(platformTrust(), externalID, "another-id", 1))
	platform.refused("(AccessDenied)", append(assume, "--external-id", externalID)...)
	customer.run(nil, "iam", "delete-role-policy", "--role-name", "keywright", "--policy-name", "keywright")
	session.refused("(AccessDeniedException)", decrypt...)
	customer.run(nil, "kms", "schedule-key-deletion", "--key-id", key.KeyId, "--pending-window-in-days", "7")
	customer.run(nil, "kms", "cancel-key-deletion", "--key-id", key.KeyId)
}
