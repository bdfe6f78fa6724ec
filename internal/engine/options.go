package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/engine/keysource"
	"github.com/keywright/keywright/internal/engine/wire"
	"github.com/keywright/keywright/internal/keys"
)

// Options are the options of a mongod that the engine knows, with mongod's names.
type Options struct {
	// DBPath is the data directory (--dbpath), which is made if it is missing.
	DBPath string
	// Port and BindIP say where the node listens (--port, --bind_ip: addresses
	// separated by commas).
	Port   int
	BindIP string
	// ReplSet is the name of the replica set (--replSet); the node is not in it
	// before replSetInitiate.
	ReplSet string
	// TLSMode, TLSCertificateKeyFile and TLSCAFile are --tlsMode and its files.
	TLSMode               wire.TLSMode
	TLSCertificateKeyFile string
	TLSCAFile             string
	// Auth demands logins (--auth).
	Auth bool
	// Encryption is --enableEncryption and the way to the master key.
	Encryption Encryption
	// NodeID is our own: the node's identity, bound into its keyring.
	NodeID keys.NodeID
	// LogPath is a file that the log is appended to; empty: standard error.
	LogPath string
	// AfterStep, if set, is called between the steps of a rotation of the master key
	// ("created", "replaced", "recorded"), of the keysets ("keysets-replaced",
	// "keysets-noted") and of a compaction ("compact-..."): a test ends the process there.
	AfterStep func(step string)
}

// Encryption is whether a node's files are encrypted, and where its master key is.
type Encryption struct {
	// Enabled is --enableEncryption.
	Enabled bool
	// ServerName lists KMIP servers separated by commas (--kmipServerName).
	ServerName string
	Port       int
	// ClientCertificateFile holds private key and certificate, ServerCAFile the
	// authority of the servers.
	ClientCertificateFile string
	ServerCAFile          string
	// KeyIdentifier names an existing key for a first start (--kmipKeyIdentifier).
	KeyIdentifier keys.KeyID
	// RotateMasterKey is --kmipRotateMasterKey: make a new key, seal the keyring
	// with it, exit.
	RotateMasterKey bool
	// StatePollingSeconds is the time between looks at the key's state; zero or
	// less: never.
	StatePollingSeconds int
	// ConnectRetries and ConnectTimeoutMS bound one operation.
	ConnectRetries   int
	ConnectTimeoutMS int
}

// check names everything that is wrong with the options at once.
func (o Options) check() error {
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(o.DBPath == "", "--dbpath: a directory is needed")
	add(o.Port < 0 || o.Port > 65535, "--port: %d is no port", o.Port)
	add(o.ReplSet == "", "--replSet: a name is needed")
	add(!o.TLSMode.Valid(), "--tlsMode: %q is none of disabled, allowTLS, preferTLS, requireTLS", o.TLSMode)
	add(o.TLSMode != wire.TLSDisabled && o.TLSCertificateKeyFile == "", "--tlsCertificateKeyFile: needed with --tlsMode %s", o.TLSMode)
	for _, ip := range strings.Split(o.BindIP, ",") {
		add(net.ParseIP(ip) == nil && ip != "localhost", "--bind_ip: %q is no address", ip)
		add((o.TLSMode != wire.TLSRequire || !o.Auth) && !isLoopback(ip), "--bind_ip: %s is not a loopback address; that needs --tlsMode requireTLS and --auth", ip)
	}
	errs = append(errs, keys.CheckID("--nodeId:", string(o.NodeID)), o.Encryption.check())
	return errors.Join(errs...)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (e Encryption) check() error {
	set := e.ServerName != "" || e.ClientCertificateFile != "" || e.ServerCAFile != "" || e.KeyIdentifier != "" || e.RotateMasterKey
	switch {
	case !e.Enabled && set:
		return errors.New("--kmip options: they need --enableEncryption")
	case !e.Enabled:
		return nil
	}
	_, err := e.source()
	if e.KeyIdentifier != "" && !e.KeyIdentifier.Valid() {
		err = errors.Join(err, fmt.Errorf("--kmipKeyIdentifier: %q is no identifier of a key", e.KeyIdentifier))
	}
	return err
}

func (e Encryption) source() (*keysource.Client, error) {
	var names []string
	if e.ServerName != "" {
		names = strings.Split(e.ServerName, ",")
	}
	c, err := keysource.New(keysource.Config{
		ServerNames: names, Port: e.Port, ClientCertificateFile: e.ClientCertificateFile, ServerCAFile: e.ServerCAFile,
		ConnectRetries: e.ConnectRetries, ConnectTimeout: time.Duration(e.ConnectTimeoutMS) * time.Millisecond,
	})
	if err != nil {
		return nil, fmt.Errorf("--kmip options: %w", err)
	}
	return c, nil
}

// host is the address that the node takes for itself until it is told another.
func (o Options) host(port int) string {
	first, _, _ := strings.Cut(o.BindIP, ",")
	return net.JoinHostPort(first, strconv.Itoa(port))
}

// absolute makes the data directory's path absolute.
func (o Options) absolute() (Options, error) {
	abs, err := filepath.Abs(o.DBPath)
	if err != nil {
		return o, fmt.Errorf("--dbpath: %w", err)
	}
	o.DBPath = abs
	return o, nil
}

// The exit codes of the process, as a mongod has them.
const (
	// ExitClean: told to end, and done.
	ExitClean = 0
	// ExitBadOptions: the options cannot be used.
	ExitBadOptions = 2
	// ExitUnrecoverable: data or log cannot be written or read.
	ExitUnrecoverable = 14
	// ExitNetwork: the port cannot be had.
	ExitNetwork = 48
	// ExitNeedsUpgrade: the data were written by a newer program.
	ExitNeedsUpgrade = 62
	// ExitUncaught: anything else.
	ExitUncaught = 100
	// ExitKey: the master key is not to be had, or is not active any more (mongod's
	// 1001, of which a shell sees 233).
	ExitKey = 233
)

// ExitError says with which code the process ends.
type ExitError struct {
	Code int
	Err  error
}

// Error implements error.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

func exit(code int, err error) error {
	if err == nil {
		return nil
	}
	return &ExitError{Code: code, Err: err}
}

// lockFile is the file that a running node holds locked and that has its pid.
const lockFile = "mongod.lock"

// lockDir makes the data directory and takes its lock: two processes on one
// directory would destroy it.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := flock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another process: %w", dir, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write pid into lock: %w", err)
	}
	return func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}, nil
}
