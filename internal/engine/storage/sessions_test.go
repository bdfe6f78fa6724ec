package storage

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// A session that writes for a long time keeps the records of its newest number only,
// and leaves no range deletions behind: thousands of them would hold up the next start.
func TestASessionKeepsOnlyItsNewestRecords(t *testing.T) {
	db, err := pebble.Open("state", &pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	table := newSessions()
	index := uint64(0)
	write := func(s *sessions, lsid string, txn int64) {
		t.Helper()
		index++
		e := &entry.Entry{LSID: []byte(lsid), TxnNumber: txn, Statements: []entry.Statement{{ID: int32(index % 3), Result: mustMarshal(t, bson.D{{Key: "n", Value: 1}})}}}
		b := db.NewBatch()
		if err := s.stage(b, index, e); err != nil {
			t.Fatal(err)
		}
		for r := b.Reader(); ; {
			kind, _, _, ok, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if kind == pebble.InternalKeyKindRangeDelete {
				t.Fatal("a write makes a range deletion")
			}
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		s.apply(index, e)
	}
	count := func(lsid string) (n int) {
		t.Helper()
		if err := each(db, retryPrefix([]byte(lsid)), func(_, _ []byte) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for txn := range int64(50) {
		write(table, "a", txn+1)
		write(table, "a", txn+1) // an entry that was cut in two
		write(table, "b", 7)     // one number for ever
	}
	write(table, "a", 3) // a late one of an older number
	if a, b := count("a"), count("b"); a != 3 || b != 50 {
		t.Errorf("%d records of a, %d of b", a, b)
	}
	// After a start, what is left of older numbers goes with the next write.
	again := newSessions()
	if err := again.load(db); err != nil {
		t.Fatal(err)
	}
	if x := again.byID["a"]; x == nil || x.txn != 50 || len(x.records) != 3 {
		t.Fatalf("after a start: %+v", x)
	}
	write(again, "a", 51)
	if a := count("a"); a != 1 {
		t.Errorf("%d records of a", a)
	}
	if !bytes.Equal(again.byID["a"].records[0], retryKey([]byte("a"), 51, index)) {
		t.Errorf("records %x", again.byID["a"].records)
	}
}

func mustMarshal(t *testing.T, d bson.D) bson.Raw {
	t.Helper()
	b, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
