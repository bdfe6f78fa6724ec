package replication

import (
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/storage"
)

func keysetsOf(t *testing.T, r *Replica) map[string]storage.KeysetStatus {
	t.Helper()
	all, err := r.KeysetStatus()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]storage.KeysetStatus{}
	for _, s := range all {
		out[s.Name] = s
	}
	return out
}

// TestAKeyStaysWhileAFileNeedsIt: a file of the log's keyset, as a snapshot that is being
// sent, is under the old key and still being written.
func TestAKeyStaysWhileAFileNeedsIt(t *testing.T) {
	dir := t.TempDir() + "/n"
	files := filesFor(t, vfs.Default, dir, true)
	r := open(t, config(t, files, dir))
	if err := insert(within(t), r, "d", "c", doc(t, "_id", 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.snapshot(); err != nil { // its record is under the log's keyset too
		t.Fatal(err)
	}
	fs, err := files.Open(r.dir.log)
	if err != nil {
		t.Fatal(err)
	}
	path := r.dir.join(dirTemporary, "x.stream")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	old := keysetsOf(t, r)[""].Newest
	if err := r.RotateKeysets("", func() {}); err != nil {
		t.Fatal(err)
	}
	work := func() error {
		return r.CompactKeysets(within(t), func() error { return nil }, func(string) {})
	}
	if err := work(); !errors.Is(err, storage.ErrUnsettled) {
		t.Fatalf("compacted while a file was written under an old key: %v", err)
	}
	sets := keysetsOf(t, r)
	if !sets["d"].Settled() || sets[""].Settled() {
		t.Fatalf("%+v", sets)
	}
	if _, err := f.Write([]byte("stream")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	read, err := fs.Open(path) // opened under the old key, it outlives it
	if err != nil {
		t.Fatal(err)
	}
	if err := work(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(read); err != nil || string(got) != "stream" {
		t.Errorf("%q, %v", got, err)
	}
	_ = read.Close()
	for name, s := range keysetsOf(t, r) {
		newest, all := s.Bytes()
		if !s.Settled() || newest != all || name == "" && s.Newest == old {
			t.Errorf("%q: %+v", name, s)
		}
	}
	shut(t, r)
	r = open(t, config(t, filesFor(t, vfs.Default, dir, true), dir))
	if got := keysetsOf(t, r)["d"]; !got.Settled() {
		t.Errorf("after a restart: %+v", got)
	}
	shut(t, r)
}

func TestKeysetsNeedEncryption(t *testing.T) {
	dir := t.TempDir() + "/n"
	r := open(t, config(t, filesFor(t, vfs.Default, dir, false), dir))
	defer shut(t, r)
	if err := r.RotateKeysets("", func() {}); !errors.Is(err, storage.ErrNotEncrypted) {
		t.Error(err)
	}
	if _, err := r.KeysetStatus(); !errors.Is(err, storage.ErrNotEncrypted) {
		t.Error(err)
	}
}
