package awskms_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/secret"
)

// TestCanary: rule 9 of key-plane section 1.
func TestCanary(t *testing.T) {
	for name, tt := range map[string]struct {
		canary answer
		role   string
		want   kms.Reason
		out    kms.Outcome
	}{
		"works":      {answer{}, replayCanary, kms.RoleNotAssumable, kms.Revoked},
		"refused":    {stsError(403, "AccessDenied", "not authorized"), replayCanary, kms.PlatformPermissions, kms.Unreachable},
		"fails":      {stsError(500, "InternalFailure", ""), replayCanary, kms.PlatformPermissions, kms.Unreachable},
		"is missing": {answer{}, "", kms.RoleNotAssumable, kms.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplay(t, map[string][]answer{"AssumeRole": {stsError(403, "AccessDenied", stsRefusal)}, "canary": {tt.canary}})
			p := r.provider(t, tt.role)
			_, err := p.Assume(t.Context(), replayTarget)
			if f := kms.AsFailure(err); f == nil || f.Reason != tt.want || f.Outcome != tt.out {
				t.Errorf("Assume: %v, want %s", err, tt.want)
			}
			if f := kms.AsFailure(p.TryAssume(t.Context(), replayRole, nil, "us-east-1")); f == nil || f.Reason != tt.want {
				t.Errorf("TryAssume: %v, want %s", f, tt.want)
			}
		})
	}
	t.Run("does not answer", func(t *testing.T) {
		r := newReplay(t, map[string][]answer{"AssumeRole": {stsError(403, "AccessDenied", stsRefusal)}, "canary": {{hang: true}}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.provider(t, replayCanary).Assume(ctx, replayTarget)
		if f := kms.AsFailure(err); f == nil || f.Reason != kms.PlatformPermissions {
			t.Errorf("got %v", err)
		}
	})
}

// TestNetworkRows: rows 1 to 4 and the missing credentials of row 8.
func TestNetworkRows(t *testing.T) {
	run := func(t *testing.T, change func(*aws.Config), d time.Duration) kms.Result {
		cfg := (&replay{Server: &httptest.Server{URL: "http://127.0.0.1:1"}}).config()
		change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return kms.Run(ctx, newProvider(t, cfg, ""), kms.RunInput{Target: replayTarget})
	}
	dial := func(err error) func(*aws.Config) {
		return func(c *aws.Config) {
			c.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}}
		}
	}
	silent := newReplay(t, map[string][]answer{"AssumeRole": {{hang: true}}})
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for name, tt := range map[string]struct {
		change func(*aws.Config)
		d      time.Duration
		want   kms.Reason
	}{
		"1 deadline":          {func(c *aws.Config) { c.BaseEndpoint = &silent.URL }, 300 * time.Millisecond, kms.Timeout},
		"1 timeout":           {dial(&net.OpError{Op: "dial", Err: timeoutError{}}), 10 * time.Second, kms.Timeout},
		"2 name":              {dial(&net.DNSError{Err: "no such host", Name: "kms.us-east-1.amazonaws.com", IsNotFound: true}), 10 * time.Second, kms.DNS},
		"3 refused":           {func(*aws.Config) {}, 10 * time.Second, kms.Connect},
		"4 unknown authority": {func(c *aws.Config) { c.BaseEndpoint = &secure.URL }, 10 * time.Second, kms.TLS},
		"4 no TLS at all":     {func(c *aws.Config) { c.BaseEndpoint = aws.String(strings.Replace(silent.URL, "http:", "https:", 1)) }, 10 * time.Second, kms.TLS},
		"8 no credentials":    {func(c *aws.Config) { c.Credentials = nil }, 10 * time.Second, kms.PlatformCredentials},
		"8 credentials failed": {func(c *aws.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{}, errors.New("no EC2 IMDS role found")
			})
		}, 10 * time.Second, kms.PlatformCredentials},
	} {
		t.Run(name, func(t *testing.T) {
			if res := run(t, tt.change, tt.d); res.Outcome != kms.Unreachable || res.Reason != tt.want {
				t.Errorf("%s (%s), want %s: %v, %v", res.Outcome, res.Reason, tt.want, res.Failure, errors.Unwrap(res.Failure))
			}
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func (r *replay) count(op string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[op]
}

// TestRefusedSessionIsRenewedOnce: row 12.
func TestRefusedSessionIsRenewedOnce(t *testing.T) {
	r := newReplay(t, map[string][]answer{"Encrypt": {kmsError("ExpiredTokenException", "expired"), {}}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	if _, arn, err := s.Encrypt(t.Context(), secret.Random(32), nil); err != nil || arn != replayKey {
		t.Fatalf("encrypt: %s, %v", arn, err)
	}
	if n := r.count("AssumeRole"); n != 2 {
		t.Errorf("%d AssumeRole, want 2", n)
	}
}

func TestSessionsAreCachedAndRunsAreFresh(t *testing.T) {
	r := newReplay(t, nil)
	p := r.provider(t, "")
	for range 3 {
		s, err := p.Session(t.Context(), replayTarget)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count("AssumeRole"); n != 1 {
		t.Errorf("%d AssumeRole for three cached sessions", n)
	}
	p.Forget(replayTarget)
	if _, err := p.Session(t.Context(), replayTarget); err != nil || r.count("AssumeRole") != 2 {
		t.Errorf("%d AssumeRole after Forget, %v", r.count("AssumeRole"), err)
	}
	for range 2 {
		if res := kms.Run(t.Context(), p, kms.RunInput{Target: replayTarget}); res.Outcome != kms.OK {
			t.Fatal(res.Failure)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.fresh) != 4 || !r.fresh[2] || !r.fresh[3] {
		t.Errorf("each run has to assume the role anew over a new connection; AssumeRole came over new ones: %v", r.fresh)
	}
}

func TestCachedSessionIsReplacedBeforeItEnds(t *testing.T) {
	r := newReplay(t, map[string][]answer{"AssumeRole": {{status: 200, body: session(0, 4*time.Minute)}, {}}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count("AssumeRole"); n != 2 {
		t.Errorf("%d AssumeRole, want 2: one for each session", n)
	}
}

// TestTrafficDoesNotStampede: many calls at once share one AssumeRole.
func TestTrafficDoesNotStampede(t *testing.T) {
	r := newReplay(t, nil)
	p := r.provider(t, "")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s, err := p.Session(t.Context(), replayTarget)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Describe(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := r.count("AssumeRole"); n != 1 {
		t.Errorf("%d AssumeRole for calls at the same time", n)
	}
}

func TestDeniedCallDropsTheCachedSession(t *testing.T) {
	r := newReplay(t, map[string][]answer{"Decrypt": {kmsError("AccessDeniedException", "no"), {}}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Decrypt(t.Context(), []byte("blob:x"), nil); kms.AsFailure(err) == nil {
		t.Fatal("not denied")
	}
	if _, err := s.Decrypt(t.Context(), []byte("blob:x"), nil); err != nil || r.count("AssumeRole") != 2 {
		t.Errorf("%v, %d AssumeRole", err, r.count("AssumeRole"))
	}
}

func TestAssumeRoleCarriesASessionPolicy(t *testing.T) {
	r := newReplay(t, nil)
	p := r.provider(t, "")
	if _, err := p.Session(t.Context(), replayTarget); err != nil {
		t.Fatal(err)
	}
	bare := replayTarget
	bare.KeyID = "1234abcd-12ab-34cd-56ef-1234567890ab"
	if s, err := p.Assume(t.Context(), bare); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	none := replayTarget
	none.KeyID = ""
	if s, err := p.Assume(t.Context(), none); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.TryAssume(t.Context(), replayRole, nil, "us-east-1"); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	const allow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"` + replayKey + `"}]}`
	const deny = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`
	for i, want := range []struct{ policy, duration, external string }{
		{allow, "3600", replayTarget.ExternalID}, {allow, "900", replayTarget.ExternalID}, {deny, "900", replayTarget.ExternalID}, {deny, "900", ""},
	} {
		f := r.forms[i]
		if f.Get("Policy") != want.policy || f.Get("DurationSeconds") != want.duration || f.Get("ExternalId") != want.external || f.Has("ExternalId") != (want.external != "") {
			t.Errorf("call %d: %v", i, f)
		}
	}
}

// TestSignatureTextsLeakNothing: AWS quotes the request, session token included, when a
// signature is wrong.
func TestSignatureTextsLeakNothing(t *testing.T) {
	const token = "IQoJb3JpZ2luX2VjEXAMPLE"
	text := "The request signature we calculated does not match the signature you provided. The Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:" + token
	r := newReplay(t, map[string][]answer{"Encrypt": {kmsError("InvalidSignatureException", text)}, "Decrypt": {kmsError("InvalidSignatureException", strings.ReplaceAll(text, "\n", " "))}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	_, _, encErr := s.Encrypt(t.Context(), secret.Random(8), nil)
	_, decErr := s.Decrypt(t.Context(), []byte("x"), nil)
	for _, err := range []error{encErr, decErr} {
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(fmt.Sprintf("%+v", e), token) {
				t.Errorf("%T shows the session token: %v", e, e)
			}
		}
		if f := kms.AsFailure(err); strings.Contains(f.Message+f.Detail(), token) {
			t.Errorf("message %q", f.Message)
		}
	}
}

// TestCallsGoToTheKeysRegion: STS too, so that no other Region has to be up. Only STS
// sees the platform's own credentials.
func TestCallsGoToTheKeysRegion(t *testing.T) {
	r := newReplay(t, nil)
	target := replayTarget
	target.Region = "eu-west-1"
	if res := kms.Run(t.Context(), r.provider(t, ""), kms.RunInput{Target: target}); res.Outcome != kms.OK {
		t.Fatal(res.Failure)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for op, want := range map[string]struct{ key, scope string }{
		"AssumeRole": {"AKIAEXAMPLE/", "/eu-west-1/sts/aws4_request"}, "DescribeKey": {"ASIAEXAMPLE", "/eu-west-1/kms/aws4_request"},
		"Encrypt": {"ASIAEXAMPLE", "/eu-west-1/kms/aws4_request"}, "Decrypt": {"ASIAEXAMPLE", "/eu-west-1/kms/aws4_request"},
	} {
		if got := r.scopes[op]; !strings.HasSuffix(got, want.scope) || !strings.HasPrefix(got, want.key) {
			t.Errorf("%s was signed as %s", op, got)
		}
	}
}

// TestDefaultChain: without a configuration of its own a provider takes credentials,
// Region and endpoints from the environment.
func TestDefaultChain(t *testing.T) {
	r := newReplay(t, nil)
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": r.URL,
		"AWS_ENDPOINT_URL_KMS": r.URL + "/", "AWS_CONFIG_FILE": t.TempDir() + "/none", "AWS_SHARED_CREDENTIALS_FILE": t.TempDir() + "/none", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(k, v)
	}
	p, err := awskms.New(t.Context(), awskms.Config{})
	if err != nil {
		t.Fatal(err)
	}
	target := replayTarget
	target.Region = ""
	if res := kms.Run(t.Context(), p, kms.RunInput{Target: target}); res.Outcome != kms.OK {
		t.Fatal(res.Failure)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.scopes["AssumeRole"]; !strings.HasPrefix(got, "AKIAENV/") || !strings.Contains(got, "/eu-central-1/") {
		t.Errorf("signed as %s", got)
	}
}
