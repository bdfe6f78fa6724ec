package awslocal

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

func roleOperations() map[string]queryOperation {
	on := func(more ...string) []string { return append([]string{"RoleName"}, more...) }
	return map[string]queryOperation{
		"CreateRole": {on("AssumeRolePolicyDocument", "Path", "Description", "MaxSessionDuration", "PermissionsBoundary", "Tags.member"), true, createRole},
		"GetRole":    {on(), false, getRole},
		"ListRoles":  {pageParams("PathPrefix"), false, listRoles},
		"UpdateRole": {on("Description", "MaxSessionDuration"), true, updateRole},
		"DeleteRole": {on(), true, deleteRole},

		"UpdateAssumeRolePolicy":      {on("PolicyDocument"), true, updateAssumeRolePolicy},
		"ListInstanceProfilesForRole": {pageParams("RoleName"), false, emptyList(roleHolder(), "ListInstanceProfilesForRole", "InstanceProfiles")},
	}
}

// roleHolder is what a role has in common with a user.
func roleHolder() holder {
	return holder{word: "Role", param: "RoleName", inlineMax: 10240, attachMax: 20,
		find: func(c *call, st *state, p params, operation string, more ...func(*target)) (*identity, error) {
			r, err := c.roleFor(st, p, operation, more...)
			if err != nil {
				return nil, err
			}
			return &r.identity, nil
		}}
}

// roleFor authorises the call and finds the role in the caller's account.
// The role's path belongs to its ARN, so a missing role is asked for without.
func (c *call) roleFor(st *state, p params, operation string, more ...func(*target)) (*role, error) {
	name := p["RoleName"]
	if err := checkName("roleName", name); err != nil {
		return nil, err
	}
	r := st.Accounts[c.caller.Account].Roles[strings.ToLower(name)]
	arn := roleARN(c.caller.Account, "/", name)
	if r != nil {
		arn = r.ARN
		more = append(more, func(t *target) { t.tags = r.Tags })
	}
	if err := c.authorizeIAMCall(operation, arn, more...); err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "The role with name %s cannot be found.", name)
	}
	return r, nil
}

// roleSettings are the parameters that CreateRole and UpdateRole share.
func roleSettings(p params, seconds int) (int, error) {
	seconds, err := p.number("MaxSessionDuration", seconds)
	if err != nil {
		return 0, err
	}
	if seconds < defaultSession || seconds > maxSession {
		return 0, validation("1 validation error detected: Value '%d' at 'maxSessionDuration' failed to satisfy constraint: Member must have value between %d and %d", seconds, defaultSession, maxSession)
	}
	if len(p["Description"]) > maxRoleDescription {
		return 0, validation("The description has more than %d characters", maxRoleDescription)
	}
	return seconds, nil
}

func createRole(c *call, st *state, p params) ([]element, error) {
	name := p["RoleName"]
	if err := checkName("roleName", name); err != nil {
		return nil, err
	}
	path, err := pathOf(p)
	if err != nil {
		return nil, err
	}
	seconds, err := roleSettings(p, defaultSession)
	if err != nil {
		return nil, err
	}
	i, err := c.newIdentity(st, p, "CreateRole", identity{Name: name, Path: path, ID: uniqueID("AROA"), ARN: roleARN(c.caller.Account, path, name)})
	if err != nil {
		return nil, err
	}
	roles := st.Accounts[c.caller.Account].Roles
	if roles[strings.ToLower(name)] != nil {
		return nil, fail(http.StatusConflict, "EntityAlreadyExists", "Role with name %s already exists.", name)
	}
	if len(roles) >= maxRoles {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for RolesPerAccount: %d", maxRoles)
	}
	r := &role{identity: i, Description: p["Description"], MaxSession: seconds}
	if r.Trust, err = st.trust(p, "AssumeRolePolicyDocument"); err != nil {
		return nil, err
	}
	roles[strings.ToLower(name)] = r
	return []element{r.element(st)}, nil
}

