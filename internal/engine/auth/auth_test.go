package auth_test

import (
	"context"
	"errors"
	"testing"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/secret"
)

// kept is a Source in memory.
type kept map[string]bson.Raw

func (k kept) User(_ context.Context, id string) (bson.Raw, error) { return k[id], nil }
func (k kept) HasUsers(context.Context) (bool, error)              { return len(k) > 0, nil }
func (k kept) put(t *testing.T, u *auth.User)                      { t.Helper(); k[u.ID()] = document(t, u) }
func document(t *testing.T, u *auth.User) bson.Raw {
	t.Helper()
	doc, err := u.Document()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func user(t *testing.T, m auth.Mechanism, password string) *auth.User {
	t.Helper()
	c, err := auth.NewCredentials(m, "ann", secret.FromString(password))
	if err != nil {
		t.Fatal(err)
	}
	return &auth.User{DB: "shop", Name: "ann", UUID: [16]byte{1}, Credentials: map[auth.Mechanism]auth.Credentials{m: c}, Roles: []auth.Role{{Role: "read", DB: "shop"}}}
}

func TestUsersKeepTheShapeOfMongoDB(t *testing.T) {
	u := user(t, auth.ScramSHA256, "pw")
	doc := document(t, u)
	for _, path := range [][]string{{"_id"}, {"userId"}, {"user"}, {"db"}, {"credentials", "SCRAM-SHA-256", "iterationCount"}, {"credentials", "SCRAM-SHA-256", "salt"},
		{"credentials", "SCRAM-SHA-256", "storedKey"}, {"credentials", "SCRAM-SHA-256", "serverKey"}, {"roles", "0", "role"}, {"roles", "0", "db"}} {
		if doc.Lookup(path...).Type == 0 {
			t.Errorf("the document lacks %v", path)
		}
	}
	back, err := auth.ParseUser(doc)
	if err != nil || back.ID() != "shop.ann" || back.UUID != u.UUID || len(back.Credentials) != 1 || back.Roles[0] != u.Roles[0] {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

// login runs a whole conversation.
func login(t *testing.T, a *auth.Authenticator, m auth.Mechanism, name, password string) (first string, err error) {
	t.Helper()
	hash := scram.SHA256
	if m == auth.ScramSHA1 {
		hash = scram.SHA1
	}
	client, err := hash.NewClientUnprepped(name, password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := client.NewConversation()
	msg, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	c, reply, err := a.Start(t.Context(), "shop", m, []byte(msg), true)
	if err != nil {
		return "", err
	}
	first = string(reply)
	if msg, err = conv.Step(first); err != nil {
		t.Fatal(err)
	}
	reply, done, err := c.Step([]byte(msg))
	if err != nil {
		if c.User() != nil {
			t.Error("a failed conversation has a user")
		}
		return first, err
	}
	if _, err := conv.Step(string(reply)); err != nil || !conv.Valid() || !done || c.User().Name != name {
		t.Errorf("the server's proof: %v, valid %v, done %v", err, conv.Valid(), done)
	}
	if _, _, err := c.Step(nil); !errors.Is(err, auth.ErrFailed) {
		t.Errorf("a step after the end: %v", err)
	}
	return first, nil
}

func TestLogins(t *testing.T) {
	source := kept{}
	source.put(t, user(t, auth.ScramSHA256, "right"))
	salt := secret.FromString("of this server")
	a := auth.NewAuthenticator(auth.NewUsers(source), func() secret.Bytes { return salt })
	if _, err := login(t, a, auth.ScramSHA256, "ann", "right"); err != nil {
		t.Errorf("right password: %v", err)
	}
	for _, who := range [][2]string{{"ann", "wrong"}, {"bob", "right"}} {
		if _, err := login(t, a, auth.ScramSHA256, who[0], who[1]); !errors.Is(err, auth.ErrFailed) {
			t.Errorf("%v: %v", who, err)
		}
	}
	if _, err := login(t, a, auth.ScramSHA1, "ann", "right"); !errors.Is(err, auth.ErrFailed) {
		t.Errorf("a mechanism that the user lacks: %v", err)
	}
	if _, _, err := a.Start(t.Context(), "shop", "PLAIN", nil, false); !errors.Is(err, auth.ErrMechanism) {
		t.Errorf("PLAIN: %v", err)
	}
	// The made-up salt stays, and nothing but the nonce differs.
	salts := map[string]bool{}
	for range 3 {
		first, _ := login(t, a, auth.ScramSHA256, "bob", "x")
		salts[first[len(first)-len(",s=")-40-len(",i=15000"):]] = true
	}
	if len(salts) != 1 {
		t.Errorf("made-up salts differ: %v", salts)
	}
}

func TestInvalidateForgetsUsers(t *testing.T) {
	source := kept{}
	source.put(t, user(t, auth.ScramSHA256, "pw"))
	users := auth.NewUsers(source)
	if u, err := users.Lookup(t.Context(), "shop", "ann"); err != nil || u == nil {
		t.Fatalf("lookup: %v, %v", u, err)
	}
	delete(source, "shop.ann")
	users.Invalidate()
	if u, err := users.Lookup(t.Context(), "shop", "ann"); err != nil || u != nil {
		t.Errorf("after the user is gone: %v, %v", u, err)
	}
	if any, err := users.Any(t.Context()); err != nil || any {
		t.Errorf("any: %v, %v", any, err)
	}
}

func TestRoles(t *testing.T) {
	coll := func(db, c string) auth.Resource { return auth.Resource{DB: db, Collection: c} }
	cluster := auth.Resource{Cluster: true}
	for _, c := range []struct {
		role, db string
		action   auth.Action
		on       auth.Resource
		want     bool
	}{
		{"read", "a", auth.Find, coll("a", "c"), true},
		{"read", "a", auth.Find, coll("b", "c"), false},
		{"read", "a", auth.Insert, coll("a", "c"), false},
		{"read", "admin", auth.Find, coll("admin", "system.users"), false},
		{"readWrite", "a", auth.Insert, coll("a", "c"), true},
		{"readWrite", "a", auth.CreateIndex, coll("a", "c"), true},
		{"readWrite", "a", auth.DropDatabase, coll("a", ""), false},
		{"readWrite", "admin", auth.Insert, coll("admin", "system.users"), false},
		{"dbAdmin", "a", auth.DropDatabase, coll("a", ""), true},
		{"dbAdmin", "a", auth.Find, coll("a", "c"), false},
		{"userAdmin", "a", auth.CreateUser, coll("a", ""), true},
		{"userAdmin", "a", auth.GrantRole, coll("admin", ""), false},
		{"dbOwner", "a", auth.CreateUser, coll("a", ""), true},
		{"readAnyDatabase", "a", auth.Find, coll("b", "c"), false},
		{"readAnyDatabase", "admin", auth.Find, coll("b", "c"), true},
		{"readAnyDatabase", "admin", auth.Find, coll("local", "c"), false},
		{"readWriteAnyDatabase", "admin", auth.Remove, coll("b", "c"), true},
		{"userAdminAnyDatabase", "admin", auth.GrantRole, coll("b", ""), true},
		{"userAdminAnyDatabase", "admin", auth.Insert, coll("b", "c"), false},
		{"clusterMonitor", "admin", auth.ServerStatus, cluster, true},
		{"clusterMonitor", "admin", auth.Shutdown, cluster, false},
		{"clusterMonitor", "admin", auth.Find, coll("a", "c"), false},
		{"backup", "admin", auth.Find, coll("admin", "system.users"), true},
		{"backup", "admin", auth.Insert, coll("a", "c"), false},
		{"restore", "admin", auth.Insert, coll("admin", "system.users"), true},
		{"restore", "admin", auth.Find, cluster, false},
		{"root", "admin", auth.Shutdown, cluster, true},
		{"root", "admin", auth.RotateMasterKey, cluster, true},
		{"root", "a", auth.RotateMasterKey, cluster, false},
		{"clusterMonitor", "admin", auth.RotateMasterKey, cluster, false},
		{"backup", "admin", auth.RotateMasterKey, cluster, false},
		{"restore", "admin", auth.RotateMasterKey, cluster, false},
		{"dbAdminAnyDatabase", "admin", auth.RotateMasterKey, cluster, false},
		{"userAdminAnyDatabase", "admin", auth.RotateMasterKey, cluster, false},
		{"readWriteAnyDatabase", "admin", auth.RotateMasterKey, cluster, false},
		{"root", "admin", auth.Find, coll("a", "c"), true},
		{"root", "admin", auth.Find, coll("admin", "system.keys"), false},
		{"root", "a", auth.Find, coll("a", "c"), false},
		{"emperor", "admin", auth.Find, coll("a", "c"), false},
	} {
		if got := auth.Allowed([]auth.Role{{Role: c.role, DB: c.db}}, c.action, c.on); got != c.want {
			t.Errorf("%s on %s: %s of %+v is %v", c.role, c.db, c.action, c.on, got)
		}
	}
}
