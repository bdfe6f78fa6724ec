package awslocal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keywright/keywright/internal/awslocal"
)

func static(id, secret, token string) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(id, secret, token)
}

func TestCredentialsThatAreNoGood(t *testing.T) {
	w := start(t)
	seed := w.s.Seed().Customer
	roleARN := w.role(w.customer(), "keywright", "")
	out, err := w.platform().sts.AssumeRole(t.Context(), assumeInput(roleARN, externalID, ""))
	if err != nil {
		t.Fatal(err)
	}
	session := out.Credentials
	altered := []byte(*session.SessionToken)
	altered[40] ^= 1
	for name, c := range map[string]struct {
		p          aws.CredentialsProvider
		kms, query string
	}{
		"unknown key":           {static("AKIAUNKNOWN", "x", ""), "UnrecognizedClientException", "InvalidClientTokenId"},
		"wrong secret":          {static(seed.AccessKeyID, "wrong", ""), "InvalidSignatureException", "SignatureDoesNotMatch"},
		"token with long-term":  {static(seed.AccessKeyID, seed.SecretAccessKey, *session.SessionToken), "UnrecognizedClientException", "InvalidClientTokenId"},
		"session without token": {static(*session.AccessKeyId, *session.SecretAccessKey, ""), "UnrecognizedClientException", "InvalidClientTokenId"},
		"altered token":         {static(*session.AccessKeyId, *session.SecretAccessKey, string(altered)), "UnrecognizedClientException", "InvalidClientTokenId"},
		"session wrong secret":  {static(*session.AccessKeyId, "wrong", *session.SessionToken), "InvalidSignatureException", "SignatureDoesNotMatch"},
	} {
		t.Run(name, func(t *testing.T) {
			clients := w.with(c.p, region)
			_, err := clients.kms.ListKeys(t.Context(), &kms.ListKeysInput{})
			want(t, err, c.kms)
			_, err = clients.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			want(t, err, c.query)
			_, err = clients.iam.ListRoles(t.Context(), &iam.ListRolesInput{})
			want(t, err, c.query)
		})
	}
}

