package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/cli"
)

func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = cli.Run(args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelpAndVersionGoToStandardOutput(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"up", "--help"}, {"mongod", "rewrite", "--help"}, {"version"}} {
		code, out, errs := run(args...)
		if code != 0 || out == "" || errs != "" {
			t.Errorf("%v: code %d, %q, %q", args, code, out, errs)
		}
	}
}

func TestWrongCommandLinesSayWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"frobnicate"}, 2, "frobnicate"},
		{[]string{"up", "--nope"}, 2, "hint: see `keywright up --help`"},
		{[]string{"up", "extra"}, 2, "extra"},
		{[]string{"audit", "verify"}, 2, "--data-dir"},
		{[]string{"server"}, 2, "--data-dir"},
		{[]string{"agent"}, 2, "--data-dir"},
		{[]string{"agent", "--data-dir", t.TempDir(), "--node-ports", "9-1"}, 2, "27100-27199"},
		{[]string{"awslocal"}, 2, "--data-dir"},
		{[]string{"awslocal", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:0"}, 1, "loopback"},
		{[]string{"server", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:0"}, 1, "TLS"},
		{[]string{"up", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:80", "--aws", "moon", "--validation-interval", "1ms"}, 1, "loopback"},
		{[]string{"mongod"}, 2, "--dbpath"},
		{[]string{"mongod", "--kmipServerName", "x"}, 2, "--enableEncryption"},
		{[]string{"mongod", "rewrite"}, 2, "--from"},
		{[]string{"audit", "verify", filepath.Join(t.TempDir(), "none")}, 1, "no file"},
	} {
		code, out, errs := run(tc.args...)
		if code != tc.code || out != "" || !strings.Contains(errs, "error: ") || !strings.Contains(errs, tc.says) {
			t.Errorf("%v: code %d (want %d), stdout %q, stderr %q (want %q)", tc.args, code, tc.code, out, errs, tc.says)
		}
	}
}

// Everything that is wrong with the flags of up is said at once.
func TestUpNamesAllWrongFlags(t *testing.T) {
	_, _, errs := run("up", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:80", "--aws", "moon", "--validation-interval", "1ms")
	for _, flag := range []string{"--listen", "--aws", "--validation-interval"} {
		if !strings.Contains(errs, flag) {
			t.Errorf("%s is not named in %q", flag, errs)
		}
	}
}

func TestUpRefusesANewerDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version.json"), []byte(`{"format": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := run("up", "--data-dir", dir, "--listen", "127.0.0.1:0", "--aws-listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(errs, "newer") {
		t.Errorf("code %d, %q", code, errs)
	}
}

func TestAuditVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := l.Append(t.Context(), audit.Event{ID: "a", Type: "T", Message: "Happened."}); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	code, head, errs := run("audit", "verify", path)
	if code != 0 || !strings.Contains(head, `"seq":2`) {
		t.Fatalf("code %d, %q, %q", code, head, errs)
	}
	kept := filepath.Join(t.TempDir(), "head.json")
	if err := os.WriteFile(kept, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, b[:bytes.IndexByte(b, '\n')+1], 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs = run("audit", "verify", "--head", kept, path); code != 1 || !strings.Contains(errs, "broken") {
		t.Errorf("a shortened chain was not found: code %d, %q", code, errs)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("Happened."), []byte("Nothing! "), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs = run("audit", "verify", path); code != 1 || !strings.Contains(errs, "changed") {
		t.Errorf("a changed event was not found: code %d, %q", code, errs)
	}
}
