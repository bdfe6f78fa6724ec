package awslocal

import (
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	maxRoles           = 1000
	maxTrustPolicy     = 2048
	maxInlinePolicies  = 10240
	maxRoleDescription = 1000
)

func iamOperations() map[string]queryOperation {
	page := []string{"Marker", "MaxItems"}
	onRole := func(more ...string) []string { return append([]string{"RoleName"}, more...) }
	return map[string]queryOperation{
		"CreateRole":                  {onRole("AssumeRolePolicyDocument", "Path", "Description", "MaxSessionDuration"), true, createRole},
		"GetRole":                     {onRole(), false, getRole},
		"ListRoles":                   {append([]string{"PathPrefix"}, page...), false, listRoles},
		"DeleteRole":                  {onRole(), true, deleteRole},
		"UpdateAssumeRolePolicy":      {onRole("PolicyDocument"), true, updateAssumeRolePolicy},
		"PutRolePolicy":               {onRole("PolicyName", "PolicyDocument"), true, putRolePolicy},
		"GetRolePolicy":               {onRole("PolicyName"), false, getRolePolicy},
		"ListRolePolicies":            {onRole(page...), false, listRolePolicies},
		"DeleteRolePolicy":            {onRole("PolicyName"), true, deleteRolePolicy},
		"ListAttachedRolePolicies":    {onRole(append([]string{"PathPrefix"}, page...)...), false, emptyList("ListAttachedRolePolicies", "AttachedPolicies")},
		"ListInstanceProfilesForRole": {onRole(page...), false, emptyList("ListInstanceProfilesForRole", "InstanceProfiles")},
	}
}

