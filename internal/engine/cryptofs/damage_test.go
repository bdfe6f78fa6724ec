package cryptofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/secret"
)

// wantRefused asserts that the file is refused by name, as corruption.
func wantRefused(t *testing.T, fs *FS, name, what string) {
	t.Helper()
	err := fs.VerifyFile(name)
	var fe *FileError
	if !errors.As(err, &fe) || !errors.Is(err, pebble.ErrCorruption) || !strings.Contains(err.Error(), name) {
		t.Errorf("%s: %s: %v", name, what, err)
	}
}

// damageFiles holds one file of every kind, with several segments or frames.
func damageFiles(t *testing.T) (*vfs.MemFS, *FS, []string) {
	t.Helper()
	mem := vfs.NewMem()
	fs := newTestFS(t, mem)
	names := []string{
		"000004.log", "MANIFEST-000001", "000005.sst", "000006.blob", "OPTIONS-000003",
		"marker.manifest.000001.MANIFEST-000001", "spill",
	}
	for _, name := range names {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		if !strings.HasPrefix(name, "marker") {
			for i := range 5 {
				_, err = f.Write(bytes.Repeat([]byte{byte(i + 1)}, 2000))
				must(t, err)
			}
		}
		must(t, f.Sync())
		must(t, f.Close())
		must(t, fs.VerifyFile(name))
	}
	return mem, fs, names
}

func TestFlippedBitsAreRefusedInEveryKindOfFile(t *testing.T) {
	mem, fs, names := damageFiles(t)
	r := rand.New(rand.NewPCG(1, 1))
	for _, name := range names {
		data, err := mem.UnsafeGetFileDataBuffer(name)
		must(t, err)
		var offsets []int
		for i := range min(len(data), 180) { // headers, first frame's header
			offsets = append(offsets, i)
		}
		for range 60 {
			offsets = append(offsets, r.IntN(len(data)))
		}
		offsets = append(offsets, len(data)-1, len(data)-17)
		for _, i := range offsets {
			bit := byte(1) << r.IntN(8)
			data[i] ^= bit
			wantRefused(t, fs, name, "a flipped bit")
			data[i] ^= bit
		}
		must(t, fs.VerifyFile(name))
	}
}

func TestTruncationAndAppendedBytesAreRefused(t *testing.T) {
	mem, fs, names := damageFiles(t)
	for _, name := range names {
		whole := readBase(t, mem, name)
		if strings.HasSuffix(name, ".log") || strings.HasPrefix(name, "MANIFEST") {
			continue // see the tests of torn tails
		}
		for _, n := range []int{0, 10, 64, 103, 119, 4096, 4136, 8192, 12288, len(whole) - 1, len(whole) - 17} {
			if n < len(whole) {
				writeBase(t, mem, name, whole[:n])
				wantRefused(t, fs, name, "truncated")
			}
		}
		for _, n := range []int{1, 16, 4096} {
			writeBase(t, mem, name, append(bytes.Clone(whole), make([]byte, n)...))
			wantRefused(t, fs, name, "extended")
		}
	}
}

func TestExchangedFilesAreRefused(t *testing.T) {
	mem, fs, names := damageFiles(t)
	other := fs.opts
	other.Database = NewDatabaseID()
	wrongDatabase, err := New(mem, other)
	must(t, err)
	ks, err := NewKeyset()
	must(t, err)
	wrongKeys, err := New(mem, Options{Database: fs.opts.Database, Keyset: ks})
	must(t, err)
	// A keyset that claims the same key id with another key.
	forged := &Keyset{primary: fs.opts.Keyset.primary, keys: map[uint32]secret.Bytes{fs.opts.Keyset.primary: ks.keys[ks.primary]}}
	forgedKeys, err := New(mem, Options{Database: fs.opts.Database, Keyset: forged})
	must(t, err)
	renamed := map[string]string{
		"000004.log": "000007.log", "MANIFEST-000001": "MANIFEST-000002", "000005.sst": "000007.sst",
		"000006.blob": "000006.sst", "OPTIONS-000003": "OPTIONS-000004",
		"marker.manifest.000001.MANIFEST-000001": "marker.manifest.000001.MANIFEST-000009", "spill": "spill2",
	}
	for _, name := range names {
		wantRefused(t, wrongDatabase, name, "in another database")
		if err := wrongDatabase.VerifyFile(name); !errors.Is(err, ErrOtherDatabase) {
			t.Errorf("%s in another database: %v", name, err)
		}
		wantRefused(t, wrongKeys, name, "unknown key id")
		if err := wrongKeys.VerifyFile(name); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("%s with an unknown key id: %v", name, err)
		}
		wantRefused(t, forgedKeys, name, "wrong key")
		must(t, mem.Rename(name, renamed[name]))
		wantRefused(t, fs, renamed[name], "renamed")
		if h, err := InspectFile(mem, renamed[name]); (h.Number != 0 || h.Kind == KindBlob) && name[0] != 'm' && err == nil {
			t.Errorf("inspection of %s as %s sees nothing", name, renamed[name])
		}
		must(t, mem.Rename(renamed[name], name))
		data, err := mem.UnsafeGetFileDataBuffer(name)
		must(t, err)
		data[8] = 2
		wantRefused(t, fs, name, "newer version")
		if err := fs.VerifyFile(name); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("%s of a newer version: %v", name, err)
		}
		if _, err := InspectFile(mem, name); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("inspection of %s of a newer version: %v", name, err)
		}
		data[8] = 1
		must(t, fs.VerifyFile(name))
	}
}

