package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/engine/command"
	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
)

// The steps of a rotation of keysets and of a compaction, after each of which the
// process may die.
const (
	stepKeysReplaced = "keysets-replaced" // the keyring holds the new keys and was read back
	stepKeysNoted    = "keysets-noted"    // the catalogue knows the keyring's new generation
	stepCompactPart  = "compact-"         // before flushed, compacted, resealing, resealed, dropped, noted
)

// maxRest is the longest pause between two pieces of a compaction.
const maxRest = 2 * time.Second

// unsettledTries is how often a compaction is repeated by itself.
const unsettledTries = 30

// keysets rotates and compacts the keysets of a running node.
type keysets struct {
	data    *opened
	replica *replication.Replica
	fatal   chan<- string
	log     *slog.Logger
	after   func(step string)

	rotating sync.Mutex // one rotation at a time

	mu      sync.Mutex
	ctx     context.Context // of the compaction; ends with the process
	end     context.CancelFunc
	work    sync.WaitGroup
	running bool
	done    uint64 // compactions that ended well since the start
	failure string // of the newest compaction
}

func newKeysets(o Options, data *opened, replica *replication.Replica, fatal chan<- string, log *slog.Logger) *keysets {
	k := &keysets{data: data, replica: replica, fatal: fatal, log: log, after: o.AfterStep}
	if k.after == nil {
		k.after = func(string) {}
	}
	k.ctx, k.end = context.WithCancel(context.Background())
	return k
}

// command gives the node's keysets, or nil for a node without encryption.
func (k *keysets) command() command.Keysets {
	if k.data.keyring == nil {
		return nil
	}
	return k
}

// close ends a compaction and waits for it.
func (k *keysets) close() {
	k.mu.Lock()
	k.end()
	k.mu.Unlock()
	k.work.Wait()
}

// Rotate implements command.Keysets.
func (k *keysets) Rotate(database string) error {
	k.rotating.Lock()
	defer k.rotating.Unlock()
	err := k.replica.RotateKeysets(database, func() { k.after(stepKeysReplaced) })
	k.uncertain()
	if err != nil {
		return fmt.Errorf("rotate keysets: %w", err)
	}
	k.after(stepKeysNoted)
	k.log.Info("keysets rotated", "all", database == "", "generation", k.data.keyring.Generation())
	return nil
}

// uncertain ends the process if a replacement of the keyring failed half-way: which of
// both keyrings is durable a fresh start finds out.
func (k *keysets) uncertain() {
	if !errors.Is(k.data.keyring.Err(), cryptofs.ErrKeyringUncertain) {
		return
	}
	select {
	case k.fatal <- "the keyring was replaced half-way":
	default:
	}
}

// Compact implements command.Keysets.
func (k *keysets) Compact() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running || k.ctx.Err() != nil {
		return
	}
	k.running, k.failure = true, ""
	k.work.Go(k.compact)
}

func (k *keysets) compact() {
	began := time.Now()
	k.log.Info("compaction of keysets begins")
	err := k.rewrite()
	k.uncertain()
	k.mu.Lock()
	k.running = false
	if err == nil {
		k.done++
	} else {
		k.failure = err.Error()
	}
	k.mu.Unlock()
	switch {
	case err == nil:
		k.log.Info("keysets compacted", "duration", time.Since(began))
	case k.ctx.Err() == nil:
		k.log.Warn("keysets are not compacted yet", "error", err)
	}
}

// rewrite repeats the work until no file was being written under an old key meanwhile.
func (k *keysets) rewrite() (err error) {
	pace := rest(k.ctx)
	for range unsettledTries {
		err = k.replica.CompactKeysets(k.ctx, pace, func(step string) { k.after(stepCompactPart + step) })
		if !errors.Is(err, storage.ErrUnsettled) {
			return err
		}
		t := time.NewTimer(maxRest)
		select {
		case <-k.ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	return err
}

// rest makes the pauses of a compaction: each as long as the work since the one before,
// so that writers have at least half of the disk and of a processor.
func rest(ctx context.Context) func() error {
	began := time.Now()
	return func() error {
		t := time.NewTimer(min(time.Since(began), maxRest))
		defer t.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		began = time.Now()
		return nil
	}
}

// Status implements command.Keysets.
func (k *keysets) Status() (command.KeysetStatus, error) {
	sets, err := k.replica.KeysetStatus()
	if err != nil {
		return command.KeysetStatus{}, fmt.Errorf("status of keysets: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return command.KeysetStatus{Keysets: sets, Compacting: k.running, Compactions: k.done, Failure: k.failure}, nil
}

var _ command.Keysets = (*keysets)(nil)
