package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSMode says which connections a port accepts, in mongod's words.
type TLSMode string

// The modes. Allow and prefer differ only in what a node uses towards others.
const (
	TLSDisabled TLSMode = "disabled"
	TLSAllow    TLSMode = "allowTLS"
	TLSPrefer   TLSMode = "preferTLS"
	TLSRequire  TLSMode = "requireTLS"
)

// Valid tells whether the mode is one of the four.
func (m TLSMode) Valid() bool {
	switch m {
	case TLSDisabled, TLSAllow, TLSPrefer, TLSRequire:
		return true
	}
	return false
}

// RaftProtocol is the ALPN name that replication between nodes will use on the
// same port. It is reserved: database clients send no ALPN.
const RaftProtocol = "keywright-raft/1"

// TLSFiles names the files of a node's TLS identity.
type TLSFiles struct {
	// CertificateKey holds the certificate chain and its private key, PEM.
	CertificateKey string
	// CA holds the authorities that client certificates must come from; without
	// it no client certificate is asked for. A client that shows none is let in:
	// logins are by SCRAM.
	CA string
}

// Certificates serves a TLS configuration from files and picks up new ones
// without a restart: a handshake at least recheck after the last look reads the
// files again if their modification times or sizes changed. Files that do not
// load are reported and the ones before stay in use. Safe for concurrent use.
type Certificates struct {
	files TLSFiles
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Config
	stamp   string
	looked  time.Time
}

const recheck = time.Second

// LoadCertificates reads the files once; the error names the file at fault.
func LoadCertificates(files TLSFiles, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{files: files, log: log, looked: time.Now()}
	stamp, err := c.stat()
	if err != nil {
		return nil, err
	}
	if c.current, err = c.load(); err != nil {
		return nil, err
	}
	c.stamp = stamp
	return c, nil
}

// Config gives the configuration for tls.Server.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.fresh(time.Now()), nil
		},
	}
}

func (c *Certificates) fresh(now time.Time) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < recheck {
		return c.current
	}
	c.looked = now
	stamp, err := c.stat()
	if err == nil && stamp == c.stamp {
		return c.current
	}
	var next *tls.Config
	if err == nil {
		next, err = c.load()
	}
	if err != nil {
		c.log.Warn("keeping the TLS certificate in use, the new files do not load", "error", err)
		return c.current
	}
	c.current, c.stamp = next, stamp
	c.log.Info("TLS certificate reloaded")
	return c.current
}

func (c *Certificates) stat() (string, error) {
	stamp := ""
	for _, name := range []string{c.files.CertificateKey, c.files.CA} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return "", fmt.Errorf("read TLS file: %w", err)
		}
		stamp += fmt.Sprintf("%d/%d;", info.ModTime().UnixNano(), info.Size())
	}
	return stamp, nil
}

func (c *Certificates) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.files.CertificateKey, c.files.CertificateKey)
	if err != nil {
		return nil, fmt.Errorf("load TLS certificate and key from %s: %w", c.files.CertificateKey, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.files.CA == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(c.files.CA)
	if err != nil {
		return nil, fmt.Errorf("read TLS authorities: %w", err)
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load TLS authorities from %s: %w", c.files.CA, errors.New("no certificate in it"))
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	return cfg, nil
}
