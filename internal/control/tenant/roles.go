package tenant

import (
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Role is the name of a role, as the API writes it.
type Role string

// The roles that mean something here; the others of Atlas are accepted and allow
// reading only.
const (
	OrgOwner        Role = "ORG_OWNER"
	OrgGroupCreator Role = "ORG_GROUP_CREATOR"
	OrgReadOnly     Role = "ORG_READ_ONLY"
	OrgMember       Role = "ORG_MEMBER"

	GroupOwner               Role = "GROUP_OWNER"
	GroupClusterManager      Role = "GROUP_CLUSTER_MANAGER"
	GroupDatabaseAccessAdmin Role = "GROUP_DATABASE_ACCESS_ADMIN"
	GroupReadOnly            Role = "GROUP_READ_ONLY"
)

var orgRoles = []Role{
	OrgOwner, OrgGroupCreator, "ORG_BILLING_ADMIN", "ORG_BILLING_READ_ONLY", "ORG_STREAM_PROCESSING_ADMIN", OrgReadOnly, OrgMember,
}

var groupRoles = []Role{
	GroupOwner, GroupClusterManager, "GROUP_STREAM_PROCESSING_OWNER", "GROUP_DATA_ACCESS_ADMIN", "GROUP_DATA_ACCESS_READ_WRITE",
	"GROUP_DATA_ACCESS_READ_ONLY", GroupDatabaseAccessAdmin, "GROUP_BACKUP_MANAGER", "GROUP_OBSERVABILITY_VIEWER",
	"GROUP_SEARCH_INDEX_EDITOR", GroupReadOnly,
}

// Principal is somebody whose identity was proven, with their roles.
type Principal struct {
	// Name is how events call them: "apikey:PUBLIC", "user:USERNAME" or
	// "system".
	Name string
	// KeyID and PublicKey are set for API keys.
	KeyID, PublicKey string
	// PersonID and Username are set for people.
	PersonID, Username string
	Org                keys.OrgID
	OrgRoles           []Role
	ProjectRoles       map[keys.ProjectID][]Role
	// RemoteAddress is where the request came from, for events; it may be empty.
	RemoteAddress string
	system        bool
}

// System is the platform itself: it may do everything.
func System() Principal { return Principal{Name: "system", system: true} }

// HasOrg tells whether the principal has the role in the organization. An
// Organization Owner has every role there; every member may read its own membership.
func (p Principal) HasOrg(role Role, org keys.OrgID) bool {
	switch {
	case p.system:
		return true
	case org == "" || p.Org != org:
		return false
	case role == OrgMember:
		return true
	case role == OrgReadOnly:
		return slices.Contains(p.OrgRoles, role) || slices.Contains(p.OrgRoles, OrgOwner)
	}
	return slices.Contains(p.OrgRoles, OrgOwner) || slices.Contains(p.OrgRoles, role)
}

// Holds tells whether the principal was given the role in the project itself. An
// Organization Owner does not hold Project Owner by being one: for changes of key
// management they add themselves to the project first.
func (p Principal) Holds(role Role, project keys.ProjectID) bool {
	if p.system {
		return true
	}
	have := p.ProjectRoles[project]
	return slices.Contains(have, GroupOwner) || slices.Contains(have, role) || (role == GroupReadOnly && len(have) > 0)
}

// Can tells whether the principal may act in the role in the project: they hold it,
// or they own the project's organization (or, to read, read all of it).
func (p Principal) Can(role Role, project store.Project) bool {
	return p.Holds(role, project.ID) || p.HasOrg(OrgOwner, project.Org) || (role == GroupReadOnly && p.HasOrg(OrgReadOnly, project.Org))
}

// Unauthorized is the refusal for a role that is missing.
func Unauthorized(what string) *apierr.Error {
	return apierr.New(401, "USER_UNAUTHORIZED", "Current user is not authorized to perform this action. %s", what)
}

// Require resolves a project that the principal may act in: GROUP_NOT_FOUND if it
// does not exist for them, USER_UNAUTHORIZED if the role is missing.
func Require(tx *store.Tx, p Principal, role Role, id keys.ProjectID) (store.Project, error) {
	project, err := resolve(tx, p, id)
	if err != nil {
		return store.Project{}, err
	}
	if !p.Can(role, project) {
		return store.Project{}, Unauthorized("It needs the role " + string(role) + " in this project.")
	}
	return project, nil
}

// RequireKeyOwner resolves a project whose key management the principal may
// change: they must hold Project Owner in it.
func RequireKeyOwner(tx *store.Tx, p Principal, id keys.ProjectID) (store.Project, error) {
	project, err := resolve(tx, p, id)
	if err != nil {
		return store.Project{}, err
	}
	if !p.Holds(GroupOwner, id) {
		return store.Project{}, Unauthorized("Changes of key management need the role GROUP_OWNER in this project; an Organization Owner adds themselves to the project first.")
	}
	return project, nil
}

func resolve(tx *store.Tx, p Principal, id keys.ProjectID) (store.Project, error) {
	missing := apierr.NotFound("GROUP_NOT_FOUND", "No group with ID %s exists.", id).With(string(id))
	if !keys.ValidID(string(id)) {
		return store.Project{}, missing
	}
	project, err := tx.Project(id)
	if isNotFound(err) || (err == nil && !p.Can(GroupReadOnly, project)) {
		return store.Project{}, missing
	}
	return project, err
}

// RequireOrg resolves an organization in the same way: ORG_NOT_FOUND,
// USER_UNAUTHORIZED.
func RequireOrg(tx *store.Tx, p Principal, role Role, id keys.OrgID) (store.Org, error) {
	missing := apierr.NotFound("ORG_NOT_FOUND", "No organization with ID %s exists.", id).With(string(id))
	if !keys.ValidID(string(id)) || !p.HasOrg(OrgMember, id) {
		return store.Org{}, missing
	}
	org, err := tx.Org(id)
	if isNotFound(err) {
		return store.Org{}, missing
	}
	if err == nil && !p.HasOrg(role, id) {
		return store.Org{}, Unauthorized("It needs the role " + string(role) + " in this organization.")
	}
	return org, err
}
