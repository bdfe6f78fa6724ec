package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/keys"
)

// RewriteOptions say how a stopped node's files are written anew.
type RewriteOptions struct {
	// From and To are data directories; To must not exist.
	From, To string
	NodeID   keys.NodeID
	// FromEncrypted and ToEncrypted say which of the two is encrypted; Encryption is
	// the way to the master keys. The target gets a master key of its own.
	FromEncrypted, ToEncrypted bool
	Encryption                 Encryption
}

// Rewrite copies a stopped node's data into a new directory. The source is only
// read; the target can be opened only once it is whole, verified and durable.
// Errors are *ExitError.
func Rewrite(ctx context.Context, o RewriteOptions) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("node", string(o.NodeID))
	harden(log)
	if err := o.check(); err != nil {
		return exit(ExitBadOptions, err)
	}
	if err := rewrite(ctx, o, log); err != nil {
		log.Error("node was not rewritten", "error", err)
		return classify(err)
	}
	log.Info("node was rewritten", "from_encrypted", o.FromEncrypted, "to_encrypted", o.ToEncrypted)
	return nil
}

func (o RewriteOptions) check() error {
	var errs []error
	if o.From == "" || o.To == "" || o.From == o.To {
		errs = append(errs, errors.New("--from and --to: two directories are needed"))
	}
	errs = append(errs, keys.CheckID("--nodeId:", string(o.NodeID)))
	if o.FromEncrypted || o.ToEncrypted {
		e := o.Encryption
		e.Enabled = true
		errs = append(errs, e.check())
	}
	if _, err := os.Stat(o.To); err == nil {
		errs = append(errs, fmt.Errorf("--to: %s exists", o.To))
	}
	return errors.Join(errs...)
}

func rewrite(ctx context.Context, o RewriteOptions, log *slog.Logger) error {
	// Opening a directory that is no node's would make an empty node in it.
	if _, err := replication.ReadManifest(vfs.Default, o.From); errors.Is(err, os.ErrNotExist) {
		return exit(ExitBadOptions, fmt.Errorf("--from: %s is no node's data directory", o.From))
	}
	unlock, err := lockDir(o.From)
	if err != nil {
		return exit(ExitUnrecoverable, err)
	}
	defer unlock()
	unlockTarget, err := lockDir(o.To)
	if err != nil {
		return exit(ExitUnrecoverable, err)
	}
	defer unlockTarget()
	part := func(dir string, encrypted bool) (*opened, replication.Config, error) {
		e := o.Encryption
		e.Enabled = encrypted
		f, err := openFiles(ctx, dir, o.NodeID, e, log)
		if err != nil {
			return nil, replication.Config{}, err
		}
		return f, replication.Config{Dir: dir, Node: o.NodeID, Files: f.files, Logger: log, OnFatal: func(msg string) {
			log.Error("rewriting cannot go on", "reason", msg)
			os.Exit(ExitUnrecoverable)
		}}, nil
	}
	source, from, err := part(o.From, o.FromEncrypted)
	if err != nil {
		return err
	}
	defer source.close()
	target, to, err := part(o.To, o.ToEncrypted)
	if err != nil {
		return err
	}
	defer target.close()
	return exit(ExitUnrecoverable, replication.Rewrite(ctx, from, to))
}
