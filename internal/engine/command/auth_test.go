package command_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/engine/command"
)

func asError[T error](err error, target *T) bool { return errors.As(err, target) }

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestNothingButTheHandshakeWithoutLogin(t *testing.T) {
	n := startNode(t)
	c := n.client(options.Client().SetDirect(true))
	names, anonymous := command.Commands()
	allowed := map[string]bool{}
	for _, name := range anonymous {
		allowed[name] = true
	}
	for _, name := range []string{"hello", "isMaster", "ping", "buildInfo", "whatsmyuri", "connectionStatus", "saslStart", "saslContinue", "authenticate", "logout", "endSessions"} {
		if !allowed[name] {
			t.Errorf("%s should be allowed", name)
		}
		delete(allowed, name)
	}
	if len(allowed) > 0 {
		t.Errorf("allowed beside the handshake: %v", allowed)
	}
	for _, name := range names {
		err := c.Database("admin").RunCommand(t.Context(), bson.D{{Key: name, Value: "x"}}).Err()
		refused := code(err) == 13
		isAnonymous := false
		for _, a := range anonymous {
			isAnonymous = isAnonymous || a == name
		}
		if refused == isAnonymous {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Database("d").Collection("c").InsertOne(t.Context(), bson.D{{Key: "x", Value: 1}}); code(err) != 13 {
		t.Errorf("insert: %v", err)
	}
	wantCode(t, "second user by the local exception", c.Database("admin").RunCommand(t.Context(), bson.D{
		{Key: "createUser", Value: "b"}, {Key: "pwd", Value: "x"}, {Key: "roles", Value: bson.A{"root"}},
	}).Err(), 13)
	wantCode(t, "initiate again by the local exception", c.Database("admin").RunCommand(t.Context(), bson.D{{Key: "replSetInitiate", Value: bson.D{}}}).Err(), 13)
}

func TestLoginsThatFailAreAlike(t *testing.T) {
	n := startNode(t)
	var messages []string
	for _, who := range [][2]string{{rootName, "wrong"}, {"nobody", "wrong"}} {
		for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256"} {
			c := n.client(options.Client().SetDirect(true).SetAuth(options.Credential{AuthMechanism: mechanism, Username: who[0], Password: who[1], AuthSource: "admin"}))
			err := c.Ping(t.Context(), nil)
			if err == nil || !contains(err.Error(), "(AuthenticationFailed) Authentication failed.") {
				t.Errorf("%s by %s: %v", who[0], mechanism, err)
			}
			if err != nil {
				messages = append(messages, strings.ReplaceAll(err.Error(), mechanism, "M"))
			}
		}
	}
	for _, m := range messages {
		if m != messages[0] {
			t.Errorf("messages differ: %q, %q", m, messages[0])
		}
	}
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256"} {
		c := n.client(options.Client().SetReplicaSet(setName).SetAuth(options.Credential{AuthMechanism: mechanism, Username: rootName, Password: rootPwd, AuthSource: "admin"}))
		must(t, c.Ping(t.Context(), nil))
		must(t, c.Database("admin").RunCommand(t.Context(), bson.D{{Key: "replSetGetStatus", Value: 1}}).Err())
	}
}

func TestRolesAreEnforcedAtOnce(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	root := n.root()
	run := func(c *mongo.Client, db string, cmd bson.D) error { return c.Database(db).RunCommand(ctx, cmd).Err() }
	role := func(name, db string) bson.D { return bson.D{{Key: "role", Value: name}, {Key: "db", Value: db}} }
	must(t, run(root, "admin", bson.D{{Key: "createUser", Value: "app"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{role("readWrite", "shop")}}}))
	wantCode(t, "same user again", run(root, "admin", bson.D{{Key: "createUser", Value: "app"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{}}}), 51003)
	wantCode(t, "unknown role", run(root, "admin", bson.D{{Key: "createUser", Value: "q"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{"emperor"}}}), 31)
	app := n.as("app", "admin", "pw")
	items := app.Database("shop").Collection("items")
	_, err := items.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}})
	must(t, err)
	_, err = app.Database("other").Collection("c").InsertOne(ctx, bson.D{})
	wantCode(t, "write elsewhere", err, 13)
	for name, err := range map[string]error{
		"read users":  app.Database("admin").Collection("system.users").FindOne(ctx, bson.D{}).Err(),
		"make a user": run(app, "shop", bson.D{{Key: "createUser", Value: "x"}, {Key: "pwd", Value: "x"}, {Key: "roles", Value: bson.A{}}}),
		"shut down":   run(app, "admin", bson.D{{Key: "shutdown", Value: 1}}),
		"drop a db":   app.Database("other").Drop(ctx),
	} {
		wantCode(t, name, err, 13)
	}
	dbs, err := app.ListDatabaseNames(ctx, bson.D{})
	must(t, err)
	if len(dbs) != 1 || dbs[0] != "shop" {
		t.Errorf("the user sees the databases %v", dbs)
	}

	// A user's administrator of one database cannot give away more than that.
	must(t, run(root, "shop", bson.D{{Key: "createUser", Value: "boss"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{"userAdmin"}}}))
	boss := n.as("boss", "shop", "pw")
	must(t, run(boss, "shop", bson.D{{Key: "createUser", Value: "helper"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{"read"}}}))
	wantCode(t, "give root away", run(boss, "shop", bson.D{{Key: "createUser", Value: "thief"}, {Key: "pwd", Value: "pw"}, {Key: "roles", Value: bson.A{role("root", "admin")}}}), 13)

	// Changes reach the open connections of app.
	must(t, run(root, "admin", bson.D{{Key: "updateUser", Value: "app"}, {Key: "roles", Value: bson.A{role("read", "shop")}}}))
	_, err = items.InsertOne(ctx, bson.D{{Key: "_id", Value: 2}})
	wantCode(t, "write after the role is gone", err, 13)
	must(t, items.FindOne(ctx, bson.D{}).Err())
	quiet := n.as("app", "admin", "pw").Database("shop").Collection("items") // asks nothing while there is no such user
	must(t, quiet.FindOne(ctx, bson.D{}).Err())
	must(t, run(root, "admin", bson.D{{Key: "dropUser", Value: "app"}}))
	wantCode(t, "read after the user is gone", items.FindOne(ctx, bson.D{}).Err(), 13)
	must(t, run(root, "admin", bson.D{{Key: "createUser", Value: "app"}, {Key: "pwd", Value: "other"}, {Key: "roles", Value: bson.A{role("read", "shop")}}}))
	wantCode(t, "read after another user of the name exists", items.FindOne(ctx, bson.D{}).Err(), 13)
	wantCode(t, "read as another user of the same name", quiet.FindOne(ctx, bson.D{}).Err(), 13)
	wantCode(t, "drop nobody", run(root, "admin", bson.D{{Key: "dropUser", Value: "nobody"}}), 11)
	var info struct{ Users []bson.M }
	must(t, root.Database("admin").RunCommand(ctx, bson.D{{Key: "usersInfo", Value: "app"}}).Decode(&info))
	if len(info.Users) != 1 || info.Users[0]["user"] != "app" || info.Users[0]["credentials"] != nil {
		t.Errorf("usersInfo gave %v", info.Users)
	}
}

