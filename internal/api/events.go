package api

import (
	"net/http"
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// eventBody is an event as Atlas shows it, with Keywright's own fields beside:
// the message, and the event's place in the audit chain.
type eventBody struct {
	ID            string            `json:"id"`
	Created       string            `json:"created"`
	Type          string            `json:"eventTypeName"`
	GroupID       string            `json:"groupId,omitempty"`
	OrgID         string            `json:"orgId,omitempty"`
	IsGlobalAdmin bool              `json:"isGlobalAdmin"`
	PublicKey     string            `json:"publicKey,omitempty"`
	APIKeyID      string            `json:"apiKeyId,omitempty"`
	RemoteAddress string            `json:"remoteAddress,omitempty"`
	ClusterID     string            `json:"clusterId,omitempty"`
	ClusterName   string            `json:"clusterName,omitempty"`
	NodeID        string            `json:"nodeId,omitempty"`
	HostID        string            `json:"hostId,omitempty"`
	Actor         string            `json:"actor"`
	Message       string            `json:"message"`
	Raw           map[string]string `json:"raw,omitempty"`
	Chain         chainBody         `json:"chain"`
	Links         []link            `json:"links"`
}

type chainBody struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"`
	Hash string `json:"hash"`
}

func (c *call) eventBody(e audit.Event) eventBody {
	b := eventBody{
		ID: e.ID, Created: stamp(e.Time), Type: e.Type, GroupID: e.Project, OrgID: e.Org, ClusterID: e.Cluster, NodeID: e.Node, HostID: e.Host,
		Actor: e.Actor, Message: e.Message, PublicKey: e.Data["publicKey"], APIKeyID: e.Data["apiKeyId"], RemoteAddress: e.Data["remoteAddress"],
		ClusterName: e.Data["clusterName"], Raw: e.Data, Chain: chainBody{Seq: e.Seq, Prev: e.Prev.String(), Hash: e.Hash.String()},
	}
	if e.Project != "" {
		b.Links = c.self("groups", e.Project, "events", e.ID)
	} else {
		b.Links = c.self("orgs", e.Org, "events", e.ID)
	}
	return b
}

// maxTypes bounds the types that one query may name.
const maxTypes = 100

func (c *call) eventFilter() (store.EventFilter, page, error) {
	p, err := c.page()
	if err != nil {
		return store.EventFilter{}, p, err
	}
	f := store.EventFilter{Types: splitList(c.queries("eventType")), Offset: (p.number - 1) * p.size, Limit: p.size}
	if len(f.Types) > maxTypes {
		return f, p, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter eventType names %d types; at most %d are possible.", len(f.Types), maxTypes).With("eventType")
	}
	if f.Since, err = c.queryTime("minDate"); err != nil {
		return f, p, err
	}
	f.Until, err = c.queryTime("maxDate")
	return f, p, err
}

func (c *call) events(p page, found []audit.Event, total int, err error) (int, any, error) {
	if err != nil {
		return 0, nil, err
	}
	out := []eventBody{}
	for _, e := range found {
		out = append(out, c.eventBody(e))
	}
	return http.StatusOK, envelope(c, p, out, total), nil
}

// clusterIDs turns the query's cluster names into ids; found is false if names were
// given and there are no such clusters.
func (c *call) clusterIDs() (ids []keys.ClusterID, found bool, err error) {
	names := splitList(c.queries("clusterNames"))
	if len(names) == 0 {
		return nil, true, nil
	}
	all, err := c.cfg.Cluster.List(c.ctx(), c.who, c.project())
	for _, v := range all {
		if slices.Contains(names, v.Name) {
			ids = append(ids, v.ID)
		}
	}
	return ids, len(ids) > 0, err
}

func listProjectEvents(c *call) (int, any, error) {
	f, p, err := c.eventFilter()
	if err != nil {
		return 0, nil, err
	}
	var found bool
	if f.Clusters, found, err = c.clusterIDs(); err != nil || !found {
		return c.events(p, nil, 0, err)
	}
	events, total, err := c.cfg.Tenant.ProjectEvents(c.ctx(), c.who, c.project(), f)
	return c.events(p, events, total, err)
}

func listOrgEvents(c *call) (int, any, error) {
	f, p, err := c.eventFilter()
	if err != nil {
		return 0, nil, err
	}
	found, total, err := c.cfg.Tenant.OrgEvents(c.ctx(), c.who, c.org(), f)
	return c.events(p, found, total, err)
}

func getProjectEvent(c *call) (int, any, error) {
	e, err := c.cfg.Tenant.ProjectEvent(c.ctx(), c.who, c.project(), c.vars["eventId"])
	return http.StatusOK, c.eventBody(e), err
}

func getOrgEvent(c *call) (int, any, error) {
	e, err := c.cfg.Tenant.OrgEvent(c.ctx(), c.who, c.org(), c.vars["eventId"])
	return http.StatusOK, c.eventBody(e), err
}