// post signs and sends a request by hand; change runs after the signature.
func (w *world) post(t testing.TB, service, target, contentType, body string, at time.Time, change func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, w.s.Endpoint()+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	if target != "" {
		r.Header.Set("X-Amz-Target", target)
	}
	sum := sha256.Sum256([]byte(body))
	seed := w.s.Seed().Customer
	creds := aws.Credentials{AccessKeyID: seed.AccessKeyID, SecretAccessKey: seed.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(context.Background(), creds, r, hex.EncodeToString(sum[:]), service, region, at); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func TestRequestsThatAreNoGood(t *testing.T) {
	w := start(t)
	const list, jsonType = "TrentService.ListKeys", "application/x-amz-json-1.1"
	identity := "Action=GetCallerIdentity&Version=2011-06-15"
	for name, c := range map[string]struct {
		service, target, body string
		at                    time.Duration
		change                func(*http.Request)
		status                int
		says                  []string
	}{
		"good kms": {service: "kms", target: list, body: "{}", status: 200, says: []string{`"Keys":[]`}},
		"good sts": {service: "sts", body: identity, status: 200, says: []string{"<Account>111122223333</Account>"}},
		"unsigned kms": {service: "kms", target: list, body: "{}", status: 400, change: func(r *http.Request) { r.Header.Del("Authorization") },
			says: []string{`"__type":"MissingAuthenticationTokenException"`, "Missing Authentication Token"}},
		"unsigned sts": {service: "sts", body: identity, status: 403, change: func(r *http.Request) { r.Header.Del("Authorization") },
			says: []string{"<Code>MissingAuthenticationToken</Code>"}},
		"malformed kms": {service: "kms", target: list, body: "{}", status: 400, change: func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") },
			says: []string{"IncompleteSignatureException"}},
		"malformed sts": {service: "sts", body: identity, status: 400, change: func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") },
			says: []string{"<Code>IncompleteSignature</Code>"}},
		"altered signature": {service: "kms", target: list, body: "{}", status: 400, change: func(r *http.Request) {
			h := r.Header.Get("Authorization")
			last := "0"
			if strings.HasSuffix(h, "0") {
				last = "1"
			}
			r.Header.Set("Authorization", h[:len(h)-1]+last)
		}, says: []string{"InvalidSignatureException", "The request signature we calculated does not match"}},
		"altered body": {service: "sts", body: identity, status: 403, change: func(r *http.Request) {
			r.Body = io.NopCloser(bytes.NewReader([]byte(strings.Replace(identity, "2011", "2012", 1))))
		}, says: []string{"<Code>SignatureDoesNotMatch</Code>"}},
		"late":             {service: "kms", target: list, body: "{}", at: -16 * time.Minute, status: 400, says: []string{"InvalidSignatureException", "Signature expired: "}},
		"late sts":         {service: "sts", body: identity, at: -16 * time.Minute, status: 403, says: []string{"SignatureDoesNotMatch", "Signature expired: "}},
		"early":            {service: "kms", target: list, body: "{}", at: 16 * time.Minute, status: 400, says: []string{"Signature not yet current: "}},
		"fourteen minutes": {service: "kms", target: list, body: "{}", at: -14 * time.Minute, status: 200},
		"wrong service":    {service: "s3", target: list, body: "{}", status: 400, says: []string{"InvalidSignatureException", "Credential should be scoped to correct service: 'kms'"}},
		"query for kms":    {service: "kms", body: identity, status: 403, says: []string{"SignatureDoesNotMatch", "Credential should be scoped to correct service"}},
		"no operation":     {service: "kms", target: "TrentService.", body: "{}", status: 400, says: []string{"UnknownOperationException"}},
		"other target":     {service: "kms", target: "DynamoDB_20120810.ListTables", body: "{}", status: 400, says: []string{"UnknownOperationException"}},
		"bad json":         {service: "kms", target: list, body: "{", status: 400, says: []string{"SerializationException"}},
		"wrong type":       {service: "kms", target: list, body: `{"Limit":"x"}`, status: 400, says: []string{"SerializationException"}},
		"no action":        {service: "sts", body: "Version=2011-06-15", status: 400, says: []string{"MissingAction"}},
		"twice":            {service: "sts", body: identity + "&Action=AssumeRole", status: 400, says: []string{"MalformedQueryString"}},
		"version":          {service: "sts", body: "Action=GetCallerIdentity&Version=2010-05-08", status: 400, says: []string{"InvalidAction"}},
		"parameter":        {service: "sts", body: identity + "&X=1", status: 400, says: []string{"ValidationError", "does not support the parameter X"}},
		"too large":        {service: "kms", target: list, body: strings.Repeat(" ", 1<<20+1), status: 413, says: []string{"RequestEntityTooLarge"}},
	} {
		t.Run(name, func(t *testing.T) {
			contentType := "application/x-www-form-urlencoded"
			if c.target != "" {
				contentType = jsonType
			}
			status, answer := w.post(t, c.service, c.target, contentType, c.body, time.Now().Add(c.at), c.change)
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, answer)
			}
			for _, s := range c.says {
				if !strings.Contains(answer, s) {
					t.Errorf("answer %s\nwant it to say %s", answer, s)
				}
			}
		})
	}
}

func TestHealthNeedsNoCredentials(t *testing.T) {
	w := start(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.s.Endpoint()+awslocal.HealthPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != `{"status":"ok"}` {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// A client made anew for each call must not use up the server's connections.
func TestManyClientsOfOneCallEach(t *testing.T) {
	w := start(t)
	roleARN := w.s.Seed().CanaryRoleARN
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 600 {
		if _, err := w.platform().sts.AssumeRole(ctx, assumeInput(roleARN, "", "")); err != nil {
			t.Fatal(err)
		}
	}
}
