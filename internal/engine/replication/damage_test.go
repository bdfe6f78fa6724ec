package replication

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDamagedFileIsNamedAndNothingIsRemoved flips a bit in a table of an encrypted
// database.
func TestDamagedFileIsNamedAndNothingIsRemoved(t *testing.T) {
	fs := noLock{vfs.NewMem()}
	r := open(t, config(t, filesFor(t, fs, "/n", true), "/n"))
	fill(t, r, 300)
	shut(t, r)
	path := ""
	dbs, err := fs.List("/n/db")
	if err != nil || len(dbs) != 2 {
		t.Fatal(dbs, err)
	}
	files := map[string]int{}
	for _, db := range dbs {
		names, err := fs.List("/n/db/" + db)
		if err != nil {
			t.Fatal(err)
		}
		files[db] = len(names)
		for _, n := range names {
			if strings.HasSuffix(n, ".sst") {
				path = "/n/db/" + db + "/" + n
			}
		}
	}
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0x00, 0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, filesFor(t, fs, "/n", true), "/n")
	cfg.OnFatal = func(string) {}
	failed := ""
	if r, err := Open(within(t), cfg); err != nil {
		failed = err.Error()
	} else {
		_, err := r.store.Digest(within(t))
		if err != nil {
			failed = err.Error()
		}
		_ = r.Close(within(t))
	}
	if !strings.Contains(failed, path[strings.LastIndex(path, "/"):]) {
		t.Fatalf("the error does not name %s: %q", path, failed)
	}
	for db, n := range files {
		names, err := fs.List("/n/db/" + db)
		if err != nil || len(names) < n-2 {
			t.Errorf("of %d files %d are left (%v)", n, len(names), err)
		}
	}
}
