package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/up"
)

const privateKey = "a-private-key-that-nobody-may-see"

// api is a server that answers what it is told, by method and path, and 404 otherwise.
func api(t *testing.T, answers map[string]string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[r.Method+" "+r.URL.EscapedPath()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			a = `{"error":404,"errorCode":"GROUP_NOT_FOUND","detail":"No such group."}`
		} else if strings.HasPrefix(a, `{"error":4`) {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = w.Write([]byte(a))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// bootstrap writes a bootstrap file of a server into a directory.
func bootstrap(t *testing.T, dir, base string) string {
	t.Helper()
	b, err := json.Marshal(up.Bootstrap{Version: up.BootstrapVersion, BaseURL: base, PublicKey: "pub", PrivateKey: privateKey})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// away keeps a test from the bootstrap file of whoever runs it.
func away(t *testing.T) string {
	t.Helper()
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	t.Setenv("KEYWRIGHT_BOOTSTRAP", "")
	return data
}

func exportAnswers() map[string]string {
	return map[string]string{
		"GET /api/atlas/v2/orgs":                     `{"results":[{"id":"o1"}]}`,
		"POST /api/keywright/v1/orgs/o1/keys:export": `{"format":"keywright-key-export","version":1,"payload":"eyJ3cmFwcyI6W3siaG9zdCI6ImgifSx7Imhvc3QiOiJoIn1dfQ=="}`,
	}
}

// The key comes from the flag, from the environment, or from where `keywright up` keeps it.
func TestCommandsFindTheBootstrapFile(t *testing.T) {
	data := away(t)
	path := bootstrap(t, t.TempDir(), api(t, exportAnswers()))
	out := filepath.Join(t.TempDir(), "b.json")
	if code, _, errs := run("key", "export", "--out", out); code != 2 || !strings.Contains(errs, "--bootstrap") {
		t.Errorf("without a key: code %d, %q", code, errs)
	}
	if code, text, errs := run("key", "export", "--out", out, "--bootstrap", path); code != 0 || !strings.Contains(text, "2 wrapped keys of 1 hosts") {
		t.Errorf("flag: code %d, %q, %q", code, text, errs)
	}
	t.Setenv("KEYWRIGHT_BOOTSTRAP", path)
	if code, text, errs := run("key", "export", "--out", out, "-o", "json"); code != 0 || !strings.Contains(text, `"wraps": 2`) {
		t.Errorf("environment: code %d, %q, %q", code, text, errs)
	}
	t.Setenv("KEYWRIGHT_BOOTSTRAP", "")
	bootstrap(t, filepath.Join(data, "keywright"), api(t, exportAnswers()))
	if code, _, errs := run("key", "export", "--out", out); code != 0 {
		t.Errorf("data directory: code %d, %q", code, errs)
	}
}

func TestWrongBootstrapAndFlagsAreExplained(t *testing.T) {
	away(t)
	dir := t.TempDir()
	good := bootstrap(t, dir, api(t, nil))
	newer := filepath.Join(dir, "newer.json")
	_ = os.WriteFile(newer, []byte(`{"version": 99}`), 0o600)
	other := filepath.Join(dir, "other.json")
	_ = os.WriteFile(other, []byte(`{}`), 0o600)
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--bootstrap", filepath.Join(dir, "none")}, 1, "while `keywright up` runs"},
		{[]string{"--bootstrap", newer}, 1, "update this program"},
		{[]string{"--bootstrap", other}, 1, "not one of `keywright up`"},
		{[]string{"--bootstrap", good, "-o", "yaml"}, 2, "text or json"},
		{[]string{"--public-key-file", good}, 2, "--private-key-file is needed"},
		{[]string{"--bootstrap", good, "--base-url", "http://127.0.0.1:1"}, 1, "hint: nothing listens there"},
	} {
		code, out, errs := run(append([]string{"key", "export", "--out", filepath.Join(dir, "out")}, tc.args...)...)
		if code != tc.code || out != "" || !strings.Contains(errs, tc.says) || strings.Contains(errs, privateKey) {
			t.Errorf("%v: code %d (want %d), %q, %q (want %q)", tc.args, code, tc.code, out, errs, tc.says)
		}
	}
}

// A refusal shows what was tried, detail, code and fields, and no escape sequences.
func TestRefusalsAreShownWhole(t *testing.T) {
	away(t)
	path := bootstrap(t, t.TempDir(), api(t, map[string]string{
		"POST /api/keywright/v1/orgs/o1/keys:export": `{"error":409,"errorCode":"NOT_NOW","detail":"Wait\u001b[31m a day.","badRequestDetail":{"fields":[{"field":"out","description":"too long"}]}}`,
	}))
	code, out, errs := run("key", "export", "--org-id", "o1", "--out", filepath.Join(t.TempDir(), "b"), "--bootstrap", path)
	for _, want := range []string{"error: export keys: Wait", " a day.", "code: NOT_NOW (409)", "out: too long"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q lacks %q", errs, want)
		}
	}
	if code != 1 || out != "" || strings.Contains(errs, "\x1b") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
}

// The exit code of may-delete is a yes for MAY_DELETE only.
func TestMayDelete(t *testing.T) {
	away(t)
	const arn, path = "arn:aws:kms:us-east-1:111122223333:key/1", "GET /api/keywright/v1/orgs/o1/keys/arn:aws:kms:us-east-1:111122223333:key%2F1"
	for verdict, want := range map[string]int{"MAY_DELETE": 0, "MUST_KEEP": 3, "UNKNOWN": 3, "": 3} {
		boot := bootstrap(t, t.TempDir(), api(t, map[string]string{
			"GET /api/atlas/v2/orgs": `{"results":[{"id":"o1"}]}`,
			path:                     `{"keyArn":"` + arn + `","verdict":"` + verdict + `","reasons":[{"kind":"X","message":"Because.","remedy":"Do."}]}`,
		}))
		code, out, errs := run("key", "may-delete", arn, "--bootstrap", boot)
		if code != want || !strings.Contains(out, "Because.") || !strings.Contains(out, "Do.") || errs != "" {
			t.Errorf("%s: code %d (want %d), %q, %q", verdict, code, want, out, errs)
		}
	}
}

func TestKeyInventory(t *testing.T) {
	away(t)
	boot := bootstrap(t, t.TempDir(), api(t, map[string]string{
		"GET /api/keywright/v1/orgs/o1/keys": `{"results":[{"keyArn":"arn:1","verdict":"UNKNOWN","neededBy":{"wraps":7}}]}`,
	}))
	code, out, errs := run("key", "inventory", "--org-id", "o1", "--bootstrap", boot)
	if code != 0 || !strings.Contains(out, "arn:1") || !strings.Contains(out, "7") || errs != "" {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if code, out, _ = run("key", "inventory", "--org-id", "o1", "--bootstrap", boot, "-o", "json"); code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, `"wraps": 7`) {
		t.Errorf("code %d, %q", code, out)
	}
}
