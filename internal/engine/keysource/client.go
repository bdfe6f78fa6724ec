package keysource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// The outcomes that a caller acts on; test with errors.Is.
var (
	// ErrNotFound: the server knows no such key. Final.
	ErrNotFound = errors.New("keysource: the key does not exist")
	// ErrDenied: this node may not have that key, or not do this. Final.
	ErrDenied = errors.New("keysource: not permitted")
	// ErrUnavailable: no server could answer, or none could now. Temporary.
	ErrUnavailable = errors.New("keysource: not available now")
)

// Defaults, as mongod has them.
const (
	DefaultPort           = 5696
	DefaultConnectTimeout = 5 * time.Second
)

// maxFile bounds the PEM files.
const maxFile = 256 << 10

// Config mirrors mongod's --kmip options.
type Config struct {
	// ServerNames are host names or addresses, tried in order; each must be in
	// the certificate that its server shows. Port is one for all; 0: 5696.
	ServerNames []string
	Port        int
	// ClientCertificateFile is a PEM with private key and certificate. It is
	// read anew for every connection, so that a renewed certificate is used.
	ClientCertificateFile string
	// ServerCAFile is a PEM with the authorities that servers' certificates must
	// come from. No other authority counts.
	ServerCAFile string
	// ConnectRetries is the number of further rounds over the list.
	ConnectRetries int
	// ConnectTimeout bounds one connection with everything on it, from
	// resolving the name to the last answer; 0: five seconds.
	ConnectTimeout time.Duration
}

// Client is a KMIP client. It holds no connection and is safe for concurrent
// use.
type Client struct{ cfg Config }

// New checks the configuration. It opens neither files nor connections.
func New(cfg Config) (*Client, error) {
	switch {
	case len(cfg.ServerNames) == 0:
		return nil, errors.New("keysource: no KMIP server is named")
	case cfg.ClientCertificateFile == "":
		return nil, errors.New("keysource: a KMIP client certificate file is needed")
	case cfg.ServerCAFile == "":
		return nil, errors.New("keysource: a KMIP server CA file is needed")
	case cfg.Port < 0 || cfg.Port > 65535:
		return nil, fmt.Errorf("keysource: port %d is out of range", cfg.Port)
	case cfg.ConnectRetries < 0:
		return nil, errors.New("keysource: the number of connect retries is negative")
	}
	for _, n := range cfg.ServerNames {
		if n == "" {
			return nil, errors.New("keysource: an empty KMIP server name")
		}
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	return &Client{cfg: cfg}, nil
}

// Create has the server make a 256-bit AES key and activates it. A key whose
// activation fails on one connection is activated on the next, not made twice;
// if that fails too, an inactive key stays behind with the server.
func (c *Client) Create(ctx context.Context) (keys.KeyID, error) {
	var id keys.KeyID
	err := c.do(ctx, "create master key", func(s *session) error {
		if id == "" {
			made, err := s.create()
			if err != nil {
				return err
			}
			id = made
		}
		return s.activate(id)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// Get fetches a key of 32 bytes. The caller wipes it.
func (c *Client) Get(ctx context.Context, id keys.KeyID) (secret.Bytes, error) {
	var key secret.Bytes
	err := c.do(ctx, "get master key", func(s *session) (err error) {
		key, err = s.get(id)
		return err
	})
	return key, err
}

// State asks for the state of a key.
func (c *Client) State(ctx context.Context, id keys.KeyID) (keys.State, error) {
	var state keys.State
	err := c.do(ctx, "ask for state of master key", func(s *session) (err error) {
		state, err = s.state(id)
		return err
	})
	return state, err
}

// do runs fn on a fresh connection: to the servers in order, for as many rounds
// as are configured, until one gives an answer or ctx ends.
func (c *Client) do(ctx context.Context, what string, fn func(*session) error) error {
	cfg, err := c.tlsConfig()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var last error
	for range c.cfg.ConnectRetries + 1 {
		for _, name := range c.cfg.ServerNames {
			if last = c.attempt(ctx, cfg, name, fn); last == nil {
				return nil
			}
			last = fmt.Errorf("%s: %s: %w", what, name, last)
			if !errors.Is(last, ErrUnavailable) || ctx.Err() != nil {
				return last
			}
		}
	}
	return last
}

func (c *Client) attempt(ctx context.Context, cfg *tls.Config, name string, fn func(*session) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	cfg = cfg.Clone()
	cfg.ServerName = name
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(name, strconv.Itoa(c.cfg.Port)))
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = conn.Close() }()
	// Ends reads and writes when ctx does, cancelled or late.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return fn(&session{conn: conn})
}

func (c *Client) tlsConfig() (*tls.Config, error) {
	caPEM, err := readFile(c.cfg.ServerCAFile)
	if err != nil {
		return nil, fmt.Errorf("read KMIP server CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("read KMIP server CA file %s: no PEM certificate found", c.cfg.ServerCAFile)
	}
	pemText, err := readFile(c.cfg.ClientCertificateFile)
	if err != nil {
		return nil, fmt.Errorf("read KMIP client certificate file: %w", err)
	}
	defer clear(pemText)
	cert, err := tls.X509KeyPair(pemText, pemText)
	if err != nil {
		return nil, fmt.Errorf("read KMIP client certificate file %s: %w", c.cfg.ClientCertificateFile, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{cert}}, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // named by the operator
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }
