package cmk

import (
	"context"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The bounds that a rehearsal tells beside those of custody.Policy.
const (
	// news is how long a run and a message take at most, as key-plane section 1 counts.
	news = 2 * time.Second
	// kill is when a bundled node that does not stop by itself is killed (rule 16).
	kill = time.Second
)

// Rehearsal is what taking the key away would do now.
type Rehearsal struct {
	Project keys.ProjectID
	View    View
	Policy  custody.Policy
	// Stops are the clusters with files under the key, Stays those without any.
	Stops, Stays []RehearsedCluster
	// Hosts are those with nodes of the project, and what they say now.
	Hosts []RehearsedHost
	// Wraps counts the wrapped keys in escrow that nothing opens without the key.
	Wraps  int
	Bounds Bounds
}

// RehearsedCluster is a cluster of a project.
type RehearsedCluster struct {
	store.Cluster
	Nodes []RehearsedNode
}

// RehearsedNode is a node that would stop, or would not.
type RehearsedNode struct {
	store.Node
	Status   store.NodeStatus
	Hostname string
	// Gap says why the node's stop is not enforced, or cannot be seen; empty if it is.
	Gap string
}

// RehearsedHost is a host that validates the key by itself.
type RehearsedHost struct {
	Validator
	Hostname string
	Nodes    int
}

// Bounds are the times within which a revocation is enforced, until the signal to the
// processes (key-plane section 1).
type Bounds struct {
	// Global is for reasons that hold for everybody, such as a disabled key. Local is for
	// those that may hold for one host, such as a role that cannot be assumed: another
	// validator is asked. Alone is the same if no other can tell.
	Global, Local, Alone time.Duration
	// Grace is how long nodes go on after that; Kill when a process that does not stop by
	// itself is killed.
	Grace, Kill time.Duration
}

// BoundsOf gives the bounds of a policy.
func BoundsOf(p custody.Policy) Bounds {
	p = p.Normal()
	global := p.Interval + p.C() + news
	return Bounds{Global: global, Local: global + p.C() + news, Alone: p.Interval + p.C() + 3*p.W(), Grace: p.Grace, Kill: kill}
}

// Rehearse tells what taking the key away would do; it changes nothing. GROUP_NOT_FOUND.
func (s *Service) Rehearse(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out Rehearsal, err error) {
	out.Project = project
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		if out.View, err = s.view(tx, project); err != nil {
			return err
		}
		out.Policy = s.Policy(out.View.KeyConfig)
		out.Bounds = BoundsOf(out.Policy)
		if err := out.clusters(tx); err != nil {
			return err
		}
		wraps, err := tx.EscrowOfProject(project)
		for _, w := range wraps {
			if w.State != keys.StateDestroyed {
				out.Wraps++
			}
		}
		return err
	})
	return out, err
}

// clusters fills in clusters, nodes and hosts.
func (r *Rehearsal) clusters(tx *store.Tx) error {
	all, err := tx.Clusters(r.Project)
	if err != nil {
		return err
	}
	hosts := map[keys.HostID]*RehearsedHost{}
	for _, v := range r.View.Validators {
		if v.Host == "" {
			continue
		}
		h, err := tx.Host(keys.HostID(v.Host))
		if err != nil {
			return err
		}
		hosts[h.ID] = &RehearsedHost{Validator: v, Hostname: h.Hostname}
	}
	for _, c := range all {
		x := RehearsedCluster{Cluster: c}
		nodes, err := tx.NodesOfCluster(c.ID)
		if err != nil {
			return err
		}
		stops := false
		for _, n := range nodes {
			if n.Buried {
				continue
			}
			st, err := nodeStatus(tx, n.ID)
			if err != nil {
				return err
			}
			h := hosts[n.Host]
			y := RehearsedNode{Node: n, Status: st, Hostname: string(n.Host)}
			if h != nil {
				y.Hostname = h.Hostname
				h.Nodes++
			}
			y.Gap = r.gap(y, h)
			stops = stops || n.Encrypted || st.Encrypted
			x.Nodes = append(x.Nodes, y)
		}
		if stops && r.View.Enabled {
			r.Stops = append(r.Stops, x)
		} else {
			r.Stays = append(r.Stays, x)
		}
	}
	for _, h := range hosts {
		r.Hosts = append(r.Hosts, *h)
	}
	slices.SortFunc(r.Hosts, func(a, b RehearsedHost) int {
		return slices.Compare([]string{a.Hostname, a.Host}, []string{b.Hostname, b.Host})
	})
	return nil
}

// gap says why it is not certain that the node stops.
func (r *Rehearsal) gap(n RehearsedNode, h *RehearsedHost) string {
	switch {
	case !r.View.Enabled || !n.Encrypted && !n.Status.Encrypted:
		return ""
	case n.Status.Node == "":
		return "its host has not reported it yet"
	case !n.Status.Encrypted:
		return "its files are not encrypted yet: they stay readable until the rewrite is complete"
	case !n.Encrypted:
		return "its files are being decrypted: they stay readable once the rewrite is complete"
	case h == nil || h.Reported.IsZero():
		return "its host has not said anything about the key yet"
	case h.Silent:
		return "its host is silent: it enforces by its own runs, which nobody can see"
	case h.State.Generation != r.View.Generation:
		return "its host still validates an older configuration"
	case r.Policy.Mode == custody.ModeAlert:
		return "the project's policy is ALERT: nothing is stopped"
	}
	return ""
}

// NotEnforced lists the nodes whose stop is not enforced or cannot be seen.
func (r *Rehearsal) NotEnforced() (out []RehearsedNode) {
	for _, c := range r.Stops {
		for _, n := range c.Nodes {
			if n.Gap != "" {
				out = append(out, n)
			}
		}
	}
	return out
}
