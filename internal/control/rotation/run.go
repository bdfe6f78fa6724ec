package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// follow has a cluster looked at from now on.
func (s *Service) follow(id keys.ClusterID) {
	s.mu.Lock()
	s.open[id]++
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// following gives the clusters to look at.
func (s *Service) following() map[keys.ClusterID]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.open)
}

// leave ends looking at a cluster, unless somebody has asked for it meanwhile.
func (s *Service) leave(id keys.ClusterID, asked uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] == asked {
		delete(s.open, id)
	}
}

const (
	// retryAfter is the pause after a failure of the store, breath the one between two
	// looks at the followed clusters when the store changes all the time, lookAgain the
	// longest one: a maintenance window opens without a change of the store.
	retryAfter = time.Second
	lookAgain  = time.Minute
	breath     = 50 * time.Millisecond
)

// Run follows plans whenever the store changes, and looks at the ages of all keys at
// the start and then regularly, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		changed, again := s.st.Changed(), lookAgain
		if err := s.Step(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "rotations were not followed", "error", err)
			again = retryAfter
		}
		retry := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-s.poke:
		case <-retry.C:
		case <-due.C:
			wait := s.cfg.CheckEvery
			if err := s.Check(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "ages of master keys were not checked", "error", err)
				wait = min(wait, time.Minute)
			}
			due.Reset(wait)
		}
		retry.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(breath):
		}
	}
}

// Step moves every plan on that is followed. A cluster for which that fails is tried
// again at the next step and keeps no other back.
func (s *Service) Step(ctx context.Context) error {
	var errs []error
	following := s.following()
	for _, id := range slices.Sorted(maps.Keys(following)) {
		var more bool
		err := s.st.Tx(ctx, func(tx *store.Tx) (err error) {
			more, err = step(tx, id)
			if err != nil {
				return err
			}
			keysMore, err := stepDatabaseKeys(tx, id)
			more = more || keysMore
			return err
		})
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("cluster %s: %w", id, err))
		case !more:
			s.leave(id, following[id])
		}
	}
	return errors.Join(errs...)
}

// Check takes up every cluster with an open plan or replaced keys, and plans the
// rotation of keys that are too old.
func (s *Service) Check(ctx context.Context) error {
	var all []store.Cluster
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.Clusters("")
		return err
	}); err != nil {
		return fmt.Errorf("read clusters: %w", err)
	}
	var errs []error
	for _, c := range all {
		if c.Deleting {
			continue
		}
		if err := s.check(ctx, c.ID); err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", c.ID, err))
		}
	}
	return errors.Join(errs...)
}

// check takes one cluster up if there is something to follow, and plans the rotation
// of its keys if one is too old.
func (s *Service) check(ctx context.Context, id keys.ClusterID) error {
	var open, old bool
	look := func(tx *store.Tx) (c store.Cluster, err error) {
		open, old = false, false
		c, err = tx.Cluster(id)
		if errors.Is(err, store.ErrNotFound) {
			return c, nil
		}
		if err != nil || c.Deleting {
			return c, err
		}
		open, old, err = s.needs(tx, c)
		return c, err
	}
	if err := s.st.View(ctx, func(tx *store.Tx) error { _, err := look(tx); return err }); err != nil {
		return err
	}
	if old {
		if err := s.st.Tx(ctx, func(tx *store.Tx) error {
			c, err := look(tx)
			if err != nil || !old {
				return err
			}
			pr, err := tx.Project(c.Project)
			if err != nil {
				return err
			}
			if err := autoDefer(tx, &pr); err != nil {
				return err
			}
			return s.plan(tx, tenant.System(), pr, &c, Age)
		}); err != nil {
			return err
		}
	}
	if open || old {
		s.follow(id)
	}
	return nil
}

// autoDefer puts maintenance that has just become due off by one week, where the project
// wants that, once.
func autoDefer(tx *store.Tx, pr *store.Project) error {
	w, ok := maintenance.Of(*pr)
	if !ok || !w.AutoDefer || w.Deferrals > 0 {
		return nil
	}
	w.Defer(tx.Now())
	pr.Maintenance = &w.MaintenanceWindow
	if err := tx.UpdateProject(*pr); err != nil {
		return err
	}
	return tx.Append(tenant.Event(tenant.System(), "ATLAS_MAINTENANCE_DEFERRED", *pr, "The maintenance of project %s was put off by one week, as its maintenance window wants.", pr.Name))
}

// needs tells whether a cluster has something to follow (an open plan, or keys beside
// the one in use), and whether a key in use is too old. A paused cluster is asked
// again when it runs.
func (s *Service) needs(tx *store.Tx, c store.Cluster) (open, old bool, err error) {
	open = isOpen(c) || keysOpen(c)
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return open, false, err
	}
	for _, n := range nodes {
		if n.Buried || !n.Encrypted {
			continue
		}
		st, err := status(tx, n.ID)
		if err != nil {
			return open, false, err
		}
		held, err := heldBy(tx, n.ID)
		if err != nil {
			return open, false, err
		}
		k, ok := held[st.MasterKey]
		open = open || len(n.RetiredKeys) > 0 || len(held) > 1 || len(held) == 1 && !ok
		old = old || ok && n.Run && tx.Now().Sub(k.Created) > s.cfg.MaxAge
	}
	return open, old && !isOpen(c), nil
}
