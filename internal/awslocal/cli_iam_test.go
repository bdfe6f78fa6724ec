package awslocal_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Spot checks of what the aws command line sends differently from the Go SDK.
func TestAWSCommandLineManagesUsersAndKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("each run of the aws command line takes about a second")
	}
	bin, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("the aws command line is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), bin, "--version").CombinedOutput(); err != nil {
		t.Skipf("%s does not run: %v %s", bin, err, out)
	}
	w := start(t)
	c := cli{t: t, bin: bin, w: w, home: t.TempDir()}
	seed := w.s.Seed().Customer
	admin := c.as(seed.AccessKeyID, seed.SecretAccessKey, "")

	var key struct{ KeyMetadata struct{ Arn string } }
	admin.run(&key, "kms", "create-key", "--multi-region", "--tags", "TagKey=team,TagValue=db")
	arn := key.KeyMetadata.Arn
	admin.run(nil, "iam", "create-user", "--user-name", "app", "--tags", "Key=team,Value=db", "Key=stage,Value=test")
	var made struct{ Policy struct{ Arn string } }
	admin.run(&made, "iam", "create-policy", "--policy-name", "use", "--policy-document", statement("Allow", "kms:*DataKey", arn))
	admin.run(nil, "iam", "attach-user-policy", "--user-name", "app", "--policy-arn", made.Policy.Arn)
	var access struct {
		AccessKey struct {
			ID     string `json:"AccessKeyId"`
			Secret string `json:"SecretAccessKey"`
		}
	}
	admin.run(&access, "iam", "create-access-key", "--user-name", "app")
	app := c.as(access.AccessKey.ID, access.AccessKey.Secret, "")

	var data struct{ CiphertextBlob, Plaintext string }
	app.run(&data, "kms", "generate-data-key", "--key-id", arn, "--key-spec", "AES_256", "--encryption-context", "a=b")
	app.refused("(AccessDeniedException)", "kms", "describe-key", "--key-id", arn)
	admin.run(nil, "iam", "put-user-permissions-boundary", "--user-name", "app", "--permissions-boundary", "arn:aws:iam::aws:policy/AdministratorAccess")
	admin.run(nil, "iam", "untag-user", "--user-name", "app", "--tag-keys", "stage", "team")
	var user struct {
		User struct {
			Tags                []any
			PermissionsBoundary struct{ PermissionsBoundaryArn string }
		}
	}
	admin.run(&user, "iam", "get-user", "--user-name", "app")
	if len(user.User.Tags) != 0 || user.User.PermissionsBoundary.PermissionsBoundaryArn != "arn:aws:iam::aws:policy/AdministratorAccess" {
		t.Errorf("%+v", user)
	}
	var version struct {
		PolicyVersion struct{ Document struct{ Statement []any } }
	}
	admin.run(&version, "iam", "get-policy-version", "--policy-arn", made.Policy.Arn, "--version-id", "v1")
	if len(version.PolicyVersion.Document.Statement) != 1 {
		t.Errorf("%+v", version)
	}

	admin.run(nil, "kms", "rotate-key-on-demand", "--key-id", arn)
	admin.run(nil, "kms", "replicate-key", "--key-id", arn, "--replica-region", elsewhere)
	blob, err := base64.StdEncoding.DecodeString(data.CiphertextBlob)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.home, "blob")
	if err := os.WriteFile(file, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	var opened struct{ Plaintext string }
	admin.run(&opened, "--region", elsewhere, "kms", "decrypt", "--key-id", "arn:aws:kms:"+elsewhere+":111122223333:"+keyIDOf(t, w.customer(), arn),
		"--ciphertext-blob", "fileb://"+file, "--encryption-context", "a=b")
	if opened.Plaintext == "" || opened.Plaintext != data.Plaintext {
		t.Error("the replica opened something else")
	}
	admin.run(nil, "iam", "update-access-key", "--user-name", "app", "--access-key-id", access.AccessKey.ID, "--status", "Inactive")
	app.refused("(UnrecognizedClientException)", "kms", "describe-key", "--key-id", arn)
}
