package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// watchLeadership keeps primary: the leader that has applied everything before.
func (r *Replica) watchLeadership(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case leader := <-r.raft.LeaderCh():
			if leader {
				if err := r.raft.Barrier(0).Error(); err != nil {
					r.logger.Warn("leadership lost at once", "error", err)
					continue
				}
			}
			r.primary.Store(leader)
			r.logger.Info("leadership", "primary", leader, "term", r.raft.CurrentTerm())
			r.change()
		}
	}
}

// cutLog flushes the databases and cuts the log when enough of it has come.
func (r *Replica) cutLog(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.cut:
			if err := r.snapshot(); err != nil && !errors.Is(err, raft.ErrRaftShutdown) {
				r.logger.Error("cut the log", "error", err)
			}
		}
	}
}

// snapshot flushes everything applied and cuts the log.
func (r *Replica) snapshot() error {
	r.mu.Lock()
	r.bytes, r.entries = 0, 0
	r.mu.Unlock()
	if err := r.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot: %w", err)
	}
	return r.log.Trim(r.cfg.OplogBytes)
}

// housekeeping watches the disk and forgets old sessions.
func (r *Replica) housekeeping(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for n := 0; ; n++ {
		r.checkSpace()
		if n%60 == 59 {
			now := uint32(time.Now().Unix()) //nolint:gosec // wraps in 2106
			if err := r.store.ExpireSessions(now, r.sessionInUse); err != nil {
				r.logger.Error("expire sessions", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Replica) checkSpace() {
	if r.cfg.Reserve < 0 {
		return
	}
	u, err := r.dir.fs.GetDiskUsage(r.cfg.Dir)
	if err != nil {
		return // the file system cannot tell
	}
	low := u.AvailBytes < uint64(r.cfg.Reserve)
	if r.noSpace.Swap(low) != low {
		r.logger.Warn("disk space", "low", low, "available_bytes", u.AvailBytes, "reserve_bytes", r.cfg.Reserve)
	}
}

// sessionInUse tells whether a writer of the session is under way.
func (r *Replica) sessionInUse(lsid []byte) bool {
	k := sessionLatch(lsid)
	if !r.latches.try(k, exclusive) {
		return true
	}
	r.latches.release(k)
	return false
}