func TestADamagedNeighbourDoesNotFailAWindowedRead(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, mem)
	want := pattern(100_000)
	writeChunks(t, fs, rand.New(rand.NewPCG(1, 1)), "000001.sst", want, 9000)
	data, err := mem.UnsafeGetFileDataBuffer("000001.sst")
	must(t, err)
	data[4096+3*4096+100] ^= 1 // segment 3
	f, err := fs.Open("000001.sst", vfs.SequentialReadsOption)
	must(t, err)
	p := make([]byte, 1000)
	if n, err := f.ReadAt(p, 0); err != nil || n != len(p) || !bytes.Equal(p, want[:1000]) {
		t.Errorf("a read of good segments: %d, %v", n, err)
	}
	if _, err := f.ReadAt(p, 4040+2*4080+50); !errors.Is(err, pebble.ErrCorruption) {
		t.Errorf("a read of the damaged segment: %v", err)
	}
	must(t, f.Close())
}

// writeFrames writes a log with frames of the given sizes and gives its stored
// bytes and the offsets of its frames, the end included.
func writeFrames(t *testing.T, mem vfs.FS, fs *FS, name string, sizes ...int) (stored []byte, at []int) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	off := framesStart
	for i, n := range sizes {
		at = append(at, off)
		_, err := f.Write(bytes.Repeat([]byte{byte('a' + i)}, n))
		must(t, err)
		off += n + frameOverhead
	}
	must(t, f.Close())
	return readBase(t, mem, name), append(at, off)
}

func readString(fs *FS, name string) (string, error) {
	f, err := fs.Open(name)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), errors.Join(err, f.Close())
}

func TestTornTailsEndTheDataAndNothingElseDoes(t *testing.T) {
	for _, name := range []string{"000004.log", "MANIFEST-000001"} {
		mem := vfs.NewMem()
		fs := newTestFS(t, mem)
		stored, at := writeFrames(t, mem, fs, name, 700, 600, 0, 900)
		all := strings.Repeat("a", 700) + strings.Repeat("b", 600) + strings.Repeat("d", 900)
		// Cut anywhere: the whole frames before the cut.
		for _, n := range []int{0, 1, 63, 103, 104, 105, 139, 140, at[1] - 1, at[1], at[1] + 36, at[2], at[3] + 1, at[4] - 1, at[4]} {
			writeBase(t, mem, name, stored[:n])
			want := 0
			for i := range 4 {
				if n >= at[i+1] {
					want += []int{700, 600, 0, 900}[i]
				}
			}
			if got, err := readString(fs, name); err != nil || got != all[:want] {
				t.Errorf("%s cut at %d: %d bytes, %v; want %d", name, n, len(got), err, want)
			}
		}
		// Zeros behind the end, as preallocation leaves them.
		writeBase(t, mem, name, append(bytes.Clone(stored), make([]byte, 5000)...))
		if got, err := readString(fs, name); err != nil || got != all {
			t.Errorf("%s with zeros behind: %d bytes, %v", name, len(got), err)
		}
		// A sector that was never written, inside the last frame and inside an
		// earlier one: the frames before it are what is left.
		for _, sector := range []int{1, 2, 3, 4} {
			b := bytes.Clone(stored)
			clear(b[sector*512 : min((sector+1)*512, len(b))])
			writeBase(t, mem, name, b)
			want := 0
			for i := range 4 {
				if at[i+1] <= sector*512 {
					want += []int{700, 600, 0, 900}[i]
				}
			}
			if got, err := readString(fs, name); err != nil || got != all[:want] {
				t.Errorf("%s without sector %d: %d bytes, %v; want %d", name, sector, len(got), err, want)
			}
		}
		// The first sector: an empty file.
		b := bytes.Clone(stored)
		clear(b[:512])
		writeBase(t, mem, name, b)
		if got, err := readString(fs, name); err != nil || got != "" {
			t.Errorf("%s without its first sector: %d bytes, %v", name, len(got), err)
		}
		// A short header that is no header of ours.
		writeBase(t, mem, name, []byte("plain text"))
		wantRefused(t, fs, name, "something short")
	}
}

func TestAFrameWhoseFirstBytesEndASectorMayBeTorn(t *testing.T) {
	for lead := 1; lead <= 4; lead++ {
		mem := vfs.NewMem()
		fs := newTestFS(t, mem)
		first := 1024 - framesStart - frameOverhead - lead
		stored, at := writeFrames(t, mem, fs, "000004.log", first, 300)
		if at[1] != 1024-lead {
			t.Fatalf("second frame at %d", at[1])
		}
		// The sector with the frame's first bytes is the old one, the next is new.
		clear(stored[at[1]:1024])
		writeBase(t, mem, "000004.log", stored)
		if got, err := readString(fs, "000004.log"); err != nil || len(got) != first {
			t.Errorf("%d bytes before the border: %d bytes, %v", lead, len(got), err)
		}
	}
}

