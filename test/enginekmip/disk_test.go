package enginekmip

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/engine"
)

// What is looked for on the disk: names and values of all sorts. They have nothing
// in common, so that compression leaves each whole at its first place.
const (
	markDatabase   = "dbkwxqzpvj"
	markCollection = "hnrtyucolm"
	markField      = "pgwsefkbxo"
	markValue      = "vlqjznxatrmcuw"
	markID         = "idwuyxbgkpse"
	markIndex      = "ixfmohqvtzla"
	markUser       = "urcjdnypkwsg"
)

func marks() []string {
	return []string{markDatabase, markCollection, markField, markValue, markID, markIndex, markUser}
}

// fill writes the marks: documents, an index, a user, and a document that is
// deleted again.
func fill(t *testing.T, c *mongo.Client) {
	t.Helper()
	db := c.Database(markDatabase)
	coll := db.Collection(markCollection)
	_, err := coll.Indexes().CreateOne(t.Context(), mongo.IndexModel{
		Keys: bson.D{{Key: markField, Value: 1}}, Options: options.Index().SetName(markIndex),
	})
	must(t, err)
	for _, id := range []string{markID, markID + "2"} {
		_, err = coll.InsertOne(t.Context(), bson.D{{Key: "_id", Value: id}, {Key: markField, Value: markValue}})
		must(t, err)
	}
	_, err = coll.DeleteOne(t.Context(), bson.D{{Key: "_id", Value: markID + "2"}})
	must(t, err)
	must(t, db.RunCommand(t.Context(), bson.D{{Key: "createUser", Value: markUser}, {Key: "pwd", Value: password}, {Key: "roles", Value: bson.A{"read"}}}).Err())
}

// found lists the marks that stand in the files as they are, in hexadecimal, or
// in base64 at any offset.
func found(files map[string][]byte, mark []byte) (in []string) {
	forms := [][]byte{mark, []byte(hex.EncodeToString(mark)), []byte(strings.ToUpper(hex.EncodeToString(mark)))}
	for offset := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, offset), mark...))
		// The ends depend on what stands beside the mark.
		text = strings.TrimRight(text, "=")
		forms = append(forms, []byte(text[(8*offset+5)/6:len(text)-1]))
	}
	for name, content := range files {
		for _, form := range forms {
			if bytes.Contains(content, form) || strings.Contains(filepath.ToSlash(name), string(form)) {
				in = append(in, name)
				break
			}
		}
	}
	return in
}

func TestTheSearchFindsAllForms(t *testing.T) {
	for offset := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", offset) + markValue + "zz"))
		if len(found(map[string][]byte{"f": []byte(text)}, []byte(markValue))) != 1 {
			t.Errorf("not found in base64 at offset %d", offset)
		}
	}
	if len(found(map[string][]byte{"f": []byte("x" + hex.EncodeToString([]byte(markValue)))}, []byte(markValue))) != 1 {
		t.Error("not found in hexadecimal")
	}
}

func TestNothingStandsInClearOnTheDisk(t *testing.T) {
	a := startAgent(t)
	for name, e := range map[string]engine.Encryption{"encrypted": a.encryption(t), "plain": {}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, e)
			fill(t, n.setUp(t))
			look := func(when string) {
				t.Helper()
				all := files(t, n.o.DBPath)
				for _, mark := range marks() {
					in := found(all, []byte(mark))
					if e.Enabled && len(in) > 0 {
						t.Errorf("%s: %q stands in clear in %v", when, mark, in)
					}
					if !e.Enabled && when == "stopped" && len(in) == 0 {
						t.Errorf("%s: %q is not found on the plain disk: the search is blind", when, mark)
					}
				}
			}
			look("running")
			n.halt(t)
			look("stopped")
			if e.Enabled {
				id, _ := a.plane.newest(t)
				a.plane.with(func() {
					if in := found(files(t, n.o.DBPath), a.plane.held[id].key.Reveal()); len(in) > 0 {
						t.Errorf("the master key stands in %v", in)
					}
				})
			}
			if n.logged(t, markDatabase) || n.logged(t, markUser) || n.logged(t, markValue) {
				t.Error("the log names databases, users or data")
			}
		})
	}
}

