package kmip

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/pki"
)

// Server is a KMIP server. Make one with NewServer.
type Server struct {
	cfg      Config
	limits   Limits
	log      *slog.Logger
	now      func() time.Time
	tls      *tls.Config
	listener net.Listener
	rates    *rates
	creating nodeLocks
	conns    conns
	wg       sync.WaitGroup // one per connection
}

// NewServer checks the configuration and begins to listen. Nothing is accepted
// before Serve.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.Logger, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	if s.tls, err = pki.ServerTLS(cfg.Keeper, pki.KindKMIPClient, cfg.ClientCAs, false); err != nil {
		return nil, fmt.Errorf("kmip server: %w", err)
	}
	verify := s.tls.VerifyConnection
	s.tls.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); err != nil {
			return err
		}
		if _, ok := s.admit(cs.PeerCertificates[0]); !ok {
			return errors.New("the certificate is not admitted")
		}
		return nil
	}
	s.rates = newRates(s.limits.RequestRate, s.limits.RequestBurst)
	s.conns = newConns(s.limits)
	if s.listener = cfg.Listener; s.listener == nil {
		addr := cfg.Addr
		if addr == "" {
			addr = DefaultAddress
		}
		if s.listener, err = net.Listen("tcp", addr); err != nil {
			return nil, fmt.Errorf("kmip server: %w", err)
		}
	}
	return s, nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close stops listening. It is for a server whose Serve is never called; Serve
// closes the listener itself.
func (s *Server) Close() error { return s.listener.Close() }

// Serve accepts connections until ctx ends, then lets requests that are being
// executed finish, waits for every connection, and returns nil. It returns an
// error if the listener fails.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = s.listener.Close()
		s.conns.drain()
	})
	defer stop()
	defer s.wg.Wait()
	defer func() { _ = s.listener.Close() }()
	// Requests outlive ctx by their own deadline: a key that is being made when
	// the agent stops is still answered.
	base := context.WithoutCancel(ctx)
	var backoff time.Duration
	for {
		raw, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				s.conns.drain()
				return fmt.Errorf("kmip server: accept: %w", err)
			}
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			s.log.ErrorContext(ctx, "kmip connection could not be accepted", "error", err, "retry_in", backoff.String())
			select {
			case <-ctx.Done():
			case <-time.After(backoff):
			}
			continue
		}
		backoff = 0
		// Entered here, in the order of arrival, so that the oldest is the oldest.
		place, ok := s.conns.enter(raw)
		if !ok {
			_ = raw.Close()
			continue
		}
		s.wg.Go(func() { s.serveConn(base, raw, place) })
	}
}

// admit maps a verified certificate to its principal.
func (s *Server) admit(cert *x509.Certificate) (Principal, bool) {
	fp := pki.Fingerprint(cert.Raw)
	p, ok := s.cfg.Admission.Admit(fp)
	p.Fingerprint = fp
	return p, ok
}

// temporary tells whether Accept may work again later: out of descriptors, or a
// connection that was gone before it was accepted.
func temporary(err error) bool {
	return !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF)
}
