package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/awslocal"
)

// realAWS is an AWS outside of what `keywright up` starts, reached by the SDK's default
// chain alone, as the real one is.
func realAWS(t *testing.T) *awslocal.Server {
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
			t.Error(err)
		}
	})
	return s
}

func TestUpWithAnAWSOfItsOwn(t *testing.T) {
	for _, name := range os.Environ() {
		if name, _, _ = strings.Cut(name, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	// Without credentials it starts all the same, and says what it lacks when that matters.
	p := newPlatform(t, "--aws", "real")
	if p.boot.AWS != nil || p.boot.Sample != nil || p.boot.Enable != nil || len(p.named("awslocal")) != 0 {
		t.Errorf("a local AWS, or samples: %+v", p.boot)
	}
	for _, says := range []string{"There are no samples", "keywright doctor server", "keywright agent aws-policy local", "default chain"} {
		if !strings.Contains(p.out.String(), says) {
			t.Errorf("up does not say %q:\n%s", says, p.out)
		}
	}
	project := p.createProject("Real")
	if e := p.refused("SERVICE_UNAVAILABLE", "POST", "/api/atlas/v2/groups/"+project+"/cloudProviderAccess", map[string]any{"providerName": "AWS"}); !strings.Contains(e.Detail, "credentials") {
		t.Errorf("%+v", e)
	}
	doctor := func() (string, error) {
		out, err := exec.Command(binary, "doctor", "server", "--data-dir", filepath.Join(p.dir, "server"), "--listen", strings.TrimPrefix(p.boot.BaseURL, "http://")).CombinedOutput()
		return string(out), err
	}
	if out, err := doctor(); err == nil || !strings.Contains(out, "AWS credentials") {
		t.Errorf("doctor without credentials: %v\n%s", err, out)
	}
	p.stop()

	// The same data directory and the local AWS do not go together.
	out, err := exec.Command(binary, "up", "--data-dir", p.dir, "--listen", "127.0.0.1:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "was used with --aws real") {
		t.Errorf("the local AWS on the directory of a real one: %v\n%s", err, out)
	}

	aws := realAWS(t)
	seed := aws.Seed()
	t.Setenv("AWS_ENDPOINT_URL", aws.Endpoint())
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_ACCESS_KEY_ID", seed.Platform.Server.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", seed.Platform.Server.SecretAccessKey)
	p.start()
	if r := p.register(project); r.Principal != "arn:aws:iam::"+awslocal.PlatformAccount+":root" {
		t.Errorf("%+v", r)
	}
	if out, err := doctor(); err != nil || !strings.Contains(out, "user/") || !strings.Contains(out, "a process runs on this data directory") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	if out, err := exec.Command(binary, "ip-addresses", "--base-url", p.boot.BaseURL).CombinedOutput(); err != nil || !strings.Contains(string(out), "eu-west-1") || !strings.Contains(string(out), "127.0.0.1/32") {
		t.Errorf("ip-addresses: %v\n%s", err, out)
	}
}
