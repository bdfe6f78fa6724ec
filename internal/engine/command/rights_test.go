package command_test

import (
	"fmt"
	"math"
	"net"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/wire"
)

func makeUser(t *testing.T, n *node, name string, roles bson.A) {
	t.Helper()
	must(t, n.root().Database("admin").RunCommand(t.Context(), bson.D{{Key: "createUser", Value: name}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: roles}}).Err())
}

func roleOn(name, db string) bson.D {
	return bson.D{{Key: "role", Value: name}, {Key: "db", Value: db}}
}

// What a user of one database must not reach, whichever command is tried.
func TestNothingBeyondTheRolesIsReached(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	root := n.root()
	for _, db := range []string{"shop", "other"} {
		_, err := root.Database(db).Collection("items").InsertOne(ctx, bson.D{{Key: "_id", Value: 1}})
		must(t, err)
	}
	makeUser(t, n, "app", bson.A{roleOn("readWrite", "shop")})
	makeUser(t, n, "adminReader", bson.A{roleOn("readWrite", "admin"), roleOn("dbAdmin", "admin")})
	makeUser(t, n, "every", bson.A{roleOn("readWriteAnyDatabase", "admin")})
	pipeline := bson.E{Key: "pipeline", Value: bson.A{}}
	cursor := bson.E{Key: "cursor", Value: bson.D{}}
	documents := bson.E{Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: "x"}}}}
	deletes := bson.E{Key: "deletes", Value: bson.A{bson.D{{Key: "q", Value: bson.D{}}, {Key: "limit", Value: 0}}}}
	of := func(coll string) []bson.D {
		return []bson.D{
			{{Key: "find", Value: coll}}, {{Key: "count", Value: coll}}, {{Key: "distinct", Value: coll}, {Key: "key", Value: "_id"}},
			{{Key: "aggregate", Value: coll}, pipeline, cursor}, {{Key: "insert", Value: coll}, documents}, {{Key: "delete", Value: coll}, deletes},
			{{Key: "findAndModify", Value: coll}, {Key: "remove", Value: true}}, {{Key: "explain", Value: bson.D{{Key: "find", Value: coll}}}},
			{{Key: "explain", Value: bson.D{{Key: "find", Value: coll}, {Key: "$db", Value: "shop"}}}}, {{Key: "collStats", Value: coll}},
			{{Key: "listIndexes", Value: coll}}, {{Key: "create", Value: coll}}, {{Key: "drop", Value: coll}},
		}
	}
	whole := []bson.D{{{Key: "listCollections", Value: 1}}, {{Key: "dropDatabase", Value: 1}}, {{Key: "dbStats", Value: 1}}}
	for _, c := range []struct {
		user, db string
		commands []bson.D
	}{
		{"app", "other", append(of("items"), whole...)},
		{"app", "admin", append(of("system.users"), whole...)},
		{"app", "shop", of("system.users")},
		{"app", "admin", []bson.D{
			{{Key: "usersInfo", Value: 1}}, {{Key: "usersInfo", Value: rootName}}, {{Key: "usersInfo", Value: bson.D{{Key: "forAllDBs", Value: true}}}},
			{{Key: "updateUser", Value: "app"}, {Key: "roles", Value: bson.A{"root"}}}, {{Key: "getLog", Value: "*"}}, {{Key: "getCmdLineOpts", Value: 1}},
			{{Key: "getParameter", Value: "*"}}, {{Key: "hostInfo", Value: 1}}, {{Key: "serverStatus", Value: 1}}, {{Key: "replSetGetConfig", Value: 1}},
		}},
		{"adminReader", "admin", append(of("system.users"), of("system.keys")...)},
		{"every", "admin", append(of("system.users"), of("system.keys")...)},
		{"every", "local", of("c")},
		{"every", "config", of("c")},
		{rootName, "admin", of("system.keys")},
	} {
		password := "pw"
		if c.user == rootName {
			password = rootPwd
		}
		db := n.as(c.user, "admin", password).Database(c.db)
		for _, cmd := range c.commands {
			wantCode(t, fmt.Sprintf("%s on %s: %v", c.user, c.db, cmd), db.RunCommand(ctx, cmd).Err(), 13)
		}
	}
	names, err := n.as("app", "admin", "pw").Database("other").ListCollectionNames(ctx, bson.D{})
	if len(names) > 0 {
		t.Errorf("the collections %v of another database are shown (%v)", names, err)
	}
	var mine struct {
		Cursor struct {
			FirstBatch []bson.M `bson:"firstBatch"`
		}
	}
	must(t, n.as("app", "admin", "pw").Database("other").RunCommand(ctx, bson.D{
		{Key: "listCollections", Value: 1}, {Key: "nameOnly", Value: true}, {Key: "authorizedCollections", Value: true},
	}).Decode(&mine))
	if len(mine.Cursor.FirstBatch) > 0 {
		t.Errorf("authorized collections of another database: %v", mine.Cursor.FirstBatch)
	}
	for _, db := range []string{"shop", "other"} {
		if count, err := root.Database(db).Collection("items").CountDocuments(ctx, bson.D{}); err != nil || count != 1 {
			t.Errorf("%s has %d documents, %v", db, count, err)
		}
	}
	admin := root.Database("admin")
	wantCode(t, "drop the users", admin.RunCommand(ctx, bson.D{{Key: "drop", Value: "system.users"}}).Err(), 20)
	wantCode(t, "drop admin", admin.RunCommand(ctx, bson.D{{Key: "dropDatabase", Value: 1}}).Err(), 20)
	wantCode(t, "a user of local", root.Database("local").RunCommand(ctx, bson.D{
		{Key: "createUser", Value: "x"}, {Key: "pwd", Value: "x"}, {Key: "roles", Value: bson.A{}},
	}).Err(), 2)
}

