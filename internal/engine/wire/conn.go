package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// conn is one connection. Two goroutines serve it: a reader that is at most one
// message ahead, and so notices a client that went away during a long request,
// and run, which carries requests out in order.
type conn struct {
	server *Server
	id     int32
	raw    net.Conn
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	draining bool
	inHand   int // requests read and not yet carried out
	armed    func()

	out    net.Conn // raw, or TLS over it
	lastID int32    // of replies
	buf    []byte
}

// maxKeptBuffer is the largest reply buffer that a connection keeps.
const maxKeptBuffer = 1 << 20

func (c *conn) run() {
	defer c.cut()
	defer c.cancel()
	nc, state, err := c.secure()
	if err != nil {
		c.server.cfg.Logger.Debug("connection refused", "connection", c.id, "remote", c.raw.RemoteAddr().String(), "error", err)
		return
	}
	c.out = nc
	session := c.server.cfg.Handler.Open(ConnInfo{ID: c.id, Remote: c.raw.RemoteAddr(), Local: c.raw.LocalAddr(), TLS: state})
	defer session.Close()

	requests := make(chan *Request)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(requests)
		defer c.cancel()
		if err := c.read(nc, session, requests); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			c.server.cfg.Logger.Debug("connection ended", "connection", c.id, "error", err)
		}
	})
	defer reader.Wait()
	defer c.cut() // before the wait, so that the reader ends
	for req := range requests {
		err := c.handle(session, req)
		if err != nil {
			c.server.cfg.Logger.Debug("connection closed", "connection", c.id, "error", err)
			return
		}
		if c.end() {
			return
		}
	}
}

// secure applies the TLS mode by the first byte that the client sends.
func (c *conn) secure() (net.Conn, *tls.ConnectionState, error) {
	cfg := &c.server.cfg
	if err := c.raw.SetDeadline(time.Now().Add(cfg.HandshakeTimeout)); err != nil {
		return nil, nil, err
	}
	peeked := &peekConn{Conn: c.raw, r: bufio.NewReaderSize(c.raw, 16<<10)}
	first, err := peeked.r.Peek(1)
	if err != nil {
		return nil, nil, err
	}
	// A TLS record begins 0x16, 3, 0-4. A plain message that began so would be at
	// least 66,326 bytes long, more than a first message may be.
	isTLS := false
	if first[0] == 0x16 {
		if head, err := peeked.r.Peek(3); err == nil {
			isTLS = head[1] == 3 && head[2] > 0 && head[2] <= 4
		}
	}
	switch {
	case isTLS && cfg.Mode == TLSDisabled:
		return nil, nil, errors.New("TLS is disabled here")
	case !isTLS && cfg.Mode == TLSRequire:
		return nil, nil, errors.New("the client must use TLS")
	case !isTLS:
		return peeked, nil, c.raw.SetDeadline(time.Time{})
	}
	tc := tls.Server(peeked, cfg.Certificates.Config())
	if err := tc.HandshakeContext(c.ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS handshake: %w", err)
	}
	state := tc.ConnectionState()
	return tc, &state, c.raw.SetDeadline(time.Time{})
}

// peekConn reads through a buffer.
type peekConn struct {
	net.Conn
	r *bufio.Reader
}

func (p *peekConn) Read(b []byte) (int, error) { return p.r.Read(b) }

func (c *conn) read(nc net.Conn, session Session, out chan<- *Request) error {
	cfg := &c.server.cfg
	limit := func() int {
		if session.Trusted() {
			return MaxMessageSize
		}
		return MaxAnonymousSize
	}
	begun := func() { _ = nc.SetReadDeadline(time.Now().Add(cfg.MessageTimeout)) }
	r := bufio.NewReaderSize(nc, 16<<10)
	wait := cfg.HandshakeTimeout
	for {
		c.arm(nc, session, wait)
		req, err := readMessage(r, limit, begun)
		if err != nil {
			return err
		}
		wait = cfg.AnonymousIdle
		if !c.begin() {
			return nil
		}
		select {
		case out <- req:
		case <-c.ctx.Done():
			return nil
		}
	}
}

// arm sets the deadline for the next message. While a request is in hand the
// clock does not run: end starts it.
func (c *conn) arm(nc net.Conn, session Session, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := func() {
		var deadline time.Time // none for those who have logged in
		if !session.Trusted() {
			deadline = time.Now().Add(wait)
		}
		_ = nc.SetReadDeadline(deadline)
	}
	if c.inHand > 0 {
		_ = nc.SetReadDeadline(time.Time{})
		c.armed = start
		return
	}
	c.armed = nil
	start()
}

// begin counts a request that was read, unless the connection is to close.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	c.inHand++
	c.armed = nil
	return true
}

// end tells whether the connection must close now.
func (c *conn) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inHand--
	if c.armed != nil && c.inHand == 0 {
		c.armed()
		c.armed = nil
	}
	return c.draining && c.inHand == 0
}

// drain closes the connection as soon as it carries out no request.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.inHand == 0 {
		_ = c.raw.Close()
	}
}

func (c *conn) cut() { _ = c.raw.Close() }

// handle turns a panic into a closed connection: one client's request must not
// take the others down.
func (c *conn) handle(session Session, req *Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.cfg.Logger.Error("request failed unexpectedly", "connection", c.id, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = errors.New("internal failure")
		}
	}()
	to := req.ID
	return session.Handle(c.ctx, req, func(doc bson.Raw, more bool) error {
		if req.NoReply {
			return nil
		}
		if more && !req.Exhaust {
			return errors.New("several replies to a request that permits one")
		}
		c.lastID++
		c.buf = appendReply(c.buf[:0], req.Legacy, c.lastID, to, doc, more)
		to = c.lastID
		if err := c.raw.SetWriteDeadline(time.Now().Add(c.server.cfg.MessageTimeout)); err != nil {
			return err
		}
		_, err := c.out.Write(c.buf)
		if cap(c.buf) > maxKeptBuffer {
			c.buf = nil
		}
		return err
	})
}