// identity is what a rewrite must keep.
type identity struct {
	election   bson.ObjectID
	uuid       bson.Binary
	docs       int64
	hasUser    bool
	setName    string
	indexNames []string
}

func identify(t *testing.T, c *mongo.Client) (out identity) {
	t.Helper()
	ctx := t.Context()
	var hello struct {
		SetName    string        `bson:"setName"`
		ElectionID bson.ObjectID `bson:"electionId"`
	}
	must(t, c.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello))
	out.election, out.setName = hello.ElectionID, hello.SetName
	db := c.Database(markDatabase)
	specs, err := db.ListCollectionSpecifications(ctx, bson.D{{Key: "name", Value: markCollection}})
	must(t, err)
	if len(specs) != 1 || specs[0].UUID == nil {
		t.Fatalf("collections are %v", specs)
	}
	out.uuid = *specs[0].UUID
	out.docs, err = db.Collection(markCollection).CountDocuments(ctx, bson.D{{Key: markField, Value: markValue}})
	must(t, err)
	indexes, err := db.Collection(markCollection).Indexes().ListSpecifications(ctx)
	must(t, err)
	for _, ix := range indexes {
		out.indexNames = append(out.indexNames, ix.Name)
	}
	var info struct{ Users []bson.M }
	must(t, db.RunCommand(ctx, bson.D{{Key: "usersInfo", Value: markUser}}).Decode(&info))
	out.hasUser = len(info.Users) == 1
	return out
}

func TestARewriteChangesTheEncryptionAndNothingElse(t *testing.T) {
	a := startAgent(t)
	n := newNode(t, engine.Encryption{})
	c := n.setUp(t)
	fill(t, c)
	was := identify(t, c)
	n.halt(t)
	for i, encrypted := range []bool{true, false, true} {
		began := time.Now()
		from, e := n.o.DBPath, a.encryption(t)
		to := filepath.Join(t.TempDir(), "data")
		must(t, engine.Rewrite(t.Context(), engine.RewriteOptions{
			From: from, To: to, NodeID: nodeID, FromEncrypted: !encrypted, ToEncrypted: encrypted, Encryption: e,
		}))
		n.o.DBPath = to
		if n.o.Encryption = e; !encrypted {
			n.o.Encryption = engine.Encryption{}
		}
		c := n.again(t)
		now := identify(t, c)
		if bytes.Compare(now.election[:], was.election[:]) < 0 {
			t.Errorf("rewrite %d: the election id went from %s to %s", i, was.election, now.election)
		}
		if now.setName != was.setName || !bytes.Equal(now.uuid.Data, was.uuid.Data) || now.docs != was.docs || !now.hasUser ||
			strings.Join(now.indexNames, ",") != strings.Join(was.indexNames, ",") {
			t.Errorf("rewrite %d: %+v became %+v", i, was, now)
		}
		was.election = now.election
		put(t, c, "after")
		must(t, c.Database("d").Drop(t.Context()))
		n.halt(t)
		hits := found(files(t, to), []byte(markValue))
		if encrypted != (len(hits) == 0) {
			t.Errorf("rewrite %d to encrypted=%t: the value stands in %v", i, encrypted, hits)
		}
		t.Logf("rewrite %d took %s with both starts", i, time.Since(began).Round(time.Millisecond))
	}
}

func TestARewriteOfNothingIsRefused(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "no such node"), filepath.Join(dir, "to")
	err := engine.Rewrite(t.Context(), engine.RewriteOptions{From: from, To: to, NodeID: nodeID})
	wantCode(t, "a source that is not there", err, engine.ExitBadOptions)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("the refusal left %v", left)
	}
}
