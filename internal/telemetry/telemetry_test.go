package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/telemetry"
)

func scrape(t *testing.T, h http.Handler, change func(*http.Request)) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8080/metrics", nil)
	r.RemoteAddr = "127.0.0.1:1234"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b)
}

func TestWhatIsCountedIsShown(t *testing.T) {
	m := telemetry.New("v1")
	m.KMS(kms.Observation{Operation: kms.OpDecrypt, Outcome: kms.OK, Took: 20 * time.Millisecond, Target: kms.Target{RoleARN: "arn:aws:iam::1:role/secret-name"}})
	m.HTTP("GET", "/groups/{groupId}", 200)
	m.HTTP("NONSENSE", "", 405)
	m.KMIP("Get", "Success")
	fails := false
	m.Add(func(context.Context) ([]telemetry.Sample, error) {
		if fails {
			return nil, errors.New("no")
		}
		return []telemetry.Sample{{Name: "hosts", Help: "h", Labels: []string{"state", "linked"}, Value: 3}}, nil
	})
	code, text := scrape(t, m.Handler(secret.Bytes{}), nil)
	for _, want := range []string{
		`keywright_kms_call_duration_seconds_bucket{operation="Decrypt",outcome="OK",le="0.025"} 1`, `keywright_kms_calls_total{operation="Decrypt",outcome="OK",reason=""} 1`,
		`keywright_http_requests_total{method="GET",route="/groups/{groupId}",status="200"} 1`, `{method="other",route="",status="405"} 1`,
		`keywright_kmip_requests_total{operation="Get",result="Success"} 1`, `keywright_hosts{state="linked"} 3`, `keywright_build_info{version="v1"} 1`, `keywright_scrape_errors 0`,
	} {
		if code != 200 || !strings.Contains(text, want) {
			t.Errorf("%d, no %s", code, want)
		}
	}
	if strings.Contains(text, "secret-name") {
		t.Error("an ARN is shown")
	}
}

func TestOnlyThisMachineOrTheTokenMaySee(t *testing.T) {
	m := telemetry.New("v1")
	open, locked := m.Handler(secret.Bytes{}), m.Handler(secret.FromString("the-token"))
	bearer := func(v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+v) }
	}
	for name, c := range map[string]struct {
		h      http.Handler
		change func(*http.Request)
		want   int
	}{
		"here":                 {open, nil, 200},
		"elsewhere":            {open, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1" }, 403},
		"a page of a browser":  {open, func(r *http.Request) { r.Host = "evil.example:8080" }, 403},
		"through a proxy":      {open, func(r *http.Request) { r.Header.Set("X-Forwarded-For", "192.0.2.1") }, 403},
		"without token":        {locked, nil, 403},
		"with another token":   {locked, bearer("the-toke"), 403},
		"with the token":       {locked, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1"; bearer("the-token")(r) }, 200},
		"the token as a basic": {locked, func(r *http.Request) { r.SetBasicAuth("the-token", "the-token") }, 403},
	} {
		if code, _ := scrape(t, c.h, c.change); code != c.want {
			t.Errorf("%s: %d, want %d", name, code, c.want)
		}
	}
}

func TestNothingIsCountedWithoutMetrics(*testing.T) {
	var m *telemetry.Metrics
	m.KMS(kms.Observation{})
	m.HTTP("GET", "/", 200)
	m.KMIP("Get", "Success")
	m.Add(nil)
}
