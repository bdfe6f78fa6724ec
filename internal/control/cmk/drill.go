package cmk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The states of a drill.
const (
	// DrillOrdered: no host has said yet what it did with the order.
	DrillOrdered = "ORDERED"
	// DrillRunning: a host denies the cluster its key.
	DrillRunning = "RUNNING"
	// DrillRecovering: it is over, and not everything serves again yet.
	DrillRecovering = "RECOVERING"
	// DrillDone: everything serves again.
	DrillDone = "DONE"
	// DrillDropped: no host has carried the order out.
	DrillDropped = "DROPPED"
	// DrillUnclear: no word came in time; hosts end a drill by themselves.
	DrillUnclear = "UNCLEAR"
)

const (
	// keptDrills is how many a cluster remembers.
	keptDrills = 20
	// recovery is how long after its end a drill's last word is waited for.
	recovery = 10 * time.Minute
)

// DrillState tells how far a drill is.
func DrillState(d store.Drill, now time.Time) string {
	var waiting, running, ended, dropped, up int
	for _, h := range d.Hosts {
		switch {
		case h.Began.IsZero() && h.Ended.IsZero():
			waiting++
		case h.Began.IsZero():
			dropped++
		case h.Ended.IsZero():
			running++
		case h.Up == 0:
			ended++
		default:
			up++
		}
	}
	switch age := now.Sub(d.Requested); {
	case dropped == len(d.Hosts):
		return DrillDropped
	case waiting+running+ended == 0:
		return DrillDone
	case age > custody.DrillLate+d.For+recovery, waiting == len(d.Hosts)-dropped && age > 2*custody.DrillLate:
		return DrillUnclear
	case running > 0:
		return DrillRunning
	case waiting > 0:
		return DrillOrdered
	}
	return DrillRecovering
}

// openDrill tells whether a drill is under way, or may be.
func openDrill(d store.Drill, now time.Time) bool {
	return slices.Contains([]string{DrillOrdered, DrillRunning, DrillRecovering}, DrillState(d, now))
}

// Drill orders a rehearsal with effect: for a while one cluster is treated as if the key
// had been taken away, then everything returns by itself (key-plane rule 28). It needs
// Project Owner, and the verdict VALID. Codes: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// CLUSTER_NOT_FOUND, INVALID_ATTRIBUTE, ENCRYPTION_AT_REST_NOT_ENABLED, KEY_NOT_VALID,
// CLUSTER_NOT_ENCRYPTED, CLUSTER_NOT_RUNNING, DRILL_UNDER_WAY.
func (s *Service) Drill(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string, minutes int) (out store.Drill, err error) {
	length := time.Duration(minutes) * time.Minute
	if minutes < 1 || length > custody.MaxDrill {
		return out, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute minutes specified: a drill lasts from 1 to 5 minutes.").With("minutes")
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		c, err := clusterNamed(tx, project, name)
		if err != nil {
			return err
		}
		hosts, err := s.drillable(tx, project, c)
		if err != nil {
			return err
		}
		out = store.Drill{ID: keys.NewID(tx.Now()), By: p.Name, Requested: tx.Now(), For: length}
		for _, h := range hosts {
			out.Hosts = append(out.Hosts, store.DrillHost{Host: h})
		}
		c.Drills = append(c.Drills[max(0, len(c.Drills)+1-keptDrills):], out)
		if err := tx.PutCluster(c); err != nil {
			return err
		}
		e := drillEvent(p, "CLUSTER_KEY_DRILL_REQUESTED", pr, c, out, "%s: for %s cluster %s is treated as if the customer key had been taken away.", agentlink.DrillText, length, c.Name)
		return tx.Append(e)
	})
	return out, err
}

// Drills lists a cluster's newest drills, oldest first. GROUP_NOT_FOUND,
// CLUSTER_NOT_FOUND.
func (s *Service) Drills(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string) (out []store.Drill, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		c, err := clusterNamed(tx, project, name)
		out = c.Drills
		return err
	})
	return out, err
}

