package driver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

// world is an unencrypted node of the bundled engine as a process.
type world struct {
	t    *testing.T
	spec driver.Spec
	exe  string
	proc *driver.Process
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes of the engine: not in short mode")
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	caCert, caKey, err := pki.NewAuthority(pki.KindDatabase, keys.DeploymentID(keys.NewID(time.Now())), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.LoadAuthority(pki.KindDatabase, caCert, caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(csr, pki.Leaf{CommonName: "node", DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true, Client: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, exe: exe, spec: driver.Spec{
		Node: keys.NodeID(keys.NewID(time.Now())), DBPath: filepath.Join(dir, "data"), Port: l.Addr().(*net.TCPAddr).Port, ReplicaSet: "rs",
		LogPath: filepath.Join(dir, "log"), TLSFile: filepath.Join(dir, "db.pem"), TLSCAFile: filepath.Join(dir, "ca.pem"),
	}}
	_ = l.Close()
	if err := errors.Join(pki.WriteCombined(w.spec.TLSFile, key, cert), pki.WriteCertificates(w.spec.TLSCAFile, caCert)); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() { _ = w.proc.Stop(context.Background(), 0) })
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.proc, err = driver.Start(driver.Bundled{Executable: w.exe}.Start(w.spec), w.spec.LogPath+".out"); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) admin(pw string) *driver.Admin {
	return driver.NewAdmin(w.spec.Port, w.spec.TLSCAFile, secret.FromString(pw))
}

func (w *world) address() string { return fmt.Sprintf("127.0.0.1:%d", w.spec.Port) }

// login gives what the node says to a user, and the user's roles.
func (w *world) login(db, name, pw string) ([]string, error) {
	w.t.Helper()
	pem, err := os.ReadFile(w.spec.TLSCAFile)
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	c, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + w.address() + "/?directConnection=true").SetTLSConfig(&tls.Config{RootCAs: pool}).
		SetAuth(options.Credential{AuthSource: db, Username: name, Password: pw}).SetServerSelectionTimeout(20 * time.Second))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = c.Disconnect(context.Background()) }()
	var out struct {
		Info struct {
			Roles []struct {
				Role, DB string
			} `bson:"authenticatedUserRoles"`
		} `bson:"authInfo"`
	}
	err = c.Database("admin").RunCommand(w.t.Context(), bson.D{{Key: "connectionStatus", Value: 1}}).Decode(&out)
	var roles []string
	for _, r := range out.Info.Roles {
		roles = append(roles, r.Role+"@"+r.DB)
	}
	return roles, err
}

func TestPrepareCanBeRepeatedAndTellsAWrongPassword(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 { // it waits for the port by itself, and once is enough
		if err := w.admin("the-password").Prepare(ctx, "rs", w.address()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.admin("another").Prepare(ctx, "rs", w.address()); !errors.Is(err, driver.ErrPassword) {
		t.Errorf("with another password: %v", err)
	}
	if err := w.proc.Stop(t.Context(), 0); err != nil { // kill -9
		t.Fatal(err)
	}
	w.start()
	if err := w.admin("the-password").Prepare(ctx, "rs", w.address()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestPrepareEndsWithItsContextWhereNobodyListens(t *testing.T) {
	w := newWorld(t)
	if err := w.proc.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.admin("pw").Prepare(ctx, "rs", w.address()); err == nil {
		t.Error("prepared nobody")
	}
}

func TestUsersAreMadeChangedAndDropped(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a := w.admin("the-password")
	if err := a.Prepare(ctx, "rs", w.address()); err != nil {
		t.Fatal(err)
	}
	user := func(name, pw, role string) driver.User {
		return driver.User{Database: "admin", Name: name, Password: secret.FromString(pw), Roles: []driver.Role{{Role: role, Database: "shop"}}}
	}
	apply := func(wanted, unwanted []driver.User) []string {
		t.Helper()
		done, err := a.ApplyUsers(ctx, wanted, unwanted)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, u := range done {
			names = append(names, u.Name)
		}
		return names
	}
	if got := apply([]driver.User{user("ann", "password-1", "readWrite"), user("bob", "password-2", "read")}, nil); !slices.Equal(got, []string{"ann", "bob"}) {
		t.Errorf("done for %v", got)
	}
	if roles, err := w.login("admin", "ann", "password-1"); err != nil || !slices.Equal(roles, []string{"readWrite@shop"}) {
		t.Errorf("ann: %v, %v", roles, err)
	}
	apply([]driver.User{user("ann", "password-3", "read")}, []driver.User{{Database: "admin", Name: "bob"}, {Database: "admin", Name: "nobody"}})
	if roles, err := w.login("admin", "ann", "password-3"); err != nil || !slices.Equal(roles, []string{"read@shop"}) {
		t.Errorf("ann changed: %v, %v", roles, err)
	}
	for name, pw := range map[string]string{"ann": "password-1", "bob": "password-2"} {
		if _, err := w.login("admin", name, pw); err == nil {
			t.Errorf("%s still comes in with an old password", name)
		}
	}
	// One that the node refuses does not keep the other back, and is named.
	done, err := a.ApplyUsers(ctx, []driver.User{user("eve", "password-4", "noSuchRole"), user("fay", "password-5", "read")}, nil)
	if err == nil || len(done) != 1 || done[0].Name != "fay" {
		t.Errorf("done for %+v, %v", done, err)
	}
}
