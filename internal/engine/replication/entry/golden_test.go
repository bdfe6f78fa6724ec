package entry_test

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/replication/entry"
)

// goldenChange is the payload of a catalogue operation with every field, as stored by
// version 1; it never changes.
const goldenChange = "83000000" +
	"107600" + "01000000" + // v
	"026f7000" + "0e000000" + "637265617465496e646578657300" + // op: createIndexes
	"026e616d6500" + "02000000" + "6e00" + // name
	"036f7074696f6e7300" + "0c000000" + "106f0001000000" + "00" + // options
	"04696e646578657300" + "14000000" + "033000" + "0c000000" + "10760002000000" + "00" + "00" + // indexes
	"046e616d657300" + "0e000000" + "023000" + "02000000" + "6900" + "00" + // names
	"02686f737400" + "04000000" + "683a3100" + // host
	"00"

func TestBytesOfAChange(t *testing.T) {
	c := entry.Change{Op: entry.CreateIndexes, Name: "n", Options: doc(t, bson.D{{Key: "o", Value: int32(1)}}),
		Indexes: []bson.Raw{doc(t, bson.D{{Key: "v", Value: int32(2)}})}, Names: []string{"i"}, Host: "h:1"}
	op, err := c.Encode([16]byte{1}, [16]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(op.Payload); got != goldenChange {
		t.Errorf("encoded\n%s, want\n%s", got, goldenChange)
	}
	stored, err := hex.DecodeString(goldenChange)
	if err != nil {
		t.Fatal(err)
	}
	c.Version = 1
	if back, err := entry.DecodeChange(stored); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("decoded %+v, %v", back, err)
	}
}

// The names of the operations and the numbers of the kinds are stored too.
func TestNamesOfOperationsAreFixed(t *testing.T) {
	names := []string{"createDatabase", "dropDatabase", "createCollection", "dropCollection", "createIndexes", "dropIndexes", "configure"}
	ops := []string{entry.CreateDatabase, entry.DropDatabase, entry.CreateCollection, entry.DropCollection, entry.CreateIndexes, entry.DropIndexes, entry.Configure}
	if !reflect.DeepEqual(ops, names) {
		t.Errorf("operations %v, want %v", ops, names)
	}
	for i, k := range []entry.Kind{entry.Insert, entry.Replace, entry.Delete, entry.Catalogue} {
		b, err := (&entry.Entry{Ops: []entry.Op{{Kind: k, Payload: doc(t, bson.D{})}}}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		// Version, time, no session, one operation, then its kind.
		if want := append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, byte(i+1)); !bytes.HasPrefix(b, want) {
			t.Errorf("%s is encoded as %x, want %x...", k, b, want)
		}
	}
}
