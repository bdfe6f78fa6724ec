package cryptofs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const testMarker = "a-very-recognizable-marker-of-plaintext"

func testOptions(t testing.TB, fs vfs.FS, memTable uint64) *pebble.Options {
	return PebbleOptions(fs, Shared{MemTableSize: memTable, OnFatal: func(msg string) { t.Errorf("fatal: %s", msg) }})
}

func testKey(i int) []byte { return fmt.Appendf(nil, "key-%08d-%s", i, testMarker) }

func testValue(i int) []byte {
	return fmt.Appendf(nil, "value-%d-%s-%s", i, testMarker, strings.Repeat(string(rune('a'+i%26)), 50+i%900))
}

func fill(t testing.TB, db *pebble.DB, from, to int) {
	t.Helper()
	for i := from; i < to; i += 100 {
		b := db.NewBatch()
		for j := i; j < min(i+100, to); j++ {
			must(t, b.Set(testKey(j), testValue(j), nil))
		}
		must(t, b.Commit(pebble.Sync))
	}
}

// checkAll compares everything with what fill wrote, forwards and by key.
func checkAll(t testing.TB, db *pebble.DB, n int) {
	t.Helper()
	it, err := db.NewIter(nil)
	must(t, err)
	i := 0
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		must(t, err)
		if !bytes.Equal(it.Key(), testKey(i)) || !bytes.Equal(v, testValue(i)) {
			t.Fatalf("entry %d is wrong", i)
		}
		i++
	}
	must(t, it.Error())
	must(t, it.Close())
	if i != n {
		t.Fatalf("%d entries, want %d", i, n)
	}
	for i := 0; i < n; i += 37 {
		v, closer, err := db.Get(testKey(i))
		must(t, err)
		if !bytes.Equal(v, testValue(i)) {
			t.Fatalf("value %d is wrong", i)
		}
		must(t, closer.Close())
	}
}

func TestPebbleLivesOnTheFileSystem(t *testing.T) {
	dir := t.TempDir()
	fs := newTestFS(t, vfs.Default)
	path := filepath.Join(dir, "db")
	db, err := pebble.Open(path, testOptions(t, fs, 256<<10))
	must(t, err)
	fill(t, db, 0, 3000)
	checkAll(t, db, 3000)
	must(t, db.Flush())
	must(t, db.Compact(context.Background(), []byte("a"), []byte("z"), true))
	fill(t, db, 3000, 3500)
	must(t, db.Close())

	// Two more lives; the second starts from a log only.
	for range 2 {
		db, err = pebble.Open(path, testOptions(t, fs, 256<<10))
		must(t, err)
		checkAll(t, db, 3500)
		must(t, db.Close())
	}

	db, err = pebble.Open(path, testOptions(t, fs, 4<<20))
	must(t, err)
	fill(t, db, 3500, 3600)
	checkpoint := filepath.Join(dir, "checkpoint")
	must(t, db.Checkpoint(checkpoint, pebble.WithFlushedWAL()))
	must(t, db.Flush())
	flushed := filepath.Join(dir, "checkpoint-flushed")
	must(t, db.Checkpoint(flushed))
	ingest(t, fs, db, dir, 3600, 4000)
	checkAll(t, db, 4000)
	must(t, db.Close())
	for _, c := range []string{checkpoint, flushed} {
		o := testOptions(t, fs, 4<<20)
		o.ReadOnly = true
		copied, err := pebble.Open(c, o)
		must(t, err)
		checkAll(t, copied, 3600)
		must(t, copied.Close())
	}
	db, err = pebble.Open(path, testOptions(t, fs, 4<<20))
	must(t, err)
	checkAll(t, db, 4000)
	must(t, db.Close())
	verifyTree(t, fs, dir)
}

// ingest writes a table outside the database and takes it in.
func ingest(t *testing.T, fs vfs.FS, db *pebble.DB, dir string, from, to int) {
	t.Helper()
	o := testOptions(t, fs, 0)
	o.EnsureDefaults()
	path := filepath.Join(dir, "import.sst")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), o.MakeWriterOptions(0, db.TableFormat()))
	for i := from; i < to; i++ {
		must(t, w.Set(testKey(i), testValue(i)))
	}
	must(t, w.Close())
	must(t, db.Ingest(context.Background(), []string{path}))
}

