package awslocal

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

// holder is what users and roles do alike: hold inline and managed policies and
// a permissions boundary. Its operations carry word in their names.
type holder struct {
	word, param          string
	inlineMax, attachMax int
	find                 iamFind[*identity]
}

func (h holder) operations() map[string]queryOperation {
	on := func(more ...string) []string { return append([]string{h.param}, more...) }
	page := append(pageParams("PathPrefix"), h.param)
	return map[string]queryOperation{
		"Put" + h.word + "Policy":                 {on("PolicyName", "PolicyDocument"), true, h.putInline},
		"Get" + h.word + "Policy":                 {on("PolicyName"), false, h.getInline},
		"List" + h.word + "Policies":              {pageParams(h.param), false, h.listInline},
		"Delete" + h.word + "Policy":              {on("PolicyName"), true, h.deleteInline},
		"Attach" + h.word + "Policy":              {on("PolicyArn"), true, h.attach},
		"Detach" + h.word + "Policy":              {on("PolicyArn"), true, h.detach},
		"ListAttached" + h.word + "Policies":      {page, false, h.listAttached},
		"Put" + h.word + "PermissionsBoundary":    {on("PermissionsBoundary"), true, h.putBoundary},
		"Delete" + h.word + "PermissionsBoundary": {on(), true, h.deleteBoundary},
	}
}

func inlineName(p params) (string, error) {
	if !policyNameForm.MatchString(p["PolicyName"]) {
		return "", validation("The specified value for policyName is invalid. It must contain only alphanumeric characters and/or the following: +=,.@_- and have 1 to 128 characters")
	}
	return p["PolicyName"], nil
}

func (h holder) putInline(c *call, st *state, p params) ([]element, error) {
	name, err := inlineName(p)
	if err != nil {
		return nil, err
	}
	i, err := h.find(c, st, p, "Put"+h.word+"Policy")
	if err != nil {
		return nil, err
	}
	text := p["PolicyDocument"]
	if _, err := parsePolicy(policy.Identity, "PolicyDocument", text, h.inlineMax); err != nil {
		return nil, err
	}
	policies := maps.Clone(i.Policies)
	policies[name] = text
	total := 0
	for _, t := range policies {
		total += sizeOf(t)
	}
	if total > h.inlineMax {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Maximum policy size of %d bytes exceeded for %s %s", h.inlineMax, h.noun(), i.Name)
	}
	return nil, i.setInline(policies)
}

func (h holder) noun() string { return strings.ToLower(h.word) }

func (i *identity) setInline(policies map[string]string) error {
	docs, err := parseAll(policies)
	if err != nil {
		return err
	}
	i.Policies, i.docs = policies, docs
	return nil
}

// inline authorises a call about one inline policy and finds it.
func (h holder) inline(c *call, st *state, p params, operation string) (*identity, string, error) {
	i, err := h.find(c, st, p, operation)
	if err != nil {
		return nil, "", err
	}
	text, ok := i.Policies[p["PolicyName"]]
	if !ok {
		return nil, "", fail(http.StatusNotFound, "NoSuchEntity", "The %s policy with name %.128s cannot be found.", h.noun(), p["PolicyName"])
	}
	return i, text, nil
}

func (h holder) getInline(c *call, st *state, p params) ([]element, error) {
	i, text, err := h.inline(c, st, p, "Get"+h.word+"Policy")
	if err != nil {
		return nil, err
	}
	return []element{leaf(h.param, i.Name), leaf("PolicyName", p["PolicyName"]), leaf("PolicyDocument", encodeDocument(text))}, nil
}

func (h holder) listInline(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "List"+h.word+"Policies")
	if err != nil {
		return nil, err
	}
	return paged(p, "PolicyNames", slices.Sorted(maps.Keys(i.Policies)), func(name string) element { return leaf("member", name) })
}