func TestCursorsFollowTheirOwnersRights(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	root := n.root()
	for i := range 10 {
		_, err := root.Database("shop").Collection("items").InsertOne(ctx, bson.D{{Key: "_id", Value: i}})
		must(t, err)
	}
	makeUser(t, n, "app", bson.A{roleOn("read", "shop")})
	w := dialWire(t, n)
	w.login(t, "app", "pw")
	open := func(w *rawConn) int64 {
		t.Helper()
		return w.call(t, bson.D{{Key: "find", Value: "items"}, {Key: "batchSize", Value: 2}, {Key: "$db", Value: "shop"}}).Lookup("cursor", "id").AsInt64()
	}
	more := func(w *rawConn, id int64) int64 {
		t.Helper()
		r := w.call(t, bson.D{{Key: "getMore", Value: id}, {Key: "collection", Value: "items"}, {Key: "batchSize", Value: 2}, {Key: "$db", Value: "shop"}})
		got, _ := r.Lookup("code").AsInt64OK()
		return got
	}
	set := func(roles bson.A) {
		t.Helper()
		must(t, root.Database("admin").RunCommand(ctx, bson.D{{Key: "updateUser", Value: "app"}, {Key: "roles", Value: roles}}).Err())
	}
	id := open(w)
	if got := more(w, id); got != 0 {
		t.Fatalf("getMore while all is well: %d", got)
	}
	set(bson.A{})
	if got := more(w, id); got != 13 {
		t.Errorf("getMore after the role was taken away: %d", got)
	}
	set(bson.A{roleOn("read", "shop")})
	if got := more(w, id); got != 43 {
		t.Errorf("getMore on the cursor that was closed: %d", got)
	}
	id = open(w)
	must(t, root.Database("admin").RunCommand(ctx, bson.D{{Key: "dropUser", Value: "app"}}).Err())
	makeUser(t, n, "app", bson.A{roleOn("read", "shop")})
	again := dialWire(t, n)
	again.login(t, "app", "pw")
	if got := more(again, id); got != 43 {
		t.Errorf("getMore by another account of the same name: %d", got)
	}
}

func TestTheFirstUserIsMadeFromThisMachineOnly(t *testing.T) {
	n := newNode(t)
	n.start()
	cmd, err := bson.Marshal(bson.D{{Key: "replSetInitiate", Value: bson.D{}}, {Key: "$db", Value: "admin"}})
	must(t, err)
	s := n.commands.Open(wire.ConnInfo{ID: 1, Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, Local: &net.TCPAddr{}})
	defer s.Close()
	must(t, s.Handle(t.Context(), &wire.Request{ID: 1, Body: cmd}, func(doc bson.Raw, _ bool) error {
		if doc.Lookup("code").AsInt64() != 13 {
			t.Errorf("initiated from elsewhere: %s", doc)
		}
		return nil
	}))
}

