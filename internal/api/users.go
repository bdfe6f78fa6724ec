package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

const none = "NONE"

type userRole struct {
	DatabaseName   string  `json:"databaseName"`
	RoleName       string  `json:"roleName"`
	CollectionName *string `json:"collectionName,omitempty"`
}

type userBody struct {
	GroupID      keys.ProjectID `json:"groupId"`
	DatabaseName string         `json:"databaseName"`
	Username     string         `json:"username"`
	Roles        []userRole     `json:"roles"`
	Scopes       []store.Scope  `json:"scopes"`
	Labels       []store.Tag    `json:"labels"`
	Description  string         `json:"description,omitempty"`
	DeleteAfter  *string        `json:"deleteAfterDate,omitempty"`
	AWSIAMType   string         `json:"awsIAMType"`
	X509Type     string         `json:"x509Type"`
	LDAPType     string         `json:"ldapAuthType"`
	OIDCType     string         `json:"oidcAuthType"`
	Links        []link         `json:"links"`
}

func (c *call) userBody(u store.DatabaseUser) userBody {
	b := userBody{
		GroupID: u.Project, DatabaseName: u.Database, Username: u.Username, Roles: []userRole{}, Scopes: u.Scopes, Labels: u.Labels,
		Description: u.Description, DeleteAfter: stampOrNull(u.DeleteAfter), AWSIAMType: none, X509Type: none, LDAPType: none, OIDCType: none,
		Links: c.self("groups", string(u.Project), "databaseUsers", u.Database, u.Username),
	}
	if b.Scopes == nil {
		b.Scopes = []store.Scope{}
	}
	if b.Labels == nil {
		b.Labels = []store.Tag{}
	}
	for _, r := range u.Roles {
		ur := userRole{DatabaseName: r.Database, RoleName: r.Role}
		if r.Collection != "" {
			ur.CollectionName = &r.Collection
		}
		b.Roles = append(b.Roles, ur)
	}
	return b
}

type userRequest struct {
	GroupID      keys.ProjectID  `json:"groupId"`
	DatabaseName string          `json:"databaseName"`
	Username     string          `json:"username"`
	Password     string          `json:"password"`
	Roles        *[]userRole     `json:"roles"`
	Scopes       *[]store.Scope  `json:"scopes"`
	Labels       *[]store.Tag    `json:"labels"`
	Description  *string         `json:"description"`
	DeleteAfter  *time.Time      `json:"deleteAfterDate"`
	AWSIAMType   string          `json:"awsIAMType"`
	X509Type     string          `json:"x509Type"`
	LDAPType     string          `json:"ldapAuthType"`
	OIDCType     string          `json:"oidcAuthType"`
	Links        json.RawMessage `json:"links"`
}

// userRequest reads a request; the ways of signing in that a node does not have
// are refused by name.
func (c *call) userRequest() (userRequest, []store.DatabaseRole, error) {
	var in userRequest
	if err := decode(c.r, &in); err != nil {
		return in, nil, err
	}
	for name, v := range map[string]string{"awsIAMType": in.AWSIAMType, "x509Type": in.X509Type, "ldapAuthType": in.LDAPType, "oidcAuthType": in.OIDCType} {
		if v != "" && v != none {
			return in, nil, apierr.BadRequest("FEATURE_UNSUPPORTED", "%s %q is not supported: database users sign in with a password. Leave it out or send NONE.", name, v).With(name)
		}
	}
	if in.GroupID != "" && in.GroupID != c.project() {
		return in, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute groupId specified: the path names group %s.", c.project()).With("groupId")
	}
	var roles []store.DatabaseRole
	if in.Roles != nil {
		for _, r := range *in.Roles {
			sr := store.DatabaseRole{Role: r.RoleName, Database: r.DatabaseName}
			if r.CollectionName != nil {
				sr.Collection = *r.CollectionName
			}
			roles = append(roles, sr)
		}
	}
	return in, roles, nil
}

func createUser(c *call) (int, any, error) {
	in, roles, err := c.userRequest()
	if err != nil {
		return 0, nil, err
	}
	u := store.DatabaseUser{Project: c.project(), Database: in.DatabaseName, Username: in.Username, Roles: roles}
	if in.Scopes != nil {
		u.Scopes = *in.Scopes
	}
	if in.Labels != nil {
		u.Labels = *in.Labels
	}
	if in.Description != nil {
		u.Description = *in.Description
	}
	if in.DeleteAfter != nil {
		u.DeleteAfter = *in.DeleteAfter
	}
	u, err = c.cfg.Tenant.CreateUser(c.ctx(), c.who, u, secret.FromString(in.Password))
	return http.StatusCreated, c.userBody(u), err
}

