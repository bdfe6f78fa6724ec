package enginekmip

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/engine"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

const (
	nodeID      = keys.NodeID("0123456789abcdef01234567")
	otherNodeID = keys.NodeID("fedcba987654321001234567")
	password    = "a-password-nobody-guesses"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// node is engine.Run in this process, with options that outlive a run.
type node struct {
	o    engine.Options
	pool *x509.CertPool

	stop context.CancelFunc
	done chan error
}

// newNode prepares a node's options; e may be empty for a plain one.
func newNode(t *testing.T, e engine.Encryption) *node {
	t.Helper()
	ca := authority(t, pki.KindDatabase)
	keyPEM, csr, err := pki.NewKey()
	must(t, err)
	leaf, err := ca.Sign(csr, pki.Leaf{CommonName: "node", Server: true, Client: true, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	must(t, err)
	dir := t.TempDir()
	must(t, pki.WriteCombined(filepath.Join(dir, "tls.pem"), keyPEM, leaf))
	n := &node{pool: x509.NewCertPool(), o: engine.Options{
		DBPath: filepath.Join(t.TempDir(), "data"), Port: freePort(t), BindIP: "127.0.0.1", ReplSet: "rs0", NodeID: nodeID, Auth: true,
		TLSMode: wire.TLSRequire, TLSCertificateKeyFile: filepath.Join(dir, "tls.pem"), LogPath: filepath.Join(dir, "log"), Encryption: e,
	}}
	n.pool.AppendCertsFromPEM(ca.CertificatePEM())
	return n
}

// freePort gives a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

func (n *node) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n.stop, n.done = cancel, done
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- engine.Run(ctx, n.o)
	}()
	// Whoever does not wait for the end itself must not have the files removed below it.
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// ends waits for the end of a run that was started.
func (n *node) ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-n.done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the node does not end")
		return nil
	}
}

// halt stops the node cleanly.
func (n *node) halt(t *testing.T) {
	t.Helper()
	n.stop()
	must(t, n.ends(t))
}

// run is a run that ends by itself.
func (n *node) run(t *testing.T, change func(*engine.Options)) error {
	t.Helper()
	o := n.o
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return engine.Run(ctx, o)
}

func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.o.Port) }

func (n *node) client(t *testing.T, login bool) *mongo.Client {
	t.Helper()
	o := options.Client().SetHosts([]string{n.addr()}).SetServerSelectionTimeout(30 * time.Second).
		SetTLSConfig(&tls.Config{RootCAs: n.pool, MinVersion: tls.VersionTLS12})
	if login {
		o.SetReplicaSet("rs0").SetAuth(options.Credential{Username: "root", Password: password, AuthSource: "admin"})
	} else {
		o.SetDirect(true)
	}
	c, err := mongo.Connect(o)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond) // the node may be gone
		defer cancel()
		_ = c.Disconnect(ctx)
	})
	return c
}

// setUp starts a fresh node, makes its set and its first user, and gives a
// client that is logged in.
func (n *node) setUp(t *testing.T) *mongo.Client {
	t.Helper()
	n.start(t)
	admin := n.client(t, false).Database("admin")
	must(t, admin.RunCommand(t.Context(), bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: "rs0"}, {Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: n.addr()}}}},
	}}}).Err())
	var err error
	eventually(t, "the first user is made", func() bool {
		err = admin.RunCommand(t.Context(), bson.D{{Key: "createUser", Value: "root"}, {Key: "pwd", Value: password}, {Key: "roles", Value: bson.A{"root"}}}).Err()
		var ce mongo.CommandError
		return !errors.As(err, &ce) || ce.Code != 10107 // not yet primary
	})
	must(t, err)
	return n.client(t, true)
}

// again starts a node that has data and gives a client that is logged in.
func (n *node) again(t *testing.T) *mongo.Client {
	t.Helper()
	n.start(t)
	return n.client(t, true)
}

// wantCode tells whether a run ended with the exit code.
func wantCode(t *testing.T, what string, err error, code int) {
	t.Helper()
	var exit *engine.ExitError
	if !errors.As(err, &exit) || exit.Code != code {
		t.Errorf("%s: ended with %v, want exit code %d", what, err, code)
	}
}

// digest sums up every file of the data directory but the lock.
func (n *node) digest(t *testing.T) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	for name, content := range files(t, n.o.DBPath) {
		if filepath.Base(name) != "mongod.lock" {
			out[name] = sha256.Sum256(content)
		}
	}
	return out
}

// files reads all files below dir.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		out[path] = content
		return err
	}))
	if len(out) == 0 {
		t.Fatalf("%s holds no files", dir)
	}
	return out
}

// logged tells whether the node's log has a text.
func (n *node) logged(t *testing.T, text string) bool {
	t.Helper()
	b, err := os.ReadFile(n.o.LogPath)
	must(t, err)
	return bytes.Contains(b, []byte(text))
}
