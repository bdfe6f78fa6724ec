package api

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// root answers the call that clients check their credentials with.
func root(c *call) (int, any, error) {
	type role struct {
		OrgID   string `json:"orgId,omitempty"`
		GroupID string `json:"groupId,omitempty"`
		Role    string `json:"roleName"`
	}
	roles := []role{}
	for _, r := range c.who.OrgRoles {
		roles = append(roles, role{OrgID: string(c.who.Org), Role: string(r)})
	}
	for id, rs := range c.who.ProjectRoles {
		for _, r := range rs {
			roles = append(roles, role{GroupID: string(id), Role: string(r)})
		}
	}
	return http.StatusOK, map[string]any{
		"appName": "Keywright", "build": c.cfg.Build, "throttling": false, "links": c.self(),
		"apiKey": map[string]any{"id": c.who.KeyID, "publicKey": c.who.PublicKey, "roles": roles, "accessList": []any{}},
	}, nil
}

type orgBody struct {
	ID        keys.OrgID `json:"id"`
	Name      string     `json:"name"`
	IsDeleted bool       `json:"isDeleted"`
	Links     []link     `json:"links"`
}

func (c *call) orgBody(o store.Org) orgBody {
	return orgBody{ID: o.ID, Name: o.Name, Links: c.self("orgs", string(o.ID))}
}

func listOrgs(c *call) (int, any, error) {
	all, err := c.cfg.Tenant.Orgs(c.ctx(), c.who)
	if err != nil {
		return 0, nil, err
	}
	out := []orgBody{}
	for _, o := range all {
		if n := c.query("name"); n == "" || n == o.Name {
			out = append(out, c.orgBody(o))
		}
	}
	return paged(c, out)
}

func getOrg(c *call) (int, any, error) {
	o, err := c.cfg.Tenant.Org(c.ctx(), c.who, c.org())
	return http.StatusOK, c.orgBody(o), err
}

type groupBody struct {
	ID            keys.ProjectID `json:"id"`
	OrgID         keys.OrgID     `json:"orgId"`
	Name          string         `json:"name"`
	ClusterCount  int            `json:"clusterCount"`
	Created       string         `json:"created"`
	Tags          []store.Tag    `json:"tags"`
	DefaultAlerts bool           `json:"withDefaultAlertsSettings"`
	Links         []link         `json:"links"`
}

func (c *call) groupBody(p store.Project) groupBody {
	b := groupBody{
		ID: p.ID, OrgID: p.Org, Name: p.Name, ClusterCount: p.Clusters, Created: stamp(p.Created),
		Tags: p.Tags, DefaultAlerts: p.DefaultAlerts, Links: c.self("groups", string(p.ID)),
	}
	if b.Tags == nil {
		b.Tags = []store.Tag{}
	}
	return b
}

// groupRequest is a project in a request; what clients send back of an answer is
// read-only and ignored.
type groupRequest struct {
	Name          *string         `json:"name"`
	OrgID         keys.OrgID      `json:"orgId"`
	Tags          *[]store.Tag    `json:"tags"`
	DefaultAlerts *bool           `json:"withDefaultAlertsSettings"`
	ID            json.RawMessage `json:"id"`
	ClusterCount  json.RawMessage `json:"clusterCount"`
	Created       json.RawMessage `json:"created"`
	Links         json.RawMessage `json:"links"`
}

func createGroup(c *call) (int, any, error) {
	var in groupRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	switch {
	case in.Name == nil:
		return 0, nil, missingAttribute("name")
	case in.OrgID == "":
		return 0, nil, missingAttribute("orgId")
	}
	n := tenant.NewProject{Name: *in.Name, Org: in.OrgID, DefaultAlerts: in.DefaultAlerts}
	if in.Tags != nil {
		n.Tags = *in.Tags
	}
	p, err := c.cfg.Tenant.CreateProject(c.ctx(), c.who, n)
	return http.StatusCreated, c.groupBody(p), err
}

func listGroups(c *call) (int, any, error) {
	all, err := c.cfg.Tenant.Projects(c.ctx(), c.who, c.org())
	if err != nil {
		return 0, nil, err
	}
	if n := c.query("name"); n != "" {
		all = slices.DeleteFunc(all, func(p store.Project) bool { return p.Name != n })
	}
	return pagedAs(c, all, c.groupBody)
}

func getGroup(c *call) (int, any, error) {
	p, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project())
	return http.StatusOK, c.groupBody(p), err
}

func getGroupByName(c *call) (int, any, error) {
	p, err := c.cfg.Tenant.ProjectByName(c.ctx(), c.who, c.vars["groupName"])
	return http.StatusOK, c.groupBody(p), err
}

func updateGroup(c *call) (int, any, error) {
	var in groupRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	p, err := c.cfg.Tenant.UpdateProject(c.ctx(), c.who, c.project(), tenant.ProjectPatch{Name: in.Name, Tags: in.Tags, DefaultAlerts: in.DefaultAlerts})
	return http.StatusOK, c.groupBody(p), err
}

func deleteGroup(c *call) (int, any, error) {
	return http.StatusAccepted, struct{}{}, c.cfg.Tenant.DeleteProject(c.ctx(), c.who, c.project())
}
