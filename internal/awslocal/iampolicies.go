package awslocal

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	maxPolicyVersions    = 5
	maxPolicyDescription = 1000

	administratorARN = "arn:aws:iam::aws:policy/AdministratorAccess"
)

// managedPolicy is a policy of its own that can be attached to users and roles
// or be their permissions boundary.
type managedPolicy struct {
	Name        string            `json:"name"`
	Path        string            `json:"path"`
	ID          string            `json:"id"`
	ARN         string            `json:"arn"`
	Description string            `json:"description,omitempty"`
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
	Versions    []policyVersion   `json:"versions"` // oldest first
	Default     int               `json:"default"`  // number of a version
	Last        int               `json:"last"`     // the highest number ever given
	Tags        map[string]string `json:"tags,omitempty"`

	doc      *policy.Document // of the default version
	boundary *policy.Document // the same as a boundary
}

type policyVersion struct {
	Number  int       `json:"number"`
	Text    string    `json:"text"`
	Created time.Time `json:"created"`
}

func (v policyVersion) id() string { return "v" + itoa(v.Number) }

// index parses the default version.
func (m *managedPolicy) index() error {
	v := m.version(m.Default)
	if v == nil {
		return fmt.Errorf("policy %s: the default version %d is missing", m.ARN, m.Default)
	}
	doc, err := policy.Parse(policy.Identity, v.Text)
	if err != nil {
		return fmt.Errorf("policy %s: %w", m.ARN, err)
	}
	boundary := *doc
	boundary.Kind = policy.Boundary
	m.doc, m.boundary = doc, &boundary
	return nil
}

func (m *managedPolicy) version(number int) *policyVersion {
	for i := range m.Versions {
		if m.Versions[i].Number == number {
			return &m.Versions[i]
		}
	}
	return nil
}

