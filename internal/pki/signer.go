package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Signer makes a key for signing one document, with a certificate (PEM) of an hour's
// life under the common name. Documents are judged as of when they were signed.
func (a *Authority) Signer(name string, now time.Time) (*ecdsa.PrivateKey, []byte, error) {
	key, csr, err := NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make signer: %w", err)
	}
	defer key.Wipe()
	cert, err := a.Sign(csr, Leaf{CommonName: name, Client: true, Lifetime: time.Hour}, now)
	if err != nil {
		return nil, nil, fmt.Errorf("make signer: %w", err)
	}
	block, _ := pem.Decode(key.Reveal())
	if block == nil {
		return nil, nil, errors.New("make signer: the new key is not PEM")
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("make signer: %w", err)
	}
	signer, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, errors.New("make signer: the new key is no ECDSA key")
	}
	return signer, cert, nil
}
