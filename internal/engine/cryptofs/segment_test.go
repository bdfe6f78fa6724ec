package cryptofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func newTestFS(t testing.TB, base vfs.FS) *FS {
	t.Helper()
	ks, err := NewKeyset()
	must(t, err)
	fs, err := New(base, Options{Database: NewDatabaseID(), Keyset: ks})
	must(t, err)
	return fs
}

func (k *Keyset) rawKeys() map[uint32][]byte {
	m := map[uint32][]byte{}
	for id, s := range k.keys {
		m[id] = s.Reveal()
	}
	return m
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// writeChunks writes b in pieces of random size and syncs at the end.
func writeChunks(t testing.TB, fs vfs.FS, r *rand.Rand, name string, b []byte, largest int) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	for rest := b; len(rest) > 0; {
		n := min(1+r.IntN(largest), len(rest))
		// Writers may reuse or change their buffer after Write.
		piece := bytes.Clone(rest[:n])
		m, err := f.Write(piece)
		must(t, err)
		if m != n {
			t.Fatalf("wrote %d of %d", m, n)
		}
		clear(piece)
		rest = rest[n:]
	}
	must(t, f.Sync())
	must(t, f.Close())
}

var borderSizes = []int{
	0, 1, 15, 16, 4039, 4040, 4041, 4056, 8119, 8120, 8121, 8136, 12200, 4040 + 15*4080 - 1, 4040 + 15*4080,
	4040 + 15*4080 + 1, 4040 + 16*4080, 65536, 200_000,
}

func TestSegmentsAtEveryBorderReadBackAndDecodeIndependently(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"000005.sst", "000006.blob", "OPTIONS-000007", "spill-1"} {
		mem := vfs.NewMem()
		fs := newTestFS(t, mem)
		for _, size := range borderSizes {
			want := randomBytes(r, size)
			writeChunks(t, fs, r, name, want, 9000)
			decoded, err := decodeFile(name, fs.opts.Keyset.rawKeys(), fs.opts.Database, readBase(t, mem, name))
			must(t, err)
			if !bytes.Equal(decoded, want) {
				t.Fatalf("%s of %d bytes: the independent decoder reads something else", name, size)
			}
			for _, opts := range [][]vfs.OpenOption{nil, {vfs.RandomReadsOption}, {vfs.SequentialReadsOption}} {
				checkReads(t, fs, r, name, want, opts)
			}
			info, err := fs.Stat(name)
			must(t, err)
			if info.Size() != int64(size) {
				t.Fatalf("%s of %d bytes: Stat says %d", name, size, info.Size())
			}
		}
	}
}

func checkReads(t *testing.T, fs vfs.FS, r *rand.Rand, name string, want []byte, opts []vfs.OpenOption) {
	t.Helper()
	f, err := fs.Open(name, opts...)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	got, err := io.ReadAll(f)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("%s of %d bytes reads back wrong", name, len(want))
	}
	info, err := f.Stat()
	must(t, err)
	if info.Size() != int64(len(want)) {
		t.Fatalf("file's Stat says %d, want %d", info.Size(), len(want))
	}
	for range 60 {
		off := r.IntN(len(want) + 2)
		p := make([]byte, r.IntN(3)*r.IntN(70_000)+r.IntN(6000))
		n, err := f.ReadAt(p, int64(off))
		wantN := max(0, min(len(p), len(want)-off))
		if n != wantN || !bytes.Equal(p[:n], want[min(off, len(want)):min(off, len(want))+n]) {
			t.Fatalf("ReadAt(%d bytes at %d) of %d gives %d, %v", len(p), off, len(want), n, err)
		}
		if short := n < len(p); short != errors.Is(err, io.EOF) || !short && err != nil {
			t.Fatalf("ReadAt(%d bytes at %d) of %d gives %d, %v", len(p), off, len(want), n, err)
		}
	}
}

func TestConcurrentReadsOfOneSequentialHandle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	fs := newTestFS(t, vfs.NewMem())
	want := randomBytes(r, 300_000)
	writeChunks(t, fs, r, "000001.sst", want, 5000)
	f, err := fs.Open("000001.sst", vfs.SequentialReadsOption)
	must(t, err)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			p := make([]byte, 3000)
			for range 300 {
				off := r.IntN(len(want) - len(p))
				if _, err := f.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	must(t, f.Close())
}

func TestReadAtAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	fs := newTestFS(t, vfs.Default)
	name := fs.PathJoin(dir, "000001.sst")
	writeChunks(t, fs, r, name, randomBytes(r, 500_000), 5000)
	for what, opts := range map[string][]vfs.OpenOption{"random": nil, "sequential": {vfs.SequentialReadsOption}} {
		f, err := fs.Open(name, opts...)
		must(t, err)
		p := make([]byte, 6000)
		off := int64(0)
		allocs := testing.AllocsPerRun(300, func() {
			if _, err := f.ReadAt(p, off%490_000); err != nil {
				t.Error(err)
			}
			off += 7001
		})
		if allocs != 0 {
			t.Errorf("%s reads allocate %v times each", what, allocs)
		}
		must(t, f.Close())
	}
}

