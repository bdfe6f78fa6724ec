package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/keys"
)

// rotateLimit bounds one rotation of the master key.
const rotateLimit = 30 * time.Second

// The steps of a rotation, after each of which the process may die: what is on disk
// opens with the old key or the new one, and both are still there.
const (
	stepCreated  = "created"  // the new key is made, escrowed, active, and fetched
	stepReplaced = "replaced" // the keyring names it and was read back
	stepRecorded = "recorded" // the catalogue knows the keyring's new generation
)

// rotator replaces the master key of a running node.
type rotator struct {
	kmip    Encryption
	data    *opened
	replica *replication.Replica
	fatal   chan<- string
	log     *slog.Logger
	after   func(step string)

	mu sync.Mutex // one rotation at a time
}

func newRotator(o Options, data *opened, replica *replication.Replica, fatal chan<- string, log *slog.Logger) *rotator {
	r := &rotator{kmip: o.Encryption, data: data, replica: replica, fatal: fatal, log: log, after: o.AfterStep}
	if r.after == nil {
		r.after = func(string) {}
	}
	return r
}

// command gives rotate, or nil for a node without encryption.
func (r *rotator) command() func(context.Context, keys.KeyID) (keys.KeyID, keys.KeyID, error) {
	if r.data.keyring == nil {
		return nil
	}
	return r.rotate
}

// rotate has a new master key made and seals the keyring with it (key-plane section
// 4): nothing else is rewritten and no connection is felt. A caller whose answer was
// lost asks again with the same from and gets the key that came of it, not a third.
func (r *rotator) rotate(ctx context.Context, from keys.KeyID) (before, after keys.KeyID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotateLimit)
	defer cancel()
	ring := r.data.keyring
	before = ring.MasterKeyID()
	if from != "" && from != before {
		// Done already, perhaps not to the very end.
		if err := r.replica.Store().ReplaceKeyring(ring.Tidy); err != nil {
			return before, before, fmt.Errorf("finish rotation of the master key: %w", err)
		}
		return before, before, nil
	}
	mk, err := newMasterKey(ctx, "", r.data.source)
	if err != nil {
		return before, before, fmt.Errorf("rotate master key: %w", err)
	}
	defer mk.Key.Wipe()
	r.after(stepCreated)
	err = r.replica.Store().ReplaceKeyring(func() error {
		if err := ring.Rewrap(mk); err != nil {
			return err
		}
		r.after(stepReplaced)
		return nil
	})
	if err != nil {
		if errors.Is(ring.Err(), cryptofs.ErrKeyringUncertain) {
			// Which of both keyrings is durable a fresh start finds out.
			select {
			case r.fatal <- "the keyring was replaced half-way: " + err.Error():
			default:
			}
		}
		return before, ring.MasterKeyID(), fmt.Errorf("rotate master key: %w", err)
	}
	r.after(stepRecorded)
	r.log.Info("master key rotated", "from", before, "master_key", mk.ID, "generation", ring.Generation())
	return before, mk.ID, nil
}
