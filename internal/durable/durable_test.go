package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/keywright/keywright/internal/durable"
)

func TestWriteFileReplacesWholeAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"first and long", "second"} {
		if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("left behind: %v, %v", all, err)
	}
}

func TestWriteFileThatFailsKeepsTheOldContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.Mkdir(path, 0o700); err != nil { // cannot be replaced by a file
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("left behind: %v, %v", all, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("written into a directory that is not there")
	}
}

func TestJSONAndRemoval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var out struct{ A int }
	if err := durable.ReadJSON(path, &out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := durable.WriteJSON(path, struct{ A int }{7}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.ReadJSON(path, &out); err != nil || out.A != 7 {
		t.Errorf("%+v, %v", out, err)
	}
	for range 2 { // nothing is as good as removed
		if err := durable.Remove(path); err != nil {
			t.Error(err)
		}
		if err := durable.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
}
