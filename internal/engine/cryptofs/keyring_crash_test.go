package cryptofs

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// keyringChange is one change, and what both outcomes look like.
type keyringChange struct {
	name string
	do   func(k *Keyring) error
	// done tells whether the opened keyring shows the change.
	done func(k *Keyring) bool
}

func keyringChanges(kept, gone, added DatabaseID, next MasterKey) []keyringChange {
	has := func(k *Keyring, db DatabaseID) bool { _, ok := k.Keyset(db); return ok }
	return []keyringChange{
		{"add", func(k *Keyring) error { _, err := k.Add(added); return err }, func(k *Keyring) bool { return has(k, added) }},
		{"remove", func(k *Keyring) error { return k.Remove(gone) }, func(k *Keyring) bool { return !has(k, gone) }},
		{"rotate a keyset", func(k *Keyring) error { return k.RotateKeysets([]DatabaseID{gone}) }, func(k *Keyring) bool {
			ks, ok := k.Keyset(gone)
			return ok && len(ks.KeyIDs()) > 1
		}},
		{"rewrap", func(k *Keyring) error { return k.Rewrap(next) }, func(k *Keyring) bool { return k.MasterKeyID() == next.ID }},
	}
}

// TestKeyringChangesKilledAtEveryStep lets every operation of the disk fail from
// the n-th on, which is what a kill looks like from below, then loses power, and
// opens what is left.
func TestKeyringChangesKilledAtEveryStep(t *testing.T) {
	kept, gone, added, mk, next := NewDatabaseID(), NewDatabaseID(), NewDatabaseID(), newMaster(), newMaster()
	for _, change := range keyringChanges(kept, gone, added, next) {
		t.Run(change.name, func(t *testing.T) {
			before, after := 0, 0
			for step := 0; ; step++ {
				done, err := killedChange(t, change, step, kept, gone, mk, next)
				if done {
					after++
				} else {
					before++
				}
				if err == nil {
					break
				}
				if step > 100 {
					t.Fatal("the change never succeeds")
				}
			}
			if before == 0 || after == 0 {
				t.Errorf("%d kills left the old state, %d the new", before, after)
			}
		})
	}
}

func killedChange(t *testing.T, change keyringChange, step int, kept, gone DatabaseID, mk, next MasterKey) (done bool, err error) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	armed, n := false, 0
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if armed {
			if n++; n > step {
				return errDisk
			}
		}
		return nil
	}))
	must(t, mem.MkdirAll("k", 0o755))
	must(t, syncDirectory(mem, ""))
	k, err := CreateKeyring(fs, "k", testNode, mk)
	must(t, err)
	keptSet, err := k.Add(kept)
	must(t, err)
	_, err = k.Add(gone)
	must(t, err)
	mu.Lock()
	armed = true
	mu.Unlock()
	err = change.do(k)
	acknowledged := err == nil
	mu.Lock()
	armed = false
	mu.Unlock()
	for seed := range uint64(6) {
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed) * 20, RNG: rand.New(rand.NewPCG(seed, uint64(step)))}
		disk := mem.CrashClone(cfg)
		opened, openErr := OpenKeyring(disk, "k", testNode, fetcher(mk, next))
		if openErr != nil {
			t.Fatalf("step %d: neither generation opens: %v", step, openErr)
		}
		if got, ok := opened.Keyset(kept); !ok || !sameKeys(got, keptSet) {
			t.Fatalf("step %d: another database's keyset is lost", step)
		}
		done = change.done(opened)
		if g := opened.Generation(); done != (g == 4) || !done != (g == 3) {
			t.Fatalf("step %d: generation %d, changed %v", step, g, done)
		}
		if acknowledged && !done {
			t.Fatalf("step %d: an acknowledged change is lost", step)
		}
		// The node goes on from either.
		if _, err := opened.Add(NewDatabaseID()); err != nil {
			t.Fatalf("step %d: the keyring takes no change: %v", step, err)
		}
	}
	// In the same process the change can be repeated, or the keyring says that it
	// has to be opened again.
	if again := change.do(k); !acknowledged && again != nil && !errors.Is(again, ErrKeyringUncertain) && !change.done(k) {
		t.Fatalf("step %d: repeated: %v", step, again)
	}
	return done, err
}

// TestKeyringStopsWhenItsStateIsUnknown: when the directory sync of a replacement
// fails, the disk may hold either generation, so nothing may be built on one.
func TestKeyringStopsWhenItsStateIsUnknown(t *testing.T) {
	mem := vfs.NewMem()
	fail := false
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail && op.Kind == errorfs.OpOpenDir {
			return errDisk
		}
		return nil
	}))
	mk := newMaster()
	k, err := CreateKeyring(fs, "k", testNode, mk)
	must(t, err)
	db := NewDatabaseID()
	_, err = k.Add(db)
	must(t, err)
	fail = true
	if err := k.Remove(db); !errors.Is(err, errDisk) {
		t.Fatalf("Remove: %v", err)
	}
	fail = false
	if _, err := k.Add(NewDatabaseID()); !errors.Is(err, ErrKeyringUncertain) {
		t.Errorf("Add on an unknown state: %v", err)
	}
	if err := k.Rewrap(newMaster()); !errors.Is(err, ErrKeyringUncertain) {
		t.Errorf("Rewrap on an unknown state: %v", err)
	}
	if _, ok := k.Keyset(db); !ok {
		t.Error("the keyset in use is gone")
	}
	again, err := OpenKeyring(mem, "k", testNode, fetcher(mk))
	must(t, err)
	if _, err := again.Add(NewDatabaseID()); err != nil {
		t.Errorf("Add after opening again: %v", err)
	}
}
