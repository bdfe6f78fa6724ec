package awslocal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// HealthPath answers {"status":"ok"} to a GET without credentials.
const HealthPath = "/_awslocal/health"

const (
	maxBody        = 1 << 20
	maxHeaderBytes = 64 << 10
	maxConnections = 512
	readTimeout    = 30 * time.Second
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	shutdownGrace  = 5 * time.Second
)

// Config says where a local AWS keeps its state and listens.
type Config struct {
	// DataDir is made (0700) if it is missing. One server at a time holds it.
	DataDir string
	// Listen is a loopback address such as 127.0.0.1:4566; port 0 means any
	// free port. Anything but loopback is refused.
	Listen string
	// Control opens the control path (see Control): delays, faults and moved time,
	// for tests and the console. Who may call it is who can read ControlTokenFile.
	Control bool
	// Logger gets the server's own log; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now. A test moves time with it.
	Now func() time.Time
}

// Server is a local AWS. It is an http.Handler; all methods may be called from
// several goroutines.
type Server struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	ln   net.Listener
	seed Seed

	store   *store
	control *control // nil unless Config.Control
	calls   *callLog
	kms     map[string]kmsOperation
	sts     map[string]queryOperation
	iam     map[string]queryOperation

	closeOnce sync.Once
	closeErr  error
}

// Open reads the state of cfg.DataDir, making it on the first start, and
// listens. The caller ends it with Serve's context or with Close.
func Open(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Logger, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := checkLoopback(cfg.Listen); err != nil {
		return nil, err
	}
	s.kms, s.sts, s.iam = kmsOperations(), stsOperations(), iamOperations()
	if err := s.openData(); err != nil {
		return nil, fmt.Errorf("open local AWS: %w", err)
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open local AWS: listen: %w", err), s.calls.close(), s.store.close())
	}
	s.ln = newLimitListener(ln, maxConnections)
	return s, nil
}

// openData opens everything below the data directory.
func (s *Server) openData() (err error) {
	if s.cfg.DataDir == "" {
		return errors.New("no data directory given")
	}
	if s.store, err = openStore(s.cfg.DataDir, s.now()); err != nil {
		return err
	}
	if s.seed, err = s.store.state.seedOf(); err == nil {
		err = s.store.writeSeed(s.seed)
	}
	if err == nil && s.cfg.Control {
		s.control, err = openControl(s.cfg.DataDir)
	}
	if err == nil {
		s.calls, err = openCallLog(s.cfg.DataDir)
	}
	if err != nil {
		return errors.Join(err, s.store.close())
	}
	return nil
}

// checkLoopback refuses every address that another machine could reach.
func checkLoopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("open local AWS: listen address %q: %w", listen, err)
	}
	if host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("open local AWS: listen address %q is not loopback: the local AWS keeps keys in clear and is not for production; use 127.0.0.1:PORT", listen)
	}
	return nil
}

// Addr is the address that the server listens on, host:port.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Endpoint is the URL for AWS_ENDPOINT_URL and --endpoint-url.
func (s *Server) Endpoint() string { return "http://" + s.Addr() }

// Seed gives the seeded accounts and access keys.
func (s *Server) Seed() Seed { return s.seed }

// Serve answers until ctx ends, then lets running calls finish (5 s at most)
// and closes the server. It returns nil after an orderly end.
func (s *Server) Serve(ctx context.Context) error {
	idle := newIdleConns(maxConnections / 2)
	srv := &http.Server{
		Handler:           s,
		ConnState:         idle.track,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.ln) }()
	s.log.Warn("local AWS listens; NOT FOR PRODUCTION: key material and access keys lie in clear in the data directory",
		"address", s.Addr(), "data_dir", s.cfg.DataDir)
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		if err = srv.Shutdown(stop); err != nil {
			err = srv.Close()
		}
		cancel()
		<-done //nolint:errcheck // the shutdown's own end; err has its outcome
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, s.Close())
}

// Close stops listening and gives the data directory free. Serve does it by
// itself; a second call does nothing.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		if err := s.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.closeErr = err
		}
		if err := errors.Join(s.closeErr, s.calls.close(), s.store.close()); err != nil {
			s.closeErr = fmt.Errorf("close local AWS: %w", err)
		}
	})
	return s.closeErr
}
