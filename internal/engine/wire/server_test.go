package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// echo answers every request with its own body; "wait" waits for the client to go.
type echo struct{ gone chan struct{} }

func (e echo) Open(ConnInfo) Session { return e }
func (e echo) Trusted() bool         { return false }
func (e echo) Close()                {}

func (e echo) Handle(ctx context.Context, req *Request, reply Reply) error {
	switch req.Body.Index(0).Key() {
	case "wait":
		<-ctx.Done()
		close(e.gone)
		return ctx.Err()
	case "panic":
		panic("a fault")
	}
	return reply(req.Body, false)
}

func serve(t *testing.T, cfg ServerConfig) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Mode = TLSDisabled
	s := NewServer(cfg)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// closed tells whether the peer closes the connection without a word.
func closed(t *testing.T, c net.Conn) bool {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	var timeout net.Error
	return n == 0 && err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

func ask(t *testing.T, c net.Conn, m []byte) {
	t.Helper()
	if _, err := c.Write(m); err != nil {
		t.Fatal(err)
	}
}

func TestServerAnswersInOrder(t *testing.T) {
	_, addr := serve(t, ServerConfig{Handler: echo{}})
	c := dial(t, addr)
	a, b := raw(t, bson.D{{Key: "a", Value: 1}}), raw(t, bson.D{{Key: "b", Value: 2}})
	ask(t, c, append(append(msg(0, kind0(a)), msg(flagMoreToCome, kind0(a))...), query("admin.$cmd", b)...))
	first := make([]byte, headerSize+5+len(a))
	if _, err := io.ReadFull(c, first); err != nil || !bytes.HasSuffix(first, a) {
		t.Errorf("first answer: %x, %v", first, err)
	}
	second := make([]byte, headerSize+20+len(b))
	if _, err := io.ReadFull(c, second); err != nil || !bytes.HasSuffix(second, b) || parseHeader(second).code != opReply {
		t.Errorf("second answer: %x, %v", second, err)
	}
}

func TestServerClosesWhatIsNotInStep(t *testing.T) {
	_, addr := serve(t, ServerConfig{Handler: echo{}})
	for name, m := range map[string][]byte{
		"garbage": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "compressed": frame(opCompressed, make([]byte, 9)), "a fault": msg(0, kind0(raw(t, bson.D{{Key: "panic", Value: 1}}))),
		"TLS": {0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5},
	} {
		c := dial(t, addr)
		ask(t, c, m)
		if !closed(t, c) {
			t.Errorf("%s: the connection stays open", name)
		}
	}
}

func TestServerLimitsConnectionsAndPatience(t *testing.T) {
	s, addr := serve(t, ServerConfig{Handler: echo{}, MaxConnections: 1, HandshakeTimeout: 50 * time.Millisecond})
	silent := dial(t, addr)
	for s.Connections() == 0 {
		time.Sleep(time.Millisecond)
	}
	if !closed(t, dial(t, addr)) {
		t.Error("one connection too many")
	}
	if !closed(t, silent) {
		t.Error("a silent connection stays open")
	}
}

func TestServerTellsTheSessionThatTheClientIsGone(t *testing.T) {
	e := echo{gone: make(chan struct{})}
	_, addr := serve(t, ServerConfig{Handler: e})
	c := dial(t, addr)
	ask(t, c, msg(0, kind0(raw(t, bson.D{{Key: "wait", Value: 1}}))))
	_ = c.Close()
	select {
	case <-e.gone:
	case <-time.After(60 * time.Second):
		t.Error("the request goes on")
	}
}
