package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// keysetsBody tells which keys a node's files are under.
type keysetsBody struct {
	// Rotations and Compactions count those that the node has carried out.
	Rotations   uint64 `json:"rotations"`
	Compactions uint64 `json:"compactions"`
	// Share is that of the bytes under the newest keys, from 0 to 1.
	Share      float64 `json:"shareUnderNewest"`
	Bytes      int64   `json:"bytes"`
	Newest     int64   `json:"bytesUnderNewest"`
	OldKeys    int64   `json:"oldKeys"`
	Compacting bool    `json:"compacting"`
	Failure    string  `json:"failure,omitempty"`
}

func keysetsOf(k store.KeysetStatus) *keysetsBody {
	if k == (store.KeysetStatus{}) {
		return nil
	}
	out := &keysetsBody{
		Rotations: k.Rotation, Compactions: k.Compaction, Share: 1, Bytes: k.Bytes, Newest: k.Newest, OldKeys: k.OldKeys, Compacting: k.Compacting, Failure: k.Failure,
	}
	if k.Bytes > 0 {
		out.Share = float64(k.Newest) / float64(k.Bytes)
	}
	return out
}

type databaseKeysBody struct {
	Compact   bool                   `json:"compact"`
	State     string                 `json:"state"`
	Requested string                 `json:"requestedAt"`
	Started   *string                `json:"startedAt"`
	Finished  *string                `json:"finishedAt"`
	Nodes     []nodeDatabaseKeysBody `json:"nodes"`
}

type nodeDatabaseKeysBody struct {
	NodeID   keys.NodeID `json:"nodeId"`
	State    string      `json:"state"`
	Failure  string      `json:"failure,omitempty"`
	Started  *string     `json:"startedAt"`
	Finished *string     `json:"finishedAt"`
}

func databaseKeysOf(p *store.DatabaseKeyPlan) *databaseKeysBody {
	if p == nil {
		return nil
	}
	out := &databaseKeysBody{
		Compact: p.Compact, State: p.State, Requested: stamp(p.Requested), Started: stampOrNull(p.Started), Finished: stampOrNull(p.Finished), Nodes: []nodeDatabaseKeysBody{},
	}
	for _, n := range p.Nodes {
		out.Nodes = append(out.Nodes, nodeDatabaseKeysBody{NodeID: n.Node, State: n.State, Failure: n.Failure, Started: stampOrNull(n.Started), Finished: stampOrNull(n.Finished)})
	}
	return out
}

func rotateDatabaseKeys(c *call) (int, any, error) {
	var in struct {
		Compact bool `json:"compact"`
	}
	if c.r.ContentLength != 0 {
		if err := decode(c.r, &in); err != nil {
			return 0, nil, err
		}
	}
	v, err := c.cfg.Rotation.DatabaseKeys(c.ctx(), c.who, c.project(), c.vars["clusterName"], in.Compact)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, c.clusterKeys(v), nil
}
