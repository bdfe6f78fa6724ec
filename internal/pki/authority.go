package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Kind names an authority and the certificates that it signs.
type Kind string

// The four kinds (four separate authorities, key-plane section 5.3).
const (
	KindLink       Kind = "link"        // agent and control plane, to each other
	KindKMIPServer Kind = "kmip-server" // the agent's KMIP server
	KindKMIPClient Kind = "kmip-client" // a node towards the KMIP server
	KindDatabase   Kind = "database"    // a node towards drivers and other members
)

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{KindLink, KindKMIPServer, KindKMIPClient, KindDatabase} }

const (
	day               = 24 * time.Hour
	authorityLifetime = 3653 * day // ten years
	maxLeafLifetime   = 398 * day
	// backdate lets a certificate work on a host whose clock is a little behind.
	backdate = 5 * time.Minute
	maxNames = 100
)

// rule says what leaves of a kind may be and how long they live.
type rule struct {
	server, client bool
	lifetime       time.Duration
}

func (k Kind) rule() (rule, bool) {
	switch k {
	case KindLink:
		return rule{server: true, client: true, lifetime: 90 * day}, true
	case KindKMIPServer:
		return rule{server: true, lifetime: 365 * day}, true
	case KindKMIPClient:
		return rule{client: true, lifetime: 365 * day}, true
	case KindDatabase:
		return rule{server: true, client: true, lifetime: 90 * day}, true
	}
	return rule{}, false
}

// Lifetime is how long a leaf of the kind lives unless Leaf says otherwise;
// zero for an unknown kind.
func (k Kind) Lifetime() time.Duration {
	r, _ := k.rule()
	return r.lifetime
}

// NewAuthority makes the authority of a kind: an ECDSA P-256 key (every client
// that matters accepts it) and a self-signed certificate of ten years. The key
// is PKCS#8 in PEM; the caller stores it sealed.
func NewAuthority(kind Kind, deployment keys.DeploymentID, now time.Time) (certPEM []byte, keyPEM secret.Bytes, err error) {
	if _, ok := kind.rule(); !ok {
		return nil, secret.Bytes{}, fmt.Errorf("make authority: unknown kind %q", kind)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, secret.Bytes{}, fmt.Errorf("make authority %s: %w", kind, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, secret.Bytes{}, err
	}
	tpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject(kind, "Keywright "+string(kind)+" authority "+string(deployment)),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		return nil, secret.Bytes{}, fmt.Errorf("make authority %s: %w", kind, err)
	}
	keyPEM, err = marshalKey(key)
	if err != nil {
		return nil, secret.Bytes{}, fmt.Errorf("make authority %s: %w", kind, err)
	}
	return encodeCertificate(der), keyPEM, nil
}

// Authority signs leaves of one kind. It is safe for concurrent use.
type Authority struct {
	kind Kind
	cert *x509.Certificate
	pem  []byte
	key  crypto.Signer
}

// LoadAuthority opens what NewAuthority made. It refuses a certificate of
// another kind and a key that does not belong to the certificate.
func LoadAuthority(kind Kind, certPEM []byte, keyPEM secret.Bytes) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", kind, err)
	}
	if !cert.IsCA || kindOf(cert) != kind {
		return nil, fmt.Errorf("load authority %s: the certificate is not that authority's (it says %q)", kind, kindOf(cert))
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", kind, err)
	}
	if !samePublic(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("load authority %s: the key does not belong to the certificate", kind)
	}
	return &Authority{kind: kind, cert: cert, pem: encodeCertificate(cert.Raw), key: key}, nil
}

// Kind is the kind of leaves that the authority signs.
func (a *Authority) Kind() Kind { return a.kind }

// CertificatePEM is the authority's own certificate, a fresh copy.
func (a *Authority) CertificatePEM() []byte { return slices.Clone(a.pem) }

// Leaf says what a certificate is for. Nothing of it comes from the request.
type Leaf struct {
	// CommonName is at most 64 characters: the host's or the node's id.
	CommonName string
	// DNSNames and IPs are every name and address under which the holder is
	// reached; a server needs one at least.
	DNSNames []string
	IPs      []net.IP
	// Server and Client are the extended key usages; the kind limits them.
	Server, Client bool
	// Lifetime is the kind's own when zero, and at most 398 days.
	Lifetime time.Duration
}

// Sign makes a certificate for the public key of csrPEM. The request's
// signature is checked (the sender holds the key); its names are ignored.
func (a *Authority) Sign(csrPEM []byte, leaf Leaf, now time.Time) (certPEM []byte, err error) {
	pub, err := requestKey(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", a.kind, err)
	}
	tpl, err := a.template(leaf, now)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", a.kind, err)
	}
	if tpl.SerialNumber, err = newSerial(); err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", a.kind, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", a.kind, err)
	}
	return encodeCertificate(der), nil
}

func (a *Authority) template(leaf Leaf, now time.Time) (*x509.Certificate, error) {
	r, _ := a.kind.rule()
	life := leaf.Lifetime
	if life == 0 {
		life = r.lifetime
	}
	switch {
	case life <= 0 || life > maxLeafLifetime:
		return nil, fmt.Errorf("a lifetime of %s is not allowed (at most %s)", life, maxLeafLifetime)
	case leaf.CommonName == "" || len(leaf.CommonName) > 64:
		return nil, errors.New("the common name must have 1 to 64 characters")
	case !leaf.Server && !leaf.Client:
		return nil, errors.New("a certificate is for a server, a client, or both")
	case leaf.Server && !r.server, leaf.Client && !r.client:
		return nil, fmt.Errorf("this usage is not allowed for kind %s", a.kind)
	case leaf.Server && len(leaf.DNSNames)+len(leaf.IPs) == 0:
		return nil, errors.New("a server certificate needs a DNS name or an address")
	case len(leaf.DNSNames)+len(leaf.IPs) > maxNames:
		return nil, fmt.Errorf("more than %d names", maxNames)
	case now.After(a.cert.NotAfter) || now.Before(a.cert.NotBefore):
		return nil, errors.New("the authority's own certificate is not valid now")
	}
	var usages []x509.ExtKeyUsage
	if leaf.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if leaf.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	return &x509.Certificate{
		Subject:               subject(a.kind, leaf.CommonName),
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		DNSNames:              leaf.DNSNames,
		IPAddresses:           leaf.IPs,
	}, nil
}

// RenewAt is when a certificate is due for renewal: when a third of its life
// has passed (key-plane section 5.6), so that two thirds are left to outlast a
// partition.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3)
}

func subject(kind Kind, name string) pkix.Name {
	return pkix.Name{Organization: []string{"Keywright"}, OrganizationalUnit: []string{string(kind)}, CommonName: name}
}

// kindOf reads the kind that a certificate carries; "" if it carries none.
func kindOf(cert *x509.Certificate) Kind {
	if u := cert.Subject.OrganizationalUnit; len(u) == 1 {
		return Kind(u[0])
	}
	return ""
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// acceptableKey tells whether a public key is strong enough and known to the
// clients that will check its signatures.
func acceptableKey(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096
	}
	return false
}
