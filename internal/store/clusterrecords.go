package store

import (
	"fmt"

	"github.com/keywright/keywright/internal/keys"
)

// prefixLength is how much of a cluster's name goes into host names, and so must
// be unique in its project.
const prefixLength = 23

// NamePrefix is the part of a cluster's name that must be unique in its project.
func NamePrefix(name string) string { return name[:min(len(name), prefixLength)] }

// AddCluster adds a cluster; ErrDuplicate if its name or prefix is taken.
func (t *Tx) AddCluster(c Cluster) error {
	d, err := encode(c)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO clusters (id, project_id, name, name_prefix, doc) VALUES (?, ?, ?, ?, ?)`,
		string(c.ID), string(c.Project), c.Name, NamePrefix(c.Name), d)
	return err
}

// PutCluster replaces a cluster or gives ErrNotFound.
func (t *Tx) PutCluster(c Cluster) error {
	d, err := encode(c)
	if err != nil {
		return err
	}
	return t.must(`UPDATE clusters SET doc = ? WHERE id = ?`, d, string(c.ID))
}

// RemoveCluster removes the record of a cluster that has no nodes left.
func (t *Tx) RemoveCluster(id keys.ClusterID) error {
	return t.must(`DELETE FROM clusters WHERE id = ?`, string(id))
}

// Cluster gives a cluster by its id, or ErrNotFound.
func (t *Tx) Cluster(id keys.ClusterID) (Cluster, error) {
	return doc[Cluster](t, `SELECT doc FROM clusters WHERE id = ?`, string(id))
}

// ClusterNamed gives a project's cluster by name, or ErrNotFound.
func (t *Tx) ClusterNamed(p keys.ProjectID, name string) (Cluster, error) {
	return doc[Cluster](t, `SELECT doc FROM clusters WHERE project_id = ? AND name = ?`, string(p), name)
}

// Clusters lists a project's clusters, oldest first; of all projects with "".
func (t *Tx) Clusters(p keys.ProjectID) ([]Cluster, error) {
	if p == "" {
		return docs[Cluster](t, `SELECT doc FROM clusters ORDER BY id`)
	}
	return docs[Cluster](t, `SELECT doc FROM clusters WHERE project_id = ? ORDER BY id`, string(p))
}

// PutNode adds or replaces a node.
func (t *Tx) PutNode(n Node) error {
	d, err := encode(n)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO nodes (id, cluster_id, project_id, host_id, buried, doc) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET buried = excluded.buried, doc = excluded.doc`,
		string(n.ID), string(n.Cluster), string(n.Project), string(n.Host), flag(n.Buried), d)
	return err
}

// RemoveNode removes a node's record and status.
func (t *Tx) RemoveNode(id keys.NodeID) error {
	return t.must(`DELETE FROM nodes WHERE id = ?`, string(id))
}

func (t *Tx) nodes(where string, args ...any) ([]Node, error) {
	var out []Node
	err := t.each(`SELECT doc, buried FROM nodes WHERE `+where+` ORDER BY id`, args, func(scan func(...any) error) error {
		var text string
		var buried int64
		if err := scan(&text, &buried); err != nil {
			return fmt.Errorf("read nodes: %w", err)
		}
		n, err := decode[Node](text)
		n.Buried = buried != 0
		out = append(out, n)
		return err
	})
	return out, err
}

// Node gives a node or ErrNotFound.
func (t *Tx) Node(id keys.NodeID) (Node, error) {
	ns, err := t.nodes(`id = ?`, string(id))
	if err == nil && len(ns) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Node{}, err
	}
	return ns[0], nil
}

// NodesOfCluster lists a cluster's nodes, tombstones included.
func (t *Tx) NodesOfCluster(c keys.ClusterID) ([]Node, error) {
	return t.nodes(`cluster_id = ?`, string(c))
}

// NodesOfHost lists a host's nodes, tombstones included.
func (t *Tx) NodesOfHost(h keys.HostID) ([]Node, error) { return t.nodes(`host_id = ?`, string(h)) }

// NodesOfProject lists a project's nodes, tombstones included.
func (t *Tx) NodesOfProject(p keys.ProjectID) ([]Node, error) {
	return t.nodes(`project_id = ?`, string(p))
}

// PutNodeStatus records what an agent reported about a node.
func (t *Tx) PutNodeStatus(s NodeStatus) error {
	d, err := encode(s)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO node_status (node_id, doc) VALUES (?, ?) ON CONFLICT (node_id) DO UPDATE SET doc = excluded.doc`, string(s.Node), d)
	return err
}

// NodeStatus gives the last report about a node, or ErrNotFound.
func (t *Tx) NodeStatus(id keys.NodeID) (NodeStatus, error) {
	return doc[NodeStatus](t, `SELECT doc FROM node_status WHERE node_id = ?`, string(id))
}