func TestPlainConnectionsAreRefused(t *testing.T) {
	n := startNode(t)
	c, err := net.Dial("tcp", n.addr)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write([]byte("\x3a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xd4\x07\x00\x00"))
	must(t, err)
	if got, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("a plain client got %d bytes", got)
	} else if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the plain connection stays open")
	}
}

func TestBadInput(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	db := n.root().Database("d")
	for name, c := range map[string]struct {
		cmd  bson.D
		code int
	}{
		"unknown command":      {bson.D{{Key: "frobnicate", Value: 1}}, 59},
		"atlas's own":          {bson.D{{Key: "atlasVersion", Value: 1}}, 59},
		"absent command":       {bson.D{{Key: "collMod", Value: "c"}}, 238},
		"unsupported command":  {bson.D{{Key: "mapReduce", Value: "c"}}, 115},
		"unknown field":        {bson.D{{Key: "find", Value: "c"}, {Key: "nonsense", Value: 1}}, 40415},
		"unknown update field": {bson.D{{Key: "update", Value: "c"}, {Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: bson.D{}}, {Key: "u", Value: bson.D{}}, {Key: "sort", Value: bson.D{}}}}}}, 40415},
		"missing field":        {bson.D{{Key: "insert", Value: "c"}}, 40414},
		"wrong type":           {bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: 1}}, 14},
		"unknown operator":     {bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: bson.D{{Key: "$frob", Value: 1}}}}, 2},
		"bad collection":       {bson.D{{Key: "find", Value: "a$b"}}, 73},
		"no batch":             {bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{}}}, 16},
		"unknown cursor":       {bson.D{{Key: "getMore", Value: int64(77)}, {Key: "collection", Value: "c"}}, 43},
		"indexes of nothing":   {bson.D{{Key: "listIndexes", Value: "none"}}, 26},
		"admin only":           {bson.D{{Key: "replSetGetStatus", Value: 1}}, 13},
		"transactions":         {bson.D{{Key: "find", Value: "c"}, {Key: "startTransaction", Value: true}, {Key: "autocommit", Value: false}}, 20},
	} {
		wantCode(t, name, db.RunCommand(ctx, c.cmd).Err(), c.code)
	}
	wantCode(t, "initiated already", n.root().Database("admin").RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: bson.D{}}}).Err(), 23)
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil || len(names) != 0 {
		t.Errorf("something was made: %v, %v", names, err)
	}
}

func TestAFreshNodeSaysThatItIsOne(t *testing.T) {
	n := newNode(t)
	n.start()
	c := n.client(options.Client().SetDirect(true))
	ctx := t.Context()
	wantCode(t, "status", c.Database("admin").RunCommand(ctx, bson.D{{Key: "replSetGetStatus", Value: 1}}).Err(), 94)
	wantCode(t, "first user too early", c.Database("admin").RunCommand(ctx, bson.D{
		{Key: "createUser", Value: "a"}, {Key: "pwd", Value: "x"}, {Key: "roles", Value: bson.A{"root"}},
	}).Err(), 10107)
	wantCode(t, "another set's name", c.Database("admin").RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: "wrong"}, {Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: n.addr}}}},
	}}}).Err(), 93)
	login := n.client(options.Client().SetDirect(true).SetAuth(options.Credential{Username: "x", Password: "y", AuthSource: "admin"}))
	if err := login.Ping(ctx, nil); err == nil || !contains(err.Error(), "AuthenticationFailed") {
		t.Errorf("login on a fresh node: %v", err)
	}
}
