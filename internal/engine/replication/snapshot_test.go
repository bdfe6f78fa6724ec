package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/storage"
)

// fill writes several databases with indexes, a retry record and a drop.
func fill(t testing.TB, r *Replica, n int) {
	t.Helper()
	ctx := within(t)
	for _, db := range []string{"a", "b", "gone"} {
		var docs []bson.Raw
		for i := range n {
			docs = append(docs, doc(t, "_id", i, "x", i%10, "text", strings.Repeat("v", 100), "tags", []string{"t", fmt.Sprint(i)}))
		}
		if err := insert(ctx, r, db, "c", docs...); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := r.CreateIndexes(ctx, db, "c", []index.Spec{spec("x_1", false, "x"), spec("tags_1", false, "tags")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.DropDatabase(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Write(ctx, WriteOptions{DB: "a", LSID: []byte("s"), TxnNumber: 3, HasTxn: true}, func(w *Writer) error {
		_, _, err := w.Do(0, func(tx *Tx) (bson.Raw, error) { return doc(t, "n", 1), tx.Insert("c", doc(t, "_id", "retry")) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkFilled(t testing.TB, r *Replica, n int) {
	t.Helper()
	for _, db := range []string{"a", "b"} {
		for _, i := range []int{0, n / 2, n - 1} {
			if find(t, r, db, "c", i) == nil {
				t.Errorf("%s: document %d is missing", db, i)
			}
		}
		rd, err := r.Store().Read(within(t), db)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := rd.Collection("c")
		if !ok || len(c.Info().Indexes) != 3 {
			t.Errorf("%s: collection %v", db, ok)
		}
		rd.Close()
	}
	if txn, res, ok := r.store.Session([]byte("s")); !ok || txn != 3 || res[0].Lookup("n").AsInt64() != 1 {
		t.Errorf("retry record: %d %v %v", txn, res, ok)
	}
	dbs, err := r.Store().Databases(within(t))
	if err != nil || len(dbs) != 2 {
		t.Errorf("databases: %v, %v", dbs, err)
	}
	verify(t, r)
}

func TestSnapshotCutsTheLogAndNothingIsLost(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		fs := vfs.NewCrashableMem()
		r := open(t, config(t, filesFor(t, noLock{fs}, "/n", encrypted), "/n"))
		fill(t, r, 1500)
		for i := range 1200 { // beyond what raft keeps after a cut
			if err := insert(within(t), r, "b", "more", doc(t, "_id", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		first, _ := r.log.FirstIndex()
		if first <= 1 || r.log.Oldest() != 1 {
			t.Fatalf("first index %d, oldest readable %d", first, r.log.Oldest())
		}
		if err := insert(within(t), r, "a", "c", doc(t, "_id", "after")); err != nil {
			t.Fatal(err)
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{})
		shut(t, r)
		r = open(t, config(t, filesFor(t, noLock{clone}, "/n", encrypted), "/n"))
		defer shut(t, r)
		checkFilled(t, r, 1500)
		if find(t, r, "a", "c", "after") == nil || find(t, r, "b", "more", 1199) == nil {
			t.Fatal("a document was lost")
		}
		if err := r.store.Checkpoint(within(t), "/n/tmp/copy"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNewMemberReceivesEverything(t *testing.T) {
	cfgA := config(t, filesFor(t, noLock{vfs.NewMem()}, "/n", true), "/n")
	addrA, transA := raft.NewInmemTransport("65a0f0c2e4b0a1b2c3d4e5f6")
	cfgA.Transport = transA
	cfgA.OplogBytes = 1
	r := open(t, cfgA)
	defer shut(t, r)
	fill(t, r, 1000)
	if err := r.snapshot(); err != nil {
		t.Fatal(err)
	}
	for i := range 1100 {
		if err := insert(within(t), r, "b", "more", doc(t, "_id", i)); err != nil {
			t.Fatal(err)
		}
	}
	// The second cut removes what is before the first: a new member needs the
	// snapshot.
	if err := r.snapshot(); err != nil {
		t.Fatal(err)
	}
	if r.log.Oldest() <= 1 {
		t.Fatal("the log's front is still there")
	}

	const nodeB = "65a0f0c2e4b0a1b2c3d4e5f7"
	fsB := noLock{vfs.NewMem()}
	cfgB := config(t, storage.Plain(fsB), "/m")
	cfgB.Node = nodeB
	addrB, transB := raft.NewInmemTransport(nodeB)
	cfgB.Transport = transB
	transA.Connect(addrB, transB)
	transB.Connect(addrA, transA)
	m, err := Open(within(t), cfgB)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.raft.AddNonvoter(nodeB, addrB, 0, 10*time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if err := insert(within(t), r, "a", "c", doc(t, "_id", "last")); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for find(t, m, "a", "c", "last") == nil {
		if ctx.Err() != nil {
			t.Fatal("the new member did not catch up")
		}
		time.Sleep(5 * time.Millisecond) // poll
	}
	checkFilled(t, m, 1000)
	if s := m.Status(); s.Set != "rs0" || s.Primary {
		t.Fatalf("new member: %+v", s)
	}
	if err := insert(ctx, m, "a", "c", doc(t, "_id", "no")); err == nil {
		t.Fatal("a non-voter took a write")
	}
	shut(t, m)
	_, cfgB.Transport = raft.NewInmemTransport(nodeB)
	m, err = Open(ctx, cfgB)
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, m)
	checkFilled(t, m, 1000)
	if first, _ := m.log.FirstIndex(); first <= 1 {
		t.Fatalf("the new member holds the log from %d", first)
	}
}

func TestImportRefusesADamagedStream(t *testing.T) {
	r := open(t, config(t, storage.Plain(noLock{vfs.NewMem()}), "/n"))
	defer shut(t, r)
	fill(t, r, 50)
	var b strings.Builder
	if err := r.store.Export(within(t), &b); err != nil {
		t.Fatal(err)
	}
	whole := b.String()
	for name, text := range map[string]string{
		"cut":       whole[:len(whole)/2],
		"no end":    whole[:len(whole)-1],
		"flipped":   whole[:len(whole)/2] + string(whole[len(whole)/2]^1) + whole[len(whole)/2+1:],
		"version 9": whole[:8] + "\x09" + whole[9:],
	} {
		if err := freshStore(t).Import(within(t), strings.NewReader(text), "x"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s := freshStore(t)
	if err := s.Import(within(t), strings.NewReader(whole), "x"); err != nil {
		t.Fatal(err)
	}
	want, err1 := r.store.Digest(within(t))
	got, err2 := s.Digest(within(t))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if err := storage.CompareDigests(want, got); err != nil {
		t.Fatal(err)
	}
}

func freshStore(t *testing.T) *storage.Store {
	t.Helper()
	fs := noLock{vfs.NewMem()}
	db, err := pebble.Open("/state", cryptofs.PebbleOptions(fs, cryptofs.Shared{}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := storage.OpenStore(storage.Config{Dir: "/m", State: db, Files: storage.Plain(fs)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(s.Close(context.Background()), db.Close()) })
	return s
}

func TestRewrite(t *testing.T) {
	for _, steps := range []string{"opened", "imported", "copy", "verify", ""} {
		for _, encrypt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", steps, encrypt), func(t *testing.T) { rewrite(t, steps, encrypt) })
		}
	}
}

// rewrite stops a rewrite at a step, or not, and looks at both sides.
func rewrite(t *testing.T, stopAt string, encrypt bool) {
	fs := vfs.NewCrashableMem()
	r := open(t, config(t, filesFor(t, noLock{fs}, "/n", !encrypt), "/n"))
	fill(t, r, 300)
	election := r.Status().ElectionID
	want, err := r.store.Digest(within(t))
	if err != nil {
		t.Fatal(err)
	}
	shut(t, r)
	from, to := config(t, filesFor(t, noLock{fs}, "/n", !encrypt), "/n"), config(t, filesFor(t, noLock{fs}, "/m", encrypt), "/m")
	to.Node = ""
	to.step = func(name string) error {
		if name == stopAt {
			return errors.New("stopped")
		}
		return nil
	}
	err = Rewrite(within(t), from, to)
	if (err != nil) != (stopAt != "") {
		t.Fatal(err)
	}
	after := noLock{fs.CrashClone(vfs.CrashCloneCfg{})} // power fails now
	to = config(t, filesFor(t, after, "/m", encrypt), "/m")
	if stopAt != "" {
		if _, err := Open(within(t), to); err == nil || !strings.Contains(err.Error(), "rewrite") {
			t.Fatalf("a target half written opened: %v", err)
		}
		if err := Rewrite(within(t), config(t, filesFor(t, after, "/n", !encrypt), "/n"), to); err != nil {
			t.Fatalf("again: %v", err)
		}
	}
	for dir, enc := range map[string]bool{"/n": !encrypt, "/m": encrypt} {
		r, err := Open(within(t), config(t, filesFor(t, after, dir, enc), dir))
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		checkFilled(t, r, 300)
		got, err := r.store.Digest(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.CompareDigests(want, got); err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		s := r.Status()
		if s.Set != "rs0" || s.Host == "" || !s.Primary || s.Node != testNode || string(s.ElectionID[:]) <= string(election[:]) {
			t.Fatalf("%s: %+v", dir, s)
		}
		if err := insert(within(t), r, "a", "c", doc(t, "_id", "new")); err != nil {
			t.Fatal(err)
		}
		shut(t, r)
	}
	checkClear(t, after, "/m", encrypt)
}

// checkClear searches all files for what stands in documents.
func checkClear(t *testing.T, fs vfs.FS, dir string, encrypted bool) {
	t.Helper()
	found := false
	var walk func(string)
	walk = func(dir string) {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			path := fs.PathJoin(dir, n)
			if info, err := fs.Stat(path); err != nil {
				t.Fatal(err)
			} else if info.IsDir() {
				walk(path)
				continue
			}
			f, err := fs.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(f)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(raw), "vvvvvvvv") || strings.Contains(string(raw), "127.0.0.1:27017") {
				found = true
			}
		}
	}
	walk(dir)
	if found == encrypted {
		t.Errorf("%s: clear text found: %v, encrypted: %v", dir, found, encrypted)
	}
}

// TestIndexBuildIsWholeOrAbsent crashes while indexes of a filled collection are
// built and dropped.
func TestIndexBuildIsWholeOrAbsent(t *testing.T) {
	fs := vfs.NewCrashableMem()
	cfg := config(t, storage.Plain(noLock{fs}), "/n")
	cfg.MemTableSize = 64 << 10 // flushes in the middle of a build
	r := open(t, cfg)
	var docs []bson.Raw
	for i := range 4000 {
		docs = append(docs, doc(t, "_id", i, "a", strings.Repeat("k", 50)+fmt.Sprint(i), "b", i%5))
	}
	if err := insert(within(t), r, "d", "c", docs...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _, _, _ = r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("a_1", true, "a"), spec("b_1_a_1", false, "b", "a")})
			_, _ = r.DropIndexes(ctx, "d", "c", nil)
		}
	})
	var clones []*vfs.MemFS
	for i := range 6 {
		time.Sleep(time.Duration(7+11*i) * time.Millisecond) // spread over builds
		clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{}))
	}
	cancel()
	wg.Wait()
	shut(t, r)
	for _, c := range clones {
		cfg := cfg
		cfg.Files = storage.Plain(noLock{c})
		r, err := Open(within(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, r)
		rd, err := r.Store().Read(within(t), "d")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(rd.Collections()[0].Indexes); n != 1 && n != 3 {
			t.Errorf("%d indexes", n)
		}
		rd.Close()
		shut(t, r)
	}
}
