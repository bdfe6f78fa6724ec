package bundle

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

const (
	// Format names the file.
	Format = "keywright-key-export"
	// Version is the file's version.
	Version = 1
	// Signer is the common name of a certificate that signs bundles. Hosts have their
	// id as common name, which is of another form.
	Signer = "keywright key export"
	// MaxSize bounds a bundle, in bytes.
	MaxSize = 64 << 20

	prefix = "keywright key export 1\n" // before the payload in what is signed
)

// The reasons for which a bundle is refused.
var (
	ErrNewer     = errors.New("the bundle was made by a newer program")
	ErrDamaged   = errors.New("the bundle is damaged or no bundle")
	ErrSignature = errors.New("the bundle was not signed by this deployment's control plane, or was changed")
)

// Bundle is the file.
type Bundle struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Payload is a Payload as JSON, exactly as it was signed.
	Payload []byte `json:"payload"`
	// Certificate (PEM) is of the key that signed, Signature an ECDSA signature (ASN.1)
	// over SHA-256 of "keywright key export 1\n" and the payload.
	Certificate string `json:"certificate"`
	Signature   []byte `json:"signature"`
}

// Payload is what is signed.
type Payload struct {
	Deployment keys.DeploymentID `json:"deployment"`
	Created    time.Time         `json:"created"`
	Wraps      []Wrap            `json:"wraps"`
}

// Wrap is one wrapped key of a host.
type Wrap struct {
	agentlink.EscrowedWrap
	Host keys.HostID `json:"host"`
	// KeyARN is the customer's key that wrapped it, Context the encryption context that
	// Decrypt needs. Both are empty for a destroyed key, which has no ciphertext.
	KeyARN  string            `json:"keyArn,omitempty"`
	Context map[string]string `json:"context,omitempty"`
}

// Describe makes the bundle's form of a wrap. One that cannot be read stays in, as it
// is: a damaged wrap must not keep the others back.
func Describe(d keys.DeploymentID, host keys.HostID, w agentlink.EscrowedWrap) Wrap {
	out := Wrap{EscrowedWrap: w, Host: host}
	if len(w.Wrapped) == 0 {
		return out
	}
	var e envelope.Wrapped
	if e.UnmarshalBinary(w.Wrapped) == nil {
		out.KeyARN = e.KeyARN
	}
	out.Context = keys.Context{Deployment: d, Project: w.Project, Cluster: w.Cluster, Node: w.Node, Purpose: w.Purpose, Key: w.Key}.Map()
	return out
}

// Sign makes a bundle, with a new key that link certifies.
func Sign(p Payload, link *pki.Authority, now time.Time) (Bundle, error) {
	signer, cert, err := link.Signer(Signer, now)
	if err != nil {
		return Bundle{}, fmt.Errorf("sign bundle: %w", err)
	}
	b := Bundle{Format: Format, Version: Version, Certificate: string(cert)}
	if b.Payload, err = json.Marshal(p); err != nil {
		return Bundle{}, fmt.Errorf("encode bundle: %w", err)
	}
	sum := digest(b.Payload)
	if b.Signature, err = ecdsa.SignASN1(rand.Reader, signer, sum[:]); err != nil {
		return Bundle{}, fmt.Errorf("sign bundle: %w", err)
	}
	return b, nil
}

func digest(payload []byte) [32]byte { return sha256.Sum256(append([]byte(prefix), payload...)) }

// Open reads a bundle and checks that the control plane whose link authority is
// linkCA (PEM) made it. A bundle does not grow old: its certificate is judged as of
// when it was made. Errors: ErrNewer, ErrDamaged, ErrSignature.
func Open(raw []byte, linkCA []byte) (Payload, error) {
	var b Bundle
	var p Payload
	if len(raw) > MaxSize {
		return p, fmt.Errorf("%w: it has more than %d bytes", ErrDamaged, MaxSize)
	}
	if err := json.Unmarshal(raw, &b); err != nil || b.Format != Format || b.Version < 1 {
		return p, ErrDamaged
	}
	if b.Version > Version {
		return p, fmt.Errorf("%w: version %d, this one reads up to %d", ErrNewer, b.Version, Version)
	}
	roots, err := pki.Pool(pki.KindLink, linkCA)
	if err != nil {
		return p, fmt.Errorf("read bundle: %w", err)
	}
	cert, err := pki.ParseCertificate([]byte(b.Certificate))
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := pki.Verify(pki.KindLink, roots, cert, pki.AsClient, cert.NotBefore); err != nil {
		return p, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	sum := digest(b.Payload)
	if !ok || cert.Subject.CommonName != Signer || !ecdsa.VerifyASN1(pub, sum[:], b.Signature) {
		return p, ErrSignature
	}
	if err := json.Unmarshal(b.Payload, &p); err != nil {
		return p, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return p, nil
}
