package enginekmip

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/keywright/keywright/internal/engine"
)

// keysetStatus is what a node answers to the commands on keysets.
type keysetStatus struct {
	Keysets []struct {
		ID       string `bson:"id"`
		Database string `bson:"database"`
		Log      bool   `bson:"log"`
		Keys     []struct {
			ID     string `bson:"keyId"`
			Bytes  int64  `bson:"bytes"`
			Newest bool   `bson:"newest"`
		} `bson:"keys"`
	} `bson:"keysets"`
	Share       float64 `bson:"share"`
	OldKeys     int64   `bson:"oldKeys"`
	Compacting  bool    `bson:"compacting"`
	Compactions int64   `bson:"compactions"`
	Failure     string  `bson:"failure"`
}

// newest gives the newest key of each keyset by database, "" being the log.
func (s keysetStatus) newest() map[string]string {
	out := map[string]string{}
	for _, set := range s.Keysets {
		for _, k := range set.Keys {
			if k.Newest {
				out[set.Database] = k.ID
			}
		}
	}
	return out
}

func keysetCommand(t testing.TB, c *mongo.Client, cmd bson.D) (out keysetStatus) {
	t.Helper()
	must(t, c.Database("admin").RunCommand(t.Context(), cmd).Decode(&out))
	return out
}

// compacted compacts until no old key is left.
func compacted(t testing.TB, c *mongo.Client) (st keysetStatus) {
	t.Helper()
	eventually(t, "every file is under the newest key and the old keys are gone", func() bool {
		st = keysetCommand(t, c, bson.D{{Key: "keywrightKeysetStatus", Value: 1}})
		if st.OldKeys > 0 && !st.Compacting {
			keysetCommand(t, c, bson.D{{Key: "keywrightCompactKeysets", Value: 1}})
		}
		return st.OldKeys == 0 && !st.Compacting
	})
	return st
}

func TestKeysetsAreRotatedAndTheRestIsCompacted(t *testing.T) {
	a := startAgent(t)
	n := newNode(t, a.encryption(t))
	c := n.setUp(t)
	var docs []any
	for i := range 2000 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "text", Value: fmt.Sprintf("%0500d", i*i)}})
	}
	for _, db := range []string{"one", "two"} {
		_, err := c.Database(db).Collection("c").InsertMany(t.Context(), docs)
		must(t, err)
	}
	before := keysetCommand(t, c, bson.D{{Key: "keywrightKeysetStatus", Value: 1}})
	if before.Share != 1 || before.OldKeys != 0 || len(before.Keysets) < 3 {
		t.Fatalf("%+v", before)
	}
	one := keysetCommand(t, c, bson.D{{Key: "keywrightRotateKeysets", Value: 1}, {Key: "database", Value: "one"}})
	if one.OldKeys != 1 || one.newest()["one"] == before.newest()["one"] || one.newest()["two"] != before.newest()["two"] || one.Share >= 1 {
		t.Fatalf("one database was to be rotated: %+v", one)
	}
	err := c.Database("admin").RunCommand(t.Context(), bson.D{{Key: "keywrightRotateKeysets", Value: 1}, {Key: "database", Value: "none"}}).Err()
	if ce, ok := err.(mongo.CommandError); !ok || ce.Code != 26 { //nolint:errorlint // the driver gives it as it is
		t.Errorf("a database that does not exist: %v", err)
	}
	all := keysetCommand(t, c, bson.D{{Key: "keywrightRotateKeysets", Value: 1}})
	for db, key := range all.newest() {
		if key == one.newest()[db] {
			t.Errorf("keyset of %q was not rotated", db)
		}
	}
	if all.OldKeys != int64(len(all.Keysets))+1 {
		t.Errorf("%+v", all)
	}
	n.halt(t)
	c = n.again(t) // the files are under several keys
	put(t, c, "between")
	st := compacted(t, c)
	if st.Share != 1 {
		t.Errorf("%+v", st)
	}
	for _, set := range st.Keysets {
		if len(set.Keys) != 1 || set.Keys[0].ID != all.newest()[set.Database] && set.Database != "d" {
			t.Errorf("%+v", set)
		}
	}
	put(t, c, "after")
	// Without a restart too.
	keysetCommand(t, c, bson.D{{Key: "keywrightRotateKeysets", Value: 1}})
	compacted(t, c)
	put(t, c, "last")
	n.halt(t)
	c = n.again(t)
	has(t, c, "between", "after", "last")
	for _, db := range []string{"one", "two"} {
		if got, err := c.Database(db).Collection("c").CountDocuments(t.Context(), bson.D{{Key: "text", Value: bson.D{{Key: "$exists", Value: true}}}}); err != nil || got != 2000 {
			t.Errorf("%s: %d documents, %v", db, got, err)
		}
	}
	n.halt(t)
}

func TestANodeWithoutEncryptionHasNoKeysets(t *testing.T) {
	n := newNode(t, engine.Encryption{})
	c := n.setUp(t)
	for _, cmd := range []string{"keywrightRotateKeysets", "keywrightCompactKeysets", "keywrightKeysetStatus"} {
		if err := c.Database("admin").RunCommand(t.Context(), bson.D{{Key: cmd, Value: 1}}).Err(); err == nil {
			t.Errorf("%s was answered", cmd)
		}
	}
	n.halt(t)
}