func (h holder) deleteInline(c *call, st *state, p params) ([]element, error) {
	i, _, err := h.inline(c, st, p, "Delete"+h.word+"Policy")
	if err != nil {
		return nil, err
	}
	policies := maps.Clone(i.Policies)
	delete(policies, p["PolicyName"])
	return nil, i.setInline(policies)
}

func (h holder) attach(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "Attach"+h.word+"Policy")
	if err != nil {
		return nil, err
	}
	m, err := c.attachable(st, p["PolicyArn"])
	if err != nil {
		return nil, err
	}
	if slices.Contains(i.Attached, m.ARN) {
		return nil, nil
	}
	if len(i.Attached) >= h.attachMax {
		return nil, fail(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for PoliciesPer%s: %d", h.word, h.attachMax)
	}
	i.Attached = append(slices.Clone(i.Attached), m.ARN)
	return nil, nil
}

func (h holder) detach(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "Detach"+h.word+"Policy")
	if err != nil {
		return nil, err
	}
	at := slices.Index(i.Attached, p["PolicyArn"])
	if at < 0 {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "Policy %.300s was not found.", p["PolicyArn"])
	}
	i.Attached = slices.Delete(slices.Clone(i.Attached), at, at+1)
	return nil, nil
}

func (h holder) listAttached(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "ListAttached"+h.word+"Policies")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, arn := range slices.Sorted(slices.Values(i.Attached)) {
		if m := st.managed(arn); m != nil && strings.HasPrefix(m.Path, p["PathPrefix"]) {
			list = append(list, arn)
		}
	}
	return paged(p, "AttachedPolicies", list, func(arn string) element {
		return group("member", leaf("PolicyName", st.managed(arn).Name), leaf("PolicyArn", arn))
	})
}

func (h holder) putBoundary(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "Put"+h.word+"PermissionsBoundary")
	if err != nil {
		return nil, err
	}
	m, err := c.attachable(st, p["PermissionsBoundary"])
	if err != nil {
		return nil, err
	}
	i.Boundary = m.ARN
	return nil, nil
}

func (h holder) deleteBoundary(c *call, st *state, p params) ([]element, error) {
	i, err := h.find(c, st, p, "Delete"+h.word+"PermissionsBoundary")
	if err != nil {
		return nil, err
	}
	if i.Boundary == "" {
		return nil, fail(http.StatusNotFound, "NoSuchEntity", "%s %s has no permissions boundary.", h.word, i.Name)
	}
	i.Boundary = ""
	return nil, nil
}

// tagOperations are Tag, Untag and List...Tags of users, roles or managed
// policies.
func tagOperations(word, param string, find iamFind[*map[string]string]) map[string]queryOperation {
	return map[string]queryOperation{
		"Tag" + word: {[]string{param, "Tags.member"}, true, func(c *call, st *state, p params) ([]element, error) {
			tags, err := p.tags()
			if err != nil {
				return nil, err
			}
			at, err := find(c, st, p, "Tag"+word, requestTags(tags))
			if err != nil {
				return nil, err
			}
			after, err := withTags(*at, tags)
			if err != nil {
				return nil, err
			}
			*at = after
			return nil, nil
		}},
		"Untag" + word: {[]string{param, "TagKeys.member"}, true, func(c *call, st *state, p params) ([]element, error) {
			names, err := p.list("TagKeys")
			if err != nil {
				return nil, err
			}
			at, err := find(c, st, p, "Untag"+word, func(t *target) { t.tagKeys = names })
			if err != nil {
				return nil, err
			}
			*at = withoutTags(*at, names)
			return nil, nil
		}},
		"List" + word + "Tags": {pageParams(param), false, func(c *call, st *state, p params) ([]element, error) {
			at, err := find(c, st, p, "List"+word+"Tags")
			if err != nil {
				return nil, err
			}
			return paged(p, "Tags", slices.Sorted(maps.Keys(*at)), func(k string) element {
				return group("member", leaf("Key", k), leaf("Value", (*at)[k]))
			})
		}},
	}
}
