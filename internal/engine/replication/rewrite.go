package replication

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/keywright/keywright/internal/engine/storage"
)

// The stable values that raft keeps; a rewritten node must not vote twice.
const (
	stableTerm     = "CurrentTerm"
	stableVoteTerm = "LastVoteTerm"
	stableVoteCand = "LastVoteCand"
)

// Rewrite copies a stopped node's data into a directory of its own under other
// Files: databases with their ids, collections with their UUIDs, indexes,
// documents, retry records, the set's name and host, and the term, so that the
// election id does not go down. The node keeps its identity.
//
// What was copied is read back and compared, and durable, before the target gets
// its manifest: a target that Rewrite did not finish does not open, and Rewrite
// may be called on it again. The source's data stays as it is.
func Rewrite(ctx context.Context, from, to Config) error {
	from.setDefaults()
	to.setDefaults()
	src, err := Open(ctx, from)
	if err != nil {
		return fmt.Errorf("rewrite: source: %w", err)
	}
	err = src.rewriteTo(ctx, to)
	if err := errors.Join(err, src.Close(ctx)); err != nil {
		return fmt.Errorf("rewrite: %w", err)
	}
	return nil
}

func (r *Replica) rewriteTo(ctx context.Context, to Config) error {
	dir := &directory{fs: to.Files.Base(), dir: to.Dir, files: to.Files}
	if dir.exists(ManifestName) {
		return fmt.Errorf("%s is a node's already", to.Dir)
	}
	if !dir.exists(markRewriting) {
		for _, sub := range []string{dirReplication, dirDatabases} {
			if names, err := dir.fs.List(dir.join(sub)); err == nil && len(names) > 0 {
				return fmt.Errorf("%s holds data: use an empty directory", to.Dir)
			}
		}
	}
	to.Node = r.dir.Node
	if err := dir.create(to, markRewriting); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, Config, *directory) error
	}{
		{"copy", r.copyTo},
		{"verify", r.verifyCopy},
	} {
		if err := step.do(ctx, to, dir); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := to.reached(step.name); err != nil {
			return err
		}
		dir.fresh = false
	}
	return dir.finish(markRewriting)
}

// reached is where tests stop a rewrite.
func (c *Config) reached(step string) error {
	if c.step == nil {
		return nil
	}
	return c.step(step)
}

// copyTo fills the target.
func (r *Replica) copyTo(ctx context.Context, to Config, dir *directory) (err error) {
	dst, err := openReplica(ctx, to, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close(ctx)) }()
	if err := to.reached("opened"); err != nil {
		return err
	}
	pr, pw := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		err := r.store.Export(ctx, pw)
		exported <- errors.Join(err, pw.CloseWithError(err))
	}()
	err = dst.store.Import(ctx, pr, "", dir.log)
	_ = pr.CloseWithError(errors.New("the copy ended"))
	if err := errors.Join(err, <-exported); err != nil {
		return err
	}
	if err := to.reached("imported"); err != nil {
		return err
	}
	return r.copyRaft(dst)
}

// copyRaft gives the target a snapshot at the end of the source's log, and the
// source's term and vote.
func (r *Replica) copyRaft(dst *Replica) error {
	term, err1 := r.log.GetUint64([]byte(stableTerm))
	vote, err2 := r.log.GetUint64([]byte(stableVoteTerm))
	if err := errors.Join(err1, err2); err != nil || term == 0 {
		return err // a node that was never initiated has nothing
	}
	if err := dst.log.SetUint64([]byte(stableTerm), term); err != nil {
		return err
	}
	if cand, err := r.log.Get([]byte(stableVoteCand)); err == nil {
		if err := errors.Join(dst.log.SetUint64([]byte(stableVoteTerm), vote), dst.log.Set([]byte(stableVoteCand), cand)); err != nil {
			return err
		}
	}
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	index := r.raft.LastIndex()
	if index == 0 {
		return nil
	}
	// Raft does not tell the configuration's own index; the snapshot's is as good.
	meta := metaOf(raft.SnapshotMeta{Index: index, Term: term, Configuration: f.Configuration(), ConfigurationIndex: index})
	return dst.snaps.putMeta(dst.snaps.newID(index, term), meta)
}

// verifyCopy opens the target as its files are and compares it with the source.
func (r *Replica) verifyCopy(ctx context.Context, to Config, dir *directory) (err error) {
	dir.fresh = false
	dst, err := openReplica(ctx, to, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close(ctx)) }()
	want, err := r.store.Digest(ctx)
	if err != nil {
		return err
	}
	got, err := dst.store.Digest(ctx)
	if err != nil {
		return err
	}
	return storage.CompareDigests(want, got)
}