var (
	nameForm       = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)
	policyNameForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,128}$`)
	pathForm       = regexp.MustCompile(`^/([\x21-\x7e]{0,510}/)?$`)
)

// authorizeIAMCall asks the caller's policies about an IAM call on a role.
func (c *call) authorizeIAMCall(operation, resource string) error {
	c.entry.Resource = resource
	if text := c.refusal(target{action: "iam:" + operation, resource: resource, account: c.caller.Account}); text != "" {
		return fail(http.StatusForbidden, "AccessDenied", "%s", text)
	}
	return nil
}

// roleFor authorises the call and finds the role in the caller's account.
// The role's path belongs to its ARN, so a missing role is asked for without.
func (c *call) roleFor(st *state, p params, operation string) (*role, error) {
	name := p["RoleName"]
	if !nameForm.MatchString(name) {
		return nil, validation("The specified value for roleName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_- and have 1 to 64 characters")
	}
	r := st.Accounts[c.caller.Account].Roles[strings.ToLower(name)]
	arn := roleARN(c.caller.Account, "/", name)
	if r != nil {
		arn = r.ARN
	}
	if err := c.authorizeIAMCall(operation, arn); err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "The role with name %s cannot be found.", name)
	}
	return r, nil
}

// parsePolicy checks a policy document of an IAM call.
func parsePolicy(kind policy.Kind, name, text string, most int) (*policy.Document, error) {
	if text == "" {
		return nil, validation("The parameter %s is required", name)
	}
	if n := sizeOf(text); n > most {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Maximum policy size of %d bytes exceeded: %d", most, n)
	}
	return policy.Parse(kind, text)
}

// sizeOf counts without white space, as IAM does.
func sizeOf(text string) int {
	n := 0
	for _, r := range text {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	return n
}

func createRole(c *call, st *state, p params) ([]element, error) {
	name, path := p["RoleName"], p["Path"]
	if path == "" {
		path = "/"
	}
	if !nameForm.MatchString(name) {
		return nil, validation("The specified value for roleName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_- and have 1 to 64 characters")
	}
	if !pathForm.MatchString(path) {
		return nil, validation("The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.")
	}
	seconds, err := p.number("MaxSessionDuration", defaultSession)
	if err != nil {
		return nil, err
	}
	if seconds < defaultSession || seconds > maxSession {
		return nil, validation("1 validation error detected: Value '%d' at 'maxSessionDuration' failed to satisfy constraint: Member must have value between %d and %d", seconds, defaultSession, maxSession)
	}
	if len(p["Description"]) > maxRoleDescription {
		return nil, validation("The description has more than %d characters", maxRoleDescription)
	}
	arn := roleARN(c.caller.Account, path, name)
	if err := c.authorizeIAMCall("CreateRole", arn); err != nil {
		return nil, err
	}
	roles := st.Accounts[c.caller.Account].Roles
	if roles[strings.ToLower(name)] != nil {
		return nil, fail(http.StatusConflict, "EntityAlreadyExists", "Role with name %s already exists.", name)
	}
	if len(roles) >= maxRoles {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for RolesPerAccount: %d", maxRoles)
	}
	r := &role{
		Name: name, Path: path, ID: uniqueID("AROA"), ARN: arn, Description: p["Description"],
		Created: c.now.UTC().Truncate(time.Second), MaxSession: seconds, Policies: map[string]string{},
	}
	if r.Trust, err = st.trust(p, "AssumeRolePolicyDocument"); err != nil {
		return nil, err
	}
	roles[strings.ToLower(name)] = r
	return []element{r.element(st)}, nil
}

func (st *state) trust(p params, name string) (boundPolicy, error) {
	doc, err := parsePolicy(policy.Trust, name, p[name], maxTrustPolicy)
	if err != nil {
		return boundPolicy{}, err
	}
	return st.bind(doc, p[name])
}

// encodeDocument percent-encodes a policy the way IAM returns it.
func encodeDocument(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// element is the role in an answer; fields are what a list's member holds.
func (r *role) element(st *state) element {
	return group("Role", r.fields(st)...)
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

// paged writes one page of a sorted list; the marker is the last name of the
// page before.
func paged(p params, container string, list []string, write func(string) element) ([]element, error) {
	limit, err := p.number("MaxItems", 100)
	if err != nil {
		return nil, err
	}
	if limit < 1 || limit > 1000 {
		return nil, validation("MaxItems must be between 1 and 1000")
	}
	out, last, more := group(container), "", false
	for _, name := range list {
		if p["Marker"] != "" && name <= p["Marker"] {
			continue
		}
		if len(out.kids) == limit {
			more = true
			break
		}
		out.kids, last = append(out.kids, write(name)), name
	}
	if more {
		return []element{out, leaf("IsTruncated", "true"), leaf("Marker", last)}, nil
	}
	return []element{out, leaf("IsTruncated", "false")}, nil
}

func deleteRole(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "DeleteRole")
	if err != nil {
		return nil, err
	}
	if len(r.Policies) > 0 {
		return nil, fail(http.StatusConflict, "DeleteConflict", "Cannot delete entity, must delete policies first.")
	}
	delete(st.Accounts[c.caller.Account].Roles, strings.ToLower(r.Name))
	return nil, nil
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

func inlineName(p params) (string, error) {
	if !policyNameForm.MatchString(p["PolicyName"]) {
		return "", validation("The specified value for policyName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_- and have 1 to 128 characters")
	}
	return p["PolicyName"], nil
}

func putRolePolicy(c *call, st *state, p params) ([]element, error) {
	name, err := inlineName(p)
	if err != nil {
		return nil, err
	}
	r, err := c.roleFor(st, p, "PutRolePolicy")
	if err != nil {
		return nil, err
	}
	text := p["PolicyDocument"]
	if _, err := parsePolicy(policy.Identity, "PolicyDocument", text, maxInlinePolicies); err != nil {
		return nil, err
	}
	policies := maps.Clone(r.Policies)
	policies[name] = text
	total := 0
	for _, t := range policies {
		total += sizeOf(t)
	}
	if total > maxInlinePolicies {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Maximum policy size of %d bytes exceeded for role %s", maxInlinePolicies, r.Name)
	}
	return nil, r.setPolicies(policies)
}

func (r *role) setPolicies(policies map[string]string) error {
	docs, err := parseAll(policies)
	if err != nil {
		return err
	}
	r.Policies, r.docs = policies, docs
	return nil
}

func (r *role) inline(p params) (string, error) {
	text, ok := r.Policies[p["PolicyName"]]
	if !ok {
		return "", fail(http.StatusNotFound, "NoSuchEntity", "The role policy with name %.128s cannot be found.", p["PolicyName"])
	}
	return text, nil
}

func getRolePolicy(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "GetRolePolicy")
	if err != nil {
		return nil, err
	}
	text, err := r.inline(p)
	if err != nil {
		return nil, err
	}
	return []element{leaf("RoleName", r.Name), leaf("PolicyName", p["PolicyName"]), leaf("PolicyDocument", encodeDocument(text))}, nil
}

func listRolePolicies(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "ListRolePolicies")
	if err != nil {
		return nil, err
	}
	return paged(p, "PolicyNames", slices.Sorted(maps.Keys(r.Policies)), func(name string) element { return leaf("member", name) })
}

func deleteRolePolicy(c *call, st *state, p params) ([]element, error) {
	r, err := c.roleFor(st, p, "DeleteRolePolicy")
	if err != nil {
		return nil, err
	}
	if _, err := r.inline(p); err != nil {
		return nil, err
	}
	policies := maps.Clone(r.Policies)
	delete(policies, p["PolicyName"])
	return nil, r.setPolicies(policies)
}

// emptyList answers for what a role never has here: managed policies and
// instance profiles.
func emptyList(operation, name string) func(*call, *state, params) ([]element, error) {
	return func(c *call, st *state, p params) ([]element, error) {
		if _, err := c.roleFor(st, p, operation); err != nil {
			return nil, err
		}
		return []element{group(name), leaf("IsTruncated", "false")}, nil
	}
}
