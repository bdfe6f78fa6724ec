package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/keys"
)

// keyBody is a customer key with everything that needs it. Atlas has no call for it.
type keyBody struct {
	KeyARN  string            `json:"keyArn"`
	Verdict inventory.Verdict `json:"verdict"`
	// OnlyRollback: nothing but a possible rollback needs the key, it can be disabled.
	OnlyRollback bool     `json:"onlyRollbackNeedsIt"`
	NeededBy     neededBy `json:"neededBy"`
	// Reasons and Uses are left out of lists.
	Reasons []reasonBody `json:"reasons,omitempty"`
	Uses    []useBody    `json:"configurations,omitempty"`
	// Note says what the verdict does not cover.
	Note  string `json:"note,omitempty"`
	Links []link `json:"links"`
}

const keyNote = "The verdict covers what Keywright keeps. Whatever else is encrypted with this key is not known here."

// neededBy counts.
type neededBy struct {
	Projects  int `json:"projects"`
	Clusters  int `json:"clusters"`
	Nodes     int `json:"nodes"`
	Wraps     int `json:"wraps"`
	Hosts     int `json:"hosts"`
	Snapshots int `json:"snapshots"`
}

type useBody struct {
	GroupID   keys.ProjectID `json:"groupId"`
	GroupName string         `json:"groupName"`
	Use       inventory.Use  `json:"use"`
	Until     *string        `json:"until,omitempty"`
	LastSeen  *string        `json:"lastInForceAt,omitempty"`
}

type reasonBody struct {
	Kind        inventory.Kind `json:"kind"`
	Message     string         `json:"message"`
	Remedy      string         `json:"remedy"`
	GroupID     keys.ProjectID `json:"groupId,omitempty"`
	GroupName   string         `json:"groupName,omitempty"`
	ClusterName string         `json:"clusterName,omitempty"`
	NodeID      keys.NodeID    `json:"nodeId,omitempty"`
	HostID      keys.HostID    `json:"hostId,omitempty"`
	Hostname    string         `json:"hostname,omitempty"`
	KeyIDs      []keys.KeyID   `json:"keyIds,omitempty"`
	Since       *string        `json:"lastSeenAt,omitempty"`
	Until       *string        `json:"until,omitempty"`
}

func (c *call) keyBody(e inventory.Entry) keyBody {
	n := e.Counts()
	return keyBody{
		KeyARN: e.KeyARN, Verdict: e.Verdict, OnlyRollback: e.OnlyRollback,
		NeededBy: neededBy{Projects: n.Projects, Clusters: n.Clusters, Nodes: n.Nodes, Wraps: n.Wraps, Hosts: n.Hosts, Snapshots: n.Snapshots},
		Links:    c.self("orgs", string(c.org()), "keys", e.KeyARN),
	}
}

func (c *call) wholeKeyBody(e inventory.Entry) keyBody {
	b := c.keyBody(e)
	b.Note = keyNote
	for _, u := range e.Configurations {
		b.Uses = append(b.Uses, useBody{GroupID: u.Project, GroupName: u.Name, Use: u.Use, Until: stampOrNull(u.Until), LastSeen: stampOrNull(u.Seen)})
	}
	for _, r := range e.Reasons {
		b.Reasons = append(b.Reasons, reasonBody{
			Kind: r.Kind, Message: r.Message, Remedy: r.Remedy, GroupID: r.Project, GroupName: r.ProjectName, ClusterName: r.ClusterName,
			NodeID: r.Node, HostID: r.Host, Hostname: r.Hostname, KeyIDs: r.Keys, Since: stampOrNull(r.Since), Until: stampOrNull(r.Until),
		})
	}
	return b
}

func listKeys(c *call) (int, any, error) {
	all, err := c.cfg.Inventory.List(c.ctx(), c.who, c.org())
	if err != nil {
		return 0, nil, err
	}
	return pagedAs(c, all, c.keyBody)
}

func getKey(c *call) (int, any, error) {
	e, err := c.cfg.Inventory.Get(c.ctx(), c.who, c.org(), c.vars["keyArn"])
	return http.StatusOK, c.wholeKeyBody(e), err
}
