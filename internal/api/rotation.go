package api

import (
	"net/http"
	"time"

	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// clusterKeysBody is a cluster with the master keys of its nodes.
type clusterKeysBody struct {
	ID                   keys.ClusterID `json:"id"`
	GroupID              keys.ProjectID `json:"groupId"`
	Name                 string         `json:"name"`
	StateName            string         `json:"stateName"`
	EncryptionAtRestWith string         `json:"encryptionAtRestProvider"`
	Nodes                []nodeKeyBody  `json:"nodes"`
	Rotation             *rotationBody  `json:"masterKeyRotation"`
	// DatabaseKeys is the newest rotation of the keysets of the databases, or null.
	DatabaseKeys *databaseKeysBody `json:"databaseKeyRotation"`
	// Stopped says why custody has stopped the cluster, Drill is the newest drill.
	Stopped string     `json:"stopped,omitempty"`
	Drill   *drillBody `json:"drill"`
	Links   []link     `json:"links"`
}

type nodeKeyBody struct {
	ID        keys.NodeID `json:"id"`
	HostID    keys.HostID `json:"hostId"`
	Phase     string      `json:"phase"`
	Message   string      `json:"message,omitempty"`
	Encrypted bool        `json:"encrypted"`
	// The master key in use, when it was made and how old it is; null without one.
	MasterKeyID      *keys.KeyID `json:"masterKeyId"`
	MasterKeyCreated *string     `json:"masterKeyCreated"`
	MasterKeyAgeDays *int        `json:"masterKeyAgeDays"`
	// Rotations counts those that the node has carried out.
	Rotations uint64 `json:"rotations"`
	// RetiredKeys are replaced master keys whose destruction is ordered.
	RetiredKeys []keys.KeyID `json:"retiredKeyIds"`
	// Keysets is about the keys of the node's databases, null before the first rotation.
	Keysets *keysetsBody `json:"databaseKeys"`
}

type rotationBody struct {
	Reason    string             `json:"reason"`
	State     string             `json:"state"`
	Requested string             `json:"requestedAt"`
	Started   *string            `json:"startedAt"`
	Finished  *string            `json:"finishedAt"`
	Nodes     []nodeRotationBody `json:"nodes"`
}

type nodeRotationBody struct {
	NodeID   keys.NodeID `json:"nodeId"`
	State    string      `json:"state"`
	From     keys.KeyID  `json:"fromKeyId,omitempty"`
	To       keys.KeyID  `json:"toKeyId,omitempty"`
	Failure  string      `json:"failure,omitempty"`
	Started  *string     `json:"startedAt"`
	Finished *string     `json:"finishedAt"`
}

func (c *call) clusterKeys(v rotation.View) clusterKeysBody {
	out := clusterKeysBody{
		ID: v.ID, GroupID: v.Project, Name: v.Name, StateName: v.State, EncryptionAtRestWith: v.Settings.EncryptionProvider,
		Nodes: []nodeKeyBody{}, Rotation: rotationOf(v.Rotation), DatabaseKeys: databaseKeysOf(v.DatabaseKeys), Stopped: v.Stopped, Drill: newestDrill(v.Cluster, c.now()), Links: c.self("groups", string(v.Project), "clusters", v.Name),
	}
	for _, n := range v.Nodes {
		b := nodeKeyBody{
			ID: n.ID, HostID: n.Host, Phase: n.Status.Phase, Message: n.Status.Message, Encrypted: n.Status.Encrypted,
			Rotations: n.Status.Rotation, RetiredKeys: n.RetiredKeys, Keysets: keysetsOf(n.Status.Keysets),
		}
		if b.RetiredKeys == nil {
			b.RetiredKeys = []keys.KeyID{}
		}
		if id := n.Status.MasterKey; id != "" {
			b.MasterKeyID = &id
		}
		if !n.KeyCreated.IsZero() {
			days := int(c.now().Sub(n.KeyCreated) / (24 * time.Hour))
			b.MasterKeyCreated, b.MasterKeyAgeDays = stampOrNull(n.KeyCreated), &days
		}
		out.Nodes = append(out.Nodes, b)
	}
	return out
}

func rotationOf(p *store.RotationPlan) *rotationBody {
	if p == nil {
		return nil
	}
	out := &rotationBody{
		Reason: p.Reason, State: p.State, Requested: stamp(p.Requested), Started: stampOrNull(p.Started), Finished: stampOrNull(p.Finished), Nodes: []nodeRotationBody{},
	}
	for _, n := range p.Nodes {
		out.Nodes = append(out.Nodes, nodeRotationBody{
			NodeID: n.Node, State: n.State, From: n.From, To: n.To, Failure: n.Failure, Started: stampOrNull(n.Started), Finished: stampOrNull(n.Finished),
		})
	}
	return out
}

func getClusterKeys(c *call) (int, any, error) {
	v, err := c.cfg.Rotation.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, c.clusterKeys(v), nil
}

func rotateMasterKey(c *call) (int, any, error) {
	v, err := c.cfg.Rotation.Request(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, c.clusterKeys(v), nil
}

// auditHead answers with the signed ends of all audit chains, to be kept elsewhere.
func auditHead(c *call) (int, any, error) {
	h, err := c.cfg.Export.Heads(c.ctx(), c.who, c.org())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, h, nil
}

// rotateMasterKeys answers with the clusters whose master keys are to be rotated.
func rotateMasterKeys(c *call) (int, any, error) {
	vs, err := c.cfg.Rotation.RequestAll(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	out := make([]clusterKeysBody, len(vs))
	for i, v := range vs {
		out[i] = c.clusterKeys(v)
	}
	return http.StatusAccepted, map[string]any{"results": out, "totalCount": len(out)}, nil
}

// exportKeys answers with a signed bundle of all wrapped keys; it holds ciphertext only.
func exportKeys(c *call) (int, any, error) {
	b, err := c.cfg.Export.Export(c.ctx(), c.who, c.org())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, b, nil
}
