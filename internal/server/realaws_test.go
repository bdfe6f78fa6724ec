package server_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// recorded plays exchanges of the real AWS back, in the form in which they go over the
// wire (testdata/aws, written by hand after AWS's documentation).
type recorded struct {
	t    *testing.T
	url  string
	who  string      // which identity GetCallerIdentity tells
	open atomic.Bool // the role can be assumed without its external id

	mu    sync.Mutex
	calls []string // action, and the session token that signed it
}

func newRecorded(t *testing.T, who string) *recorded {
	t.Helper()
	r := &recorded{t: t, who: who}
	srv := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(srv.Close)
	r.url = srv.URL
	// The default chain, and nothing of the machine that runs the test.
	for _, name := range os.Environ() {
		if name, _, _ = strings.Cut(name, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ENDPOINT_URL_STS", r.url)
	return r
}

func (r *recorded) serve(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	form, _ := url.ParseQuery(string(body))
	action := form.Get("Action")
	r.mu.Lock()
	r.calls = append(r.calls, strings.TrimSpace(action+" "+req.Header.Get("X-Amz-Security-Token")))
	r.mu.Unlock()
	switch {
	case strings.HasPrefix(req.URL.Path, "/latest/api/token"):
		r.play(w, "imds.token")
	case strings.HasSuffix(req.URL.Path, "/iam/security-credentials/"):
		r.play(w, "imds.role")
	case strings.HasSuffix(req.URL.Path, "/iam/security-credentials/keywright-server"):
		r.play(w, "imds.credentials")
	case action == "GetCallerIdentity":
		r.play(w, "GetCallerIdentity."+r.who)
	case action == "AssumeRoleWithWebIdentity" && form.Get("WebIdentityToken") == "a.jwt.token":
		r.play(w, action)
	case action == "AssumeRole" && (form.Get("ExternalId") == r.externalID() || r.open.Load()):
		r.play(w, "AssumeRole.ok")
	case action == "AssumeRole":
		r.play(w, "AssumeRole.denied")
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// externalID is what the trust policy names; tests with a role set it.
func (r *recorded) externalID() string { return os.Getenv("KEYWRIGHT_TEST_EXTERNAL_ID") }

func (r *recorded) play(w http.ResponseWriter, name string) {
	b, err := os.ReadFile(filepath.Join("testdata", "aws", name+".http"))
	if err != nil {
		r.t.Error(err)
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		r.t.Errorf("%s: %v", name, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (r *recorded) called(want string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c == want {
			return true
		}
	}
	return false
}

// plane makes the services over the provider as the server makes it: without any
// configuration, from the SDK's default chain.
func (r *recorded) plane() (*store.Store, *access.Service, tenant.Principal, store.Project) {
	r.t.Helper()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	st, err := store.Open(r.t.Context(), store.Config{Dir: r.t.TempDir()})
	must(err)
	r.t.Cleanup(func() { _ = st.Close() })
	p, err := awskms.New(r.t.Context(), awskms.Config{Region: "us-east-1", SessionName: "keywright-server"})
	must(err)
	r.t.Cleanup(func() { _ = p.Close() })
	people := tenant.New(st)
	must(people.Bootstrap(r.t.Context(), tenant.Init{OrgName: "Acme", OwnerName: "owner", PublicKey: "ownerkey", PrivateKey: secret.FromString("a-private-key-of-the-owner")}))
	who := func() tenant.Principal {
		w, _, _, err := people.Credential(r.t.Context(), "ownerkey")
		must(err)
		return w
	}
	owner := who()
	pr, err := people.CreateProject(r.t.Context(), owner, tenant.NewProject{Org: owner.Org, Name: "p"})
	must(err)
	return st, access.New(st, p, "us-east-1"), who(), pr
}

// Rule 5.1: whatever the default chain finds, what is handed out is the root ARN of its
// account, in its partition.
func TestThePrincipalIsTheAccountOfWhoeverWeAre(t *testing.T) {
	for _, c := range []struct {
		who, want, signedWith string
		chain                 func(r *recorded)
	}{
		{"instance", "arn:aws:iam::999900001111:root", "IQoJb3JpZ2luEXAMPLE", func(r *recorded) {
			t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", r.url)
		}},
		{"webidentity", "arn:aws-us-gov:iam::999900002222:root", "FwoGZXIvYXdzEXAMPLE", func(*recorded) {
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("a.jwt.token"), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
			t.Setenv("AWS_ROLE_ARN", "arn:aws-us-gov:iam::999900002222:role/keywright-server")
			t.Setenv("AWS_ROLE_SESSION_NAME", "eks-1")
		}},
		{"user", "arn:aws-cn:iam::999900003333:root", "", func(*recorded) {
			t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY")
		}},
	} {
		t.Run(c.who, func(t *testing.T) {
			r := newRecorded(t, c.who)
			c.chain(r)
			_, roles, owner, pr := r.plane()
			got, err := roles.Register(t.Context(), owner, pr.ID)
			if err != nil || got.PlatformARN != c.want {
				t.Fatalf("%q, want %q, %v", got.PlatformARN, c.want, err)
			}
			if !r.called(strings.TrimSpace("GetCallerIdentity " + c.signedWith)) {
				t.Errorf("GetCallerIdentity was not signed with the chain's session: %q", r.calls)
			}
		})
	}
}

func TestAuthorizingWithRecordedAnswers(t *testing.T) {
	r := newRecorded(t, "instance")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", r.url)
	_, roles, owner, pr := r.plane()
	reg, err := roles.Register(t.Context(), owner, pr.ID)
	if err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:iam::111122223333:role/Shop"
	t.Setenv("KEYWRIGHT_TEST_EXTERNAL_ID", "another one")
	if _, err := roles.Authorize(t.Context(), owner, pr.ID, reg.ID, arn); apierr.Code(err) != "CANNOT_ASSUME_ROLE" || !strings.Contains(err.Error(), "arn:aws:iam::999900001111:root") {
		t.Errorf("not trusted: %v", err)
	}
	t.Setenv("KEYWRIGHT_TEST_EXTERNAL_ID", reg.ExternalID)
	r.open.Store(true)
	if _, err := roles.Authorize(t.Context(), owner, pr.ID, reg.ID, arn); apierr.Code(err) != "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID" {
		t.Errorf("open: %v", err)
	}
	r.open.Store(false)
	if got, err := roles.Authorize(t.Context(), owner, pr.ID, reg.ID, arn); err != nil || got.ARN != arn {
		t.Errorf("%+v %v", got, err)
	}
}
