package rotation

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// situation is a cluster with everything that its plan depends on.
type situation struct {
	tx      *store.Tx
	project store.Project
	cluster store.Cluster
	nodes   map[keys.NodeID]store.Node
	status  map[keys.NodeID]store.NodeStatus
	held    map[keys.NodeID]map[keys.KeyID]store.EscrowedWrap
	changed bool // the cluster's record
	events  []audit.Event
}

// look gathers the situation; ok is false for a cluster that is gone.
func look(tx *store.Tx, id keys.ClusterID) (s *situation, ok bool, err error) {
	s = &situation{tx: tx, nodes: map[keys.NodeID]store.Node{}, status: map[keys.NodeID]store.NodeStatus{}, held: map[keys.NodeID]map[keys.KeyID]store.EscrowedWrap{}}
	s.cluster, err = tx.Cluster(id)
	if errors.Is(err, store.ErrNotFound) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	if s.project, err = tx.Project(s.cluster.Project); err != nil {
		return s, false, err
	}
	nodes, err := tx.NodesOfCluster(id)
	if err != nil {
		return s, false, err
	}
	for _, n := range nodes {
		s.nodes[n.ID] = n
		if s.status[n.ID], err = status(tx, n.ID); err != nil {
			return s, false, err
		}
		if s.held[n.ID], err = heldBy(tx, n.ID); err != nil {
			return s, false, err
		}
	}
	return s, true, nil
}

