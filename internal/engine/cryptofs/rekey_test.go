package cryptofs

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// rekeyed is a keyring with one database.
type rekeyed struct {
	t    *testing.T
	ring *Keyring
	id   DatabaseID
	mk   MasterKey
	fs   *FS
}

func newRekeyed(t *testing.T, base vfs.FS) *rekeyed {
	t.Helper()
	r := &rekeyed{t: t, id: NewDatabaseID(), mk: newMaster()}
	var err error
	r.ring, err = CreateKeyring(base, "k", testNode, r.mk)
	must(t, err)
	ks, err := r.ring.Add(r.id)
	must(t, err)
	r.fs, err = New(base, Options{Database: r.id, Keyset: ks})
	must(t, err)
	return r
}

// old lists the keys that are not the newest.
func (r *rekeyed) old() []uint32 {
	ks := r.fs.opts.Keyset
	return slices.DeleteFunc(ks.KeyIDs(), func(id uint32) bool { return id == ks.Primary() })
}

// reopened opens keyring and database from a disk, as a new process does.
func (r *rekeyed) reopened(disk vfs.FS) (*pebble.DB, *Keyset) {
	r.t.Helper()
	ring, err := OpenKeyring(disk, "k", testNode, fetcher(r.mk))
	must(r.t, err)
	ks, ok := ring.Keyset(r.id)
	if !ok {
		r.t.Fatal("the keyset is gone")
	}
	fs, err := New(disk, Options{Database: r.id, Keyset: ks})
	must(r.t, err)
	o := testOptions(r.t, fs, 64<<10)
	o.ErrorIfNotExists = true
	db, err := pebble.Open("d", o)
	must(r.t, err)
	return db, ks
}

func noPace() error { return nil }

func TestFilesGoOverToANewKeyWhileTheDatabaseIsOpen(t *testing.T) {
	mem := vfs.NewMem()
	r := newRekeyed(t, mem)
	db, err := pebble.Open("d", testOptions(t, r.fs, 64<<10))
	must(t, err)
	fill(t, db, 0, 1000)
	must(t, db.Flush())
	first := r.fs.opts.Keyset.Primary()
	must(t, r.ring.RotateKeysets([]DatabaseID{r.id}))
	if got := r.fs.opts.Keyset.Primary(); got == first || len(r.old()) != 1 {
		t.Fatalf("the newest key is %08x, the first was %08x", got, first)
	}
	// The open log is under the old key: it cannot go.
	if err := r.ring.DropKeys(map[DatabaseID][]uint32{r.id: {first}}); err == nil {
		t.Fatal("a key was dropped that a file is written under")
	}
	if err := r.ring.DropKeys(map[DatabaseID][]uint32{r.id: {r.fs.opts.Keyset.Primary()}}); err == nil {
		t.Fatal("the primary key was dropped")
	}
	must(t, db.Flush())
	must(t, r.fs.Reseal("d", "tmp", noPace))
	used, err := r.fs.Usage(true, "d")
	must(t, err)
	if len(used) != 1 || used[first] != (Usage{}) {
		t.Fatalf("files are under %v, the old key was %08x", used, first)
	}
	must(t, r.ring.DropKeys(map[DatabaseID][]uint32{r.id: {first}}))
	fill(t, db, 1000, 2000) // the manifest that was rewritten goes on
	must(t, db.Flush())
	must(t, db.Compact(t.Context(), []byte("a"), []byte("z"), false))
	fill(t, db, 2000, 2500)
	checkAll(t, db, 2500)
	must(t, db.Close())
	db, ks := r.reopened(mem)
	checkAll(t, db, 2500)
	must(t, db.Close())
	if got := ks.KeyIDs(); len(got) != 1 || got[0] == first {
		t.Errorf("the keyring has keys %08x", got)
	}
}

// TestAResealKilledAtEveryStep lets the disk fail from the n-th operation on, loses
// power, and opens what is left.
func TestAResealKilledAtEveryStep(t *testing.T) {
	failed := 0
	for step := int64(0); ; step++ {
		mem := vfs.NewCrashableMem()
		var armed atomic.Bool
		var n atomic.Int64
		base := errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if armed.Load() && n.Add(1) > step {
				return errDisk
			}
			return nil
		}))
		for _, dir := range []string{"k", "d", "tmp"} {
			must(t, mem.MkdirAll(dir, 0o700))
		}
		must(t, syncDirectory(mem, ""))
		r := newRekeyed(t, base)
		o := testOptions(t, r.fs, 256<<10)
		o.DisableWAL = true
		db, err := pebble.Open("d", o)
		must(t, err)
		fill2(t, db, 50)
		must(t, db.Flush())
		must(t, r.ring.RotateKeysets([]DatabaseID{r.id}))
		armed.Store(true)
		err = r.fs.Reseal("d", "tmp", noPace)
		armed.Store(false)
		for seed := range uint64(4) {
			disk := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed) * 33, RNG: rand.New(rand.NewPCG(seed, uint64(step)))})
			again, _ := r.reopened(disk)
			checkAll(t, again, 50)
			must(t, again.Close())
		}
		if err != nil {
			failed++
			must(t, r.fs.Reseal("d", "tmp", noPace)) // resumed
		}
		used, usedErr := r.fs.Usage(true, "d")
		must(t, usedErr)
		if len(used) != 1 {
			t.Fatalf("step %d: files are under %v", step, used)
		}
		must(t, r.ring.DropKeys(map[DatabaseID][]uint32{r.id: r.old()}))
		checkAll(t, db, 50)
		// A live file whose rewriting failed takes no more writes: its node ends, and opens
		// what is durable, which was looked at above.
		if closed := db.Close(); closed != nil && (err == nil || !errors.Is(closed, ErrPoisoned)) {
			t.Fatal(closed)
		}
		if err == nil {
			break
		}
		if step > 300 {
			t.Fatal("it never succeeds")
		}
	}
	if failed < 10 {
		t.Errorf("only %d steps failed", failed)
	}
}

// fill2 writes the first entries without a log.
func fill2(t *testing.T, db *pebble.DB, n int) {
	t.Helper()
	b := db.NewBatch()
	for i := range n {
		must(t, b.Set(testKey(i), testValue(i), nil))
	}
	must(t, b.Commit(pebble.NoSync))
}
