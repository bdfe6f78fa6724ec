package up

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/durable"
)

// Config are the flags of `keywright up`.
type Config struct {
	DataDir   string
	Listen    string
	AWS       string // "local" or "real"
	AWSListen string
	// AWSControl lets the local AWS serve its control path: faults, delays, moved time.
	AWSControl         bool
	AgentListen        string
	KMIPListen         string
	NodePorts          string
	ValidationInterval time.Duration
	BootstrapFile      string
	NoSample           bool
	// Executable is the program whose subcommands are started.
	Executable string
	// Out gets what a person reads; Logger what happened.
	Out    io.Writer
	Logger *slog.Logger
}

// Region is the region of the local AWS.
const Region = "us-east-1"

// normal fills in what depends on other fields and checks the rest.
func (c Config) normal() (Config, error) {
	var errs []error
	abs, err := filepath.Abs(c.DataDir)
	if err != nil || c.DataDir == "" {
		errs = append(errs, fmt.Errorf("--data-dir %q: a directory is needed", c.DataDir))
	}
	c.DataDir = abs
	if c.BootstrapFile == "" {
		c.BootstrapFile = filepath.Join(abs, "bootstrap.json")
	}
	if c.BootstrapFile, err = filepath.Abs(c.BootstrapFile); err != nil {
		errs = append(errs, fmt.Errorf("--bootstrap-file: %w", err))
	}
	if c.AWS != "local" && c.AWS != "real" {
		errs = append(errs, fmt.Errorf("--aws %q: use local or real", c.AWS))
	}
	if c.AWSControl && c.AWS != "local" {
		errs = append(errs, errors.New("--aws-control: only the local AWS has a control path"))
	}
	for flag, addr := range map[string]string{"--listen": c.Listen, "--aws-listen": c.AWSListen, "--agent-listen": c.AgentListen, "--kmip-listen": c.KMIPListen} {
		host, _, err := net.SplitHostPort(addr)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s %q: an address such as 127.0.0.1:8080 is needed", flag, addr))
		case !loopback(host):
			errs = append(errs, fmt.Errorf("%s %q: `keywright up` serves this machine only, use a loopback address such as 127.0.0.1", flag, addr))
		}
	}
	if c.ValidationInterval < time.Second {
		errs = append(errs, fmt.Errorf("--validation-interval %s: at least 1s is needed", c.ValidationInterval))
	}
	return c, errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// path names a file below the data directory.
func (c Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir}, elem...)...)
}

// sameAWS refuses a data directory that was used with the other AWS: its keys are
// wrapped there, and to this one they would seem taken away.
func (c Config) sameAWS() error {
	_, local := os.Stat(c.path("aws", awslocal.SeedFile))
	_, begun := os.Stat(c.path("server"))
	switch {
	case begun != nil:
		return nil
	case c.AWS == "real" && local == nil:
		return fmt.Errorf("%s was used with the local AWS, and its keys exist there only; use another --data-dir with --aws real", c.DataDir)
	case c.AWS == "local" && local != nil:
		return fmt.Errorf("%s was used with --aws real, and its keys exist there only; use another --data-dir with the local AWS", c.DataDir)
	}
	return nil
}

// dataFormat is the version of the data directory's layout.
const dataFormat = 1

// claim makes the data directory, takes its lock and refuses a newer layout.
func (c Config) claim() (release func(), err error) {
	for _, d := range []string{c.DataDir, c.path("logs"), c.path("run")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make data directory: %w", err)
		}
	}
	f, err := os.OpenFile(c.path("up.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another `keywright up`; stop that one, or choose another --data-dir", c.DataDir)
	}
	var v struct {
		Format int `json:"format"`
	}
	switch err := durable.ReadJSON(c.path("version.json"), &v); {
	case errors.Is(err, os.ErrNotExist):
		v.Format = dataFormat
		err = durable.WriteJSON(c.path("version.json"), v, 0o600)
		if err != nil {
			_ = f.Close()
			return nil, err
		}
	case err != nil:
		_ = f.Close()
		return nil, err
	case v.Format > dataFormat:
		_ = f.Close()
		return nil, fmt.Errorf("%s was written by a newer Keywright (format %d, this program knows %d); update this program", c.DataDir, v.Format, dataFormat)
	}
	return func() { _ = f.Close() }, nil
}