// step moves a cluster's rotation on by what its hosts have reported; more tells that
// it has to be followed further.
func step(tx *store.Tx, id keys.ClusterID) (more bool, err error) {
	s, ok, err := look(tx, id)
	if err != nil || !ok || s.cluster.Deleting {
		return false, err
	}
	if isOpen(s.cluster) {
		// The record that was read is shared with nobody, but its plan is a pointer.
		plan := *s.cluster.Rotation
		plan.Nodes = slices.Clone(plan.Nodes)
		s.cluster.Rotation = &plan
		if err := s.advance(); err != nil {
			return false, err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.nodes)) {
		open, err := s.retire(s.nodes[id])
		if err != nil {
			return false, err
		}
		more = more || open
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
	return more || isOpen(s.cluster), nil
}

func (s *situation) tell(kind, format string, args ...any) *audit.Event {
	s.events = append(s.events, event(tenant.System(), kind, s.project, s.cluster, format, args...))
	return &s.events[len(s.events)-1]
}

// advance walks through the plan, node after node, as far as it goes now.
func (s *situation) advance() error {
	plan := s.cluster.Rotation
	for i := range plan.Nodes {
		part := &plan.Nodes[i]
		n, ok := s.nodes[part.Node]
		if (part.State == Pending || part.State == Running) && (!ok || n.Buried || !n.Encrypted) {
			part.State, part.Failure, s.changed = Skipped, "", true
		}
		switch part.State {
		case Pending:
			if ok, err := s.mayBegin(n); err != nil || !ok {
				return err
			}
			return s.begin(n, part)
		case Running:
			if !s.finished(n, part) {
				return nil
			}
		}
	}
	plan.State, plan.Finished, s.changed = Done, s.tx.Now(), true
	s.tell("MASTER_KEY_ROTATION_COMPLETED", "The rotation of the master keys of cluster %s is complete.", s.cluster.Name)
	return s.settle()
}

// mayBegin tells whether a node can rotate now: it runs, its key is known to be in
// escrow, and no other cluster of the project is in the middle of a rotation.
func (s *situation) mayBegin(n store.Node) (bool, error) {
	if s.waits() || !able(n, s.status[n.ID]) || s.held[n.ID][s.status[n.ID].MasterKey].Key == "" {
		return false, nil
	}
	others, err := s.tx.Clusters(s.cluster.Project)
	if err != nil {
		return false, err
	}
	for _, c := range others {
		if c.ID == s.cluster.ID || !isOpen(c) || c.Deleting {
			continue
		}
		busy, err := occupied(s.tx, c)
		if err != nil || busy {
			return false, err
		}
	}
	return true, nil
}

// waits tells whether a rotation that nobody asked for has to wait for the project's
// maintenance window. A node that has begun is never stopped by its end.
func (s *situation) waits() bool {
	w, ok := maintenance.Of(s.project)
	return ok && s.cluster.Rotation.Reason == Age && !w.Open(s.tx.Now())
}

// settle forgets the deferrals of a maintenance that is over: no cluster of the project
// has one left.
func (s *situation) settle() error {
	w := s.project.Maintenance
	if w == nil || s.cluster.Rotation.Reason != Age || w.Deferrals == 0 {
		return nil
	}
	others, err := s.tx.Clusters(s.cluster.Project)
	if err != nil {
		return err
	}
	for _, c := range others {
		if c.ID != s.cluster.ID && !c.Deleting && isOpen(c) && c.Rotation.Reason == Age {
			return nil
		}
	}
	next := *w
	next.Deferrals = 0
	s.project.Maintenance = &next
	return s.tx.UpdateProject(s.project)
}

// able tells whether a node is in a state in which it can rotate.
func able(n store.Node, st store.NodeStatus) bool {
	return n.Run && st.Phase == string(agentlink.PhaseRunning) && st.Encrypted && st.MasterKey != ""
}

// occupied tells whether a cluster is in the middle of a rotation that goes on: one
// that waits or fails keeps nobody else waiting.
func occupied(tx *store.Tx, c store.Cluster) (bool, error) {
	for _, part := range c.Rotation.Nodes {
		if part.State != Running || part.Failure != "" {
			continue
		}
		n, err := tx.Node(part.Node)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		st, err := status(tx, n.ID)
		if err != nil {
			return false, err
		}
		if able(n, st) {
			return true, nil
		}
	}
	return false, nil
}

// begin orders a node to rotate.
func (s *situation) begin(n store.Node, part *store.NodeRotation) error {
	plan := s.cluster.Rotation
	n.Rotation = max(n.Rotation, s.status[n.ID].Rotation) + 1
	if err := s.tx.PutNode(n); err != nil {
		return err
	}
	s.nodes[n.ID] = n
	if plan.State == Pending {
		plan.State, plan.Started = Running, s.tx.Now()
		s.tell("MASTER_KEY_ROTATION_STARTED", "The rotation of the master keys of cluster %s has begun.", s.cluster.Name)
	}
	part.State, part.Counter, part.From, part.Started, s.changed = Running, n.Rotation, s.status[n.ID].MasterKey, s.tx.Now(), true
	return nil
}

// finished takes in what the host reports about a rotation that was ordered. It is
// acknowledged when the node uses a new key that is Active in escrow.
func (s *situation) finished(n store.Node, part *store.NodeRotation) bool {
	st := s.status[n.ID]
	if st.RotationFailure != part.Failure {
		if part.Failure == "" { // once, until an attempt works
			e := s.tell("MASTER_KEY_ROTATION_FAILED", "A master key of cluster %s could not be rotated; it is tried again. %s", s.cluster.Name, st.RotationFailure)
			e.Node, e.Host, e.Data["reason"] = string(n.ID), string(n.Host), st.RotationFailure
		}
		part.Failure, s.changed = st.RotationFailure, true
	}
	now := s.held[n.ID][st.MasterKey]
	if st.Rotation < part.Counter || st.MasterKey == part.From || now.State != keys.StateActive {
		return false
	}
	part.State, part.To, part.Failure, part.Finished, s.changed = Done, st.MasterKey, "", s.tx.Now(), true
	e := s.tell("MASTER_KEY_ROTATED", "A node of cluster %s has a new master key.", s.cluster.Name)
	e.Node, e.Host, e.Data["from"], e.Data["to"] = string(n.ID), string(n.Host), string(part.From), string(part.To)
	return true
}

// retire names the replaced keys of a node for destruction, once the rotation that
// replaced them is acknowledged; open tells that keys beside the one in use are left.
func (s *situation) retire(n store.Node) (open bool, err error) {
	if n.Buried || !n.Encrypted {
		return false, nil
	}
	inUse := s.status[n.ID].MasterKey
	var replaced []keys.KeyID
	for _, id := range slices.Sorted(maps.Keys(s.held[n.ID])) {
		if id == inUse {
			continue
		}
		open = true
		if s.held[n.ID][id].State == keys.StateDeactivated {
			replaced = append(replaced, id)
		}
	}
	settled := inUse != "" && s.held[n.ID][inUse].State == keys.StateActive && !s.rotating(n.ID)
	if !settled || slices.Equal(replaced, n.RetiredKeys) {
		return open, nil
	}
	added := slices.DeleteFunc(slices.Clone(replaced), func(k keys.KeyID) bool { return slices.Contains(n.RetiredKeys, k) })
	n.RetiredKeys = replaced
	if err := s.tx.PutNode(n); err != nil {
		return open, err
	}
	if len(added) > 0 {
		names := make([]string, len(added))
		for i, k := range added {
			names[i] = string(k)
		}
		e := s.tell("MASTER_KEY_RETIRED", "Replaced master keys of a node of cluster %s are to be destroyed: nothing needs them any more.", s.cluster.Name)
		e.Node, e.Host, e.Data["keys"], e.Data["inUse"] = string(n.ID), string(n.Host), strings.Join(names, ","), string(inUse)
	}
	return open, nil
}

// rotating tells whether a rotation of the node is ordered and not acknowledged.
func (s *situation) rotating(id keys.NodeID) bool {
	if !isOpen(s.cluster) {
		return false
	}
	return slices.ContainsFunc(s.cluster.Rotation.Nodes, func(part store.NodeRotation) bool { return part.Node == id && part.State == Running })
}
