package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// clusterEvent starts an event about a cluster.
func clusterEvent(p tenant.Principal, kind string, pr store.Project, c store.Cluster, format string, args ...any) audit.Event {
	e := tenant.Event(p, kind, pr, format, args...)
	e.Cluster = string(c.ID)
	e.Data["clusterName"] = c.Name
	return e
}

// later has a cluster looked at again.
func (s *Service) later(id keys.ClusterID, at time.Time) {
	s.mu.Lock()
	if have, ok := s.due[id]; !ok || at.Before(have) {
		s.due[id] = at
	}
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// takeDue gives the clusters to look at now, and how long until the next one.
func (s *Service) takeDue(now time.Time) (ids []keys.ClusterID, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = time.Hour
	for id, at := range s.due {
		if !at.After(now) {
			ids = append(ids, id)
			delete(s.due, id)
		} else {
			wait = min(wait, at.Sub(now))
		}
	}
	return ids, wait
}

// Run is the reconciler: it looks at every cluster once, and then at those for which
// time alone makes a difference. Reports of hosts are taken in by Status. It runs
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var all []store.Cluster
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.Clusters("")
		return err
	}); err != nil {
		return fmt.Errorf("read clusters: %w", err)
	}
	for _, c := range all {
		s.later(c.ID, s.st.Now())
	}
	for {
		ids, wait := s.takeDue(s.st.Now())
		for _, id := range ids {
			if err := s.st.Tx(ctx, func(tx *store.Tx) error { return s.observe(tx, id) }); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "cluster was not brought up to date", "cluster", id, "error", err)
				s.later(id, s.st.Now().Add(time.Second))
			}
		}
		if len(ids) > 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-s.poke:
			t.Stop()
		case <-t.C:
		}
	}
}

// health is what the reports about a cluster's nodes add up to.
type health struct {
	nodes   int
	settled bool
	// stopped says why custody has stopped a node, down why one is not up for another
	// cause; failed tells that it has tried.
	stopped, down string
	failed        bool
}

func (s *Service) health(tx *store.Tx, c store.Cluster) (health, error) {
	h := health{settled: true}
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return h, err
	}
	for _, n := range nodes {
		h.nodes++
		st, err := tx.NodeStatus(n.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return h, err
		}
		up := st.Phase == string(agentlink.PhaseRunning) && st.Primary
		switch {
		case st.Phase == string(agentlink.PhaseStoppedByCustody):
			if h.stopped, err = whyStopped(tx, n, st); err != nil {
				return h, err
			}
		case n.Run && !up:
			h.down = orDefault(st.Message, "the node is "+orDefault(st.Phase, "not reported yet"))
			h.failed = h.failed || st.Phase == string(agentlink.PhaseFailed)
		}
		want := up || (!n.Run && st.Phase == string(agentlink.PhaseStopped))
		if !want || st.Generation < n.Generation || st.Encrypted != n.Encrypted {
			h.settled = false
		}
	}
	return h, nil
}

