package keysource_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/engine/keysource"
	"github.com/keywright/keywright/internal/keys"
)

const id = keys.KeyID("kw-0123456789abcdef0123456789abcdef")

// The tests write TTLV by hand (KMIP 1.4, section 9.1).
func item(tag int, kind byte, value []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{0x42, byte(tag >> 8), byte(tag), kind}, uint32(len(value)))
	out = append(out, value...)
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

func structure(tag int, children ...[]byte) []byte {
	var v []byte
	for _, c := range children {
		v = append(v, c...)
	}
	return item(tag, 1, v)
}

func integer(tag, v int) []byte { return item(tag, 2, binary.BigEndian.AppendUint32(nil, uint32(v))) }
func enum(tag, v int) []byte    { return item(tag, 5, binary.BigEndian.AppendUint32(nil, uint32(v))) }
func text(tag int, v string) []byte {
	return item(tag, 7, []byte(v))
}

func response(items ...[]byte) []byte {
	header := structure(0x7A, structure(0x69, integer(0x6A, 1), integer(0x6B, 0)), item(0x92, 9, make([]byte, 8)), integer(0x0D, len(items)))
	return structure(0x7B, append([][]byte{header}, items...)...)
}

func done(op int, payload ...[]byte) []byte {
	return structure(0x0F, enum(0x5C, op), enum(0x7F, 0), structure(0x7C, payload...))
}

func failure(op, reason int, said string) []byte {
	return structure(0x0F, enum(0x5C, op), enum(0x7F, 1), enum(0x7E, reason), text(0x7D, said))
}

func key(format int, material []byte) []byte {
	return structure(0x8F, structure(0x40, enum(0x42, format), structure(0x45, item(0x43, 8, material)), enum(0x28, 3), integer(0x2A, 8*len(material))))
}

// script is a server that gives one answer to each request and keeps what was
// asked. An empty answer is silence.
type script struct {
	addr     *net.TCPAddr
	files    struct{ ca, client string }
	requests chan []byte
	closed   atomic.Int32 // connections that the client ended with close_notify
}

func serve(t *testing.T, answers ...[]byte) *script {
	t.Helper()
	s := &script{requests: make(chan []byte, 100)}
	dir := t.TempDir()
	cert, certPEM, keyPEM := selfSigned(t)
	s.files.ca, s.files.client = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem")
	for path, b := range map[string][]byte{s.files.ca: certPEM, s.files.client: append(keyPEM, certPEM...)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().(*net.TCPAddr)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		next := 0
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			next = s.talk(conn, answers, next)
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-ended })
	return s
}

// talk serves one connection and gives the index of the next answer.
func (s *script) talk(conn net.Conn, answers [][]byte, next int) int {
	defer func() { _ = conn.Close() }()
	for {
		var head [8]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				s.closed.Add(1)
			}
			return next
		}
		body := make([]byte, binary.BigEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return next
		}
		s.requests <- append(head[:], body...)
		if next >= len(answers) {
			return next
		}
		answer := answers[next]
		next++
		if _, err := conn.Write(answer); err != nil {
			return next
		}
	}
}

func (s *script) client(t *testing.T, change func(*keysource.Config)) *keysource.Client {
	t.Helper()
	cfg := keysource.Config{ServerNames: []string{"127.0.0.1"}, Port: s.addr.Port, ClientCertificateFile: s.files.client, ServerCAFile: s.files.ca}
	if change != nil {
		change(&cfg)
	}
	c, err := keysource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func selfSigned(t *testing.T) (cert tls.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, certPEM, keyPEM
}

func TestGetTakesOnlyAGoodAnswer(t *testing.T) {
	good := make([]byte, 32)
	get := func(id string, object []byte) []byte {
		return response(done(0x0A, enum(0x57, 2), text(0x94, id), object))
	}
	deep := []byte{}
	for range 100 {
		deep = structure(0x79, deep)
	}
	for name, c := range map[string]struct {
		answer []byte
		want   error // nil: success; errors.ErrUnsupported: any that is none of ours
	}{
		"good":             {get(string(id), key(1, good)), nil},
		"not found":        {response(failure(0x0A, 1, "gone")), keysource.ErrNotFound},
		"denied":           {response(failure(0x0A, 12, "no")), keysource.ErrDenied},
		"general failure":  {response(failure(0x0A, 0x100, "later")), keysource.ErrUnavailable},
		"invalid field":    {response(failure(0x0A, 7, "what")), errors.ErrUnsupported},
		"not found of 2.0": {response(failure(0x0A, 0x37, "gone")), errors.ErrUnsupported},
		"another key":      {get("kw-ffffffffffffffffffffffffffffffff", key(1, good)), errors.ErrUnsupported},
		"31 bytes":         {get(string(id), key(1, good[:31])), errors.ErrUnsupported},
		"opaque":           {get(string(id), key(2, good)), errors.ErrUnsupported},
		"no key":           {get(string(id), nil), errors.ErrUnsupported},
		"another answer":   {response(done(0x12, text(0x94, string(id)))), errors.ErrUnsupported},
		"two items":        {response(failure(0x0A, 1, "x"), failure(0x0A, 1, "x")), errors.ErrUnsupported},
		"no item":          {response(), errors.ErrUnsupported},
		"no message":       {structure(0x78), errors.ErrUnsupported},
		"integer of 0":     {structure(0x7B, structure(0x7A, structure(0x69, item(0x6A, 2, nil), item(0x6B, 2, nil)))), errors.ErrUnsupported},
		"deep":             {structure(0x7B, deep), errors.ErrUnsupported},
		"over 8 KiB":       {get(string(id), item(0x94, 8, make([]byte, 8192))), errors.ErrUnsupported},
		"claims 4 GB":      {[]byte{0x42, 0, 0x7B, 1, 0xff, 0xff, 0xff, 0xff}, errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.answer)
			got, err := s.client(t, nil).Get(t.Context(), id)
			ours := errors.Is(err, keysource.ErrNotFound) || errors.Is(err, keysource.ErrDenied) || errors.Is(err, keysource.ErrUnavailable)
			switch {
			case c.want == nil && (err != nil || got.Len() != 32):
				t.Error(err)
			case errors.Is(c.want, errors.ErrUnsupported) && (err == nil || ours):
				t.Errorf("%v", err)
			case c.want != nil && !errors.Is(c.want, errors.ErrUnsupported) && !errors.Is(err, c.want):
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && (got.Len() != 0 || len(err.Error()) > 500) {
				t.Error("a key together with an error, or a long text")
			}
		})
	}
}

