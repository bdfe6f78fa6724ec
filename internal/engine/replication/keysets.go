package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/keywright/keywright/internal/engine/storage"
)

// dirReseal, in the temporaries, is where files are written anew.
const dirReseal = "reseal"

// RotateKeysets gives the keyset of one database, or of all and of the replicated log
// if name is empty, a fresh primary key, durably: new files use it at once. after runs
// when the keyring is replaced and its generation not yet noted. The errors are
// storage.ErrNotEncrypted and storage.ErrUnknownDatabase.
func (r *Replica) RotateKeysets(name string, after func()) error {
	return r.store.RotateKeysets(name, []storage.DatabaseID{r.dir.log}, after)
}

// KeysetStatus describes the keysets of the databases, and the log's with an empty name.
func (r *Replica) KeysetStatus() ([]storage.KeysetStatus, error) {
	out, err := r.store.KeysetStatus(false)
	if err != nil {
		return nil, err
	}
	st, err := r.store.KeysetOf(r.dir.log, false, r.logDirs()...)
	if err != nil {
		return nil, err
	}
	return append(out, st), nil
}

// logDirs are the directories with files under the log's keyset, the log's own first.
func (r *Replica) logDirs() []string {
	return []string{r.dir.join(dirReplication, r.dir.log.String()), r.dir.join(dirSnapshots), r.dir.join(dirTemporary)}
}

// CompactKeysets rewrites all files that are under old keys, and removes the keys that
// nothing needs then. pace is called after every piece of work, step tells how far the
// work on a keyset is. An interrupted one is repeated; storage.ErrUnsettled says that
// it has to be, because files were being written.
func (r *Replica) CompactKeysets(ctx context.Context, pace func() error, step func(string)) error {
	c := storage.Compactor{Temporary: r.dir.join(dirTemporary, dirReseal), Pace: pace, Step: step}
	err := r.store.CompactKeysets(ctx, c)
	dirs := r.logDirs()
	if e := r.store.Compact(ctx, r.db, r.dir.log, dirs[0], c, dirs[1:]...); e != nil {
		err = errors.Join(err, fmt.Errorf("replicated log: %w", e))
	}
	if err != nil {
		return fmt.Errorf("compact keysets: %w", err)
	}
	return nil
}
