package kmip_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
)

func TestStrangersAreTurnedAway(t *testing.T) {
	l := newLab(t, nil)
	otherCA, _ := authority(t, pki.KindKMIPClient)
	linkCA, _ := authority(t, pki.KindLink)
	foreign, foreignPrint := l.credentials(t, otherCA, 0)
	link, linkPrint := l.credentials(t, linkCA, 0)
	expired, expiredPrint := l.credentials(t, l.clients, time.Nanosecond)
	unknown, _ := l.credentials(t, l.clients, 0)
	for _, fp := range []string{foreignPrint, linkPrint, expiredPrint} { // a fingerprint alone opens nothing
		l.admitted.Store(fp, kmip.Principal{Node: nodeA})
	}
	for name, file := range map[string]string{
		"without certificate": "", "another authority": foreign, "a link certificate": link,
		"expired": expired, "unknown fingerprint": unknown,
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cfg := l.config(t, file)
			cfg.MinVersion, cfg.MaxVersion = version, version
			conn, err := tls.Dial("tcp", l.server.Addr().String(), cfg)
			if err == nil { // under TLS 1.3 the refusal comes with the first read
				_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
				_, err = exchange(conn, percona(opQuery, en(tagQueryFunction, 1)))
				_ = conn.Close()
			}
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(l.keys.calls) != 0 {
		t.Errorf("the key plane was asked: %v", l.keys.calls)
	}
}

func TestTakingAFingerprintOutEndsOpenConnections(t *testing.T) {
	l := newLab(t, nil)
	file, fp := l.admit(t, nodeA)
	conn := l.dial(t, l.config(t, file))
	success(t, conn, percona(opQuery, en(tagQueryFunction, 1)))
	l.admitted.Delete(fp)
	if _, err := exchange(conn, percona(opQuery, en(tagQueryFunction, 1))); !errors.Is(err, io.EOF) {
		t.Errorf("after revocation: %v", err)
	}
}

func TestSilentConnectionsDoNotKeepNodesOut(t *testing.T) {
	l := newLab(t, func(c *kmip.Config) {
		c.Limits.Handshakes = 20
		c.Limits.HandshakeTimeout = time.Hour // what helps here is the limit, not the time
		c.Limits.ConnectionsPerNode = 8
	})
	file, _ := l.admit(t, nodeA)
	var silent []net.Conn
	for range 100 {
		raw, err := net.Dial("tcp", l.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Close() }()
		silent = append(silent, raw)
	}
	waitForEnd(t, silent[0]) // the oldest had to go
	id := success(t, l.dial(t, l.config(t, file)), perconaRegister(make([]byte, 32))).get(t, tagID).text()
	half := l.dial(t, l.config(t, file)) // begins a request and says no more
	if _, err := half.Write(percona(opGet, tx(tagID, id))[:20]); err != nil {
		t.Fatal(err)
	}
	success(t, l.dial(t, l.config(t, file)), percona(opGet, tx(tagID, id)))
	// One node's connections do not count against another's.
	for range 10 {
		_, _ = tls.Dial("tcp", l.server.Addr().String(), l.config(t, file))
	}
	success(t, l.client(t, nodeB), percona(opQuery, en(tagQueryFunction, 1)))
}

func TestSlowClientsAreCutOff(t *testing.T) {
	l := newLab(t, func(c *kmip.Config) {
		c.Limits.HandshakeTimeout, c.Limits.ReadTimeout, c.Limits.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	raw, err := net.Dial("tcp", l.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	waitForEnd(t, raw)
	file, _ := l.admit(t, nodeA)
	for _, sent := range []int{0, 1, 8, 20} {
		conn := dialPatiently(t, l, file)
		_, _ = conn.Write(percona(opGet, tx(tagID, "42"))[:sent])
		waitForEnd(t, conn)
	}
}

// dialPatiently dials until a handshake fits into the short limit.
func dialPatiently(t *testing.T, l *lab, file string) *tls.Conn {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; {
		conn, err := tls.Dial("tcp", l.server.Addr().String(), l.config(t, file))
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// waitForEnd fails unless the server ends the connection.
func waitForEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection was not ended: %v", err)
	}
}

func TestCloseIsAnsweredAtOnce(t *testing.T) {
	l := newLab(t, nil)
	file, _ := l.admit(t, nodeA)
	cfg := l.config(t, file)
	raw, err := net.Dial("tcp", l.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, cfg)
	success(t, conn, percona(opQuery, en(tagQueryFunction, 1)))
	if err := conn.CloseWrite(); err != nil { // close_notify, as OpenSSL's shutdown sends it
		t.Fatal(err)
	}
	waitForEnd(t, conn)
}

func TestOversizedRequestsAreNotRead(t *testing.T) {
	l := newLab(t, nil)
	for _, claimed := range [][]byte{{0xFF, 0xFF, 0xFF, 0xF8}, {0, 1, 0, 0}, {0, 0, 0xFF, 0xF9}} {
		conn := l.client(t, nodeA)
		answer, err := exchange(conn, append([]byte{0x42, 0, 0x78, 1}, claimed...))
		if err != nil {
			t.Fatal(err)
		}
		checkFailure(t, parse(t, answer)[0].get(t, tagBatchItem), 0, reasonInvalidMessage)
		waitForEnd(t, conn)
	}
	big := message(0, nil, op(opGet, tx(tagID, strings.Repeat("x", 60<<10))))
	refused(t, l.client(t, nodeA), big, opGet, reasonNotFound)
}

// TestRequestsHaveADeadline: a key plane that hangs costs the client a General
// Failure in time, and what it found too late is not released.
func TestRequestsHaveADeadline(t *testing.T) {
	l := newLab(t, func(c *kmip.Config) { c.Limits.RequestTimeout = 3 * time.Second })
	conn := l.client(t, nodeA)
	id := string(keys.NewKeyID())
	l.keys.with(func() {
		l.keys.entries[keys.KeyID(id)] = &entry{node: nodeA, meta: kmip.Meta{Type: kmip.TypeSymmetricKey, Format: kmip.FormatRaw}, state: keys.StateActive}
		l.keys.entries[keys.KeyID(id)].key = newSecret()
	})
	success(t, conn, percona(opGet, tx(tagID, id)))
	l.keys.fail = func(method string) error {
		if method == "Get" {
			time.Sleep(3100 * time.Millisecond) // KMS answers late
		}
		return nil
	}
	refused(t, conn, percona(opGet, tx(tagID, id)), opGet, reasonGeneral)
}

func TestServeEndsWithItsContext(t *testing.T) {
	l := newLab(t, nil)
	idle := l.client(t, nodeA)
	success(t, idle, percona(opQuery, en(tagQueryFunction, 1)))
	busy := l.client(t, nodeB)
	entered, leave := make(chan struct{}), make(chan struct{})
	l.keys.fail = func(method string) error {
		if method == "Register" {
			close(entered)
			<-leave
		}
		return nil
	}
	answered := make(chan error, 1)
	go func() {
		_, err := exchange(busy, perconaRegister(make([]byte, 32)))
		answered <- err
	}()
	<-entered
	l.stop()
	waitForEnd(t, idle)
	close(leave)
	if err := <-answered; err != nil { // a key that was made is answered
		t.Error(err)
	}
	waitForEnd(t, busy)
	if _, err := net.Dial("tcp", l.server.Addr().String()); err == nil {
		t.Error("still listening")
	}
}

func TestLogsHoldNoSecrets(t *testing.T) {
	l := newLab(t, nil)
	conn := l.client(t, nodeA)
	key := []byte("0123456789abcdefSECRET0123456789")
	id := success(t, conn, perconaRegister(key)).get(t, tagID).text()
	success(t, conn, percona(opGet, tx(tagID, id)))
	bad := append(perconaRegister(key), 0)
	bad = append(bad[:len(bad)-1:len(bad)-1], bad[:8]...)
	_, _ = exchange(conn, bad)
	refused(t, l.client(t, nodeB), percona(opGet, tx(tagID, id)), opGet, reasonDenied)
	if strings.Contains(l.log.String(), "SECRET") {
		t.Error("key material in the log")
	}
}
