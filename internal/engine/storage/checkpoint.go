package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

// Checkpoint makes a copy of every database in dir, which must not exist, as
// dir/<database id>: encrypted files are linked as they are. Each copy was opened
// before Checkpoint returns. It says up to which entry of the log it goes by itself.
func (s *Store) Checkpoint(ctx context.Context, dir string) error {
	dbs := s.all()
	defer s.unpin(dbs)
	for _, d := range dbs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.checkpoint(d, s.fs().PathJoin(dir, d.id.String())); err != nil {
			return fmt.Errorf("checkpoint of database %s: %w", d.id, err)
		}
	}
	return nil
}

func (s *Store) checkpoint(d *database, dir string) error {
	if err := s.acquire(d); err != nil {
		return err
	}
	defer s.release(d)
	d.mu.RLock()
	applied := d.applied
	d.mu.RUnlock()
	// Without a flush Pebble may write an empty manifest, and what is in memory
	// only would be missing.
	if err := d.db.Flush(); err != nil {
		return err
	}
	if err := d.db.Checkpoint(dir); err != nil {
		return err
	}
	return d.verifyCheckpoint(dir, applied)
}

// verifyCheckpoint opens a copy and looks whether it is as new as it must be.
func (d *database) verifyCheckpoint(dir string, applied uint64) error {
	fs, err := d.store.cfg.Files.Open(d.id)
	if err != nil {
		return err
	}
	o := cryptofs.PebbleOptions(fs, d.store.cfg.Shared)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	db, err := pebble.Open(dir, o)
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	index, _, err := readPosition(db, metaApplied)
	if err == nil && index < applied {
		err = fmt.Errorf("the copy ends at log index %d, before %d", index, applied)
	}
	return errors.Join(err, db.Close())
}