// administratorPolicy is the one policy of AWS itself that the local AWS has.
func administratorPolicy() *managedPolicy {
	made := time.Date(2015, time.February, 6, 18, 39, 46, 0, time.UTC)
	return &managedPolicy{
		Name: "AdministratorAccess", Path: "/", ID: "ANPAIWMBCKSKIEE64ZLYK", ARN: administratorARN, Created: made, Updated: made,
		Description: "Provides full access to AWS services and resources.", Default: 1, Last: 1,
		Versions: []policyVersion{{Number: 1, Created: made, Text: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`}},
	}
}

// managed finds a managed policy by ARN, nil if there is none.
func (st *state) managed(arn string) *managedPolicy {
	if arn == administratorARN {
		return st.administrator
	}
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || st.Accounts[p[4]] == nil {
		return nil
	}
	name := strings.ToLower(p[5][strings.LastIndexByte(p[5], '/')+1:])
	if m := st.Accounts[p[4]].Policies[name]; m != nil && m.ARN == arn {
		return m
	}
	return nil
}

// identityPolicies gives the inline and managed policies of a user or role.
func (st *state) identityPolicies(i *identity) []policy.Named {
	out := slices.Clone(i.docs)
	for _, arn := range i.Attached {
		if m := st.managed(arn); m != nil {
			out = append(out, policy.Named{Name: m.ARN, Doc: m.doc})
		}
	}
	return out
}

func policyARN(accountID, path, name string) string {
	return "arn:aws:iam::" + accountID + ":policy" + path + name
}

var policyARNForm = regexp.MustCompile(`^arn:aws:iam::(aws|[0-9]{12}):policy/([\x21-\x7e]*/)?[A-Za-z0-9_+=,.@-]{1,128}$`)

// attachable finds a managed policy that may hang on a user or role of the
// caller's account: one of the account or of AWS.
func (c *call) attachable(st *state, arn string) (*managedPolicy, error) {
	m := policyARNForm.FindStringSubmatch(arn)
	if m == nil || len(arn) > 2048 {
		return nil, fail(http.StatusBadRequest, "InvalidInput", "ARN %.300s is not valid.", arn)
	}
	found := st.managed(arn)
	if found == nil || (m[1] != c.caller.Account && m[1] != "aws") {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "Policy %.300s does not exist or is not attachable.", arn)
	}
	return found, nil
}

// policyFor authorises a call about a managed policy and finds it.
func (c *call) policyFor(st *state, p params, operation string, more ...func(*target)) (*managedPolicy, error) {
	arn := p["PolicyArn"]
	if !policyARNForm.MatchString(arn) {
		return nil, fail(http.StatusBadRequest, "InvalidInput", "ARN %.300s is not valid.", arn)
	}
	if m := st.managed(arn); m != nil {
		more = append(more, func(t *target) { t.tags = m.Tags })
	}
	if err := c.authorizeIAMCall(operation, arn, more...); err != nil {
		return nil, err
	}
	return c.attachable(st, arn)
}

// ownPolicy is policyFor for calls that change the policy.
func (c *call) ownPolicy(st *state, p params, operation string, more ...func(*target)) (*managedPolicy, error) {
	m, err := c.policyFor(st, p, operation, more...)
	if err == nil && m.ARN == administratorARN {
		return nil, fail(http.StatusForbidden, "AccessDenied", "Policy is outside your own account.")
	}
	return m, err
}

func managedPolicyOperations() map[string]queryOperation {
	on := func(more ...string) []string { return append([]string{"PolicyArn"}, more...) }
	return map[string]queryOperation{
		"CreatePolicy": {[]string{"PolicyName", "Path", "PolicyDocument", "Description", "Tags.member"}, true, createPolicy},
		"GetPolicy":    {on(), false, getPolicy},
		"ListPolicies": {pageParams("Scope", "OnlyAttached", "PathPrefix"), false, listPolicies},
		"DeletePolicy": {on(), true, deletePolicy},

		"CreatePolicyVersion":     {on("PolicyDocument", "SetAsDefault"), true, createPolicyVersion},
		"GetPolicyVersion":        {on("VersionId"), false, getPolicyVersion},
		"ListPolicyVersions":      {pageParams("PolicyArn"), false, listPolicyVersions},
		"SetDefaultPolicyVersion": {on("VersionId"), true, setDefaultPolicyVersion},
		"DeletePolicyVersion":     {on("VersionId"), true, deletePolicyVersion},
	}
}

func createPolicy(c *call, st *state, p params) ([]element, error) {
	name, err := inlineName(p)
	if err != nil {
		return nil, err
	}
	path, err := pathOf(p)
	if err != nil {
		return nil, err
	}
	tags, err := p.tags()
	if err != nil {
		return nil, err
	}
	if len(p["Description"]) > maxPolicyDescription {
		return nil, validation("The description has more than %d characters", maxPolicyDescription)
	}
	arn := policyARN(c.caller.Account, path, name)
	if err := c.authorizeIAMCall("CreatePolicy", arn, requestTags(tags)); err != nil {
		return nil, err
	}
	if _, err := parsePolicy(policy.Identity, "PolicyDocument", p["PolicyDocument"], maxManagedPolicy); err != nil {
		return nil, err
	}
	a := st.Accounts[c.caller.Account]
	if a.Policies[strings.ToLower(name)] != nil {
		return nil, fail(http.StatusConflict, "EntityAlreadyExists", "A policy called %s already exists. Duplicate names are not allowed.", name)
	}
	if len(a.Policies) >= maxManagedPolicies {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for PoliciesPerAccount: %d", maxManagedPolicies)
	}
	now := c.now.UTC().Truncate(time.Second)
	m := &managedPolicy{
		Name: name, Path: path, ID: uniqueID("ANPA"), ARN: arn, Description: p["Description"], Created: now, Updated: now,
		Versions: []policyVersion{{Number: 1, Text: p["PolicyDocument"], Created: now}}, Default: 1, Last: 1, Tags: asMap(tags),
	}
	if err := m.index(); err != nil {
		return nil, err
	}
	if a.Policies == nil {
		a.Policies = map[string]*managedPolicy{}
	}
	a.Policies[strings.ToLower(name)] = m
	return []element{group("Policy", append(m.fields(st, c.caller.Account), m.details()...)...)}, nil
}

// uses counts the users and roles of an account that a policy is attached to,
// and those that it bounds.
func (st *state) uses(accountID, arn string) (attached, bounds int) {
	count := func(i *identity) {
		if slices.Contains(i.Attached, arn) {
			attached++
		}
		if i.Boundary == arn {
			bounds++
		}
	}
	for _, u := range st.Accounts[accountID].Users {
		count(&u.identity)
	}
	for _, r := range st.Accounts[accountID].Roles {
		count(&r.identity)
	}
	return attached, bounds
}

func (m *managedPolicy) fields(st *state, accountID string) []element {
	attached, bounds := st.uses(accountID, m.ARN)
	return []element{
		leaf("PolicyName", m.Name), leaf("PolicyId", m.ID), leaf("Arn", m.ARN), leaf("Path", m.Path),
		leaf("DefaultVersionId", policyVersion{Number: m.Default}.id()), leaf("AttachmentCount", itoa(attached)),
		leaf("PermissionsBoundaryUsageCount", itoa(bounds)), leaf("IsAttachable", "true"),
		leaf("CreateDate", xmlTime(m.Created)), leaf("UpdateDate", xmlTime(m.Updated)),
	}
}

// details are description and tags, which lists leave out.
func (m *managedPolicy) details() []element {
	var kids []element
	if m.Description != "" {
		kids = append(kids, leaf("Description", m.Description))
	}
	if len(m.Tags) > 0 {
		kids = append(kids, tagElements(m.Tags))
	}
	return kids
}

func getPolicy(c *call, st *state, p params) ([]element, error) {
	m, err := c.policyFor(st, p, "GetPolicy")
	if err != nil {
		return nil, err
	}
	return []element{group("Policy", append(m.fields(st, c.caller.Account), m.details()...)...)}, nil
}

func listPolicies(c *call, st *state, p params) ([]element, error) {
	scope := p["Scope"]
	if !slices.Contains([]string{"", "All", "AWS", "Local"}, scope) {
		return nil, validation("1 validation error detected: Value '%.20s' at 'scope' failed to satisfy constraint: Member must satisfy enum value set: [All, AWS, Local]", scope)
	}
	if err := c.authorizeIAMCall("ListPolicies", "arn:aws:iam::"+c.caller.Account+":policy/"); err != nil {
		return nil, err
	}
	byARN := map[string]*managedPolicy{}
	keep := func(m *managedPolicy) {
		attached, _ := st.uses(c.caller.Account, m.ARN)
		if strings.HasPrefix(m.Path, p["PathPrefix"]) && (p["OnlyAttached"] != "true" || attached > 0) {
			byARN[m.ARN] = m
		}
	}
	if scope != "Local" {
		keep(st.administrator)
	}
	if scope != "AWS" {
		for _, m := range st.Accounts[c.caller.Account].Policies {
			keep(m)
		}
	}
	return paged(p, "Policies", slices.Sorted(maps.Keys(byARN)), func(arn string) element {
		return group("member", byARN[arn].fields(st, c.caller.Account)...)
	})
}

func deletePolicy(c *call, st *state, p params) ([]element, error) {
	m, err := c.ownPolicy(st, p, "DeletePolicy")
	if err != nil {
		return nil, err
	}
	if attached, bounds := st.uses(c.caller.Account, m.ARN); attached+bounds > 0 {
		return nil, fail(http.StatusConflict, "DeleteConflict", "Cannot delete a policy attached to entities.")
	}
	if len(m.Versions) > 1 {
		return nil, fail(http.StatusConflict, "DeleteConflict", "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.")
	}
	delete(st.Accounts[c.caller.Account].Policies, strings.ToLower(m.Name))
	return nil, nil
}

func createPolicyVersion(c *call, st *state, p params) ([]element, error) {
	m, err := c.ownPolicy(st, p, "CreatePolicyVersion")
	if err != nil {
		return nil, err
	}
	if _, err := parsePolicy(policy.Identity, "PolicyDocument", p["PolicyDocument"], maxManagedPolicy); err != nil {
		return nil, err
	}
	if len(m.Versions) >= maxPolicyVersions {
		return nil, fail(http.StatusConflict, "LimitExceeded", "A managed policy can have up to %d versions. Before you create a new version, you must delete an existing version.", maxPolicyVersions)
	}
	v := policyVersion{Number: m.Last + 1, Text: p["PolicyDocument"], Created: c.now.UTC().Truncate(time.Second)}
	next := *m
	next.Versions, next.Last = append(slices.Clone(m.Versions), v), v.Number
	if p["SetAsDefault"] == "true" {
		next.Default, next.Updated = v.Number, v.Created
	}
	if err := next.index(); err != nil {
		return nil, err
	}
	*m = next
	return []element{m.versionElement("PolicyVersion", v, false)}, nil
}

func (m *managedPolicy) versionElement(name string, v policyVersion, document bool) element {
	e := group(name, leaf("VersionId", v.id()), leaf("IsDefaultVersion", boolText(v.Number == m.Default)), leaf("CreateDate", xmlTime(v.Created)))
	if document {
		e.kids = append(e.kids, leaf("Document", encodeDocument(v.Text)))
	}
	return e
}

func (m *managedPolicy) versionFor(p params) (*policyVersion, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(p["VersionId"], "v"))
	if v := m.version(n); err == nil && v != nil && v.id() == p["VersionId"] {
		return v, nil
	}
	return nil, fail(http.StatusNotFound, "NoSuchEntity", "Policy %s version %.20s does not exist or is not attachable.", m.ARN, p["VersionId"])
}

func getPolicyVersion(c *call, st *state, p params) ([]element, error) {
	m, err := c.policyFor(st, p, "GetPolicyVersion")
	if err != nil {
		return nil, err
	}
	v, err := m.versionFor(p)
	if err != nil {
		return nil, err
	}
	return []element{m.versionElement("PolicyVersion", *v, true)}, nil
}

func listPolicyVersions(c *call, st *state, p params) ([]element, error) {
	m, err := c.policyFor(st, p, "ListPolicyVersions")
	if err != nil {
		return nil, err
	}
	byID := map[string]policyVersion{}
	for _, v := range m.Versions {
		byID[v.id()] = v
	}
	return paged(p, "Versions", slices.Sorted(maps.Keys(byID)), func(id string) element { return m.versionElement("member", byID[id], false) })
}

func setDefaultPolicyVersion(c *call, st *state, p params) ([]element, error) {
	m, err := c.ownPolicy(st, p, "SetDefaultPolicyVersion")
	if err != nil {
		return nil, err
	}
	v, err := m.versionFor(p)
	if err != nil {
		return nil, err
	}
	next := *m
	next.Default, next.Updated = v.Number, c.now.UTC().Truncate(time.Second)
	if err := next.index(); err != nil {
		return nil, err
	}
	*m = next
	return nil, nil
}

func deletePolicyVersion(c *call, st *state, p params) ([]element, error) {
	m, err := c.ownPolicy(st, p, "DeletePolicyVersion")
	if err != nil {
		return nil, err
	}
	v, err := m.versionFor(p)
	if err != nil {
		return nil, err
	}
	if v.Number == m.Default {
		return nil, fail(http.StatusConflict, "DeleteConflict", "Cannot delete the default version of a policy.")
	}
	number := v.Number
	m.Versions = slices.DeleteFunc(slices.Clone(m.Versions), func(v policyVersion) bool { return v.Number == number })
	return nil, nil
}
