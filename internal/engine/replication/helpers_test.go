package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const testNode = keys.NodeID("65a0f0c2e4b0a1b2c3d4e5f6")

// noLock leaves out MemFS.Lock, which deadlocks beside CrashClone, and whose
// locks would outlive a crash.
type noLock struct{ vfs.FS }

func (noLock) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
func (f noLock) Unwrap() vfs.FS               { return f.FS }

var masterKey = bytes.Repeat([]byte{7}, 32)

// filesFor gives plain or encrypted Files on a base, making the keyring if there
// is none.
func filesFor(t testing.TB, base vfs.FS, dir string, encrypted bool) storage.Files {
	t.Helper()
	if !encrypted {
		return storage.Plain(base)
	}
	if err := base.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	exists, err := cryptofs.KeyringExists(base, dir)
	if err != nil {
		t.Fatal(err)
	}
	var k *cryptofs.Keyring
	if exists {
		k, err = cryptofs.OpenKeyring(base, dir, string(testNode), func(keys.KeyID) (secret.Bytes, error) {
			return secret.New(bytes.Clone(masterKey)), nil
		})
	} else {
		k, err = cryptofs.CreateKeyring(base, dir, string(testNode), cryptofs.MasterKey{ID: "kw-00000000000000000000000000000001", Key: secret.New(bytes.Clone(masterKey))})
	}
	if err != nil {
		t.Fatal(err)
	}
	return storage.Encrypted(k, base)
}

func config(t testing.TB, files storage.Files, dir string) Config {
	c := Config{Dir: dir, Node: testNode, Files: files, ElectionTimeout: 20 * time.Millisecond, Reserve: -1,
		OnFatal: func(msg string) { t.Error("fatal: " + msg) }}
	if os.Getenv("KEYWRIGHT_TEST_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return c
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open opens a node and initiates it if it is new.
func open(t testing.TB, c Config) *Replica {
	t.Helper()
	r, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status().Set == "" {
		if err := r.Initiate(within(t), "rs0", "127.0.0.1:27017"); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func shut(t testing.TB, r *Replica) {
	t.Helper()
	if err := r.Close(within(t)); err != nil {
		t.Fatal(err)
	}
}

func doc(t testing.TB, kv ...any) bson.Raw {
	t.Helper()
	var d bson.D
	for i := 0; i < len(kv); i += 2 {
		d = append(d, bson.E{Key: kv[i].(string), Value: kv[i+1]})
	}
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func idKey(t testing.TB, id any) []byte {
	t.Helper()
	k, err := storage.DocumentKey(doc(t, "_id", id))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func insert(ctx context.Context, r *Replica, db, coll string, docs ...bson.Raw) error {
	_, err := r.Write(ctx, WriteOptions{DB: db}, func(w *Writer) error {
		for i, d := range docs {
			if _, _, err := w.Do(int32(i), func(tx *Tx) (bson.Raw, error) { return nil, tx.Insert(coll, d) }); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func find(t testing.TB, r *Replica, db, coll string, id any) bson.Raw {
	t.Helper()
	rd, err := r.Store().Read(within(t), db)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	c, ok := rd.Collection(coll)
	if !ok {
		return nil
	}
	d, err := c.Get(idKey(t, id))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// verify compares every collection's count and indexes with its documents.
func verify(t testing.TB, r *Replica) {
	t.Helper()
	dbs, err := r.Store().Databases(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range dbs {
		rd, err := r.Store().Read(within(t), db.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range rd.Collections() {
			c, _ := rd.Collection(info.Name)
			if err := verifyCollection(c); err != nil {
				t.Errorf("%s.%s: %v", db.Name, info.Name, err)
			}
		}
		rd.Close()
	}
}

func verifyCollection(c *storage.Collection) error {
	want := map[string]map[string]bool{}
	for _, ix := range c.Info().Indexes {
		want[ix.Name] = map[string]bool{}
	}
	n := int64(0)
	it := c.Scan(index.Bound{}, false)
	for it.Next() {
		n++
		d, err := it.Doc()
		if err != nil {
			return err
		}
		for _, ix := range c.Info().Indexes {
			keys, _, err := ix.Keys(d)
			if err != nil {
				return err
			}
			for _, k := range keys {
				want[ix.Name][string(k)+"|"+string(it.IDKey())] = true
			}
		}
	}
	if it.Err() != nil {
		return it.Err()
	}
	if got, err := c.Count(); err != nil || got != n {
		return fmt.Errorf("count is %d, documents %d: %w", got, n, errors.Join(err, errCount))
	}
	for _, ix := range c.Info().Indexes {
		if ix.Multikey {
			continue // given once per document
		}
		it, err := c.IndexScan(ix.Name, []index.Bound{{}}, false)
		if err != nil {
			return err
		}
		got := 0
		for it.Next() {
			got++
			if !want[ix.Name][string(it.Key())+"|"+string(it.IDKey())] {
				return fmt.Errorf("index %s has an entry without its document", ix.Name)
			}
			if _, err := it.Doc(); err != nil {
				return err
			}
		}
		if it.Err() != nil || got != len(want[ix.Name]) {
			return fmt.Errorf("index %s has %d entries, documents give %d: %w", ix.Name, got, len(want[ix.Name]), errors.Join(it.Err(), errCount))
		}
	}
	return nil
}

func spec(name string, unique bool, fields ...string) index.Spec {
	s := index.Spec{Name: name, Unique: unique}
	for _, f := range fields {
		s.Fields = append(s.Fields, index.Field{Path: f})
	}
	return s
}

func kinds(t *testing.T, fn func(t *testing.T, encrypted bool)) {
	for _, e := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "encrypted"}[e], func(t *testing.T) { fn(t, e) })
	}
}

// errCount is what a wrong count is called.
var errCount = errors.New("the numbers differ")
