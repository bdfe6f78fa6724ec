package kmip

import (
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/keywright/keywright/internal/pki"
)

// DefaultAddress is where the server listens unless told otherwise. Clients
// should be given the address, not "localhost", which may mean ::1.
const DefaultAddress = "127.0.0.1:5696"

// Config is what a Server needs.
type Config struct {
	// Listener is served and closed by the server. Without one it listens on
	// Addr, by default DefaultAddress.
	Listener net.Listener
	Addr     string
	// Keeper holds the server's certificate (pki.KindKMIPServer, or any other
	// that the clients trust).
	Keeper *pki.Keeper
	// ClientCAs is the PEM of the KMIP client authority, or of several.
	ClientCAs []byte
	Admission Admission
	Keys      Keys
	// Observe, if set, is told of each operation of a request that was carried out or
	// refused, by names from a fixed list. It has to be quick.
	Observe func(operation, result string)
	// Logger gets what the operator should know; nil: nothing. Never secrets.
	Logger *slog.Logger
	// Limits: zero fields mean the defaults.
	Limits Limits
	// Now gives the time for answers and request rates; nil: time.Now.
	Now func() time.Time
}

// Limits bounds what clients can do to the server. The zero value of a field
// means its default.
type Limits struct {
	// Handshakes is the number of connections that have not proved who they are
	// (256). When one more arrives the oldest of them is closed, so that silent
	// ones cannot keep a node out.
	Handshakes int
	// Connections is the number of admitted connections in all (1024), and
	// ConnectionsPerNode of one node (64).
	Connections        int
	ConnectionsPerNode int
	// HandshakeTimeout bounds the TLS handshake (3 s), IdleTimeout the wait for
	// the next request (2 min), ReadTimeout a request once it has begun (3 s),
	// WriteTimeout an answer (3 s).
	HandshakeTimeout time.Duration
	IdleTimeout      time.Duration
	ReadTimeout      time.Duration
	WriteTimeout     time.Duration
	// RequestTimeout bounds the execution of a request (3.8 s): clients give up
	// after five seconds for everything together.
	RequestTimeout time.Duration
	// RequestRate is how many operations a node may ask for per second in the
	// long run (50), RequestBurst at once (200).
	RequestRate  float64
	RequestBurst int
	// KeysPerNode is the number of keys that a node may have (1000).
	KeysPerNode int
	// BatchItems is the number of operations in one request (32).
	BatchItems int
}

func (l Limits) withDefaults() Limits {
	setInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	setInt(&l.Handshakes, 256)
	setInt(&l.Connections, 1024)
	setInt(&l.ConnectionsPerNode, 64)
	setTime(&l.HandshakeTimeout, 3*time.Second)
	setTime(&l.IdleTimeout, 2*time.Minute)
	setTime(&l.ReadTimeout, 3*time.Second)
	setTime(&l.WriteTimeout, 3*time.Second)
	setTime(&l.RequestTimeout, 3800*time.Millisecond)
	if l.RequestRate <= 0 {
		l.RequestRate = 50
	}
	setInt(&l.RequestBurst, 200)
	setInt(&l.KeysPerNode, 1000)
	setInt(&l.BatchItems, 32)
	return l
}

func (c Config) check() error {
	switch {
	case c.Keeper == nil:
		return errors.New("kmip server: no certificate")
	case c.Admission == nil:
		return errors.New("kmip server: no admission")
	case c.Keys == nil:
		return errors.New("kmip server: no keys")
	}
	return nil
}
