package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/secret"
)

const private = "a-private-key-that-nobody-may-see"

// serve answers after a challenge, as the API does, and tells what was asked.
func serve(t *testing.T, h http.HandlerFunc) (*client.Client, *[]string) {
	t.Helper()
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Digest realm="MMS Public API", domain="", nonce="abc", algorithm=MD5, qop="auth", stale=false`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen = append(seen, strings.Join([]string{r.Method, r.RequestURI, r.Header.Get("Accept"), r.Header.Get("Content-Type"), string(b)}, " "))
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return client.New(srv.URL+"/", "pub", secret.FromString(private)), &seen
}

func TestCallsCarryVersionAndBody(t *testing.T) {
	c, seen := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"id":"x"}`)) })
	var out struct{ ID string }
	if err := c.Do(t.Context(), "POST", "/a/b%2Fc?x=1", map[string]int{"n": 1}, &out); err != nil || out.ID != "x" {
		t.Fatalf("%+v %v", out, err)
	}
	if err := c.DoVersion(t.Context(), "application/json", "GET", "/d", nil, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{`POST /a/b%2Fc?x=1 ` + client.MediaType + " " + client.MediaType + ` {"n":1}`, "GET /d application/json  "}
	if strings.Join(*seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("sent %q", *seen)
	}
}

func TestRefusalsAreErrors(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		code     string
		contains string
	}{
		"ours":         {409, `{"error":409,"errorCode":"AWS_IAM_ROLE_IN_USE","detail":"It is in use.","parameters":["r"]}`, "AWS_IAM_ROLE_IN_USE", "It is in use."},
		"a proxy's":    {502, `<html>`, "UNEXPECTED_ANSWER", "502 Bad Gateway"},
		"another JSON": {500, `{"message":"x"}`, "UNEXPECTED_ANSWER", "500"},
		"empty":        {503, ``, "UNEXPECTED_ANSWER", "503"},
		"to elsewhere": {302, ``, "UNEXPECTED_ANSWER", "302"},
	} {
		cl, seen := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		})
		err := cl.Do(t.Context(), "GET", "/x", nil, nil)
		var e *client.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Status != c.status || !strings.Contains(e.Error(), c.contains) {
			t.Errorf("%s: %v", name, err)
		}
		if len(*seen) != 1 {
			t.Errorf("%s: %d calls", name, len(*seen))
		}
	}
}

func TestFailuresTellNoSecret(t *testing.T) {
	cl, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"id":`)) })
	var out struct{}
	err := cl.Do(t.Context(), "GET", "/x", nil, &out)
	if err == nil || strings.Contains(err.Error(), private) || !strings.Contains(err.Error(), "decode answer of GET /x") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cl.Do(ctx, "GET", "/x", nil, nil); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), private) {
		t.Errorf("%v", err)
	}
	if err := cl.Do(t.Context(), "GET", "/x", func() {}, nil); err == nil {
		t.Error("a body that is no JSON was sent")
	}
}