// drillable gives the hosts of a cluster that a drill can be made with.
func (s *Service) drillable(tx *store.Tx, project keys.ProjectID, c store.Cluster) ([]keys.HostID, error) {
	config, err := tx.KeyConfig(project)
	if err != nil {
		return nil, err
	}
	if !config.Enabled {
		return nil, NotEnabled(project)
	}
	v, _, err := s.combine(tx, config)
	if err != nil {
		return nil, err
	}
	if v.Kind != string(custody.Valid) {
		return nil, apierr.Conflict("KEY_NOT_VALID", "A drill is possible only while the customer key is VALID; it is %s now.", v.Kind).With(string(project))
	}
	all, err := tx.Clusters(project)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if n := len(x.Drills); n > 0 && openDrill(x.Drills[n-1], tx.Now()) {
			return nil, apierr.Conflict("DRILL_UNDER_WAY", "A drill with cluster %s is under way; a project has one at a time.", x.Name).With(x.Name)
		}
	}
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return nil, err
	}
	var hosts []keys.HostID
	encrypted := false
	for _, n := range nodes {
		st, err := nodeStatus(tx, n.ID)
		if err != nil {
			return nil, err
		}
		if n.Buried || !st.Encrypted {
			continue
		}
		encrypted = true
		if n.Run && !slices.Contains(hosts, n.Host) {
			hosts = append(hosts, n.Host)
		}
	}
	switch {
	case !encrypted || c.Deleting:
		return nil, apierr.Conflict("CLUSTER_NOT_ENCRYPTED", "Cluster %s has no files under the customer key: taking the key away has no effect on it.", c.Name).With(c.Name)
	case len(hosts) == 0:
		return nil, apierr.Conflict("CLUSTER_NOT_RUNNING", "Cluster %s is paused: there is nothing to stop.", c.Name).With(c.Name)
	}
	return hosts, nil
}

// DrillOrders are the drills that a host is to carry out.
func DrillOrders(tx *store.Tx, project keys.ProjectID, host keys.HostID) ([]agentlink.DrillOrder, error) {
	all, err := tx.Clusters(project)
	if err != nil {
		return nil, err
	}
	var out []agentlink.DrillOrder
	for _, c := range all {
		for _, d := range c.Drills {
			age := max(0, tx.Now().Sub(d.Requested))
			mine := slices.ContainsFunc(d.Hosts, func(h store.DrillHost) bool { return h.Host == host && h.Began.IsZero() && h.Ended.IsZero() })
			if mine && age <= custody.DrillLate {
				out = append(out, agentlink.DrillOrder{ID: d.ID, Cluster: c.ID, For: agentlink.Duration(d.For), Age: agentlink.Duration(age)})
			}
		}
	}
	return out, nil
}