func TestStateNeedsAState(t *testing.T) {
	state := func(v []byte) []byte {
		return response(done(0x0B, text(0x94, string(id)), structure(0x08, text(0x0A, "State"), v)))
	}
	for name, c := range map[string]struct {
		answer []byte
		want   keys.State
	}{
		"active":      {state(enum(0x0B, 2)), keys.StateActive},
		"with index":  {response(done(0x0B, text(0x94, string(id)), structure(0x08, text(0x0A, "State"), integer(0x09, 0), enum(0x0B, 3)))), keys.StateDeactivated},
		"unknown":     {state(enum(0x0B, 99)), ""},
		"none":        {response(done(0x0B, text(0x94, string(id)))), ""},
		"another key": {response(done(0x0B, text(0x94, "1"), structure(0x08, text(0x0A, "State"), enum(0x0B, 2)))), ""},
	} {
		s := serve(t, c.answer)
		got, err := s.client(t, nil).State(t.Context(), id)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestCreateIsOneConnectionWithTwoRequests(t *testing.T) {
	s := serve(t, response(done(1, enum(0x57, 2), text(0x94, string(id)))), response(done(0x12, text(0x94, string(id)))))
	got, err := s.client(t, nil).Create(t.Context())
	if err != nil || got != id {
		t.Fatal(got, err)
	}
	for i, op := range []byte{0x01, 0x12} {
		request := <-s.requests
		// KMIP 1.0, Maximum Response Size 8192, one item with this operation.
		for _, part := range [][]byte{structure(0x69, integer(0x6A, 1), integer(0x6B, 0)), integer(0x50, 8192), integer(0x0D, 1), enum(0x5C, int(op))} {
			if !strings.Contains(string(request), string(part)) {
				t.Errorf("request %d lacks %x", i, part)
			}
		}
	}
	for end := time.Now().Add(60 * time.Second); s.closed.Load() != 1; {
		if time.Now().After(end) {
			t.Fatalf("%d connections ended properly", s.closed.Load())
		}
		time.Sleep(time.Millisecond)
	}
	long := serve(t, response(done(1, enum(0x57, 2), text(0x94, strings.Repeat("x", 41)))))
	if _, err := long.client(t, nil).Create(t.Context()); err == nil {
		t.Error("an identifier of 41 bytes was taken")
	}
}

func TestSilenceEndsInTime(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deaf.Close() }()
	s := serve(t)
	for name, port := range map[string]int{"no TLS": deaf.Addr().(*net.TCPAddr).Port, "no answer": s.addr.Port} {
		c := s.client(t, func(c *keysource.Config) { c.Port, c.ConnectTimeout, c.ConnectRetries = port, 50*time.Millisecond, 1 })
		if _, err := c.Get(t.Context(), id); !errors.Is(err, keysource.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := s.client(t, func(c *keysource.Config) { c.ConnectRetries = 1 << 30 })
	if _, err := c.Get(ctx, id); !errors.Is(err, keysource.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	good := keysource.Config{ServerNames: []string{"127.0.0.1"}, ClientCertificateFile: "c", ServerCAFile: "a"}
	if _, err := keysource.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*keysource.Config){
		"no server":     func(c *keysource.Config) { c.ServerNames = nil },
		"empty server":  func(c *keysource.Config) { c.ServerNames = []string{""} },
		"no client":     func(c *keysource.Config) { c.ClientCertificateFile = "" },
		"no CA":         func(c *keysource.Config) { c.ServerCAFile = "" },
		"port":          func(c *keysource.Config) { c.Port = 70000 },
		"fewer than no": func(c *keysource.Config) { c.ConnectRetries = -1 },
	} {
		bad := good
		change(&bad)
		if _, err := keysource.New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s := serve(t)
	for name, change := range map[string]func(*keysource.Config){
		"missing certificate": func(c *keysource.Config) { c.ClientCertificateFile += ".no" },
		"missing CA":          func(c *keysource.Config) { c.ServerCAFile += ".no" },
		"CA of nothing":       func(c *keysource.Config) { c.ServerCAFile = emptyFile(t) },
	} {
		_, err := s.client(t, change).Get(t.Context(), id)
		if err == nil || errors.Is(err, keysource.ErrUnavailable) || errors.Is(err, keysource.ErrNotFound) {
			t.Errorf("%s: %v", name, err) // waiting would not help
		}
	}
}

func emptyFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