// newIdentity authorises the making of a user or role with its boundary and
// tags.
func (c *call) newIdentity(st *state, p params, operation string, i identity) (identity, error) {
	tags, err := p.tags()
	if err != nil {
		return i, err
	}
	if err := c.authorizeIAMCall(operation, i.ARN, requestTags(tags)); err != nil {
		return i, err
	}
	i.Created, i.Policies = c.now.UTC().Truncate(time.Second), map[string]string{}
	if i.Tags, err = withTags(nil, tags); err != nil {
		return i, err
	}
	if i.Boundary = p["PermissionsBoundary"]; i.Boundary != "" {
		_, err = c.attachable(st, i.Boundary)
	}
	return i, err
}

func (st *state) trust(p params, name string) (boundPolicy, error) {
	doc, err := parsePolicy(policy.Trust, name, p[name], maxTrustPolicy)
	if err != nil {
		return boundPolicy{}, err
	}
	return st.bind(doc, p[name])
}

// element is the role in an answer; fields are what a list's member holds.
func (r *role) element(st *state) element {
	return group("Role", append(r.fields(st), r.details()...)...)
}

func (r *role) fields(st *state) []element {
	kids := []element{
		leaf("Path", r.Path), leaf("RoleName", r.Name), leaf("RoleId", r.ID), leaf("Arn", r.ARN),
		leaf("CreateDate", xmlTime(r.Created)), leaf("AssumeRolePolicyDocument", encodeDocument(st.readBack(r.Trust))),
		leaf("MaxSessionDuration", itoa(r.MaxSession)),
	}
	if r.Description != "" {
		kids = append(kids, leaf("Description", r.Description))
	}
	return kids
}

// details are boundary and tags, which lists leave out.
func (i *identity) details() []element {
	var kids []element
	if i.Boundary != "" {
		kids = append(kids, group("PermissionsBoundary", leaf("PermissionsBoundaryType", "PermissionsBoundaryPolicy"), leaf("PermissionsBoundaryArn", i.Boundary)))
	}
	if len(i.Tags) > 0 {
		kids = append(kids, tagElements(i.Tags))
	}
	return kids
}

func getRole(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "GetRole")
	if err != nil {
		return nil, err
	}
	return []element{r.element(st)}, nil
}

func listRoles(c *call, st *state, p params) ([]element, error) {
	if err := c.authorizeIAMCall("ListRoles", "arn:aws:iam::"+c.caller.Account+":role/"); err != nil {
		return nil, err
	}
	roles := st.Accounts[c.caller.Account].Roles
	var list []string
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if strings.HasPrefix(roles[name].Path, p["PathPrefix"]) {
			list = append(list, name)
		}
	}
	return paged(p, "Roles", list, func(name string) element { return group("member", roles[name].fields(st)...) })
}

func updateRole(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "UpdateRole")
	if err != nil {
		return nil, err
	}
	seconds, err := roleSettings(p, r.MaxSession)
	if err != nil {
		return nil, err
	}
	r.MaxSession = seconds
	if d, ok := p["Description"]; ok {
		r.Description = d
	}
	return []element{}, nil
}

func deleteRole(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "DeleteRole")
	if err != nil {
		return nil, err
	}
	if err := r.free(); err != nil {
		return nil, err
	}
	delete(st.Accounts[c.caller.Account].Roles, strings.ToLower(r.Name))
	return nil, nil
}

// free refuses to delete a user or role that still has policies.
func (i *identity) free() error {
	if len(i.Policies) > 0 {
		return fail(http.StatusConflict, "DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	if len(i.Attached) > 0 {
		return fail(http.StatusConflict, "DeleteConflict", "Cannot delete entity, must detach all policies first.")
	}
	return nil
}

func updateAssumeRolePolicy(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "UpdateAssumeRolePolicy")
	if err != nil {
		return nil, err
	}
	trust, err := st.trust(p, "PolicyDocument")
	if err != nil {
		return nil, err
	}
	r.Trust = trust
	return nil, nil
}
