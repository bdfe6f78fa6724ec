package audit_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/audit"
)

func event(kind string) audit.Event {
	return audit.Event{
		ID: "65a0f0c2e4b0a1b2c3d4e5f6", Time: time.Date(2026, 1, 31, 12, 0, 0, 123456789, time.UTC), Type: kind,
		Actor: "system", Project: "p", Message: "It happened.", Data: map[string]string{"b": "2", "a": "1"},
	}
}

// The canonical bytes are a stored format: this golden value may only change
// together with FormatVersion.
func TestCanonicalFormIsFixed(t *testing.T) {
	e := audit.Chain(audit.Head{}, event("PROJECT_CREATED"))
	got := e.Hash.String()
	if golden := readGolden(t, "testdata/canonical.hex", e.Canonical()); !bytes.Equal(golden, e.Canonical()) {
		t.Errorf("canonical bytes changed (hash %s): %x", got, e.Canonical())
	}
}

func readGolden(t *testing.T, path string, now []byte) []byte {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(now)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := hex.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryFieldIsCovered(t *testing.T) {
	base := audit.Chain(audit.Head{}, event("A"))
	for name, change := range map[string]func(*audit.Event){
		"seq": func(e *audit.Event) { e.Seq++ }, "id": func(e *audit.Event) { e.ID = "x" },
		"time": func(e *audit.Event) { e.Time = e.Time.Add(time.Microsecond) },
		"type": func(e *audit.Event) { e.Type = "B" }, "actor": func(e *audit.Event) { e.Actor = "b" },
		"org": func(e *audit.Event) { e.Org = "o" }, "project": func(e *audit.Event) { e.Project = "q" },
		"cluster": func(e *audit.Event) { e.Cluster = "c" }, "node": func(e *audit.Event) { e.Node = "n" },
		"host": func(e *audit.Event) { e.Host = "h" }, "message": func(e *audit.Event) { e.Message = "No." },
		"data value": func(e *audit.Event) { e.Data = map[string]string{"a": "1", "b": "3"} },
		"data name":  func(e *audit.Event) { e.Data = map[string]string{"a": "1", "c": "2"} },
		"prev":       func(e *audit.Event) { e.Prev[0] ^= 1 },
		"moved text": func(e *audit.Event) { e.Type, e.Actor = "As", "ystem" },
	} {
		e := base
		change(&e)
		var v audit.Verifier
		if err := v.Check(e); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("a changed %s was not found: %v", name, err)
		}
	}
}

func TestFileLogSurvivesATornLineAndFindsEveryOtherChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"A", "B", "C"} {
		if _, err := l.Append(t.Context(), event(k)); err != nil {
			t.Fatal(err)
		}
	}
	head := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, _ := os.ReadFile(path)

	// A crash in the middle of a write: the unfinished line goes, the rest stays.
	if err := os.WriteFile(path, append(bytes.Clone(whole), []byte(`{"seq":4,"id`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err = audit.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if l.Head() != head {
		t.Errorf("head %v after a torn line, %v before", l.Head(), head)
	}
	if _, err := l.Append(t.Context(), event("D")); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if got, err := audit.VerifyFile(path, head); err != nil || got.Seq != 4 {
		t.Fatalf("verify: %v %v", got, err)
	}

	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, damaged := range map[string][]byte{
		"dropped":   bytes.Join([][]byte{lines[0], lines[2]}, nil),
		"reordered": bytes.Join([][]byte{lines[1], lines[0], lines[2]}, nil),
		"changed":   bytes.Replace(whole, []byte("It happened."), []byte("Not at all"), 1),
		"doubled":   bytes.Join([][]byte{lines[0], lines[0], lines[1]}, nil),
	} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.VerifyFile(path, audit.Head{}); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s event was not found: %v", name, err)
		}
		if _, err := audit.OpenFile(path); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("a log with a %s event was opened: %v", name, err)
		}
	}
	// A chain cut at its end verifies by itself; only a head kept elsewhere shows it.
	if err := os.WriteFile(path, lines[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.VerifyFile(path, audit.Head{}); err != nil {
		t.Error(err)
	}
	if _, err := audit.VerifyFile(path, head); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("a shortened chain was not found with a kept head: %v", err)
	}
}

func FuzzOpenFile(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"seq":1,"id":"a"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.OpenFile(path)
		if err != nil {
			return
		}
		defer func() { _ = l.Close() }()
		if _, err := l.Append(t.Context(), event("X")); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.VerifyFile(path, audit.Head{}); err != nil {
			t.Fatal(err)
		}
	})
}
