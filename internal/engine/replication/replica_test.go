package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/storage"
)

func TestWriteReadRestart(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		fs := noLock{vfs.NewMem()}
		r := open(t, config(t, filesFor(t, fs, "/n", encrypted), "/n"))
		ctx := within(t)
		if err := insert(ctx, r, "shop", "items", doc(t, "_id", 1, "a", "x"), doc(t, "_id", 2, "a", "y")); err != nil {
			t.Fatal(err)
		}
		before, after, created, err := r.CreateIndexes(ctx, "shop", "items", []index.Spec{spec("a_1", true, "a")})
		if err != nil || before != 1 || after != 2 || created {
			t.Fatal(before, after, created, err)
		}
		err = insert(ctx, r, "shop", "items", doc(t, "_id", 3, "a", "x"))
		var dup *storage.DuplicateKeyError
		if !errors.As(err, &dup) || !mongoerr.HasCode(err, mongoerr.DuplicateKey) || dup.Index != "a_1" || dup.KeyValue.Lookup("a").StringValue() != "x" {
			t.Fatalf("duplicate: %v", err)
		}
		if err := insert(ctx, r, "shop", "items", doc(t, "_id", 2)); !mongoerr.HasCode(err, mongoerr.DuplicateKey) || !strings.Contains(err.Error(), "index: _id_ dup key: { _id: 2 }") {
			t.Fatalf("duplicate _id: %v", err)
		}
		election := r.Status().ElectionID
		id := r.Node()
		shut(t, r)
		r = open(t, config(t, filesFor(t, fs, "/n", encrypted), "/n"))
		defer shut(t, r)
		s := r.Status()
		if s.Set != "rs0" || s.Host != "127.0.0.1:27017" || !s.Primary || s.Node != id || bytes.Compare(s.ElectionID[:], election[:]) < 0 {
			t.Fatalf("status after restart: %+v", s)
		}
		if d := find(t, r, "shop", "items", 2); d == nil || d.Lookup("a").StringValue() != "y" {
			t.Fatalf("document after restart: %v", d)
		}
		verify(t, r)
		if err := r.Initiate(ctx, "rs1", "x"); !mongoerr.HasCode(err, mongoerr.AlreadyInitialized) {
			t.Fatalf("second initiate: %v", err)
		}
	})
}

