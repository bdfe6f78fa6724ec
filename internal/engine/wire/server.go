package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Handler makes a session for each new connection.
type Handler interface {
	Open(ConnInfo) Session
}

// ConnInfo is what is known about a connection when it is accepted.
type ConnInfo struct {
	// ID numbers the connections of a process from 1.
	ID int32
	// Remote and Local are the two ends.
	Remote, Local net.Addr
	// TLS is nil on a plain connection.
	TLS *tls.ConnectionState
}

// Loopback tells whether the peer is on this machine.
func (c ConnInfo) Loopback() bool {
	tcp, ok := c.Remote.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// Session serves the requests of one connection, one at a time.
type Session interface {
	// Handle carries out one request and calls reply once for each answer, with
	// more set on all but the last; reply itself drops answers that the client
	// does not want. ctx ends when the client is gone. An error closes the
	// connection.
	Handle(ctx context.Context, req *Request, reply Reply) error
	// Trusted tells whether the peer has logged in, which allows it full-size
	// messages. It may be called at the same time as Handle.
	Trusted() bool
	// Close ends the session; no call follows.
	Close()
}

// Reply sends one answer. The document is copied before it returns. Answers to
// an old OP_QUERY cannot have more.
type Reply func(doc bson.Raw, more bool) error

// ServerConfig says how a Server listens. Zero limits take their defaults.
type ServerConfig struct {
	Handler Handler
	Mode    TLSMode
	// Certificates are needed unless Mode is TLSDisabled.
	Certificates *Certificates
	Logger       *slog.Logger
	// MaxConnections bounds open connections (4096).
	MaxConnections int
	// HandshakeTimeout bounds TLS and the wait for the first request (15 s).
	HandshakeTimeout time.Duration
	// MessageTimeout bounds one message from its first byte to its last, and
	// the sending of one reply (2 min).
	MessageTimeout time.Duration
	// AnonymousIdle closes a connection that is not logged in and asks nothing
	// (10 min; drivers' monitors ask every 10 s).
	AnonymousIdle time.Duration
}

// Server accepts connections and serves each with a session of its handler.
type Server struct {
	cfg    ServerConfig
	slots  chan struct{}
	lastID atomic.Int32
	wg     sync.WaitGroup

	ctx    context.Context // ends when sessions must stop
	cancel context.CancelFunc

	mu        sync.Mutex
	closing   bool
	listeners []net.Listener
	conns     map[*conn]struct{}
}

// NewServer makes a server; Serve starts it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 4096
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 15 * time.Second
	}
	if cfg.MessageTimeout == 0 {
		cfg.MessageTimeout = 2 * time.Minute
	}
	if cfg.AnonymousIdle == 0 {
		cfg.AnonymousIdle = 10 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, slots: make(chan struct{}, cfg.MaxConnections), conns: map[*conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Connections is the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Serve accepts connections until Shutdown, after which it returns nil. It may
// be called for several listeners at the same time, and closes its listener.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ln.Close()
	}
	s.listeners = append(s.listeners, ln)
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer func() { _ = ln.Close() }()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.cfg.Logger.Warn("accepting a connection failed", "error", err)
			select { // out of descriptors, most likely: let others close first
			case <-time.After(50 * time.Millisecond):
				continue
			case <-s.ctx.Done():
				return nil
			}
		}
		select {
		case s.slots <- struct{}{}:
			s.start(nc)
		default:
			s.cfg.Logger.Warn("connection refused, too many are open", "limit", s.cfg.MaxConnections)
			_ = nc.Close()
		}
	}
}

func (s *Server) start(nc net.Conn) {
	c := &conn{server: s, id: s.lastID.Add(1), raw: nc}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		c.cancel()
		_ = nc.Close()
		<-s.slots
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// Shutdown stops accepting, lets each connection finish the request in hand,
// and closes it. When ctx ends first, the requests' contexts are cancelled and
// the connections cut. It returns when all goroutines of the server have ended.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for _, ln := range s.listeners {
		_ = ln.Close()
	}
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}