// verifyTree authenticates every file below dir, by the FS and, logs with torn
// tails apart, by the independent decoder.
func verifyTree(t *testing.T, fs *FS, dir string) {
	t.Helper()
	kinds := map[Kind]int{}
	for path, b := range tree(t, dir) {
		name := filepath.Base(path)
		if name == "LOCK" {
			continue
		}
		must(t, fs.VerifyFile(path))
		h, err := InspectFile(vfs.Default, path)
		must(t, err)
		kinds[h.Kind]++
		if _, err := decodeFile(name, fs.opts.Keyset.rawKeys(), fs.opts.Database, b); err != nil {
			t.Errorf("the independent decoder refuses %s: %v", path, err)
		}
	}
	for _, k := range []Kind{KindWAL, KindManifest, KindTable, KindOptions, KindMarker} {
		if kinds[k] == 0 {
			t.Errorf("no file of kind %s was seen", k)
		}
	}
}

func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[path], err = os.ReadFile(path)
		}
		return err
	}))
	return files
}

// plaintextFound lists the files below dir in which the marker stands, in clear,
// in hexadecimal or in base64 at any alignment.
func plaintextFound(t *testing.T, dir string) []string {
	t.Helper()
	needles := [][]byte{
		[]byte(testMarker), []byte(hex.EncodeToString([]byte(testMarker))),
		[]byte(strings.ToUpper(hex.EncodeToString([]byte(testMarker)))),
	}
	for skip := range 3 {
		inner := testMarker[skip:]
		inner = inner[:len(inner)/3*3]
		needles = append(needles, []byte(base64.StdEncoding.EncodeToString([]byte(inner))))
	}
	var found []string
	for path, b := range tree(t, dir) {
		for _, n := range needles {
			if bytes.Contains(b, n) || strings.Contains(path, testMarker) {
				found = append(found, path)
				break
			}
		}
	}
	return found
}

func TestNoPlaintextReachesTheDisk(t *testing.T) {
	for _, encrypted := range []bool{true, false} {
		dir := t.TempDir()
		fs := vfs.Default
		if encrypted {
			fs = newTestFS(t, vfs.Default)
		}
		o := testOptions(t, fs, 256<<10)
		// Compression would hide the marker in the plain files.
		o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
		db, err := pebble.Open(filepath.Join(dir, "db"), o)
		must(t, err)
		fill(t, db, 0, 1500)
		must(t, db.Flush())
		fill(t, db, 1500, 1600)
		must(t, db.Checkpoint(filepath.Join(dir, "checkpoint"), pebble.WithFlushedWAL()))
		found := plaintextFound(t, dir)
		if encrypted && len(found) > 0 {
			t.Errorf("plaintext stands in %v", found)
		}
		if !encrypted {
			var log, table bool
			for _, f := range found {
				log = log || strings.HasSuffix(f, ".log")
				table = table || strings.HasSuffix(f, ".sst")
			}
			if !log || !table {
				t.Errorf("without encryption the search finds the marker in %v only", found)
			}
		}
		must(t, db.Close())
	}
}

func TestPebbleRefusesDamagedFilesByName(t *testing.T) {
	base := vfs.NewMem()
	fs := newTestFS(t, base)
	db, err := pebble.Open("db", testOptions(t, fs, 4<<20))
	must(t, err)
	fill(t, db, 0, 500)
	must(t, db.Flush())
	fill(t, db, 500, 600)
	must(t, db.Close())
	names, err := base.List("db")
	must(t, err)
	r := rand.New(rand.NewPCG(2, 2))
	for _, name := range names {
		path := "db/" + name
		n, err := parseName(name)
		if err != nil || n.kind == KindMarker {
			continue // Pebble reads the names of markers only
		}
		data, err := base.UnsafeGetFileDataBuffer(path)
		must(t, err)
		if len(data) <= framesStart && n.kind == KindWAL {
			continue
		}
		for range 5 {
			i := r.IntN(len(data))
			data[i] ^= 4
			err := readEverything(fs)
			data[i] ^= 4
			if n.kind == KindManifest && err == nil && !currentManifest(names, name) {
				continue // the predecessor is not read
			}
			if n.kind == KindOptions && err == nil && !newestOptions(names, name) {
				continue
			}
			if !errors.Is(err, pebble.ErrCorruption) || !strings.Contains(fmt.Sprint(err), name) {
				t.Errorf("%s with a flipped bit at %d: %v", name, i, err)
			}
		}
	}
	must(t, readEverything(fs))
}