func TestStatementsSeeEarlierOnesAndDropTheirEffectsOnError(t *testing.T) {
	r := open(t, config(t, storage.Plain(noLock{vfs.NewMem()}), "/n"))
	defer shut(t, r)
	k := idKey(t, 1)
	_, err := r.Write(within(t), WriteOptions{DB: "d"}, func(w *Writer) error {
		do := func(fn func(tx *Tx) error) error {
			_, _, err := w.Do(0, func(tx *Tx) (bson.Raw, error) { return nil, fn(tx) })
			return err
		}
		if err := do(func(tx *Tx) error { return tx.Insert("c", doc(t, "_id", 1, "n", 1)) }); err != nil {
			return err
		}
		if !w.Pending() {
			t.Error("nothing is pending")
		}
		fails := do(func(tx *Tx) error {
			if _, err := tx.Lock("c", k); err != nil {
				return err
			}
			if err := tx.Replace("c", k, doc(t, "_id", 1, "n", 99)); err != nil {
				return err
			}
			return errors.New("no")
		})
		if fails == nil {
			t.Error("the statement's error was lost")
		}
		return do(func(tx *Tx) error {
			d, err := tx.Lock("c", k)
			if err != nil {
				return err
			}
			return tx.Replace("c", k, doc(t, "_id", 1, "n", d.Lookup("n").AsInt64()+1))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := find(t, r, "d", "c", 1).Lookup("n").AsInt64(); n != 2 {
		t.Fatalf("n is %d", n)
	}
	verify(t, r)
}

func TestConcurrentIncrementsAddUp(t *testing.T) {
	r := open(t, config(t, storage.Plain(noLock{vfs.NewMem()}), "/n"))
	defer shut(t, r)
	ctx := within(t)
	if err := insert(ctx, r, "d", "c", doc(t, "_id", 0, "n", int64(0)), doc(t, "_id", 1, "n", int64(0))); err != nil {
		t.Fatal(err)
	}
	const writers, rounds = 10, 40
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for range rounds {
				// Both documents in one command, in opposite orders: a deadlock
				// unless latches are let go of.
				_, err := r.Write(ctx, WriteOptions{DB: "d"}, func(w *Writer) error {
					for s := range 2 {
						id := (s + g) % 2
						if err := increment(t, w, id); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for id := range 2 {
		if n := find(t, r, "d", "c", id).Lookup("n").AsInt64(); n != writers*rounds {
			t.Errorf("document %d: %d, want %d", id, n, writers*rounds)
		}
	}
}

func increment(t *testing.T, w *Writer, id int) error {
	_, _, err := w.Do(0, func(tx *Tx) (bson.Raw, error) {
		d, err := tx.Lock("c", idKey(t, id))
		if err != nil {
			return nil, err
		}
		return nil, tx.Replace("c", idKey(t, id), doc(t, "_id", id, "n", d.Lookup("n").AsInt64()+1))
	})
	return err
}

func TestUniqueIndexLetsOneIn(t *testing.T) {
	r := open(t, config(t, storage.Plain(noLock{vfs.NewMem()}), "/n"))
	defer shut(t, r)
	ctx := within(t)
	if _, _, created, err := r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("u_1", true, "u"), spec("v_1", true, "v")}); err != nil || !created {
		t.Fatal(created, err)
	}
	const rounds, writers = 30, 8
	var won [rounds]atomic.Int64
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range rounds {
				// Two unique keys, taken in opposite orders of values.
				err := insert(ctx, r, "d", "c", doc(t, "_id", fmt.Sprint(i, "-", g), "u", i, "v", rounds-i))
				switch {
				case err == nil:
					won[i].Add(1)
				case !mongoerr.HasCode(err, mongoerr.DuplicateKey):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range won {
		if n := won[i].Load(); n != 1 {
			t.Errorf("value %d was let in %d times", i, n)
		}
	}
	verify(t, r)
}

func TestRetriedWriteRunsOnce(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		fs := vfs.NewCrashableMem()
		r := open(t, config(t, filesFor(t, noLock{fs}, "/n", encrypted), "/n"))
		ctx := within(t)
		if err := insert(ctx, r, "d", "c", doc(t, "_id", 1, "n", int64(0))); err != nil {
			t.Fatal(err)
		}
		o := WriteOptions{DB: "d", LSID: []byte("session"), TxnNumber: 7, HasTxn: true}
		once := func(r *Replica) (replayed bool, result bson.Raw) {
			_, err := r.Write(ctx, o, func(w *Writer) (err error) {
				result, replayed, err = w.Do(0, func(tx *Tx) (bson.Raw, error) {
					d, err := tx.Lock("c", idKey(t, 1))
					if err != nil {
						return nil, err
					}
					n := d.Lookup("n").AsInt64() + 1
					return doc(t, "n", n), tx.Replace("c", idKey(t, 1), doc(t, "_id", 1, "n", n))
				})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return replayed, result
		}
		if replayed, _ := once(r); replayed {
			t.Fatal("the first run was taken for a repeat")
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{})
		if replayed, res := once(r); !replayed || res.Lookup("n").AsInt64() != 1 {
			t.Fatalf("repeat: %v, %v", replayed, res)
		}
		shut(t, r)
		r = open(t, config(t, filesFor(t, noLock{clone}, "/n", encrypted), "/n"))
		defer shut(t, r)
		if replayed, res := once(r); !replayed || res.Lookup("n").AsInt64() != 1 {
			t.Fatalf("repeat after power loss: %v, %v", replayed, res)
		}
		if n := find(t, r, "d", "c", 1).Lookup("n").AsInt64(); n != 1 {
			t.Fatalf("n is %d", n)
		}
		old := o
		old.TxnNumber = 6
		if _, err := r.Write(ctx, old, func(*Writer) error { return nil }); !mongoerr.HasCode(err, mongoerr.TransactionTooOld) {
			t.Fatalf("older number: %v", err)
		}
		if err := r.store.ExpireSessions(r.store.Time().T+1700, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, known := r.store.Session(o.LSID); !known {
			t.Fatal("the record was forgotten too early")
		}
		if err := r.store.ExpireSessions(r.store.Time().T+1801, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, known := r.store.Session(o.LSID); known {
			t.Fatal("the record was not forgotten")
		}
	})
}

func TestLargeDocumentsAndManyStatements(t *testing.T) {
	r := open(t, config(t, storage.Plain(noLock{vfs.NewMem()}), "/n"))
	defer shut(t, r)
	ctx := within(t)
	big := doc(t, "_id", "big", "b", make([]byte, 16<<20-64))
	if err := insert(ctx, r, "d", "c", big, doc(t, "_id", "next")); err != nil {
		t.Fatal(err)
	}
	var docs []bson.Raw
	for i := range 40 {
		docs = append(docs, doc(t, "_id", i, "b", make([]byte, 1<<20)))
	}
	if err := insert(ctx, r, "d", "c", docs...); err != nil {
		t.Fatal(err)
	}
	if d := find(t, r, "d", "c", "big"); !bytes.Equal(d, big) {
		t.Fatal("the large document changed")
	}
	huge := doc(t, "_id", "huge", "b", make([]byte, 17<<20))
	if err := insert(ctx, r, "d", "c", huge); !mongoerr.HasCode(err, mongoerr.BSONObjectTooLarge) {
		t.Fatalf("17 MiB: %v", err)
	}
	verify(t, r)
}

func TestCatalogueChanges(t *testing.T) {
	kinds(t, func(t *testing.T, encrypted bool) {
		fs := noLock{vfs.NewMem()}
		files := filesFor(t, fs, "/n", encrypted)
		r := open(t, config(t, files, "/n"))
		ctx := within(t)
		for i := range 20 {
			if err := insert(ctx, r, "d", "c", doc(t, "_id", i, "a", []int{i, i + 1}, "u", i%2)); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("a_1", false, "a"), spec("u_1", true, "u")}); !mongoerr.HasCode(err, mongoerr.DuplicateKey) {
			t.Fatalf("unique index on duplicates: %v", err)
		}
		rd, _ := r.Store().Read(ctx, "d")
		if n := len(rd.Collections()[0].Indexes); n != 1 {
			t.Fatalf("a failed build left %d indexes", n)
		}
		rd.Close()
		if _, _, _, err := r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("a_1", false, "a")}); err != nil {
			t.Fatal(err)
		}
		if b, a, _, err := r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("a_1", false, "a")}); err != nil || a != b {
			t.Fatal("repeat", b, a, err)
		}
		if _, _, _, err := r.CreateIndexes(ctx, "d", "c", []index.Spec{spec("a_1", false, "b")}); !mongoerr.HasCode(err, mongoerr.IndexKeySpecsConflict) {
			t.Fatal(err)
		}
		rd, _ = r.Store().Read(ctx, "d")
		c, _ := rd.Collection("c")
		it, err := c.IndexScan("a_1", []index.Bound{{}}, true)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for it.Next() {
			n++
		}
		if n != 20 || it.KeysExamined() != 40 || !c.Info().Indexes[1].Multikey || it.Err() != nil {
			t.Fatalf("multikey scan: %d documents, %d keys, %v", n, it.KeysExamined(), it.Err())
		}
		_ = it.Close()
		verify(t, r)
		dropped, err := r.DropDatabase(ctx, "d")
		if err != nil || !dropped {
			t.Fatal(dropped, err)
		}
		if d, err := c.Get(idKey(t, 1)); err != nil || d == nil {
			t.Fatalf("a reader lost its snapshot: %v, %v", d, err)
		}
		rd.Close()
		if names, err := fs.List("/n/db"); err != nil || len(names) != 0 {
			t.Fatalf("left of the database: %v, %v", names, err)
		}
		if _, err := r.DropIndexes(ctx, "d", "c", nil); !mongoerr.HasCode(err, mongoerr.NamespaceNotFound) {
			t.Fatal(err)
		}
		if err := insert(ctx, r, "d", "c", doc(t, "_id", 1)); err != nil {
			t.Fatal(err)
		}
		if existed, n, err := r.DropCollection(ctx, "d", "c"); err != nil || !existed || n != 1 {
			t.Fatal(existed, n, err)
		}
		shut(t, r)
		r = open(t, config(t, filesFor(t, fs, "/n", encrypted), "/n"))
		defer shut(t, r)
		if dbs, err := r.Store().Databases(context.Background()); err != nil || len(dbs) != 1 || !dbs[0].Empty {
			t.Fatal(dbs, err)
		}
	})
}

func TestManyDatabasesStayWithinTheLimit(t *testing.T) {
	fs := noLock{vfs.NewMem()}
	cfg := config(t, storage.Plain(fs), "/n")
	cfg.OpenDatabases = 3
	r := open(t, cfg)
	for round := range 2 {
		for i := range 12 {
			if err := insert(within(t), r, fmt.Sprintf("db%d", i), "c", doc(t, "_id", round)); err != nil {
				t.Fatal(err)
			}
		}
	}
	verify(t, r)
	shut(t, r)
	r = open(t, cfg)
	defer shut(t, r)
	for i := range 12 {
		if find(t, r, fmt.Sprintf("db%d", i), "c", 1) == nil {
			t.Errorf("database %d lost a document", i)
		}
	}
}
