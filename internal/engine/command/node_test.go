package command_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/keywright/keywright/internal/engine/command"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
)

const (
	setName  = "rs0"
	rootName = "root"
	rootPwd  = "root-password"
)

// authority signs the certificates of one test.
type authority struct {
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{pool: pool, cert: cert, key: key}
}

// issue writes a certificate and its key for this machine into one PEM file.
func (a *authority) issue(t testing.TB, path string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out = append(out, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	must(t, os.WriteFile(path, out, 0o600))
}

// node is a node in this process, on plain files, with TLS required.
type node struct {
	t        testing.TB
	dir      string
	ca       *authority
	certFile string
	ln       net.Listener
	addr     string

	replica  *replication.Replica
	commands *command.Server
	port     *wire.Server
	served   chan struct{}
	stopped  chan struct{}
	rotate   func(context.Context, keys.KeyID) (before, after keys.KeyID, err error)
}

// startNode starts a fresh node, initiates its set and makes the user root.
func startNode(t testing.TB) *node {
	t.Helper()
	n := newNode(t)
	n.start()
	n.setUp()
	return n
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "data"), ca: newAuthority(t)}
	n.certFile = filepath.Join(t.TempDir(), "node.pem")
	n.ca.issue(t, n.certFile, 2)
	t.Cleanup(n.stop)
	return n
}

// start opens the data and listens, at the same address as before.
func (n *node) start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log := slog.New(slog.NewTextHandler(testLog{n.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	n.replica, err = replication.Open(ctx, replication.Config{
		Dir: n.dir, Node: keys.NodeID("0123456789abcdef01234567"), Files: storage.Plain(vfs.Default), Logger: log,
		OnFatal: func(msg string) { n.t.Errorf("the node cannot go on: %s", msg) },
	})
	must(n.t, err)
	addr := n.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	n.ln, err = net.Listen("tcp", addr)
	must(n.t, err)
	n.addr = n.ln.Addr().String()
	certificates, err := wire.LoadCertificates(wire.TLSFiles{CertificateKey: n.certFile}, log)
	must(n.t, err)
	n.stopped = make(chan struct{})
	stopped := n.stopped
	n.commands = command.NewServer(command.Config{
		Node: n.replica, Auth: true, Set: setName, Host: n.addr, TLS: true, Logger: log, Stop: func() { close(stopped) }, RotateMasterKey: n.rotate,
	})
	n.port = wire.NewServer(wire.ServerConfig{Handler: n.commands, Mode: wire.TLSRequire, Certificates: certificates, Logger: log})
	n.served = make(chan struct{})
	port, ln, served := n.port, n.ln, n.served
	go func() {
		defer close(served)
		_ = port.Serve(ln)
	}()
}

// stop ends the node in the order of a real one; it may be called again.
func (n *node) stop() {
	if n.port == nil {
		return
	}
	n.commands.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := n.port.Shutdown(ctx); err != nil {
		n.t.Errorf("shut down: %v", err)
	}
	<-n.served
	n.commands.Close()
	if err := n.replica.Close(ctx); err != nil {
		n.t.Errorf("close: %v", err)
	}
	n.port = nil
}

// setUp does what an agent does with a fresh node, without any user.
func (n *node) setUp() {
	n.t.Helper()
	c := n.client(options.Client().SetDirect(true))
	ctx := n.t.Context()
	must(n.t, c.Database("admin").RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: setName}, {Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: n.addr}}}},
	}}}).Err())
	eventually(n.t, "the node is primary", func() bool {
		var hello bson.M
		return c.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello) == nil && hello["isWritablePrimary"] == true
	})
	must(n.t, c.Database("admin").RunCommand(ctx, bson.D{
		{Key: "createUser", Value: rootName}, {Key: "pwd", Value: rootPwd}, {Key: "roles", Value: bson.A{"root"}},
	}).Err())
}

func (n *node) client(o *options.ClientOptions) *mongo.Client {
	n.t.Helper()
	o.SetTLSConfig(&tls.Config{RootCAs: n.ca.pool, MinVersion: tls.VersionTLS12})
	if len(o.Hosts) == 0 {
		o.SetHosts([]string{n.addr})
	}
	o.SetServerSelectionTimeout(15 * time.Second)
	c, err := mongo.Connect(o)
	must(n.t, err)
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond) // the node may be gone
		defer cancel()
		_ = c.Disconnect(ctx)
	})
	return c
}

// as gives a client that found the node through its replica set.
func (n *node) as(user, db, password string) *mongo.Client {
	n.t.Helper()
	return n.client(options.Client().SetReplicaSet(setName).SetAuth(options.Credential{Username: user, AuthSource: db, Password: password}))
}

func (n *node) root() *mongo.Client { n.t.Helper(); return n.as(rootName, "admin", rootPwd) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// code is MongoDB's code of an error, 0 for none, -1 for another kind of error.
func code(err error) int {
	if err == nil {
		return 0
	}
	var cmd mongo.CommandError
	if errors.As(err, &cmd) {
		return int(cmd.Code)
	}
	var we mongo.WriteException
	if errors.As(err, &we) && len(we.WriteErrors) > 0 {
		return we.WriteErrors[0].Code
	}
	return -1
}

func wantCode(t testing.TB, what string, err error, want int) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("%s: code is %d (%v), want %d", what, got, err, want)
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// testLog writes to the test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) { l.t.Logf("%s", b); return len(b), nil }
