package sigv4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	testKey    = "AKIDEXAMPLEEXAMPLE00"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// signed makes a request signed by the AWS SDK's signer, as a server gets it.
func signed(t *testing.T, target, body string, at time.Time, change func(*http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:4566"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService.Encrypt")
	if change != nil {
		change(r)
	}
	sum := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret, SessionToken: r.Header.Get(TokenHeader)}
	if err := v4.NewSigner().SignHTTP(context.Background(), creds, r, hex.EncodeToString(sum[:]), "kms", "eu-west-1", at); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewRequest(r.Method, r.URL.String(), bytes.NewReader([]byte(body)))
	s.Header, s.Host, s.ContentLength = r.Header, r.URL.Host, r.ContentLength
	return s
}

func verify(r *http.Request, secret string, now time.Time) error {
	a, err := ParseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return Verify(r, body, a, []byte(secret), now)
}

func problemOf(err error) Problem {
	var e *Error
	if errors.As(err, &e) {
		return e.Problem
	}
	return 0
}

func TestVerifyAgainstTheSDKsSigner(t *testing.T) {
	for _, target := range []string{"/", "/?b=2&a=1&a=0&a-b=x%20y", "/a%20b/c?x=%2F"} {
		r := signed(t, target, `{"KeyId":"x"}`, testTime, nil)
		if err := verify(r, testSecret, testTime); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	r := signed(t, "/", "{}", testTime, func(r *http.Request) { r.Header.Set(TokenHeader, "tok") })
	if err := verify(r, testSecret, testTime); err != nil {
		t.Errorf("with session token: %v", err)
	}
}

// The recorded example of the AWS documentation (Signature Version 4 test
// suite, get-vanilla).
func TestVerifyRecordedVector(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://example.amazonaws.com/", nil)
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
	if err := verify(r, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	cases := map[string]struct {
		change func(*http.Request)
		secret string
		now    time.Time
		want   Problem
	}{
		"wrong secret":    {secret: "other", want: Mismatch},
		"altered body":    {change: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("{ }")) }, want: Mismatch},
		"altered target":  {change: func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.Decrypt") }, want: Mismatch},
		"altered host":    {change: func(r *http.Request) { r.Host = "127.0.0.1:1" }, want: Mismatch},
		"altered query":   {change: func(r *http.Request) { r.URL.RawQuery = "a=1" }, want: Mismatch},
		"late":            {now: testTime.Add(15*time.Minute + time.Second), want: Skewed},
		"early":           {now: testTime.Add(-15*time.Minute - time.Second), want: Skewed},
		"added x-amz":     {change: func(r *http.Request) { r.Header.Set("X-Amz-Extra", "1") }, want: Incomplete},
		"added token":     {change: func(r *http.Request) { r.Header.Set(TokenHeader, "1") }, want: Incomplete},
		"no date":         {change: func(r *http.Request) { r.Header.Del("X-Amz-Date") }, want: Incomplete},
		"other day":       {change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260302T000000Z") }, want: Mismatch},
		"removed header":  {change: func(r *http.Request) { r.Header.Del("X-Amz-Target") }, want: Incomplete},
		"no header":       {change: func(r *http.Request) { r.Header.Del("Authorization") }, want: Missing},
		"payload streams": {change: func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "STREAMING-X") }, want: Incomplete},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := signed(t, "/", "{}", testTime, nil)
			if c.change != nil {
				c.change(r)
			}
			secret, now := c.secret, c.now
			if secret == "" {
				secret = testSecret
			}
			if now.IsZero() {
				now = testTime
			}
			if err := verify(r, secret, now); problemOf(err) != c.want {
				t.Errorf("got %v, want problem %d", err, c.want)
			}
		})
	}
}

func TestSkewOfFifteenMinutesIsTaken(t *testing.T) {
	for _, d := range []time.Duration{MaxSkew, -MaxSkew} {
		if err := verify(signed(t, "/", "{}", testTime, nil), testSecret, testTime.Add(d)); err != nil {
			t.Errorf("skew %s: %v", d, err)
		}
	}
}

func TestParseAuthorizationRefuses(t *testing.T) {
	good := "AWS4-HMAC-SHA256 Credential=AK/20260301/r/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("ab", 32)
	if _, err := ParseAuthorization(good); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{
		"Bearer x", "AWS4-HMAC-SHA256 ", good + ",Signature=00", good + ",Extra=1",
		strings.Replace(good, "host;x-amz-date", "x-amz-date;host", 1),
		strings.Replace(good, "host;x-amz-date", "Host;x-amz-date", 1),
		strings.Replace(good, "host;x-amz-date", "host;host", 1),
		strings.Replace(good, "aws4_request", "aws5_request", 1),
		strings.Replace(good, "20260301", "2026031", 1),
		strings.Replace(good, "abab", "zz", 1),
		strings.Replace(good, "AK/", "/", 1),
		good + strings.Repeat(" ", maxHeader),
	} {
		if _, err := ParseAuthorization(h); problemOf(err) != Incomplete {
			t.Errorf("%q: %v", h, err)
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AK/20260301/r/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("ab", 32))
	f.Add("AWS4-HMAC-SHA256 Credential=,")
	f.Add("")
	f.Fuzz(func(t *testing.T, h string) {
		a, err := ParseAuthorization(h)
		if err != nil {
			if problemOf(err) == 0 {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if a.AccessKeyID == "" || len(a.SignedHeaders) == 0 || len(a.signature) != sha256.Size {
			t.Fatalf("accepted an incomplete header: %+v", a)
		}
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("X-Amz-Date", a.Date+"T000000Z")
		if err := Verify(r, nil, a, []byte("s"), testTime); err == nil {
			t.Fatal("verified without knowing the secret")
		}
	})
}
