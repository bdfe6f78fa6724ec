package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// reports is how long after its last report a host counts as one that reports.
const reports = 30 * time.Second

// Losses is what dies with a host.
type Losses struct {
	Host store.Host
	// Clusters have no node left without the host.
	Clusters []string
	Nodes    []keys.NodeID
	// Keys counts the wrapped keys that were kept for the host.
	Keys int
}

func (l Losses) text() string {
	if len(l.Nodes) == 0 {
		return "no node and no key"
	}
	clusters := "no cluster as a whole"
	if len(l.Clusters) > 0 {
		clusters = "the clusters " + strings.Join(l.Clusters, ", ") + " with all their data"
	}
	nodes := make([]string, len(l.Nodes))
	for i, n := range l.Nodes {
		nodes[i] = string(n)
	}
	return fmt.Sprintf("%s, %d nodes (%s) and %d wrapped keys", clusters, len(l.Nodes), strings.Join(nodes, ", "), l.Keys)
}

// Forget gives up a host that will not come back, with its nodes and the wraps that were
// kept for it: what was written there can never be opened again. confirm must be the
// host's name; without it the refusal says what would die. It needs Organization Owner.
// Codes: USER_UNAUTHORIZED, HOST_NOT_FOUND, HOST_STILL_REPORTS, CONFIRMATION_REQUIRED,
// CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED.
func (s *Service) Forget(ctx context.Context, p tenant.Principal, id keys.HostID, confirm string) (out Losses, err error) {
	var ended []keys.ClusterID
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		h, err := tx.Host(id)
		if errors.Is(err, store.ErrNotFound) || err == nil && h.Org != "" && !p.HasOrg(tenant.OrgReadOnly, h.Org) {
			return apierr.NotFound("HOST_NOT_FOUND", "There is no host %q.", clip(string(id))).With(clip(string(id)))
		}
		if err != nil {
			return err
		}
		org := h.Org
		if org == "" {
			org = p.Org
		}
		if !p.HasOrg(tenant.OrgOwner, org) {
			return tenant.Unauthorized("Forgetting a host needs the role ORG_OWNER.")
		}
		out = Losses{Host: h}
		nodes, err := tx.NodesOfHost(id)
		if err != nil {
			return err
		}
		if ended, err = s.losses(tx, p, nodes, &out); err != nil {
			return err
		}
		if since := tx.Now().Sub(h.LastSeen); since < reports {
			return apierr.Conflict("HOST_STILL_REPORTS", "Host %s has reported %s ago: it is not dead. Delete its clusters instead, or stop its agent and wait.", h.Hostname, since.Round(time.Second)).With(h.Hostname)
		}
		if confirm != h.Hostname {
			return apierr.BadRequest("CONFIRMATION_REQUIRED", "With host %s die %s. That cannot be undone. To go on, repeat the name of the host in the field hostname.", h.Hostname, out.text()).With(h.Hostname)
		}
		return s.forget(tx, p, h, nodes, ended, out)
	})
	if err != nil {
		return out, err
	}
	for _, c := range ended {
		s.later(c, s.st.Now().Add(s.cfg.ShowDeleting))
	}
	return out, nil
}

// losses finds out what dies with the nodes, and the clusters that end.
func (s *Service) losses(tx *store.Tx, p tenant.Principal, nodes []store.Node, out *Losses) (ended []keys.ClusterID, err error) {
	for _, n := range nodes {
		pr, err := tx.Project(n.Project)
		if err != nil {
			return nil, err
		}
		if !p.HasOrg(tenant.OrgOwner, pr.Org) {
			return nil, tenant.Unauthorized("The host has nodes of another organization too; its owner has to remove them first.")
		}
		out.Nodes = append(out.Nodes, n.ID)
		count, err := tx.CountKeys(n.ID)
		if err != nil {
			return nil, err
		}
		out.Keys += count
		all, err := tx.NodesOfCluster(n.Cluster)
		if err != nil {
			return nil, err
		}
		elsewhere := slices.ContainsFunc(all, func(o store.Node) bool { return o.Host != n.Host })
		if elsewhere || slices.Contains(ended, n.Cluster) {
			continue
		}
		c, err := tx.Cluster(n.Cluster)
		if err != nil {
			return nil, err
		}
		if c.Settings.TerminationProtection {
			return nil, apierr.BadRequest("CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", "Cluster %s would die with the host and is protected against termination; set terminationProtectionEnabled to false first.", c.Name).With(c.Name)
		}
		ended = append(ended, c.ID)
		out.Clusters = append(out.Clusters, c.Name)
	}
	return ended, nil
}

func (s *Service) forget(tx *store.Tx, p tenant.Principal, h store.Host, nodes []store.Node, ended []keys.ClusterID, out Losses) error {
	for _, n := range nodes {
		wraps, err := tx.DestroyEscrow(n.ID)
		if err != nil {
			return err
		}
		if err := tx.RemoveNode(n.ID); err != nil {
			return err
		}
		pr, err := tx.Project(n.Project)
		if err != nil {
			return err
		}
		e := tenant.Event(p, "NODE_REMOVED", pr, "A node was given up with its host %s.", h.Hostname)
		e.Cluster, e.Node, e.Host = string(n.Cluster), string(n.ID), string(h.ID)
		e.Data["keysDestroyed"] = fmt.Sprint(wraps)
		if err := tx.Append(e); err != nil {
			return err
		}
	}
	for _, id := range ended {
		c, err := tx.Cluster(id)
		if err != nil {
			return err
		}
		pr, err := tx.Project(c.Project)
		if err != nil {
			return err
		}
		c.Deleting, c.State, c.StateSince = true, Deleting, tx.Now()
		c.Generation++
		if err := tx.PutCluster(c); err != nil {
			return err
		}
		if err := tx.Append(clusterEvent(p, "CLUSTER_DELETE_SUBMITTED", pr, c, "Cluster %s is given up with its only host %s.", c.Name, h.Hostname)); err != nil {
			return err
		}
	}
	if err := tx.DeleteHost(h.ID); err != nil {
		return err
	}
	e := audit.Event{
		Type: "HOST_FORGOTTEN", Actor: p.Name, Org: string(h.Org), Host: string(h.ID), Message: fmt.Sprintf("Host %s was given up: %s died with it.", h.Hostname, out.text()),
		Data: map[string]string{"hostname": h.Hostname, "nodes": fmt.Sprint(len(out.Nodes)), "keys": fmt.Sprint(out.Keys), "auditSeq": fmt.Sprint(h.AuditSeq), "auditHead": h.AuditHead},
	}
	if e.Org == "" {
		e.Org = string(p.Org)
	}
	if p.PublicKey != "" {
		e.Data["publicKey"], e.Data["apiKeyId"] = p.PublicKey, p.KeyID
	}
	return tx.Append(e)
}
