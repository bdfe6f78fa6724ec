package wire

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// writeCertificate writes a self-signed certificate with its key, of a serial
// number by which it is told apart.
func writeCertificate(t *testing.T, path string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"node"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	out := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shown is the serial number of the certificate that a client sees.
func shown(t *testing.T, c *Certificates) int64 {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _, _ = client.Close(), server.Close() }()
	go func() { _ = tls.Server(server, c.Config()).Handshake() }()
	tc := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := tc.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestRenewedCertificatesAreUsedWithoutARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.pem")
	writeCertificate(t, file, 1)
	c, err := LoadCertificates(TLSFiles{CertificateKey: file}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// look makes the next handshake look at the files, which have a time of their
	// own each.
	n := 0
	look := func() {
		n++
		at := time.Now().Add(time.Duration(n) * time.Minute)
		_ = os.Chtimes(file, at, at) // it may be gone
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looked = time.Time{}
	}
	want := func(what string, serial int64) {
		t.Helper()
		look()
		if got := shown(t, c); got != serial {
			t.Errorf("%s: certificate %d is shown, want %d", what, got, serial)
		}
	}
	want("at first", 1)
	writeCertificate(t, file, 2)
	want("renewed", 2)
	if err := os.WriteFile(file, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("damaged", 2)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	want("gone", 2)
	writeCertificate(t, file, 3)
	want("back", 3)
	if _, err := LoadCertificates(TLSFiles{CertificateKey: filepath.Join(t.TempDir(), "none.pem")}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a certificate that is not there was loaded")
	}
}