func currentManifest(names []string, name string) bool {
	for _, n := range names {
		if strings.HasPrefix(n, "marker.manifest.") && strings.HasSuffix(n, name) {
			return true
		}
	}
	return false
}

func newestOptions(names []string, name string) bool {
	for _, n := range names {
		if strings.HasPrefix(n, "OPTIONS-") && n > name {
			return false
		}
	}
	return true
}

// readEverything opens the database read-only and reads all of it.
func readEverything(fs vfs.FS) (err error) {
	o := PebbleOptions(fs, Shared{OnFatal: func(string) {}})
	o.ReadOnly = true
	db, err := pebble.Open("db", o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if _, err := it.ValueAndErr(); err != nil {
			return errors.Join(err, it.Close())
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if n != 600 {
		return fmt.Errorf("%d entries without an error", n)
	}
	return db.CheckLevels(nil)
}

func TestOptionsOfPebble(t *testing.T) {
	var fatal string
	var log bytes.Buffer
	o := PebbleOptions(vfs.NewMem(), Shared{
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		OnFatal: func(msg string) { fatal = msg; panic("ended") },
	})
	if o.FormatMajorVersion != 24 || o.MemTableSize != 4<<20 || o.Levels[6].FilterPolicy == nil {
		t.Errorf("format %d, memtable %d", o.FormatMajorVersion, o.MemTableSize)
	}
	if s := fmt.Sprint(o.Comparer.FormatKey([]byte("secret-key"))); strings.Contains(s, "secret-key") {
		t.Errorf("keys print as %s", s)
	}
	func() {
		defer func() { _ = recover() }()
		o.Logger.Fatalf("disk %d", 7)
		t.Error("Fatalf returned")
	}()
	if fatal != "disk 7" {
		t.Errorf("OnFatal got %q", fatal)
	}
	for range 1000 {
		o.EventListener.BackgroundError(errDisk)
	}
	if n := strings.Count(log.String(), "background error"); n != 1 {
		t.Errorf("a background error in a loop is logged %d times", n)
	}
}

// TestOldLogsAreNotReused: a log that is no longer needed is deleted, never
// renamed and written over.
func TestOldLogsAreNotReused(t *testing.T) {
	mem := vfs.NewMem()
	counted := &reuseFS{FS: mem}
	db, err := pebble.Open("db", testOptions(t, counted, 64<<10))
	must(t, err)
	for i := range 5 {
		fill(t, db, i*300, i*300+300)
		must(t, db.Flush())
	}
	must(t, db.Close())
	if counted.reused {
		t.Error("a log was reused")
	}
	names, err := mem.List("db")
	must(t, err)
	logs := 0
	for _, n := range names {
		if strings.HasSuffix(n, ".log") {
			logs++
		}
	}
	if logs > 2 {
		t.Errorf("%d logs are left: %v", logs, names)
	}
}

type reuseFS struct {
	vfs.FS
	reused bool
}

func (f *reuseFS) ReuseForWrite(a, b string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.reused = true
	return f.FS.ReuseForWrite(a, b, c)
}

// TestCheckpointsBesideWrites reads live logs, whose end may be half a frame.
func TestCheckpointsBesideWrites(t *testing.T) {
	dir := t.TempDir()
	base, closer := HealthChecked(vfs.Default, slog.New(slog.DiscardHandler))
	defer func() { must(t, closer.Close()) }()
	fs := newTestFS(t, base)
	db, err := pebble.Open(filepath.Join(dir, "db"), testOptions(t, fs, 256<<10))
	must(t, err)
	must(t, db.Set([]byte("first"), nil, pebble.Sync))
	must(t, db.Flush())
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := db.Set(fmt.Appendf(nil, "key-%d", n), testValue(n), pebble.NoSync); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range 6 {
		must(t, db.Checkpoint(filepath.Join(dir, fmt.Sprintf("checkpoint%d", i))))
	}
	close(stop)
	n := <-done
	must(t, db.Close())
	for i := range 6 {
		o := testOptions(t, fs, 0)
		o.ReadOnly = true
		copied, err := pebble.Open(filepath.Join(dir, fmt.Sprintf("checkpoint%d", i)), o)
		must(t, err)
		_, closer, err := copied.Get([]byte("first"))
		must(t, err)
		must(t, closer.Close())
		must(t, copied.Close())
	}
	if n == 0 {
		t.Error("nothing was written meanwhile")
	}
}
