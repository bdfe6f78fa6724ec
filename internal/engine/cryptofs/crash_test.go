package cryptofs

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// noLockFS replaces Lock, which deadlocks with a concurrent CrashClone.
type noLockFS struct{ vfs.FS }

type noLock struct{}

func (noLock) Close() error { return nil }

func (noLockFS) Lock(string) (io.Closer, error) { return noLock{}, nil }

func TestAcknowledgedWritesSurvivePowerLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 7))
	ks, err := NewKeyset()
	must(t, err)
	opts := Options{Database: NewDatabaseID(), Keyset: ks}
	mem := vfs.NewCrashableMem()
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	acked := 0
	for round := range rounds {
		fs, err := New(noLockFS{mem}, opts)
		must(t, err)
		o := testOptions(t, fs, 64<<10)
		db, err := pebble.Open("db", o)
		if err != nil {
			t.Fatalf("round %d, %d acknowledged: %v", round, acked, err)
		}
		if round == 0 {
			// The directory itself is the caller's to make durable.
			root, err := mem.OpenDir("")
			must(t, err)
			must(t, root.Sync())
		}
		checkPrefix(t, db, acked, round)
		clone, n := crashWhileWriting(t, db, mem, r, acked)
		must(t, db.Close())
		mem, acked = clone, n
	}
	if acked < rounds {
		t.Errorf("only %d writes were acknowledged", acked)
	}
}

// crashWhileWriting writes from key n on while a power loss is prepared at a
// random moment. It gives what is left after the loss and how many writes had
// been acknowledged when it came.
func crashWhileWriting(t *testing.T, db *pebble.DB, mem *vfs.MemFS, r *rand.Rand, n int) (*vfs.MemFS, int) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan int)
	progress := make(chan int, 1<<16)
	go func() {
		i := n
		defer func() { done <- i }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := db.Set(testKey(i), testValue(i), pebble.Sync); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			i++
			progress <- i
		}
	}()
	want := n + r.IntN(250)
	seen := n
	for seen < want {
		seen = <-progress
	}
	for more := true; more; {
		select {
		case seen = <-progress:
		default:
			more = false
		}
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 60, 100}[r.IntN(4)], RNG: r})
	close(stop)
	<-done
	return clone, seen
}

// checkPrefix asserts that at least n writes are there, whole and without a hole,
// and removes what came after, so that the next round starts at n.
func checkPrefix(t *testing.T, db *pebble.DB, n, round int) {
	t.Helper()
	it, err := db.NewIter(nil)
	must(t, err)
	i := 0
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		must(t, err)
		if !bytes.Equal(it.Key(), testKey(i)) || !bytes.Equal(v, testValue(i)) {
			t.Fatalf("round %d: entry %d is wrong", round, i)
		}
		i++
	}
	must(t, it.Error())
	must(t, it.Close())
	if i < n {
		t.Fatalf("round %d: %d writes are there, %d had been acknowledged", round, i, n)
	}
	for ; i > n; i-- {
		must(t, db.Delete(testKey(i-1), pebble.Sync))
	}
}

func TestAKilledProcessLosesNothing(t *testing.T) {
	mem := vfs.NewMem()
	fs := newTestFS(t, noLockFS{mem})
	acked := 0
	var open []*pebble.DB
	for range 8 {
		// The database before is still open, as a killed process leaves its files.
		db, err := pebble.Open("db", testOptions(t, fs, 64<<10))
		must(t, err)
		checkPrefix(t, db, acked, 0)
		for range 120 {
			must(t, db.Set(testKey(acked), testValue(acked), pebble.Sync))
			acked++
		}
		must(t, db.Flush())
		open = append(open, db)
		copied := vfs.NewMem()
		if ok, err := vfs.Clone(mem, copied, "db", "db"); err != nil || !ok {
			t.Fatal(ok, err)
		}
		mem = copied
		fs, err = New(noLockFS{mem}, fs.opts)
		must(t, err)
	}
	for _, db := range open {
		must(t, db.Close())
	}
}
