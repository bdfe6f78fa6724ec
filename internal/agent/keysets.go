package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
)

const (
	// keysetLimit bounds one command about keysets.
	keysetLimit = time.Minute
	// compactionLook is how often a compaction is looked at, keysetLook how often the
	// files of a node are while some are under old keys.
	compactionLook = time.Second
	keysetLook     = time.Minute
)

// keysetsDue tells whether a rotation of the database keysets or a compaction is wanted,
// or whether it is time to look how many files are still under old keys.
func (n *node) keysetsDue(rec record) bool {
	w, ok := n.a.wishes.node(n.id)
	if !ok || !rec.Encrypted || !w.Encrypted {
		return false
	}
	n.mu.Lock()
	waits := time.Now().Before(n.keysetNext) && w.Compaction == n.keysetFor
	n.mu.Unlock()
	done := rec.keysets()
	if w.KeysetRotation > done.Rotation {
		return true
	}
	return !waits && (w.Compaction > done.Compaction || done.OldKeys > 0)
}

func (r record) keysets() agentlink.KeysetStatus {
	if r.Keysets == nil {
		return agentlink.KeysetStatus{}
	}
	return *r.Keysets
}

// tendKeysets rotates the keysets if that is wanted, and begins a compaction or looks
// how far it is. It can be repeated after a crash at any point: a rotation whose answer
// was lost makes one key more, which the compaction removes.
func (n *node) tendKeysets(ctx context.Context) error {
	n.mu.Lock()
	rec, running := n.rec, n.proc != nil
	n.mu.Unlock()
	if !running || !n.keysetsDue(rec) || !n.look().mayStart {
		return nil
	}
	err := n.workKeysets(ctx, rec)
	text := ""
	if err != nil {
		err = fmt.Errorf("database keys: %w", err)
		text = err.Error()
	}
	n.mu.Lock()
	n.keysetFailure = text
	n.mu.Unlock()
	return err
}

func (n *node) workKeysets(ctx context.Context, rec record) error {
	run := ctx
	ctx, cancel := context.WithTimeout(ctx, keysetLimit)
	defer cancel()
	w, _ := n.a.wishes.node(n.id)
	admin, err := n.admin(rec)
	if err != nil {
		return err
	}
	done := rec.keysets()
	var now driver.Keysets
	if w.KeysetRotation > done.Rotation {
		if err := n.a.recorder.record(ctx, n.keysetEvent(rec, "DATABASE_KEY_ROTATION_STARTED", "The keysets of a node's databases get new keys.", w.KeysetRotation)); err != nil {
			return err
		}
		if now, err = admin.RotateKeysets(ctx); err != nil {
			if w.Compaction > done.Compaction {
				// A keyset may be full of old keys: these can go first.
				_, e := admin.CompactKeysets(ctx)
				err = errors.Join(err, e)
			}
			return err
		}
		if err := n.a.step("keysets-answered"); err != nil {
			return err
		}
		done.Rotation = w.KeysetRotation
		n.log.Info("database keys of node rotated", "rotation", done.Rotation)
	} else if now, err = admin.Keysets(ctx); err != nil {
		return err
	}
	look := keysetLook
	var failed error
	if w.Compaction > done.Compaction {
		switch {
		case now.Compacting:
			look = compactionLook
		case now.OldKeys == 0:
			if err := n.a.recorder.record(ctx, n.keysetEvent(rec, "DATABASE_FILES_COMPACTED", "All files of a node are under the newest keys of their databases, the old keys are removed.", w.Compaction)); err != nil {
				return err
			}
			done.Compaction = w.Compaction
		default:
			// It did not begin yet, or it ended without being through.
			if now.Failure != "" {
				failed = errors.New(now.Failure)
			}
			if now, err = admin.CompactKeysets(ctx); err != nil {
				return err
			}
			look = compactionLook
		}
	}
	done.Bytes, done.Newest, done.OldKeys, done.Compacting = now.Bytes, now.Newest, now.OldKeys, now.Compacting
	if err := n.update(func(r *record) { r.Keysets = &done }); err != nil {
		return err
	}
	n.lookAgain(run, look, w.Compaction)
	return failed
}

// lookAgain lets the node's keysets rest for a while.
func (n *node) lookAgain(ctx context.Context, after time.Duration, compaction uint64) {
	n.mu.Lock()
	n.keysetNext, n.keysetFor = time.Now().Add(after), compaction
	n.mu.Unlock()
	n.wg.Go(func() {
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
			n.poke()
		}
	})
}

func (n *node) keysetEvent(rec record, kind, message string, counter uint64) audit.Event {
	return audit.Event{
		Type: kind, Project: string(rec.Project), Cluster: string(rec.Cluster), Node: string(n.id), Message: message,
		Data: map[string]string{"counter": fmt.Sprint(counter)},
	}
}
