package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const recordFormat = 1

// record is what a host knows of one node's files. Replacing it is the one step
// that turns a node from its old files to its rewritten ones.
type record struct {
	Format  int            `json:"format"`
	Node    keys.NodeID    `json:"node"`
	Project keys.ProjectID `json:"project"`
	Cluster keys.ClusterID `json:"cluster"`
	// Port is the node's own for its whole life.
	Port int `json:"port"`
	// Dir is the data directory's name below the node's directory; it counts up
	// with each rewrite.
	Dir       int    `json:"dir"`
	Encrypted bool   `json:"encrypted"`
	ReplSet   string `json:"replicaSet"`
	// Generation is the desired generation that the files correspond to.
	Generation uint64 `json:"generation"`
	// Prepared is set once the node has its replica set and its administrator.
	Prepared bool `json:"prepared"`
	// Stale are data directories that a rewrite left behind and that have to go,
	// together with every master key but the one in use.
	Stale []int `json:"stale,omitempty"`
	// Users maps "database.name" to the revision that was carried out.
	Users map[string]uint64 `json:"users,omitempty"`
	// Rotation is the newest wanted rotation of the master key that is carried out,
	// Rotating one that was begun.
	Rotation uint64           `json:"rotation,omitempty"`
	Rotating *pendingRotation `json:"rotating,omitempty"`
	// Keysets is what was done with the database keysets, nil before the first order.
	Keysets *agentlink.KeysetStatus `json:"keysets,omitempty"`
}

func (r record) dirName() string { return dirName(r.Dir) }

func dirName(n int) string { return fmt.Sprintf("data-%d", n) }

// loadRecord reads a node's record; ok is false if there is none.
func loadRecord(dir layout, node keys.NodeID) (r record, ok bool, err error) {
	err = durable.ReadJSON(dir.node(node, "node.json"), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err == nil && r.Format != recordFormat {
		err = fmt.Errorf("record of node %s has format %d, this program reads %d", node, r.Format, recordFormat)
	}
	if err == nil && (r.Node != node || r.Port <= 0 || r.Dir <= 0) {
		err = fmt.Errorf("record of node %s (%s) is damaged", node, dir.node(node, "node.json"))
	}
	return r, err == nil, err
}

func (r record) save(dir layout) error {
	r.Format = recordFormat
	return durable.WriteJSON(dir.node(r.Node, "node.json"), r, 0o600)
}

// password reads the administrator's password of a node, or makes it while the node
// has no administrator yet.
func password(dir layout, node keys.NodeID, prepared bool) (secret.Bytes, error) {
	path := dir.node(node, "admin.secret")
	b, err := os.ReadFile(path) //nolint:gosec // the agent's own directory
	if err == nil && len(b) > 0 {
		return secret.New(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return secret.Bytes{}, fmt.Errorf("read administrator's password: %w", err)
	}
	if prepared {
		return secret.Bytes{}, fmt.Errorf("administrator's password of node %s is lost: %s is missing or empty", node, path)
	}
	p := secret.RandomText(24)
	return p, durable.WriteFile(path, p.Reveal(), 0o600)
}
