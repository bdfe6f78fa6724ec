package awslocal

import (
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	maxRoles           = 1000
	maxUsers           = 1000
	maxManagedPolicies = 1000
	maxTrustPolicy     = 2048
	maxManagedPolicy   = 6144
	maxRoleDescription = 1000
)

// iamFind authorises a call of IAM and finds what it is about.
type iamFind[T any] func(c *call, st *state, p params, operation string, more ...func(*target)) (T, error)

type iamOperation = func(*call, *state, params) ([]element, error)

func iamOperations() map[string]queryOperation {
	ops := map[string]queryOperation{}
	for _, group := range []map[string]queryOperation{
		roleOperations(), userOperations(), accessKeyOperations(), managedPolicyOperations(),
		roleHolder().operations(), userHolder().operations(),
		tagOperations("Role", "RoleName", func(c *call, st *state, p params, operation string, more ...func(*target)) (*map[string]string, error) {
			return tagsOf(roleHolder().find(c, st, p, operation, more...))
		}),
		tagOperations("User", "UserName", func(c *call, st *state, p params, operation string, more ...func(*target)) (*map[string]string, error) {
			return tagsOf(userHolder().find(c, st, p, operation, more...))
		}),
		tagOperations("Policy", "PolicyArn", func(c *call, st *state, p params, operation string, more ...func(*target)) (*map[string]string, error) {
			m, err := c.ownPolicy(st, p, operation, more...)
			if err != nil {
				return nil, err
			}
			return &m.Tags, nil
		}),
	} {
		maps.Copy(ops, group)
	}
	return ops
}

func tagsOf(i *identity, err error) (*map[string]string, error) {
	if err != nil {
		return nil, err
	}
	return &i.Tags, nil
}

var (
	nameForm       = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)
	policyNameForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,128}$`)
	pathForm       = regexp.MustCompile(`^/([\x21-\x7e]{0,510}/)?$`)
)

// authorizeIAMCall asks the caller's policies about a call of IAM.
func (c *call) authorizeIAMCall(operation, resource string, more ...func(*target)) error {
	c.entry.Resource = resource
	t := target{action: "iam:" + operation, resource: resource, account: c.caller.Account}
	for _, f := range more {
		f(&t)
	}
	if text := c.refusal(t); text != "" {
		return fail(http.StatusForbidden, "AccessDenied", "%s", text)
	}
	return nil
}

// requestTags tells the condition keys which tags a request sets.
func requestTags(tags []tag) func(*target) {
	return func(t *target) { t.request = asMap(tags) }
}

func checkName(param, name string) error {
	if !nameForm.MatchString(name) {
		return validation("The specified value for %s is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_- and have 1 to 64 characters", param)
	}
	return nil
}

// pathOf gives the path of a new user, role or policy.
func pathOf(p params) (string, error) {
	path := p["Path"]
	if path == "" {
		path = "/"
	}
	if !pathForm.MatchString(path) {
		return "", validation("The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.")
	}
	return path, nil
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

// encodeDocument percent-encodes a policy the way IAM returns it.
func encodeDocument(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

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

func pageParams(more ...string) []string { return append([]string{"Marker", "MaxItems"}, more...) }

// emptyList answers for what a user or role never has here: groups and instance
// profiles.
func emptyList(h holder, operation, name string) iamOperation {
	return func(c *call, st *state, p params) ([]element, error) {
		if _, err := h.find(c, st, p, operation); err != nil {
			return nil, err
		}
		return []element{group(name), leaf("IsTruncated", "false")}, nil
	}
}
