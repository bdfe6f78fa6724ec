package engine

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/engine/wire"
)

const testNode = "0123456789abcdef01234567"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// selfSigned writes a certificate for this machine with its key, and the
// certificate alone.
func selfSigned(t *testing.T) (keyFile, caFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyFile, caFile = filepath.Join(t.TempDir(), "node.pem"), filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(keyFile, append(bytes.Clone(cert), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...), 0o600))
	must(t, os.WriteFile(caFile, cert, 0o600))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return keyFile, caFile, pool
}

// freePort gives a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// running is Run in this process.
type running struct {
	o    Options
	pool *x509.CertPool
	stop context.CancelFunc
	done chan error
}

func plainOptions(t *testing.T) (Options, *x509.CertPool) {
	t.Helper()
	keyFile, caFile, pool := selfSigned(t)
	return Options{
		DBPath: filepath.Join(t.TempDir(), "data"), Port: freePort(t), BindIP: "127.0.0.1", ReplSet: "rs0", NodeID: testNode, Auth: true,
		TLSMode: wire.TLSRequire, TLSCertificateKeyFile: keyFile, TLSCAFile: caFile, LogPath: filepath.Join(t.TempDir(), "log"),
	}, pool
}

func start(t *testing.T, o Options, pool *x509.CertPool) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{o: o, pool: pool, stop: cancel, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- Run(ctx, o)
	}()
	// Whoever does not wait for the end itself must not have the files removed below it.
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

// end waits for the node's end.
func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the node does not end")
		return nil
	}
}

func (r *running) addr() string { return fmt.Sprintf("127.0.0.1:%d", r.o.Port) }

func (r *running) client(t *testing.T, login bool) *mongo.Client {
	t.Helper()
	o := options.Client().SetHosts([]string{r.addr()}).SetServerSelectionTimeout(20 * time.Second).SetTLSConfig(&tls.Config{RootCAs: r.pool, MinVersion: tls.VersionTLS12})
	if login {
		o.SetReplicaSet("rs0").SetAuth(options.Credential{Username: "root", Password: "secret", AuthSource: "admin"})
	} else {
		o.SetDirect(true)
	}
	c, err := mongo.Connect(o)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_ = c.Disconnect(ctx)
	})
	return c
}

// setUp makes the set and the first user.
func (r *running) setUp(t *testing.T) {
	t.Helper()
	admin := r.client(t, false).Database("admin")
	must(t, admin.RunCommand(t.Context(), bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: "rs0"}, {Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: r.addr()}}}},
	}}}).Err())
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := admin.RunCommand(t.Context(), bson.D{{Key: "createUser", Value: "root"}, {Key: "pwd", Value: "secret"}, {Key: "roles", Value: bson.A{"root"}}}).Err()
		var ce mongo.CommandError
		if errors.As(err, &ce) && ce.Code == 10107 && time.Now().Before(deadline) {
			continue
		}
		must(t, err)
		return
	}
}

func TestRunServesStopsAndStartsAgain(t *testing.T) {
	o, pool := plainOptions(t)
	r := start(t, o, pool)
	r.setUp(t)
	c := r.client(t, true)
	_, err := c.Database("d").Collection("c").InsertOne(t.Context(), bson.D{{Key: "_id", Value: "x"}})
	must(t, err)

	var exit *ExitError
	if err := Run(t.Context(), o); !errors.As(err, &exit) || !strings.Contains(err.Error(), o.DBPath) {
		t.Errorf("a second process on the directory: %v", err)
	}
	must(t, c.Database("admin").RunCommand(t.Context(), bson.D{{Key: "shutdown", Value: 1}}).Err())
	must(t, r.end(t))

	wrong := o
	wrong.ReplSet = "other"
	if err := Run(t.Context(), wrong); !errors.As(err, &exit) || exit.Code != ExitBadOptions {
		t.Errorf("another set's name: %v", err)
	}
	sealed := o
	sealed.Encryption = Encryption{Enabled: true, ServerName: "127.0.0.1", Port: 1, ClientCertificateFile: o.TLSCertificateKeyFile, ServerCAFile: o.TLSCAFile}
	if err := Run(t.Context(), sealed); !errors.As(err, &exit) || exit.Code != ExitBadOptions {
		t.Errorf("encryption on a plain directory: %v", err)
	}

	r = start(t, o, pool)
	must(t, r.client(t, true).Database("d").Collection("c").FindOne(t.Context(), bson.D{{Key: "_id", Value: "x"}}).Err())
	r.stop()
	must(t, r.end(t))
	log, err := os.ReadFile(o.LogPath)
	must(t, err)
	if bytes.Contains(log, []byte("secret")) {
		t.Error("the log holds a password")
	}
}