// fdFile gives a file of memory a descriptor, as files of an operating system have.
type fdFile struct{ vfs.File }

func (fdFile) Fd() uintptr { return 3 }

type fdFS struct{ vfs.FS }

func (f fdFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return fdFile{file}, err
}

func TestSyncCompletesAFileOfSegments(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, fdFS{mem})
	f, err := fs.Create("000001.sst", vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(pattern(5000))
	must(t, err)
	must(t, f.SyncData())
	// Pebble may look at the file now, before Close.
	if got := readBase(t, fs, "000001.sst"); !bytes.Equal(got, pattern(5000)) {
		t.Fatal("the file is not complete after its sync")
	}
	if _, err := f.Write([]byte{1}); !errors.Is(err, ErrFinished) {
		t.Errorf("a write after the sync: %v", err)
	}
	must(t, f.Sync())
	must(t, f.Close())
	if got := readBase(t, fs, "000001.sst"); !bytes.Equal(got, pattern(5000)) {
		t.Error("the file changed after its sync")
	}
}

func TestSyncsInMidFileWithoutDescriptors(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := newTestFS(t, mem)
	f, err := fs.Create("000001.sst", vfs.WriteCategoryUnspecified)
	must(t, err)
	want := pattern(50_000)
	for i := 0; i < len(want); i += 500 {
		_, err = f.Write(bytes.Clone(want[i : i+500]))
		must(t, err)
		must(t, f.Sync())
	}
	must(t, f.Close())
	d, err := fs.OpenDir("")
	must(t, err)
	must(t, d.Sync())
	after, err := New(mem.CrashClone(vfs.CrashCloneCfg{}), fs.opts)
	must(t, err)
	if got := readBase(t, after, "000001.sst"); !bytes.Equal(got, want) {
		t.Error("what was closed after a sync is not durable")
	}
}

func TestMarkerIsDurableWhenCreateReturns(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := newTestFS(t, mem)
	must(t, mem.MkdirAll("db", 0o755))
	named, err := fs.Create("db/MANIFEST-000001", vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = named.Write([]byte("edit"))
	must(t, err)
	must(t, named.Sync())
	root, err := mem.OpenDir("")
	must(t, err)
	must(t, root.Sync())
	const marker = "db/marker.manifest.000001.MANIFEST-000001"
	f, err := fs.Create(marker, vfs.WriteCategoryUnspecified)
	must(t, err)
	// A power loss that keeps the marker's name keeps its content, and whatever it
	// keeps, what the marker names is there.
	for seed := range uint64(20) {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 1))})
		after, err := New(clone, fs.opts)
		must(t, err)
		if got := readBase(t, after, "db/MANIFEST-000001"); string(got) != "edit" {
			t.Fatalf("manifest after a power loss: %q", got)
		}
		if _, err := clone.Stat(marker); err == nil {
			must(t, after.VerifyFile(marker))
		}
	}
	must(t, f.Close())
}

func TestLinksRenamesAndUnsupportedCalls(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, mem)
	must(t, fs.MkdirAll("sub", 0o755))
	writeBase(t, fs, "temporary.000003.dbtmp", []byte("options"))
	must(t, fs.Rename("temporary.000003.dbtmp", "OPTIONS-000003"))
	if got := readBase(t, fs, "OPTIONS-000003"); string(got) != "options" {
		t.Errorf("renamed options read %q", got)
	}
	writeBase(t, fs, "import.sst", []byte("table"))
	if err := fs.Link("import.sst", "000009.sst"); !errors.Is(err, ErrNameBound) {
		t.Errorf("link to another name: %v", err)
	}
	if err := fs.Rename("import.sst", "000009.sst"); !errors.Is(err, ErrNameBound) {
		t.Errorf("rename to another name: %v", err)
	}
	must(t, vfs.LinkOrCopy(fs, "import.sst", "000009.sst"))
	must(t, fs.Link("000009.sst", "sub/000009.sst"))
	if got := readBase(t, fs, "sub/000009.sst"); string(got) != "table" {
		t.Errorf("linked table reads %q", got)
	}
	must(t, fs.Rename("sub", "renamed"))
	if got := readBase(t, fs, "renamed/000009.sst"); string(got) != "table" {
		t.Errorf("a table in a renamed directory reads %q", got)
	}
	if _, err := fs.OpenReadWrite("000009.sst", vfs.WriteCategoryUnspecified); !errors.Is(err, vfs.ErrUnsupported) {
		t.Errorf("OpenReadWrite: %v", err)
	}
	for _, name := range []string{"LOCK", "000012-001.log"} {
		if _, err := fs.Create(name, vfs.WriteCategoryUnspecified); err == nil {
			t.Errorf("%s was created", name)
		}
	}
	writeBase(t, fs, "000004.log", []byte("old"))
	old := readBase(t, mem, "000004.log")
	f, err := fs.ReuseForWrite("000004.log", "000005.log", vfs.WriteCategoryUnspecified)
	must(t, err)
	must(t, f.Close())
	if now := readBase(t, mem, "000005.log"); bytes.Equal(now[64:104], old[64:104]) || len(now) != 104 {
		t.Error("a reused log keeps its salt or its content")
	}
}