func TestCommandsAreBounded(t *testing.T) {
	n := startNode(t)
	many := bson.D{{Key: "ping", Value: 1}}
	for i := range 600 {
		many = append(many, bson.E{Key: fmt.Sprintf("$f%d", i), Value: 1})
	}
	w := dialWire(t, n)
	if r := w.call(t, append(many, bson.E{Key: "$db", Value: "admin"})); r.Lookup("code").AsInt64() != 2 {
		t.Errorf("600 fields: %s", r)
	}
	w.login(t, rootName, rootPwd)
	big := make([]byte, 17<<20)
	if r := w.call(t, bson.D{{Key: "ping", Value: 1}, {Key: "comment", Value: big}, {Key: "$db", Value: "admin"}}); r.Lookup("code").AsInt64() != 10334 {
		t.Errorf("a body of 17 MiB: %s", r)
	}
	if r := w.call(t, bson.D{
		{Key: "find", Value: "c"}, {Key: "sort", Value: bson.D{{Key: "a", Value: 1}}}, {Key: "skip", Value: int64(1) << 61}, {Key: "limit", Value: int64(math.MaxInt64)}, {Key: "$db", Value: "d"},
	}); r.Lookup("ok").Double() != 1 {
		t.Errorf("the largest limit: %s", r)
	}
}

// A damaged account must neither be written nor stand in the way.
func TestDamagedUsersAreRefused(t *testing.T) {
	n := startNode(t)
	users := n.root().Database("admin").Collection("system.users")
	_, err := users.InsertOne(t.Context(), bson.D{{Key: "_id", Value: "d.x"}, {Key: "user", Value: 5}})
	wantCode(t, "insert", err, 2)
	_, err = users.UpdateOne(t.Context(), bson.D{{Key: "user", Value: rootName}}, bson.D{{Key: "$set", Value: bson.D{{Key: "user", Value: 5}}}})
	wantCode(t, "update", err, 2)
	must(t, n.root().Database("admin").RunCommand(t.Context(), bson.D{{Key: "usersInfo", Value: 1}}).Err())
}

func TestEmptyTimestampsMeanNow(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	db := n.root().Database("d")
	c := db.Collection("c")
	empty := bson.Timestamp{}
	read := func(id any) (top, inner bson.Timestamp) {
		t.Helper()
		doc, err := c.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Raw()
		must(t, err)
		top.T, top.I = doc.Lookup("ts").Timestamp()
		inner.T, inner.I = doc.Lookup("in", "ts").Timestamp()
		return top, inner
	}
	doc := func(id any) bson.D {
		return bson.D{{Key: "_id", Value: id}, {Key: "name", Value: "x"}, {Key: "ts", Value: empty}, {Key: "in", Value: bson.D{{Key: "ts", Value: empty}}}}
	}
	_, err := c.InsertMany(ctx, []any{doc(1), doc(2)})
	must(t, err)
	first, inner := read(1)
	second, _ := read(2)
	if first.IsZero() || !second.After(first) || !inner.IsZero() {
		t.Errorf("inserted: %v, %v, inner %v", first, second, inner)
	}
	_, err = c.ReplaceOne(ctx, bson.D{{Key: "_id", Value: 1}}, doc(1))
	must(t, err)
	if now, _ := read(1); !now.After(second) {
		t.Errorf("replaced: %v", now)
	}
	_, err = c.UpdateOne(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "$set", Value: bson.D{{Key: "ts", Value: empty}}}})
	must(t, err)
	if now, _ := read(1); !now.IsZero() {
		t.Errorf("set: %v", now)
	}
	must(t, db.RunCommand(ctx, bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{doc(3)}}, {Key: "bypassEmptyTsReplacement", Value: true}}).Err())
	if now, _ := read(3); !now.IsZero() {
		t.Errorf("bypassed: %v", now)
	}
	must(t, c.FindOneAndReplace(ctx, bson.D{{Key: "_id", Value: 3}}, doc(3)).Err())
	if now, _ := read(3); now.IsZero() {
		t.Errorf("findAndModify: %v", now)
	}
}