func listUsers(c *call) (int, any, error) {
	all, err := c.cfg.Tenant.Users(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	return pagedAs(c, all, c.userBody)
}

func getUser(c *call) (int, any, error) {
	u, err := c.cfg.Tenant.User(c.ctx(), c.who, c.project(), c.vars["databaseName"], c.vars["username"])
	return http.StatusOK, c.userBody(u), err
}

func updateUser(c *call) (int, any, error) {
	in, roles, err := c.userRequest()
	if err != nil {
		return 0, nil, err
	}
	p := tenant.UserPatch{Scopes: in.Scopes, Labels: in.Labels, Description: in.Description, DeleteAfter: in.DeleteAfter, Password: secret.FromString(in.Password)}
	if in.Roles != nil {
		p.Roles = &roles
	}
	u, err := c.cfg.Tenant.UpdateUser(c.ctx(), c.who, c.project(), c.vars["databaseName"], c.vars["username"], p)
	return http.StatusOK, c.userBody(u), err
}

func deleteUser(c *call) (int, any, error) {
	return noContent(c.cfg.Tenant.DeleteUser(c.ctx(), c.who, c.project(), c.vars["databaseName"], c.vars["username"]))
}

type entryBody struct {
	GroupID       keys.ProjectID `json:"groupId"`
	CIDR          string         `json:"cidrBlock,omitempty"`
	IPAddress     string         `json:"ipAddress,omitempty"`
	SecurityGroup string         `json:"awsSecurityGroup,omitempty"`
	Comment       string         `json:"comment,omitempty"`
	DeleteAfter   *string        `json:"deleteAfterDate,omitempty"`
	Links         []link         `json:"links"`
}

func (c *call) entryBody(e store.AccessEntry) entryBody {
	return entryBody{
		GroupID: e.Project, CIDR: e.CIDR, IPAddress: e.IPAddress, SecurityGroup: e.SecurityGroup, Comment: e.Comment,
		DeleteAfter: stampOrNull(e.DeleteAfter), Links: c.self("groups", string(e.Project), "accessList", e.Entry),
	}
}

type entryRequest struct {
	CIDR          string          `json:"cidrBlock"`
	IPAddress     string          `json:"ipAddress"`
	SecurityGroup string          `json:"awsSecurityGroup"`
	Comment       string          `json:"comment"`
	DeleteAfter   *time.Time      `json:"deleteAfterDate"`
	GroupID       json.RawMessage `json:"groupId"`
	Links         json.RawMessage `json:"links"`
}

func addAccess(c *call) (int, any, error) {
	var in []entryRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	var entries []store.AccessEntry
	for _, e := range in {
		se := store.AccessEntry{Project: c.project(), CIDR: e.CIDR, IPAddress: e.IPAddress, SecurityGroup: e.SecurityGroup, Comment: e.Comment}
		if e.DeleteAfter != nil {
			se.DeleteAfter = *e.DeleteAfter
		}
		entries = append(entries, se)
	}
	all, err := c.cfg.Tenant.AddAccess(c.ctx(), c.who, c.project(), entries)
	if err != nil {
		return 0, nil, err
	}
	_, body, err := c.entries(all)
	return http.StatusCreated, body, err
}

func (c *call) entries(all []store.AccessEntry) (int, any, error) {
	return pagedAs(c, all, c.entryBody)
}

func listAccess(c *call) (int, any, error) {
	all, err := c.cfg.Tenant.AccessList(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	return c.entries(all)
}

func getAccess(c *call) (int, any, error) {
	e, err := c.cfg.Tenant.AccessEntry(c.ctx(), c.who, c.project(), c.vars["entryValue"])
	return http.StatusOK, c.entryBody(e), err
}

// getAccessStatus says that an entry is stored: nodes do not enforce the list yet.
func getAccessStatus(c *call) (int, any, error) {
	_, err := c.cfg.Tenant.AccessEntry(c.ctx(), c.who, c.project(), c.vars["entryValue"])
	return http.StatusOK, map[string]string{"STATUS": "PENDING"}, err
}

func deleteAccess(c *call) (int, any, error) {
	return noContent(c.cfg.Tenant.DeleteAccess(c.ctx(), c.who, c.project(), c.vars["entryValue"]))
}

// splitList reads a query that may be repeated or separated by commas.
func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		for _, s := range strings.Split(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}
