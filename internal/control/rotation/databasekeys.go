package rotation

import (
	"context"
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// DatabaseKeys asks for new keys of the databases of a cluster; with compact all files
// are rewritten under them and the old keys removed. While such a rotation of the cluster
// is open, it gives that one, and adds the compaction if it is new. It needs Project
// Owner. GROUP_NOT_FOUND, USER_UNAUTHORIZED, CLUSTER_NOT_FOUND,
// CLUSTER_ALREADY_REQUESTED_DELETION, CLUSTER_NOT_ENCRYPTED.
func (s *Service) DatabaseKeys(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string, compact bool) (out View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		c, err := find(tx, project, name)
		if err != nil {
			return err
		}
		if c.Deleting {
			return apierr.BadRequest("CLUSTER_ALREADY_REQUESTED_DELETION", "The deletion of cluster %s was requested already.", name).With(name)
		}
		if err := planDatabaseKeys(tx, p, pr, &c, compact); err != nil {
			return err
		}
		out, err = view(tx, c)
		return err
	})
	if err == nil {
		s.follow(out.ID)
	}
	return out, err
}

func planDatabaseKeys(tx *store.Tx, p tenant.Principal, pr store.Project, c *store.Cluster, compact bool) error {
	next := store.DatabaseKeyPlan{By: p.Name, Compact: compact, State: Pending, Requested: tx.Now()}
	if keysOpen(*c) {
		if !compact || c.DatabaseKeys.Compact {
			return nil
		}
		next = *c.DatabaseKeys
		next.Compact = true
	} else {
		nodes, err := tx.NodesOfCluster(c.ID)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Encrypted && !n.Buried {
				next.Nodes = append(next.Nodes, store.NodeDatabaseKey{Node: n.ID, State: Pending})
			}
		}
		if len(next.Nodes) == 0 {
			return apierr.Conflict(notEncrypted, "Cluster %s is not encrypted with a customer key: its databases have no keys to rotate.", c.Name).With(c.Name)
		}
	}
	c.DatabaseKeys = &next
	if err := tx.PutCluster(*c); err != nil {
		return err
	}
	e := event(p, "DATABASE_KEY_ROTATION_REQUESTED", pr, *c, "A rotation of the keys of the databases of cluster %s was requested.", c.Name)
	e.Data["compact"] = "false"
	if compact {
		e.Data["compact"] = "true"
	}
	return tx.Append(e)
}

func keysOpen(c store.Cluster) bool { return c.DatabaseKeys != nil && c.DatabaseKeys.State != Done }

// stepDatabaseKeys moves the rotation of a cluster's database keys on by what its hosts
// have reported; more tells that it has to be followed further.
func stepDatabaseKeys(tx *store.Tx, id keys.ClusterID) (more bool, err error) {
	s, ok, err := look(tx, id)
	if err != nil || !ok || s.cluster.Deleting || !keysOpen(s.cluster) {
		return false, err
	}
	plan := *s.cluster.DatabaseKeys
	plan.Nodes = slices.Clone(plan.Nodes)
	s.cluster.DatabaseKeys = &plan
	if err := s.advanceKeys(); err != nil {
		return false, err
	}
	if s.changed {
		if err := tx.PutCluster(s.cluster); err != nil {
			return false, err
		}
	}
	for _, e := range s.events {
		if err := tx.Append(e); err != nil {
			return false, err
		}
	}
	return keysOpen(s.cluster), nil
}

// advanceKeys walks through the plan, node after node, as far as it goes now.
func (s *situation) advanceKeys() error {
	plan := s.cluster.DatabaseKeys
	for i := range plan.Nodes {
		part := &plan.Nodes[i]
		n, ok := s.nodes[part.Node]
		if part.State != Skipped && part.State != Done && (!ok || n.Buried || !n.Encrypted) {
			part.State, part.Failure, s.changed = Skipped, "", true
		}
		ordered := part.Rotation > 0 && (!plan.Compact || part.Compaction > 0)
		switch {
		case part.State == Skipped || part.State == Done && (ordered || !ok || n.Buried || !n.Encrypted):
			continue
		case !ordered:
			if ok, err := s.mayBeginKeys(n); err != nil || !ok {
				return err
			}
			return s.beginKeys(n, part)
		case !s.finishedKeys(n, part):
			return nil
		}
	}
	plan.State, plan.Finished, s.changed = Done, s.tx.Now(), true
	s.tell("DATABASE_KEY_ROTATION_COMPLETED", "The rotation of the keys of the databases of cluster %s is complete.", s.cluster.Name)
	return nil
}

// mayBeginKeys tells whether a node can rotate now: it runs, and no other cluster of the
// project is in the middle of a rotation of database keys that goes on.
func (s *situation) mayBeginKeys(n store.Node) (bool, error) {
	if !able(n, s.status[n.ID]) {
		return false, nil
	}
	others, err := s.tx.Clusters(s.cluster.Project)
	if err != nil {
		return false, err
	}
	for _, c := range others {
		if c.ID == s.cluster.ID || !keysOpen(c) || c.Deleting {
			continue
		}
		o, ok, err := look(s.tx, c.ID)
		if err != nil || !ok {
			return false, err
		}
		if slices.ContainsFunc(c.DatabaseKeys.Nodes, func(part store.NodeDatabaseKey) bool {
			other, there := o.nodes[part.Node]
			return part.State == Running && part.Failure == "" && there && able(other, o.status[part.Node])
		}) {
			return false, nil
		}
	}
	return true, nil
}

// beginKeys orders a node to rotate its keysets, and to compact if that is wanted.
func (s *situation) beginKeys(n store.Node, part *store.NodeDatabaseKey) error {
	plan, st := s.cluster.DatabaseKeys, s.status[n.ID].Keysets
	if part.Rotation == 0 {
		n.KeysetRotation = max(n.KeysetRotation, st.Rotation) + 1
		part.Rotation, part.Started = n.KeysetRotation, s.tx.Now()
	}
	if plan.Compact {
		n.Compaction = max(n.Compaction, st.Compaction) + 1
		part.Compaction = n.Compaction
	}
	if err := s.tx.PutNode(n); err != nil {
		return err
	}
	s.nodes[n.ID] = n
	if plan.State == Pending {
		plan.State, plan.Started = Running, s.tx.Now()
		s.tell("DATABASE_KEY_ROTATION_STARTED", "The rotation of the keys of the databases of cluster %s has begun.", s.cluster.Name)
	}
	part.State, s.changed = Running, true
	return nil
}

// finishedKeys takes in what the host reports about what was ordered.
func (s *situation) finishedKeys(n store.Node, part *store.NodeDatabaseKey) bool {
	st := s.status[n.ID].Keysets
	if st.Failure != part.Failure {
		if part.Failure == "" {
			e := s.tell("DATABASE_KEY_ROTATION_FAILED", "The keys of the databases of cluster %s could not be rotated on a node; it is tried again. %s", s.cluster.Name, st.Failure)
			e.Node, e.Host, e.Data["reason"] = string(n.ID), string(n.Host), st.Failure
		}
		part.Failure, s.changed = st.Failure, true
	}
	if st.Rotation < part.Rotation || st.Compaction < part.Compaction {
		return false
	}
	part.State, part.Failure, part.Finished, s.changed = Done, "", s.tx.Now(), true
	e := s.tell("DATABASE_KEYS_ROTATED", "The databases of a node of cluster %s have new keys.", s.cluster.Name)
	e.Node, e.Host = string(n.ID), string(n.Host)
	return true
}
