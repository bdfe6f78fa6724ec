package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/secret"
)

// maxPEM bounds every PEM text that comes from outside.
const maxPEM = 64 << 10

const (
	blockCertificate = "CERTIFICATE"
	blockRequest     = "CERTIFICATE REQUEST"
	blockKey         = "PRIVATE KEY"
)

// NewKey makes a private key (ECDSA P-256, PKCS#8 in PEM) and a certificate
// request for it. The key stays on the host; the request says nothing but the
// public key.
func NewKey() (keyPEM secret.Bytes, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return secret.Bytes{}, nil, fmt.Errorf("make private key: %w", err)
	}
	if keyPEM, err = marshalKey(key); err != nil {
		return secret.Bytes{}, nil, fmt.Errorf("make private key: %w", err)
	}
	if csrPEM, err = newRequest(key); err != nil {
		return secret.Bytes{}, nil, err
	}
	return keyPEM, csrPEM, nil
}

func newRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der}), nil
}

// Fingerprint is the SHA-256 of a certificate's DER in lower-case hexadecimal.
// It takes PEM (the first certificate counts) or DER.
func Fingerprint(cert []byte) string {
	der := cert
	if b := findBlock(cert, blockCertificate); b != nil {
		der = b.Bytes
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ParseCertificate reads the first certificate of a PEM text of at most 64 KiB.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	b := findBlock(certPEM, blockCertificate)
	if b == nil {
		return nil, errors.New("no PEM certificate found")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return cert, nil
}

// requestKey checks a certificate request and gives its public key.
func requestKey(csrPEM []byte) (crypto.PublicKey, error) {
	b := findBlock(csrPEM, blockRequest)
	if b == nil {
		return nil, errors.New("no PEM certificate request found")
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if !acceptableKey(csr.PublicKey) {
		return nil, errors.New("the request's key must be ECDSA P-256 or P-384, or RSA of 2048 to 4096 bits")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return csr.PublicKey, nil
}

func findBlock(text []byte, kind string) *pem.Block {
	if len(text) > maxPEM {
		return nil
	}
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return nil
		}
		if b.Type == kind {
			return b
		}
	}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der})
}

func marshalKey(key crypto.Signer) (secret.Bytes, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("marshal private key: %w", err)
	}
	defer clear(der)
	return secret.New(pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})), nil
}

// parseKey reads the PKCS#8 key of a PEM text. Its errors never quote the text.
func parseKey(keyPEM secret.Bytes) (crypto.Signer, error) {
	b := findBlock(keyPEM.Reveal(), blockKey)
	if b == nil {
		return nil, errors.New("no PKCS#8 private key found")
	}
	defer clear(b.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, errors.New("the private key is not readable PKCS#8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	return signer, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	c, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && c.Equal(b)
}

// WriteCombined writes private key and certificate into one PEM file of mode
// 0600, key first, as mongod's --tlsCertificateKeyFile and
// --kmipClientCertificateFile want it. The file is replaced atomically and is
// durable when WriteCombined returns: a reader sees the old pair or the new.
func WriteCombined(path string, keyPEM secret.Bytes, certPEM []byte) error {
	text := secret.New(bytes.Join([][]byte{keyPEM.Reveal(), certPEM}, nil))
	defer text.Wipe()
	if err := durable.WriteFile(path, text.Reveal(), 0o600); err != nil {
		return fmt.Errorf("write certificate and key: %w", err)
	}
	return nil
}

// WriteCertificates writes certificates (public) atomically and durably, mode
// 0644.
func WriteCertificates(path string, certPEM []byte) error {
	if err := durable.WriteFile(path, certPEM, 0o644); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

// nextCertificate gives the DER of the next certificate of a PEM text and what
// follows it; nil at the end.
func nextCertificate(text []byte) (der, rest []byte) {
	if len(text) > maxPEM {
		return nil, nil
	}
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return nil, nil
		}
		if b.Type == blockCertificate {
			return b.Bytes, text
		}
	}
}
