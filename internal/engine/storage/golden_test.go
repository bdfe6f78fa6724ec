package storage_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/secret"
)

// The files in testdata are version 1 of the stored formats. They may only change
// together with the version.

var (
	shopID   = storage.DatabaseID{0: 0xd0, 15: 1}
	ordersID = storage.UUID{0: 0xc0, 15: 2}
	plainID  = storage.UUID{0: 0xc0, 15: 3}
)

// node is a store over a state instance in memory.
type node struct {
	fs    vfs.FS
	state *pebble.DB
	files storage.Files
	store *storage.Store
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{fs: vfs.NewMem()}
	if err := n.fs.MkdirAll("node", 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := cryptofs.CreateKeyring(n.fs, "node", "65a0f0c2e4b0a1b2c3d4e5f6", cryptofs.MasterKey{
		ID: "kw-00000000000000000000000000000001", Key: secret.New(bytes.Repeat([]byte{7}, 32))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	n.files = storage.Encrypted(k, n.fs)
	if n.state, err = pebble.Open("node/state", cryptofs.PebbleOptions(n.fs, cryptofs.Shared{})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.state.Close() })
	if err := n.open(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) open() (err error) {
	n.store, err = storage.OpenStore(storage.Config{Dir: "node", State: n.state, Files: n.files})
	return err
}

func (n *node) close(t *testing.T) {
	t.Helper()
	if err := n.store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// database runs fn on the instance of the database "shop", which nobody else uses.
func (n *node) database(t *testing.T, fn func(*pebble.DB)) {
	t.Helper()
	fs, err := n.files.Open(shopID)
	if err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(n.fs.PathJoin("node", "db", shopID.String()), cryptofs.PebbleOptions(fs, cryptofs.Shared{}))
	if err != nil {
		t.Fatal(err)
	}
	fn(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func raw(t *testing.T, d bson.D) bson.Raw {
	t.Helper()
	b, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func catalogue(t *testing.T, c entry.Change, db storage.DatabaseID, coll storage.UUID) entry.Op {
	t.Helper()
	o, err := c.Encode(db, coll)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// history makes at least one key of each kind.
func history(t *testing.T) []*entry.Entry {
	insert := func(coll storage.UUID, d bson.D) entry.Op {
		return entry.Op{Kind: entry.Insert, Database: shopID, Collection: coll, Payload: raw(t, d)}
	}
	indexes := []bson.Raw{
		raw(t, bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "sku", Value: int32(1)}}}, {Key: "name", Value: "sku_1"}, {Key: "unique", Value: true}}),
		raw(t, bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "tags", Value: int32(-1)}}}, {Key: "name", Value: "tags_-1"}, {Key: "sparse", Value: true}}),
	}
	lsid := bytes.Repeat([]byte{0xaa}, 16)
	return []*entry.Entry{
		{Ops: []entry.Op{catalogue(t, entry.Change{Op: entry.Configure, Name: "rs0", Host: "127.0.0.1:27017"}, storage.DatabaseID{}, storage.UUID{})}},
		{Ops: []entry.Op{
			catalogue(t, entry.Change{Op: entry.CreateDatabase, Name: "shop"}, shopID, storage.UUID{}),
			catalogue(t, entry.Change{Op: entry.CreateCollection, Name: "orders", Options: raw(t, bson.D{{Key: "note", Value: "x"}})}, shopID, ordersID),
			catalogue(t, entry.Change{Op: entry.CreateCollection, Name: "plain"}, shopID, plainID),
		}},
		{Ops: []entry.Op{catalogue(t, entry.Change{Op: entry.CreateIndexes, Indexes: indexes}, shopID, ordersID)}},
		{LSID: lsid, TxnNumber: 5, Statements: []entry.Statement{{ID: 0, Result: raw(t, bson.D{{Key: "n", Value: int32(1)}})}, {ID: 1}}, Ops: []entry.Op{
			insert(ordersID, bson.D{{Key: "_id", Value: int32(1)}, {Key: "sku", Value: "a"}, {Key: "tags", Value: bson.A{"x", int64(7)}}}),
			insert(ordersID, bson.D{{Key: "_id", Value: "two"}, {Key: "sku", Value: "b"}}),
			insert(plainID, bson.D{{Key: "_id", Value: bson.ObjectID{1, 11: 2}}}),
		}},
	}
}