// followDrills takes in what a host says about drills.
func followDrills(tx *store.Tx, project keys.ProjectID, host keys.HostID, told []custody.Drill) error {
	if len(told) == 0 {
		return nil
	}
	all, err := tx.Clusters(project)
	if err != nil {
		return err
	}
	for _, c := range all {
		c.Drills = slices.Clone(c.Drills)
		var events []audit.Event
		for i := range c.Drills {
			c.Drills[i].Hosts = slices.Clone(c.Drills[i].Hosts)
			e, err := followDrill(tx, c, &c.Drills[i], host, told)
			if err != nil {
				return err
			}
			events = append(events, e...)
		}
		if len(events) == 0 {
			continue
		}
		if err := tx.PutCluster(c); err != nil {
			return err
		}
		for _, e := range events {
			if err := tx.Append(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// followDrill updates one host's part in a drill and gives the events of that.
func followDrill(tx *store.Tx, c store.Cluster, d *store.Drill, host keys.HostID, told []custody.Drill) ([]audit.Event, error) {
	i := slices.IndexFunc(d.Hosts, func(h store.DrillHost) bool { return h.Host == host })
	j := slices.IndexFunc(told, func(x custody.Drill) bool { return x.ID == d.ID })
	if i < 0 || j < 0 {
		return nil, nil
	}
	old, x := d.Hosts[i], told[j]
	// A host cannot take back what it has said: each of these is written once.
	now := old
	if now.Began.IsZero() && now.Ended.IsZero() {
		now.Began = x.Began.UTC().Truncate(time.Microsecond)
	}
	if now.Ended.IsZero() {
		now.Ended = x.Ended.UTC().Truncate(time.Microsecond)
	}
	if !now.Began.IsZero() {
		if now.Down == 0 {
			now.Down = bounded(x.Down)
		}
		if now.Up == 0 && !now.Ended.IsZero() {
			now.Up = bounded(x.Up)
		}
	}
	if now == old {
		return nil, nil
	}
	d.Hosts[i] = now
	pr, err := tx.Project(c.Project)
	if err != nil {
		return nil, err
	}
	var out []audit.Event
	event := func(kind, format string, args ...any) {
		e := drillEvent(tenant.System(), kind, pr, c, *d, format, args...)
		e.Host = string(host)
		out = append(out, e)
	}
	if old.Began.IsZero() && now.Began.IsZero() && !now.Ended.IsZero() {
		event("CLUSTER_KEY_DRILL_DROPPED", "%s: a host did not carry out the drill with cluster %s: the order came late, or its verdict on the key was not VALID.", agentlink.DrillText, c.Name)
	}
	if old.Began.IsZero() && !now.Began.IsZero() {
		event("CLUSTER_KEY_DRILL_STARTED", "%s: a host treats cluster %s as if the customer key had been taken away.", agentlink.DrillText, c.Name)
	}
	if old.Down == 0 && now.Down != 0 {
		event("CLUSTER_KEY_DRILL_STOPPED_PROCESSES", "%s: the processes of cluster %s on a host were gone %s after the order.", agentlink.DrillText, c.Name, shown(now.Down))
	}
	if old.Ended.IsZero() && !now.Ended.IsZero() && !now.Began.IsZero() {
		event("CLUSTER_KEY_DRILL_ENDED", "%s: the drill with cluster %s is over on a host.", agentlink.DrillText, c.Name)
	}
	if old.Up == 0 && now.Up != 0 {
		event("CLUSTER_KEY_DRILL_RECOVERED", "%s: cluster %s on a host could be written to again %s after the drill's end.", agentlink.DrillText, c.Name, shown(now.Up))
	}
	return out, nil
}

// bounded keeps a host's measurement in a sane range.
func bounded(d time.Duration) time.Duration { return min(max(d, 0), 24*time.Hour) }

func shown(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// drillEvent starts an event that is marked as a drill.
func drillEvent(p tenant.Principal, kind string, pr store.Project, c store.Cluster, d store.Drill, format string, args ...any) audit.Event {
	e := tenant.Event(p, kind, pr, format, args...)
	e.Cluster = string(c.ID)
	e.Data["clusterName"], e.Data["drill"], e.Data["duration"] = c.Name, d.ID, d.For.String()
	return e
}

func clusterNamed(tx *store.Tx, project keys.ProjectID, name string) (store.Cluster, error) {
	c, err := tx.ClusterNamed(project, name)
	if errors.Is(err, store.ErrNotFound) {
		return c, apierr.NotFound("CLUSTER_NOT_FOUND", "No cluster named %s exists in group %s.", name, project).With(name, string(project))
	}
	return c, err
}

// nodeStatus is the last report about a node; zero before the first.
func nodeStatus(tx *store.Tx, id keys.NodeID) (store.NodeStatus, error) {
	st, err := tx.NodeStatus(id)
	if errors.Is(err, store.ErrNotFound) {
		return store.NodeStatus{}, nil
	}
	if err != nil {
		return st, fmt.Errorf("read status of node: %w", err)
	}
	return st, nil
}
