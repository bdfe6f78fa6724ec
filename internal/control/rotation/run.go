package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// follow has a cluster looked at from now on.
func (s *Service) follow(id keys.ClusterID) {
	s.mu.Lock()
	s.open[id] = true
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// following lists the clusters to look at.
func (s *Service) following() []keys.ClusterID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.open))
}

// retryAfter is the pause after a failure of the store.
const retryAfter = time.Second

// Run follows plans whenever the store changes, and looks at the ages of all keys at
// the start and then regularly, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		changed := s.st.Changed()
		s.Step(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-s.poke:
		case <-due.C:
			wait := s.cfg.CheckEvery
			if err := s.Check(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "ages of master keys were not checked", "error", err)
				wait = min(wait, time.Minute)
			}
			due.Reset(wait)
		}
	}
}

// Step moves every plan on that is followed.
func (s *Service) Step(ctx context.Context) {
	for _, id := range s.following() {
		var more bool
		err := s.st.Tx(ctx, func(tx *store.Tx) (err error) {
			more, err = step(tx, id)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.ErrorContext(ctx, "rotation was not followed", "cluster", id, "error", err)
			time.AfterFunc(retryAfter, func() { s.follow(id) })
		case !more:
			s.mu.Lock()
			delete(s.open, id)
			s.mu.Unlock()
		}
	}
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
		if c.Deleting || c.Settings.EncryptionProvider != "AWS" {
			continue
		}
		s.follow(c.ID)
		if isOpen(c) || c.Settings.Paused {
			continue
		}
		if err := s.planAged(ctx, c.ID); err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", c.ID, err))
		}
	}
	return errors.Join(errs...)
}

// planAged plans a rotation if the master key of a node is too old.
func (s *Service) planAged(ctx context.Context, id keys.ClusterID) error {
	var old bool
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		old, err = s.aged(tx, id)
		return err
	}); err != nil || !old {
		return err
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		c, err := tx.Cluster(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil || c.Deleting {
			return err
		}
		if old, err := s.aged(tx, id); err != nil || !old {
			return err
		}
		pr, err := tx.Project(c.Project)
		if err != nil {
			return err
		}
		_, err = s.plan(tx, tenant.System(), pr, &c, Age)
		return err
	})
}

func (s *Service) aged(tx *store.Tx, id keys.ClusterID) (bool, error) {
	nodes, err := tx.NodesOfCluster(id)
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		if n.Buried || !n.Encrypted {
			continue
		}
		st, err := status(tx, n.ID)
		if err != nil {
			return false, err
		}
		held, err := heldBy(tx, n.ID)
		if err != nil {
			return false, err
		}
		if k, ok := held[st.MasterKey]; ok && tx.Now().Sub(k.Created) > s.cfg.MaxAge {
			return true, nil
		}
	}
	return false, nil
}