func TestDroppedAndReorderedFramesAreRefused(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, mem)
	stored, at := writeFrames(t, mem, fs, "000004.log", 100, 100, 100)
	cut := append(bytes.Clone(stored[:at[1]]), stored[at[2]:]...)
	writeBase(t, mem, "000004.log", cut)
	wantRefused(t, fs, "000004.log", "a frame taken out")
	swapped := append(bytes.Clone(stored[:at[1]]), stored[at[2]:at[3]]...)
	swapped = append(swapped, stored[at[1]:at[2]]...)
	writeBase(t, mem, "000004.log", swapped)
	wantRefused(t, fs, "000004.log", "frames exchanged")
	twice := append(bytes.Clone(stored), stored[at[2]:]...)
	writeBase(t, mem, "000004.log", twice)
	wantRefused(t, fs, "000004.log", "a frame repeated")
}

func TestALaterFrameThatKnowsBetterMakesAHoleTampering(t *testing.T) {
	for _, durable := range []uint32{1, 2} {
		mem := vfs.NewMem()
		fs := newTestFS(t, mem)
		f, err := fs.Create("000004.log", vfs.WriteCategoryUnspecified)
		must(t, err)
		w := f.(*frameWriter)
		must(t, w.frame(bytes.Repeat([]byte("a"), 100), pins{}))
		must(t, w.frame(bytes.Repeat([]byte("b"), 3000), pins{}))
		must(t, w.frame(bytes.Repeat([]byte("c"), 100), pins{durable: durable}))
		must(t, w.Close())
		data, err := mem.UnsafeGetFileDataBuffer("000004.log")
		must(t, err)
		clear(data[1024:1536]) // a sector of frame 1
		got, err := readString(fs, "000004.log")
		if durable == 1 && (err != nil || len(got) != 100) {
			t.Errorf("frame 1 was not claimed durable: %d bytes, %v", len(got), err)
		}
		if durable == 2 && !errors.Is(err, pebble.ErrCorruption) {
			t.Errorf("frame 1 was claimed durable: %d bytes, %v", len(got), err)
		}
	}
}

func TestAFailedWritePoisonsTheFile(t *testing.T) {
	for _, name := range []string{"000004.log", "000005.sst"} {
		base := &failingFS{FS: vfs.NewMem()}
		fs := newTestFS(t, fdFS{base})
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		base.fail = true
		_, err = f.Write(pattern(200_000))
		if !errors.Is(err, errDisk) {
			t.Errorf("%s: write: %v", name, err)
		}
		base.fail = false
		if _, err := f.Write([]byte{1}); !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: write after a failure: %v", name, err)
		}
		if err := f.Sync(); !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: sync after a failure: %v", name, err)
		}
		_ = f.Close()
		f, err = fs.Create(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		base.fail = true
		if err := f.Sync(); !errors.Is(err, errDisk) {
			t.Errorf("%s: sync: %v", name, err)
		}
		base.fail = false
		if err := f.Sync(); !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: a failed sync was tried again: %v", name, err)
		}
		_ = f.Close()
	}
}

func TestAMarkerThatIsNotDurableIsNotGiven(t *testing.T) {
	const marker = "marker.manifest.000001.MANIFEST-000001"
	base := &failingFS{FS: vfs.NewMem()}
	fs := newTestFS(t, fdFS{base})
	for _, tc := range []struct {
		name              string
		failAll, failSync bool
	}{{"write", true, false}, {"sync", false, true}} {
		base.fail, base.failSync = tc.failAll, tc.failSync
		if f, err := fs.Create(marker, vfs.WriteCategoryUnspecified); !errors.Is(err, errDisk) || f != nil {
			t.Errorf("create a marker while the %s fails: %v, %v", tc.name, f, err)
		}
	}
	base.fail, base.failSync = false, false
	f, err := fs.Create(marker, vfs.WriteCategoryUnspecified)
	must(t, err)
	must(t, f.Close())
}

var errDisk = errors.New("disk")

type failingFS struct {
	vfs.FS
	fail, failSync bool // everything, or syncs alone
}

type failingFile struct {
	vfs.File
	fs *failingFS
}

func (f *failingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return failingFile{file, f}, err
}

func (f failingFile) Write(p []byte) (int, error) {
	if f.fs.fail {
		return 0, errDisk
	}
	return f.File.Write(p)
}

func (f failingFile) Sync() error {
	if f.fs.fail || f.fs.failSync {
		return errDisk
	}
	return f.File.Sync()
}

func TestAFrameThatClaimsTheFutureIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, mem)
	f, err := fs.Create("000004.log", vfs.WriteCategoryUnspecified)
	must(t, err)
	must(t, f.(*frameWriter).frame([]byte("a"), pins{durable: 1}))
	must(t, f.Close())
	wantRefused(t, fs, "000004.log", "a frame that says it was durable itself")
}
