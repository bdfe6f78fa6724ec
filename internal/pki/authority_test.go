package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/secret"
)

const deployment = keys.DeploymentID("65a0f0c2e4b0a1b2c3d4e5f6")

type authority struct {
	*pki.Authority
	certPEM []byte
	keyPEM  secret.Bytes
}

func newAuthority(t testing.TB, kind pki.Kind) authority {
	t.Helper()
	certPEM, keyPEM, err := pki.NewAuthority(kind, deployment, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := pki.LoadAuthority(kind, certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return authority{a, certPEM, keyPEM}
}

// leafFor is the widest leaf that the kind allows.
func leafFor(kind pki.Kind) pki.Leaf {
	l := pki.Leaf{CommonName: "node", DNSNames: []string{"db.example.com"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}
	l.Server = kind != pki.KindKMIPClient
	l.Client = kind != pki.KindKMIPServer
	return l
}

func (a authority) leaf(t testing.TB, l pki.Leaf, now time.Time) *x509.Certificate {
	t.Helper()
	_, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := a.Sign(csr, l, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pool(t testing.TB, a authority) *x509.CertPool {
	t.Helper()
	p, err := pki.Pool(a.Kind(), a.certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNoKindPassesAsAnother(t *testing.T) {
	now := time.Now()
	authorities := map[pki.Kind]authority{}
	leaves := map[pki.Kind]*x509.Certificate{}
	for _, k := range pki.Kinds() {
		authorities[k] = newAuthority(t, k)
		leaves[k] = authorities[k].leaf(t, leafFor(k), now)
	}
	all := x509.NewCertPool() // even where somebody trusts all four at once
	for _, a := range authorities {
		all.AppendCertsFromPEM(a.certPEM)
	}
	for have, leaf := range leaves {
		for _, want := range pki.Kinds() {
			for use, allowed := range map[pki.Use]bool{pki.AsServer: have != pki.KindKMIPClient, pki.AsClient: have != pki.KindKMIPServer} {
				ok := have == want && allowed
				for name, roots := range map[string]*x509.CertPool{"own": pool(t, authorities[want]), "all": all} {
					if err := pki.Verify(want, roots, leaf, use, now); (err == nil) != ok {
						t.Errorf("%s certificate as %s (use %d, %s roots): %v", have, want, use, name, err)
					}
				}
			}
		}
	}
}

func TestVerifyDemandsTime(t *testing.T) {
	now := time.Now()
	a := newAuthority(t, pki.KindLink)
	leaf := a.leaf(t, leafFor(pki.KindLink), now)
	for at, ok := range map[time.Duration]bool{-time.Hour: false, 0: true, 89 * 24 * time.Hour: true, 91 * 24 * time.Hour: false} {
		if err := pki.Verify(pki.KindLink, pool(t, a), leaf, pki.AsServer, now.Add(at)); (err == nil) != ok {
			t.Errorf("after %s: %v", at, err)
		}
	}
	if pki.Verify(pki.KindLink, pool(t, a), nil, pki.AsServer, now) == nil {
		t.Error("no certificate was accepted")
	}
	ca, _ := pki.ParseCertificate(a.certPEM)
	if pki.Verify(pki.KindLink, pool(t, a), ca, pki.AsServer, now) == nil {
		t.Error("the authority itself was accepted as a leaf")
	}
}

// TestVerifyDemandsTheExactUsage signs certificates that the package would
// never make, with the authority's own key.
func TestVerifyDemandsTheExactUsage(t *testing.T) {
	now := time.Now()
	a := newAuthority(t, pki.KindKMIPClient)
	ca, _ := pki.ParseCertificate(a.certPEM)
	block, _ := pem.Decode(a.keyPEM.Reveal())
	caKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]struct {
		kind   string
		usages []x509.ExtKeyUsage
		ok     bool
	}{
		"right":          {"kmip-client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, true},
		"none":           {"kmip-client", nil, false},
		"any":            {"kmip-client", []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, false},
		"server too":     {"kmip-client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, false},
		"code signing":   {"kmip-client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageCodeSigning}, false},
		"kind of a link": {"link", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, false},
	} {
		tpl := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{OrganizationalUnit: []string{c.kind}, CommonName: "x"},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), ExtKeyUsage: c.usages, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, _ := x509.ParseCertificate(der)
		if err := pki.Verify(pki.KindKMIPClient, pool(t, a), leaf, pki.AsClient, now); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignTakesNothingButTheKeyFromTheRequest(t *testing.T) {
	now := time.Now()
	a := newAuthority(t, pki.KindDatabase)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "evil", OrganizationalUnit: []string{"link"}}, DNSNames: []string{"evil.example.com"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	certPEM, err := a.Sign(csr, leafFor(pki.KindDatabase), now)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := pki.ParseCertificate(certPEM)
	if cert.Subject.CommonName != "node" || len(cert.DNSNames) != 1 || cert.DNSNames[0] != "db.example.com" || cert.IsCA {
		t.Errorf("certificate for %v %v", cert.Subject, cert.DNSNames)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
	der[len(der)-1] ^= 1 // the signature no longer proves that the sender has the key
	if _, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), leafFor(pki.KindDatabase), now); err == nil {
		t.Error("a request with a wrong signature was signed")
	}
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	if weak != nil {
		if der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak); err == nil {
			if _, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), leafFor(pki.KindDatabase), now); err == nil {
				t.Error("a weak key was signed")
			}
		}
	}
}

func TestSignRefusesWhatAKindMayNotHave(t *testing.T) {
	now := time.Now()
	_, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind pki.Kind
		leaf pki.Leaf
	}{
		"client as server":     {pki.KindKMIPClient, pki.Leaf{CommonName: "n", Server: true, DNSNames: []string{"x"}}},
		"server as client":     {pki.KindKMIPServer, pki.Leaf{CommonName: "n", Client: true}},
		"neither":              {pki.KindLink, pki.Leaf{CommonName: "n"}},
		"no name":              {pki.KindLink, pki.Leaf{Client: true}},
		"server without names": {pki.KindDatabase, pki.Leaf{CommonName: "n", Server: true}},
		"two years":            {pki.KindKMIPClient, pki.Leaf{CommonName: "n", Client: true, Lifetime: 2 * 365 * 24 * time.Hour}},
		"negative":             {pki.KindKMIPClient, pki.Leaf{CommonName: "n", Client: true, Lifetime: -time.Hour}},
		"too long a name":      {pki.KindLink, pki.Leaf{CommonName: strings.Repeat("n", 65), Client: true}},
	} {
		if _, err := newAuthority(t, c.kind).Sign(csr, c.leaf, now); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := newAuthority(t, pki.KindLink).Sign(csr, leafFor(pki.KindLink), now.Add(11*365*24*time.Hour)); err == nil {
		t.Error("an expired authority signed")
	}
}

func TestLoadAuthorityRefusesAnother(t *testing.T) {
	a, b := newAuthority(t, pki.KindLink), newAuthority(t, pki.KindLink)
	if _, err := pki.LoadAuthority(pki.KindKMIPClient, a.certPEM, a.keyPEM); err == nil {
		t.Error("a link authority was loaded as another kind")
	}
	_, err := pki.LoadAuthority(pki.KindLink, a.certPEM, b.keyPEM)
	if err == nil {
		t.Error("another authority's key was accepted")
	}
	if _, err := pki.LoadAuthority(pki.KindLink, a.certPEM, secret.FromString("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")); err == nil || strings.Contains(err.Error(), "AAAA") {
		t.Errorf("a broken key: %v", err)
	}
	if _, _, err := pki.NewAuthority("other", deployment, time.Now()); err == nil {
		t.Error("an unknown kind was made")
	}
	if _, err := pki.Pool(pki.KindKMIPClient, a.certPEM); err == nil {
		t.Error("a pool took an authority of another kind")
	}
}

func TestRenewalIsDueAfterAThirdOfLife(t *testing.T) {
	now := time.Now()
	for kind, life := range map[pki.Kind]time.Duration{
		pki.KindLink: 90 * 24 * time.Hour, pki.KindDatabase: 90 * 24 * time.Hour,
		pki.KindKMIPServer: 365 * 24 * time.Hour, pki.KindKMIPClient: 365 * 24 * time.Hour,
	} {
		if kind.Lifetime() != life {
			t.Errorf("%s lives %s", kind, kind.Lifetime())
		}
		cert := newAuthority(t, kind).leaf(t, leafFor(kind), now)
		if d := pki.RenewAt(cert).Sub(now.Add(life / 3)).Abs(); d > time.Hour {
			t.Errorf("%s: renewal is %s off a third of its life", kind, d)
		}
	}
}

func TestFingerprintIsThatOfTheDER(t *testing.T) {
	a := newAuthority(t, pki.KindLink)
	block, _ := pem.Decode(a.certPEM)
	if f := pki.Fingerprint(a.certPEM); f != pki.Fingerprint(block.Bytes) || len(f) != 64 {
		t.Errorf("fingerprint %s", f)
	}
	if pki.Fingerprint([]byte("abc")) != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Error("not SHA-256")
	}
}

func TestWriteCombinedIsWhatMongodReads(t *testing.T) {
	a := newAuthority(t, pki.KindKMIPClient)
	keyPEM, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := a.Sign(csr, leafFor(pki.KindKMIPClient), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "client.pem")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteCombined(path, keyPEM, certPEM); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %s", st.Mode())
	}
	if _, err := tls.LoadX509KeyPair(path, path); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%d files left", len(left))
	}
}

// TestOpenSSLAgrees has an independent implementation judge the certificates.
func TestOpenSSLAgrees(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, kind := range pki.Kinds() {
		a := newAuthority(t, kind)
		leaf := a.leaf(t, leafFor(kind), time.Now())
		ca := write("ca.pem", a.certPEM)
		cert := write("leaf.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
		for purpose, ok := range map[string]bool{"sslserver": leafFor(kind).Server, "sslclient": leafFor(kind).Client} {
			out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, cert).CombinedOutput()
			if (err == nil) != ok {
				t.Errorf("%s as %s: %v: %s", kind, purpose, err, out)
			}
		}
	}
}

func FuzzSign(f *testing.F) {
	a := newAuthority(f, pki.KindLink)
	_, csr, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add(a.certPEM)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		certPEM, err := a.Sign(csr, leafFor(pki.KindLink), time.Now())
		if err != nil {
			return
		}
		cert, err := pki.ParseCertificate(certPEM)
		if err != nil || cert.IsCA || cert.Subject.CommonName != "node" {
			t.Fatalf("signed %v, %v", cert, err)
		}
	})
}

func FuzzPool(f *testing.F) {
	a := newAuthority(f, pki.KindLink)
	f.Add(a.certPEM)
	f.Add(append(append([]byte{}, a.certPEM...), a.certPEM...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := pki.Pool(pki.KindLink, text); err == nil && p == nil {
			t.Fatal("no pool and no error")
		}
		_ = pki.Fingerprint(text)
	})
}