// whyStopped says why custody stopped a node, and what to do, as its host found.
func whyStopped(tx *store.Tx, n store.Node, st store.NodeStatus) (string, error) {
	what := orDefault(st.Message, "the project's customer key cannot be used")
	r, err := tx.CustodyOf(n.Project, string(n.Host))
	if errors.Is(err, store.ErrNotFound) {
		return what, nil
	}
	if err != nil {
		return "", err
	}
	var c custody.State
	if err := json.Unmarshal(r.State, &c); err != nil {
		return "", fmt.Errorf("read custody state: %w", err)
	}
	if c.Reason == "" {
		return what, nil
	}
	remedy := orDefault(c.Remedy, kms.RemedyFor(c.Reason, ""))
	return strings.TrimSuffix(fmt.Sprintf("%s (%s). %s", what, c.Reason, remedy), "."), nil
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

// observe moves a cluster to the state that the reports about its nodes give.
func (s *Service) observe(tx *store.Tx, id keys.ClusterID) error {
	c, err := tx.Cluster(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	pr, err := tx.Project(c.Project)
	if err != nil {
		return err
	}
	h, err := s.health(tx, c)
	if err != nil {
		return err
	}
	if c.Deleting {
		return s.bury(tx, pr, c, h)
	}
	events := s.advance(tx, pr, &c, h)
	if len(events) == 0 {
		return nil
	}
	if err := tx.PutCluster(c); err != nil {
		return err
	}
	for _, e := range events {
		if err := tx.Append(e); err != nil {
			return err
		}
	}
	return nil
}

// bury removes the record of a cluster whose nodes are gone.
func (s *Service) bury(tx *store.Tx, pr store.Project, c store.Cluster, h health) error {
	if h.nodes > 0 {
		return nil
	}
	if at := c.StateSince.Add(s.cfg.ShowDeleting); tx.Now().Before(at) {
		s.later(c.ID, at)
		return nil
	}
	if err := tx.RemoveCluster(c.ID); err != nil {
		return err
	}
	return tx.Append(clusterEvent(tenant.System(), "CLUSTER_DELETED", pr, c, "Cluster %s was deleted.", c.Name))
}

// rehearsed tells whether a cluster is stopped by a drill only.
func rehearsed(stopped string) bool { return strings.HasPrefix(stopped, agentlink.DrillText) }

// markDrill marks the newest event of a cluster that is stopped by a drill only
// (key-plane rule 28).
func markDrill(c store.Cluster, events []audit.Event) {
	if n := len(c.Drills); n > 0 && rehearsed(c.Stopped) {
		e := &events[len(events)-1]
		e.Data["drill"], e.Message = c.Drills[n-1].ID, agentlink.DrillText+": "+e.Message
	}
}

// advance gives the events of the step that c takes; none means that nothing changed.
func (s *Service) advance(tx *store.Tx, pr store.Project, c *store.Cluster, h health) (out []audit.Event) {
	event := func(kind, format string, args ...any) {
		out = append(out, clusterEvent(tenant.System(), kind, pr, *c, format, args...))
	}
	enter := func(state string) { c.State, c.StateSince = state, tx.Now() }
	if h.stopped != "" && (c.Stopped == "" || rehearsed(c.Stopped) && !rehearsed(h.stopped)) {
		c.Stopped = h.stopped
		event("CLUSTER_INSTANCE_DISABLED", "The processes of cluster %s are stopped: %s.", c.Name, h.stopped)
		markDrill(*c, out)
	}
	if h.stopped == "" && c.Stopped != "" {
		switch {
		case h.settled:
			event("CLUSTER_INSTANCE_ENABLED", "The processes of cluster %s are running again.", c.Name)
			markDrill(*c, out)
			c.Stopped = ""
		case h.failed && c.State == Idle: // the key is back, and something else is wrong
			c.Stopped = ""
		}
	}
	switch c.State {
	case Creating:
		if !h.settled {
			return out
		}
		if at := c.StateSince.Add(s.cfg.ShowCreating); tx.Now().Before(at) {
			s.later(c.ID, at)
			return out
		}
		enter(Idle)
		c.Ready, c.Converting = tx.Now(), ""
		event("CLUSTER_READY", "Cluster %s can be used.", c.Name)
	case Updating:
		if !h.settled {
			return out
		}
		enter(Idle)
		text := fmt.Sprintf("The change of cluster %s is complete.", c.Name)
		if c.Converting != "" {
			text = fmt.Sprintf("Cluster %s was rewritten; its encryption at rest is %s now.", c.Name, c.Converting)
		}
		c.Converting = ""
		event("CLUSTER_UPDATE_COMPLETED", "%s", text)
	case Idle:
		if h.down != "" && h.stopped == "" && c.Stopped == "" {
			enter(Repairing)
			event("CLUSTER_INSTANCE_UNAVAILABLE", "Cluster %s cannot be used at present: %s.", c.Name, h.down)
		}
	case Repairing:
		if h.settled || h.stopped != "" {
			enter(Idle)
			if h.settled {
				event("CLUSTER_INSTANCE_RESTARTED", "Cluster %s can be used again.", c.Name)
			}
		}
	}
	return out
}