func TestRunNamesAllWrongOptions(t *testing.T) {
	err := Run(t.Context(), Options{Port: 70000, BindIP: "nowhere", TLSMode: wire.TLSRequire, NodeID: "x", Encryption: Encryption{Enabled: true}})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != ExitBadOptions {
		t.Fatalf("error is %v", err)
	}
	for _, flag := range []string{"--dbpath", "--port", "--bind_ip", "--replSet", "--tlsCertificateKeyFile", "--nodeId", "--kmip"} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in %v", flag, err)
		}
	}
}

func TestANewerDirectoryIsRefused(t *testing.T) {
	o, _ := plainOptions(t)
	must(t, os.MkdirAll(o.DBPath, 0o700))
	must(t, os.WriteFile(filepath.Join(o.DBPath, "keywright.json"), []byte(`{"version":99,"node":"`+testNode+`","encrypted":false,"log":"","engineFormat":1}`), 0o600))
	var exit *ExitError
	if err := Run(t.Context(), o); !errors.As(err, &exit) || exit.Code != ExitNeedsUpgrade {
		t.Errorf("error is %v", err)
	}
}

func TestALostKeyringIsNotReplaced(t *testing.T) {
	o, _ := plainOptions(t)
	must(t, os.MkdirAll(o.DBPath, 0o700))
	must(t, os.WriteFile(filepath.Join(o.DBPath, "keywright.json"),
		[]byte(`{"version":1,"node":"`+testNode+`","encrypted":true,"log":"00112233445566778899aabbccddeeff","engineFormat":1}`), 0o600))
	o.Encryption = Encryption{Enabled: true, ServerName: "127.0.0.1", Port: 1, ClientCertificateFile: o.TLSCertificateKeyFile, ServerCAFile: o.TLSCAFile}
	var exit *ExitError
	if err := Run(t.Context(), o); !errors.As(err, &exit) || exit.Code != ExitUnrecoverable || !strings.Contains(err.Error(), "keyring") {
		t.Errorf("error is %v", err)
	}
}

// mongosh finds MongoDB's shell: in $MONGOSH or in PATH.
func mongosh(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("MONGOSH"); path != "" {
		return path
	}
	path, err := exec.LookPath("mongosh")
	if err != nil {
		t.Skip("mongosh is not there: put it into PATH, or name it in MONGOSH")
	}
	return path
}

func TestMongosh(t *testing.T) {
	shell := mongosh(t)
	o, pool := plainOptions(t)
	r := start(t, o, pool)
	r.setUp(t)
	uri := fmt.Sprintf("mongodb://root:secret@%s/?replicaSet=rs0&authSource=admin&tls=true", r.addr())
	script := `
		const c = db.getSiblingDB("shop").items;
		c.createIndex({a: 1});
		for (let i = 0; i < 50; i++) c.insertOne({_id: i, a: i % 5});
		print("count", c.countDocuments({a: 2}), c.find().sort({_id: -1}).limit(1).next()._id);
		print("plan", c.find({a: 2}).explain("executionStats").executionStats.totalDocsExamined);
		print("sum", c.aggregate([{$group: {_id: null, n: {$sum: "$a"}}}]).next().n);
		print("names", db.adminCommand({listDatabases: 1}).databases.map(d => d.name).join(","));
		print("rs", rs.status().members[0].stateStr);
	`
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, uri, "--quiet", "--tlsCAFile", o.TLSCAFile, "--eval", script)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"count 10 49", "plan 10", "sum 100", "names admin,shop", "rs PRIMARY"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the shell did not print %q but:\n%s", want, out)
		}
	}
}
