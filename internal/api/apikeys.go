package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

type keyRole struct {
	OrgID   keys.OrgID     `json:"orgId,omitempty"`
	GroupID keys.ProjectID `json:"groupId,omitempty"`
	Role    string         `json:"roleName"`
}

type apiKeyBody struct {
	ID          string `json:"id"`
	Description string `json:"desc"`
	PublicKey   string `json:"publicKey"`
	// PrivateKey is shown once, when the key is made, and redacted ever after.
	PrivateKey string    `json:"privateKey"`
	Roles      []keyRole `json:"roles"`
	Links      []link    `json:"links"`
}

// redactedKey is what stands in place of a private key that is not kept.
const redactedKey = "********-****-****-************"

func (c *call) apiKeyBody(k store.APIKey) apiKeyBody {
	b := apiKeyBody{
		ID: k.ID, Description: k.Description, PublicKey: k.PublicKey, PrivateKey: redactedKey, Roles: []keyRole{},
		Links: c.self("orgs", string(k.Org), "apiKeys", k.ID),
	}
	for _, r := range k.OrgRoles {
		b.Roles = append(b.Roles, keyRole{OrgID: k.Org, Role: r})
	}
	for id, rs := range k.ProjectRoles {
		for _, r := range rs {
			b.Roles = append(b.Roles, keyRole{GroupID: id, Role: r})
		}
	}
	return b
}

type apiKeyRequest struct {
	Description string          `json:"desc"`
	Roles       []tenant.Role   `json:"roles"`
	ID          json.RawMessage `json:"id"`
	PublicKey   json.RawMessage `json:"publicKey"`
	PrivateKey  json.RawMessage `json:"privateKey"`
	Links       json.RawMessage `json:"links"`
}

func (c *call) newAPIKey(org keys.OrgID, in tenant.NewAPIKey) (int, any, error) {
	k, private, err := c.cfg.Tenant.CreateAPIKey(c.ctx(), c.who, org, in)
	if err != nil {
		return 0, nil, err
	}
	defer private.Wipe()
	b := c.apiKeyBody(k)
	b.PrivateKey = string(private.Reveal())
	return http.StatusOK, b, nil
}

func createOrgAPIKey(c *call) (int, any, error) {
	var in apiKeyRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	return c.newAPIKey(c.org(), tenant.NewAPIKey{Description: in.Description, OrgRoles: in.Roles})
}

// createGroupAPIKey makes a key of the project's organization with roles in the
// project only.
func createGroupAPIKey(c *call) (int, any, error) {
	var in apiKeyRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	p, err := c.cfg.Tenant.Project(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	return c.newAPIKey(p.Org, tenant.NewAPIKey{Description: in.Description, OrgRoles: []tenant.Role{tenant.OrgMember}, Projects: map[keys.ProjectID][]tenant.Role{p.ID: in.Roles}})
}

func assignAPIKey(c *call) (int, any, error) {
	var in apiKeyRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	k, err := c.cfg.Tenant.AssignAPIKey(c.ctx(), c.who, c.project(), c.vars["apiUserId"], in.Roles)
	return http.StatusOK, c.apiKeyBody(k), err
}

func listAPIKeys(c *call) (int, any, error) {
	all, err := c.cfg.Tenant.APIKeys(c.ctx(), c.who, c.org())
	if err != nil {
		return 0, nil, err
	}
	out := []apiKeyBody{}
	for _, k := range all {
		out = append(out, c.apiKeyBody(k))
	}
	return paged(c, out)
}

func getAPIKey(c *call) (int, any, error) {
	k, err := c.cfg.Tenant.APIKey(c.ctx(), c.who, c.org(), c.vars["apiUserId"])
	return http.StatusOK, c.apiKeyBody(k), err
}

func deleteAPIKey(c *call) (int, any, error) {
	return noContent(c.cfg.Tenant.DeleteAPIKey(c.ctx(), c.who, c.org(), c.vars["apiUserId"]))
}

type auditBody struct {
	Intact  bool   `json:"intact"`
	Finding string `json:"finding,omitempty"`
	// Head is the end of the chain, or of what was intact of it: keep it elsewhere.
	Head audit.Head `json:"head"`
}

// verifyAudit checks the control plane's whole chain; a head that the caller
// kept (seq and hash in the query) must lie on it.
func verifyAudit(c *call) (int, any, error) {
	o, err := c.cfg.Tenant.Org(c.ctx(), c.who, c.org())
	if err == nil && !c.who.HasOrg(tenant.OrgOwner, o.ID) {
		err = tenant.Unauthorized("Verifying the audit chain needs the role ORG_OWNER.")
	}
	if err != nil {
		return 0, nil, err
	}
	kept, err := c.keptHead()
	if err != nil {
		return 0, nil, err
	}
	head, err := c.cfg.Audit.VerifyAudit(c.ctx(), kept)
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return 0, nil, err
	}
	b := auditBody{Intact: err == nil, Head: head}
	if err != nil {
		b.Finding = err.Error()
	}
	return http.StatusOK, b, nil
}

// keptHead reads a head from the query, zero if there is none.
func (c *call) keptHead() (audit.Head, error) {
	seq, hash := c.query("seq"), c.query("hash")
	if seq == "" && hash == "" {
		return audit.Head{}, nil
	}
	n, err := strconv.ParseUint(seq, 10, 64)
	if err != nil || n == 0 {
		return audit.Head{}, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter seq is %q; the number of the kept head is expected.", seq).With("seq")
	}
	h, err := audit.ParseHash(hash)
	if err != nil {
		return audit.Head{}, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter hash: %v.", err).With("hash")
	}
	return audit.Head{Seq: n, Hash: h}, nil
}
