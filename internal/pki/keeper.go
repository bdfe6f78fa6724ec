package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/internal/secret"
)

const (
	retryMin = time.Second
	retryMax = 5 * time.Minute
	// recheck bounds how long the loop sleeps at once, so that a suspended
	// machine or a stepped clock cannot make it miss the renewal.
	recheck = time.Hour
)

// Signer turns a certificate request into a certificate: the control plane over
// the agent link, or an Authority in the same process.
type Signer interface {
	Sign(ctx context.Context, csrPEM []byte) (certPEM []byte, err error)
}

// SignerFunc makes a function a Signer.
type SignerFunc func(ctx context.Context, csrPEM []byte) ([]byte, error)

// Sign calls f.
func (f SignerFunc) Sign(ctx context.Context, csrPEM []byte) ([]byte, error) { return f(ctx, csrPEM) }

// KeeperConfig says what a Keeper keeps.
type KeeperConfig struct {
	// Kind and CAs (PEM) are what every certificate must verify against, Use
	// what it must be good for.
	Kind Kind
	CAs  []byte
	Use  Use
	// File holds private key and certificate in one PEM file of mode 0600 (see
	// WriteCombined): one file, so that a crash never separates the two.
	File string
	// CertificateFile, if not empty, gets a copy of the certificate alone.
	CertificateFile string
	// SendCA makes GetCertificate send the authority's certificate along, for
	// clients that have pinned it.
	SendCA bool
	// Signer signs the requests.
	Signer Signer
	// BeforeInstall, if set, is called with a new certificate before it is put
	// to use; an error keeps the old one and the renewal is tried again. An agent
	// waits here until the desired state names the new fingerprint.
	BeforeInstall func(ctx context.Context, leaf *x509.Certificate) error
	// OnInstall, if set, is called after a new certificate is in use.
	OnInstall func(leaf *x509.Certificate)
	// Logger gets renewals and failures; nil: none.
	Logger *slog.Logger
}

// Keeper keeps one leaf certificate with its key on disk and renews it. Its
// methods are safe for concurrent use; Run has one caller.
type Keeper struct {
	cfg     KeeperConfig
	pool    *x509.CertPool
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
	renewal sync.Mutex // one renewal at a time
}

// OpenKeeper loads the leaf from disk, or has a first one signed. A leaf that
// is missing, damaged, expired or of another authority is replaced; one that is
// merely due is used and renewed by Run.
func OpenKeeper(ctx context.Context, cfg KeeperConfig) (*Keeper, error) {
	pool, err := Pool(cfg.Kind, cfg.CAs)
	if err != nil {
		return nil, fmt.Errorf("open certificate: %w", err)
	}
	k := &Keeper{cfg: cfg, pool: pool, log: cfg.Logger}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	switch cert, err := k.load(); {
	case err == nil:
		k.current.Store(cert)
		return k, k.writeCopy(cert.Leaf)
	case !errors.Is(err, fs.ErrNotExist):
		k.log.WarnContext(ctx, "certificate on disk is not usable, asking for a new one", "kind", cfg.Kind, "error", err)
	}
	if err := k.Renew(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// Leaf is the certificate in use.
func (k *Keeper) Leaf() *x509.Certificate { return k.current.Load().Leaf }

// GetCertificate is for tls.Config of a server.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.current.Load(), nil
}

// GetClientCertificate is for tls.Config of a client.
func (k *Keeper) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return k.current.Load(), nil
}

// Run renews the certificate whenever it is due, until ctx ends; it then
// returns nil. Failures are retried after one second, doubling to five minutes.
func (k *Keeper) Run(ctx context.Context) error {
	backoff := retryMin
	for {
		wait := min(time.Until(RenewAt(k.Leaf())), recheck)
		if wait <= 0 {
			err := k.Renew(ctx)
			if err == nil {
				backoff = retryMin
				// A signer whose certificates are due at once must not spin us.
				wait = max(min(time.Until(RenewAt(k.Leaf())), recheck), retryMin)
			} else if ctx.Err() == nil {
				k.log.ErrorContext(ctx, "certificate was not renewed", "kind", k.cfg.Kind, "expires_at", k.Leaf().NotAfter, "retry_in", backoff.String(), "error", err)
				wait, backoff = backoff, min(2*backoff, retryMax)
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// Renew makes a new key, has it signed, and puts it to use, now. On an error
// the old certificate stays.
func (k *Keeper) Renew(ctx context.Context) error {
	k.renewal.Lock()
	defer k.renewal.Unlock()
	keyPEM, csrPEM, err := NewKey()
	if err != nil {
		return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
	}
	defer keyPEM.Wipe()
	certPEM, err := k.cfg.Signer.Sign(ctx, csrPEM)
	if err != nil {
		return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
	}
	cert, err := k.assemble(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
	}
	if k.cfg.BeforeInstall != nil {
		if err := k.cfg.BeforeInstall(ctx, cert.Leaf); err != nil {
			return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
		}
	}
	if err := WriteCombined(k.cfg.File, keyPEM, encodeCertificate(cert.Leaf.Raw)); err != nil {
		return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
	}
	k.current.Store(cert)
	if err := k.writeCopy(cert.Leaf); err != nil {
		return fmt.Errorf("renew %s certificate: %w", k.cfg.Kind, err)
	}
	k.log.InfoContext(ctx, "certificate renewed", "kind", k.cfg.Kind, "fingerprint", Fingerprint(cert.Leaf.Raw), "expires_at", cert.Leaf.NotAfter)
	if k.cfg.OnInstall != nil {
		k.cfg.OnInstall(cert.Leaf)
	}
	return nil
}

// load reads and checks the file. A mode that lets others read is tightened.
func (k *Keeper) load() (*tls.Certificate, error) {
	f, err := os.Open(k.cfg.File)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Mode().Perm()&0o077 != 0 {
		k.log.Warn("private key file was readable for others, tightened", "path", k.cfg.File)
		if err := f.Chmod(0o600); err != nil {
			return nil, fmt.Errorf("tighten private key file: %w", err)
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	text := secret.New(raw)
	defer text.Wipe()
	return k.assemble(text.Reveal(), text)
}

// assemble checks a certificate against authority, kind, use, time and key.
func (k *Keeper) assemble(certPEM []byte, keyPEM secret.Bytes) (*tls.Certificate, error) {
	leaf, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !samePublic(leaf.PublicKey, key.Public()) {
		return nil, errors.New("the certificate is not for this key")
	}
	if err := Verify(k.cfg.Kind, k.pool, leaf, k.cfg.Use, time.Now()); err != nil {
		return nil, err
	}
	out := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	if k.cfg.SendCA {
		out.Certificate = append(out.Certificate, issuer(k.cfg.CAs, leaf))
	}
	return out, nil
}

// issuer finds the authority that signed a leaf, which has been verified.
func issuer(caPEM []byte, leaf *x509.Certificate) []byte {
	for {
		der, rest := nextCertificate(caPEM)
		if der == nil {
			return nil
		}
		if ca, err := x509.ParseCertificate(der); err == nil && leaf.CheckSignatureFrom(ca) == nil {
			return der
		}
		caPEM = rest
	}
}

func (k *Keeper) writeCopy(leaf *x509.Certificate) error {
	if k.cfg.CertificateFile == "" {
		return nil
	}
	return WriteCertificates(k.cfg.CertificateFile, encodeCertificate(leaf.Raw))
}