// furnish applies the history and flushes it.
func (n *node) furnish(t *testing.T) {
	t.Helper()
	for i, e := range history(t) {
		e.Time = bson.Timestamp{T: 0x65a0f0c2, I: uint32(i) + 1}
		if err := n.store.Apply(uint64(i)+1, 3, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.store.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// dump gives a line for each key and value of an instance, in hexadecimal.
func dump(t *testing.T, db *pebble.DB) []byte {
	t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for it.First(); it.Valid(); it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			t.Fatal(err)
		}
		out = fmt.Appendf(out, "%x %x\n", it.Key(), v)
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

// load writes what dump gave into an instance.
func load(t *testing.T, db *pebble.DB, text []byte) {
	t.Helper()
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		key, err := hex.DecodeString(k)
		if err != nil {
			t.Fatal(err)
		}
		value, err := hex.DecodeString(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Set(key, value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
}

// golden compares with a file in testdata, which UPDATE_GOLDEN=1 writes anew, and
// gives what is there.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the stored bytes changed\n%s\nwant\n%s", name, got, want)
	}
	return want
}

func TestKeysAndRecordsAreFixed(t *testing.T) {
	n := newNode(t)
	n.furnish(t)
	golden(t, "state.txt", dump(t, n.state))
	n.close(t)
	n.database(t, func(db *pebble.DB) { golden(t, "database.txt", dump(t, db)) })
}

func TestStreamIsFixedAndRead(t *testing.T) {
	n := newNode(t)
	n.furnish(t)
	var buf bytes.Buffer
	if err := n.store.Export(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	stored := golden(t, "stream.hex", []byte(hex.EncodeToString(buf.Bytes())+"\n"))
	stream, err := hex.DecodeString(strings.TrimSpace(string(stored)))
	if err != nil {
		t.Fatal(err)
	}
	to := newNode(t)
	if err := to.store.Import(t.Context(), bytes.NewReader(stream), "snapshot"); err != nil {
		t.Fatal(err)
	}
	if id, err := to.store.Restored(); err != nil || id != "snapshot" {
		t.Errorf("restored %q, %v", id, err)
	}
	to.holdsTheHistory(t)
	golden(t, "restored.txt", dump(t, to.state))
	to.close(t)
	to.database(t, func(db *pebble.DB) { golden(t, "database.txt", dump(t, db)) })
}

// holdsTheHistory looks at what history wrote through the store.
func (n *node) holdsTheHistory(t *testing.T) {
	t.Helper()
	if s := n.store.Set(); s != (storage.SetInfo{Set: "rs0", Host: "127.0.0.1:27017", Version: 1}) {
		t.Errorf("set %+v", s)
	}
	if at := n.store.Time(); at != (bson.Timestamp{T: 0x65a0f0c2, I: 4}) {
		t.Errorf("time %v", at)
	}
	if txn, results, ok := n.store.Session(bytes.Repeat([]byte{0xaa}, 16)); !ok || txn != 5 || len(results) != 2 {
		t.Errorf("retry record: %d, %v, %v", txn, results, ok)
	}
	r, err := n.store.Read(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, ok := r.Collection("orders")
	if !ok || len(c.Info().Indexes) != 3 || c.Info().UUID != ordersID || !c.Info().Indexes[2].Multikey {
		t.Fatalf("collection %+v", c.Info())
	}
	if count, err := c.Count(); err != nil || count != 2 {
		t.Errorf("count %d, %v", count, err)
	}
	key, err := storage.DocumentKey(raw(t, bson.D{{Key: "_id", Value: "two"}}))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := c.Get(key); err != nil || d.Lookup("sku").StringValue() != "b" {
		t.Errorf("document %v, %v", d, err)
	}
}

func TestWhatVersionOneStoredIsRead(t *testing.T) {
	n := newNode(t)
	n.furnish(t)
	n.close(t)
	// The keys that a test writes now could hide that the old ones are not read.
	wipe := func(db *pebble.DB) {
		if err := db.DeleteRange([]byte{0}, []byte{0xff}, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	wipe(n.state)
	load(t, n.state, read("state.txt"))
	n.database(t, func(db *pebble.DB) {
		wipe(db)
		load(t, db, read("database.txt"))
	})
	if err := n.open(); err != nil {
		t.Fatal(err)
	}
	n.holdsTheHistory(t)
	n.close(t)
}

// setVersion changes the version of a record: {v: 1, ...}, or its first byte.
func setVersion(t *testing.T, db *pebble.DB, key []byte, version byte) {
	t.Helper()
	v, closer, err := db.Get(key)
	if err != nil {
		t.Fatalf("key %x: %v", key, err)
	}
	out := bytes.Clone(v)
	if len(v) > 8 && string(v[4:7]) == "\x10v\x00" {
		out[7] = version
	} else {
		out[0] = version
	}
	if err := errors.Join(closer.Close(), db.Set(key, out, pebble.NoSync), db.Flush()); err != nil {
		t.Fatal(err)
	}
}

func TestNewerRecordsAreRefused(t *testing.T) {
	n := newNode(t)
	n.furnish(t)
	n.close(t)
	retry := append(append([]byte{0x12, 0, 16}, bytes.Repeat([]byte{0xaa}, 16)...), 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4)
	for name, key := range map[string][]byte{"state": []byte("\x10v"), "set": []byte("\x10c"), "database's name": []byte("\x11shop"), "retry record": retry} {
		setVersion(t, n.state, key, 2)
		if err := n.open(); err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("%s of version 2: %v", name, err)
		}
		setVersion(t, n.state, key, 1)
	}
	for name, key := range map[string][]byte{"database": []byte("\x00v"), "collection": {1, 0, 0, 0, 0}} {
		n.database(t, func(db *pebble.DB) { setVersion(t, db, key, 2) })
		if err := n.open(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.store.Read(t.Context(), "shop"); err == nil || !strings.Contains(err.Error(), "version 2") && !strings.Contains(err.Error(), "version [2]") {
			t.Errorf("%s of version 2: %v", name, err)
		}
		n.database(t, func(db *pebble.DB) { setVersion(t, db, key, 1) })
	}
	if err := n.open(); err != nil {
		t.Fatal(err)
	}
	n.holdsTheHistory(t)
	n.close(t)
}
