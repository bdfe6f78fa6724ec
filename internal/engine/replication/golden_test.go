package replication

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/storage"
)

// The files in testdata are version 1 of the stored formats. They may only change
// together with the version; UPDATE_GOLDEN=1 writes them anew.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the stored bytes changed\n%s\nwant\n%s", name, got, want)
	}
}

func content(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	return b
}

func put(t *testing.T, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(b)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestManifestIsFixed(t *testing.T) {
	fs := vfs.NewMem()
	d := &directory{fs: fs, dir: "data", files: storage.Plain(fs)}
	if err := d.create(Config{Node: testNode, Files: d.files}, markCreating); err != nil {
		t.Fatal(err)
	}
	marker := content(t, fs, "data/creating")
	d.Encrypted, d.Log = true, cryptofs.DatabaseID{0: 0xd0, 15: 9}.String()
	if err := d.finish(markCreating); err != nil {
		t.Fatal(err)
	}
	if names, err := fs.List("data"); err != nil || !slices.Equal(names, []string{"keywright.json"}) {
		t.Errorf("the directory holds %v, %v", names, err)
	}
	golden(t, "directory.txt", fmt.Appendf(nil, "creating: %skeywright.json: %s", marker, content(t, fs, "data/keywright.json")))
}

func TestNewerManifestIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("data", 0o700); err != nil {
		t.Fatal(err)
	}
	const one = `{"version":1,"node":"65a0f0c2e4b0a1b2c3d4e5f6","encrypted":true,"log":"d0000000000000000000000000000009","engineFormat":1}`
	put(t, fs, "data/keywright.json", []byte(one))
	want := Manifest{Version: 1, Node: testNode, Encrypted: true, Log: "d0000000000000000000000000000009", EngineFormat: 1}
	if m, err := ReadManifest(fs, "data"); err != nil || m != want {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, bad := range []string{
		strings.Replace(one, `"version":1`, `"version":2`, 1), strings.Replace(one, `"engineFormat":1`, `"engineFormat":2`, 1),
		strings.Replace(one, `"version":1,`, "", 1), strings.Replace(one, `,"engineFormat":1`, "", 1),
	} {
		put(t, fs, "data/keywright.json", []byte(bad))
		if m, err := ReadManifest(fs, "data"); err == nil {
			t.Errorf("%s was read as %+v", bad, m)
		}
	}
}

func snapshotsInMemory(t *testing.T) *snapshots {
	t.Helper()
	fs := vfs.NewMem()
	d := &directory{fs: fs, dir: "data"}
	if err := d.prepareTemporary(); err != nil {
		t.Fatal(err)
	}
	return &snapshots{dir: d, fs: fs}
}

func TestSnapshotIsFixed(t *testing.T) {
	s := snapshotsInMemory(t)
	c := raft.Configuration{Servers: []raft.Server{
		{ID: "one", Address: "127.0.0.1:27017", Suffrage: raft.Voter}, {ID: "two", Address: "127.0.0.1:27018", Suffrage: raft.Nonvoter},
	}}
	for _, stream := range []string{"", "the stream"} {
		k, err := s.Create(1, 42, 3, c, 40, nil)
		if err != nil {
			t.Fatal(err)
		}
		if stream != "" {
			if _, err := io.WriteString(k, stream); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.fs.List("data/snapshots")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var got []byte
	for _, n := range names {
		got = fmt.Appendf(got, "%s %x\n", n, content(t, s.fs, "data/snapshots/"+n))
	}
	golden(t, "snapshots.txt", got)
}

func TestNewerSnapshotIsRefused(t *testing.T) {
	s := snapshotsInMemory(t)
	for version, fine := range map[int32]bool{1: true, 2: false, 0: false} {
		b, err := bson.Marshal(snapshotMeta{Version: version, Index: 42})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s.fs, s.path("x"+suffixMeta), b)
		if m, err := s.read("x"); (err == nil) != fine {
			t.Errorf("version %d was read as %+v, %v", version, m, err)
		}
	}
}
