package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
)

//go:embed migrations/*.sql
var migrations embed.FS

// FormatVersion is the version of the data directory.
const FormatVersion = 1

const formatText = "keywright server data directory, format "

// Errors that callers decide on.
var (
	// ErrNotFound means that there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrDuplicate means that a record with this identity or name exists.
	ErrDuplicate = errors.New("record exists already")
	// ErrReferenced means that another record needs this one, or one that this
	// one needs does not exist.
	ErrReferenced = errors.New("record is referenced")
	// ErrInUse means that another process holds the data directory.
	ErrInUse = errors.New("data directory is in use by another process")
	// ErrNewer means that a newer program wrote the data directory.
	ErrNewer = errors.New("data directory was written by a newer version of keywright; run that version")
	// ErrDeploymentKey means that the store holds sealed values and the deployment
	// key is absent or another one. The remedy is to restore the key file.
	ErrDeploymentKey = errors.New("deployment key does not open this store")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Config says where a store is.
type Config struct {
	// Dir is the data directory; it is made with mode 0700 if absent.
	Dir string
	// Log may be nil.
	Log *slog.Logger
	// Now is the clock of records; nil means time.Now.
	Now func() time.Time
}

// Store is an open data directory. It is safe for concurrent use.
type Store struct {
	write, read *sql.DB
	dialect     dialect
	sealer      *Sealer
	lock        *os.File
	log         *slog.Logger
	now         func() time.Time
	deployment  keys.DeploymentID

	mu      sync.Mutex
	changed chan struct{}
}

// Open locks the data directory, brings its schema up to date and opens it. It
// fails with ErrInUse, ErrNewer or ErrDeploymentKey, and then has changed nothing.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{dialect: sqliteDialect, log: cfg.Log, now: cfg.Now, changed: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	var err error
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.open(ctx, cfg.Dir); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open store in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, dir string) error {
	if err := checkFormat(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, "store.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // our own data directory
	if err != nil {
		return fmt.Errorf("make database file: %w", err)
	}
	_ = f.Close()
	if s.write, s.read, err = openSQLite(ctx, path); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if s.sealer, err = openSealer(ctx, s, filepath.Join(dir, "deployment.key")); err != nil {
		return err
	}
	return s.Tx(ctx, func(tx *Tx) error {
		v, err := tx.meta("deployment")
		if errors.Is(err, ErrNotFound) {
			v = keys.NewID(s.now())
			err = tx.setMeta("deployment", v)
		}
		s.deployment = keys.DeploymentID(v)
		return err
	})
}

// checkFormat reads or writes DATA/format, which names the layout of the directory.
func checkFormat(dir string) error {
	path := filepath.Join(dir, "format")
	b, err := os.ReadFile(path) //nolint:gosec // our own data directory
	if errors.Is(err, fs.ErrNotExist) {
		return durable.WriteFile(path, fmt.Appendf(nil, "%s%d\n", formatText, FormatVersion), 0o600)
	}
	if err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	var v int
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(b), formatText), "%d", &v); err != nil || !strings.HasPrefix(string(b), formatText) {
		return fmt.Errorf("%s is not the data directory of a keywright server", dir)
	}
	if v > FormatVersion {
		return fmt.Errorf("%w (format %d, this version knows %d)", ErrNewer, v, FormatVersion)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	p, err := goose.NewProvider(s.dialect.goose, s.write, sub, goose.WithSlog(s.log))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, known, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if have > known {
		return fmt.Errorf("%w (schema %d, this version knows %d)", ErrNewer, have, known)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema: %w", err)
	}
	return nil
}

// Close waits for running transactions and lets go of the data directory.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	return errors.Join(errs...)
}

// Deployment is the identity of this installation, made with the store.
func (s *Store) Deployment() keys.DeploymentID { return s.deployment }

// Now is the store's clock, as a transaction has it: cut to microseconds, in UTC. What is
// due by one is due by the other.
func (s *Store) Now() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Ping tells whether the database answers, within ctx.
func (s *Store) Ping(ctx context.Context) error { return s.read.PingContext(ctx) }

// Changed gives a channel that is closed after the next committed change. Take it
// before reading, so that no change is missed.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Store) announce() {
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}
