package storage_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
)

// longHistory is the history and many entries of all kinds after it.
func longHistory(t *testing.T, rng *rand.Rand) []storage.Item {
	out := history(t)
	there := map[int32]bool{}
	for i := range 400 {
		e := &entry.Entry{}
		if rng.IntN(3) > 0 {
			e.LSID = bytes.Repeat([]byte{byte(rng.IntN(4))}, 16)
			e.TxnNumber = int64(i / 5)
			e.Statements = []entry.Statement{{ID: int32(i), Result: raw(t, bson.D{{Key: "n", Value: int32(i)}})}}
		}
		for range 1 + rng.IntN(3) {
			id := int32(100 + rng.IntN(60))
			o := entry.Op{Kind: entry.Insert, Database: shopID, Collection: ordersID}
			d := bson.D{{Key: "_id", Value: id}, {Key: "sku", Value: id}, {Key: "tags", Value: int32(i)}}
			if there[id] {
				if o.Kind = entry.Replace; rng.IntN(2) == 0 {
					o.Kind, d = entry.Delete, d[:1]
				}
			}
			there[id] = o.Kind != entry.Delete
			if i == 200 {
				d = append(d, bson.E{Key: "x", Value: "y"})
			}
			o.Payload = raw(t, d)
			e.Ops = append(e.Ops, o)
		}
		out = append(out, e)
		if i == 150 {
			spec := raw(t, bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "x", Value: int32(1)}}}, {Key: "name", Value: "x_1"}})
			out = append(out, &entry.Entry{Ops: []entry.Op{catalogue(t, entry.Change{Op: entry.CreateIndexes, Indexes: []bson.Raw{spec}}, shopID, ordersID)}})
		}
	}
	items := make([]storage.Item, len(out))
	for i, e := range out {
		e.Time = bson.Timestamp{T: 0x65a0f0c2, I: uint32(i) + 1}
		items[i] = storage.Item{Index: uint64(i) + 1, Term: 3, Entry: e}
	}
	return items
}

// Entries that are applied together leave the same bytes as one by one, also when some
// are applied again.
func TestApplyBatchIsApply(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	items := longHistory(t, rng)
	single, batched := newNode(t), newNode(t)
	for _, it := range items {
		if err := single.store.Apply(it.Index, it.Term, it.Entry); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(items); {
		from, n := i, min(1+rng.IntN(40), len(items)-i)
		if rng.IntN(3) == 0 {
			from = max(0, i-rng.IntN(10))
		}
		if err := batched.store.ApplyBatch(items[from : i+n]); err != nil {
			t.Fatal(err)
		}
		i += n
	}
	var want, got [2][]byte
	for i, n := range []*node{single, batched} {
		out := &want
		if i == 1 {
			out = &got
		}
		if a, last := n.store.Applied(), items[len(items)-1]; a == 0 || n.store.Time() != last.Entry.Time {
			t.Errorf("applied %d, time %v", a, n.store.Time())
		}
		n.close(t)
		n.database(t, func(db *pebble.DB) { out[0] = dump(t, db) })
		out[1] = dump(t, n.state)
	}
	if !bytes.Equal(want[0], got[0]) {
		t.Error("the database differs")
	}
	if !bytes.Equal(want[1], got[1]) {
		t.Error("the state differs")
	}
}

// GetNew agrees with Get after inserts, deletes and a restart.
func TestGetNewIsGet(t *testing.T) {
	n := newNode(t)
	n.furnish(t)
	next := uint64(len(history(t)))
	id := func(i int) bson.ObjectID { return bson.ObjectID{2, 10: byte(i >> 8), 11: byte(i)} } // above what is there
	check := func(i int) {
		t.Helper()
		live, err := n.store.Live("shop")
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()
		c := live.Collection("plain")
		k, err := index.EncodeID(raw(t, bson.D{{Key: "_id", Value: id(i)}}).Lookup("_id"))
		if err != nil {
			t.Fatal(err)
		}
		want, err1 := c.Get(k)
		got, err2 := c.GetNew(k)
		if err1 != nil || err2 != nil || !bytes.Equal(want, got) {
			t.Fatalf("document %d: %v, %v; want %v, %v", i, got, err2, want, err1)
		}
	}
	for i := range 300 {
		check(i)
		check(i / 2)
		kind := entry.Insert
		if i%7 == 3 {
			kind = entry.Delete
		}
		d := raw(t, bson.D{{Key: "_id", Value: id(i - i%7%3)}})
		next++
		if err := n.store.Apply(next, 3, &entry.Entry{Ops: []entry.Op{{Kind: kind, Database: shopID, Collection: plainID, Payload: d}}}); err != nil {
			t.Fatal(err)
		}
		check(i)
		if i%100 == 50 {
			n.close(t)
			if err := n.open(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
