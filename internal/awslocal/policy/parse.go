package policy

import (
	"regexp"
	"strings"
)

// Parse reads a policy document. Every error is a *MalformedError.
func Parse(kind Kind, text string) (*Document, error) {
	if len(text) > MaxDocument {
		return nil, malformed("This policy is longer than %d bytes", MaxDocument)
	}
	root, err := parseJSON(text)
	if err != nil {
		return nil, malformed("This policy contains invalid Json: %v", err)
	}
	if root.kind != nodeObject {
		return nil, malformed("This policy contains invalid Json: the document is not an object")
	}
	d := &Document{Kind: kind, root: root}
	var statements *node
	for _, m := range root.members {
		switch m.name {
		case "Version":
			if m.value.kind != nodeText || (m.value.text != "2012-10-17" && m.value.text != "2008-10-17") {
				return nil, malformed("The policy must contain a valid version string: 2012-10-17 or 2008-10-17")
			}
			d.variables = m.value.text == "2012-10-17"
		case "Id":
			if m.value.kind != nodeText {
				return nil, malformed("Id must be a string")
			}
			d.ID = m.value.text
		case "Statement":
			v := m.value
			statements = &v
		default:
			return nil, malformed("Unknown element %q in the policy", m.name)
		}
	}
	if statements == nil {
		return nil, malformed("The policy has no Statement")
	}
	if err := d.parseStatements(*statements); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Document) parseStatements(n node) error {
	list := []node{n}
	if n.kind == nodeList {
		list = n.list
	}
	if len(list) == 0 {
		return malformed("The policy has no Statement")
	}
	sids := map[string]bool{}
	for i, v := range list {
		st, err := d.parseStatement(v, i+1)
		if err != nil {
			return err
		}
		if st.Sid != "" {
			if sids[st.Sid] {
				return malformed("Statement IDs (SID) in a single policy must be unique: %q", st.Sid)
			}
			sids[st.Sid] = true
		}
		d.Statements = append(d.Statements, st)
	}
	return nil
}

func (d *Document) parseStatement(n node, index int) (Statement, error) {
	st := Statement{Index: index}
	if n.kind != nodeObject {
		return st, malformed("Statement %d is not an object", index)
	}
	has := map[string]bool{}
	for _, m := range n.members {
		has[m.name] = true
		if err := st.setElement(m, index); err != nil {
			return st, err
		}
	}
	return st, d.checkStatement(&st, has)
}

func (s *Statement) setElement(m member, index int) (err error) {
	switch m.name {
	case "Sid":
		if m.value.kind != nodeText {
			return malformed("Sid of statement %d must be a string", index)
		}
		s.Sid = m.value.text
	case "Effect":
		if m.value.kind != nodeText || (m.value.text != Allow && m.value.text != Deny) {
			return malformed("Effect of statement %d must be Allow or Deny", index)
		}
		s.Effect = m.value.text
	case "Principal":
		s.Principal, err = parsePrincipals(m.value)
	case "NotPrincipal":
		s.NotPrincipal, err = parsePrincipals(m.value)
	case "Action":
		s.Action, err = texts(m.value, "Action", index)
	case "NotAction":
		s.NotAction, err = texts(m.value, "NotAction", index)
	case "Resource":
		s.Resource, err = texts(m.value, "Resource", index)
	case "NotResource":
		s.NotResource, err = texts(m.value, "NotResource", index)
	case "Condition":
		s.Conditions, err = parseConditions(m.value)
	default:
		return malformed("Unknown element %q in statement %d", m.name, index)
	}
	return err
}

func texts(n node, element string, index int) ([]string, error) {
	list := []node{n}
	if n.kind == nodeList {
		list = n.list
	}
	if len(list) == 0 {
		return nil, malformed("%s of statement %d is empty", element, index)
	}
	out := make([]string, 0, len(list))
	for _, v := range list {
		if v.kind != nodeText || v.text == "" {
			return nil, malformed("%s of statement %d must be a string or a list of strings", element, index)
		}
		out = append(out, v.text)
	}
	return out, nil
}

func (d *Document) checkStatement(s *Statement, has map[string]bool) error {
	if s.Effect == "" {
		return malformed("Missing required field Effect in statement %d", s.Index)
	}
	for _, pair := range []string{"Action", "Resource", "Principal"} {
		if has[pair] && has["Not"+pair] {
			return malformed("Statement %d has both %s and Not%s", s.Index, pair, pair)
		}
	}
	// A key policy's statement without Action is accepted and has no effect.
	if !has["Action"] && !has["NotAction"] && d.Kind != Key {
		return malformed("Missing required field Action in statement %d", s.Index)
	}
	if err := d.checkPlaces(s, has); err != nil {
		return err
	}
	for _, list := range [][]string{s.Action, s.NotAction} {
		for _, a := range list {
			if err := d.checkAction(a); err != nil {
				return err
			}
		}
	}
	for _, list := range [][]string{s.Resource, s.NotResource} {
		for _, r := range list {
			if err := checkResource(r); err != nil {
				return err
			}
		}
	}
	if d.Kind == Key {
		return checkKeyConditions(s.Conditions)
	}
	return nil
}

// checkPlaces checks the elements that depend on where the policy hangs.
func (d *Document) checkPlaces(s *Statement, has map[string]bool) error {
	principal, resource := has["Principal"] || has["NotPrincipal"], has["Resource"] || has["NotResource"]
	switch d.Kind {
	case Identity, Boundary, Session:
		if principal {
			return malformed("Policy document should not specify a principal.")
		}
		if !resource {
			return malformed("Policy statement must contain resources.")
		}
	case Trust:
		if !principal {
			return malformed("Missing required field Principal")
		}
		if resource {
			return malformed("Has prohibited field Resource")
		}
		if has["NotPrincipal"] && s.Effect == Allow {
			return malformed("Allow with NotPrincipal is not allowed.")
		}
	case Key:
		if !principal {
			return malformed("Missing required field Principal")
		}
	}
	return nil
}

var actionForm = regexp.MustCompile(`^[A-Za-z0-9-]+:[A-Za-z0-9*?]+$`)

func (d *Document) checkAction(a string) error {
	if a != "*" && !actionForm.MatchString(a) {
		return malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.: %q", a)
	}
	vendor, name, _ := strings.Cut(strings.ToLower(a), ":")
	switch d.Kind {
	case Key:
		if a != "*" && vendor != "kms" {
			return malformed("%q is no action of a key policy: kms:... is", a)
		}
	case Trust:
		if vendor != "sts" || (name != "*" && !strings.HasPrefix(name, "assumerole") && name != "tagsession" && name != "setsourceidentity") {
			return malformed("AssumeRole policy may only specify STS AssumeRole actions.")
		}
	}
	return nil
}

func checkResource(r string) error {
	if r == "*" {
		return nil
	}
	if p := strings.SplitN(r, ":", 6); len(p) < 6 || p[0] != "arn" || p[2] == "" {
		return malformed("Resource %q must be in ARN format or \"*\".", r)
	}
	return nil
}

func parsePrincipals(n node) ([]Principal, error) {
	if n.kind == nodeText && n.text == "*" {
		return []Principal{{Kind: Everybody, Text: "*"}}, nil
	}
	if n.kind != nodeObject || len(n.members) == 0 {
		return nil, malformed("Invalid principal in policy: it must be \"*\" or an object such as {\"AWS\": \"arn:aws:iam::123456789012:root\"}")
	}
	var out []Principal
	for _, m := range n.members {
		list := []node{m.value}
		if m.value.kind == nodeList {
			list = m.value.list
		}
		if len(list) == 0 {
			return nil, malformed("Invalid principal in policy: %q is empty", m.name)
		}
		for _, v := range list {
			p, err := parsePrincipal(m.name, v)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	return out, nil
}

var (
	accountForm   = regexp.MustCompile(`^[0-9]{12}$`)
	principalForm = regexp.MustCompile(`^arn:aws[a-z-]*:(iam|sts)::([0-9]{12}):(root|user/[^*?]+|role/[^*?]+|assumed-role/[^*?/]+/[^*?/]+|federated-user/[^*?]+)$`)
)

func parsePrincipal(scheme string, n node) (Principal, error) {
	bad := malformed("Invalid principal in policy: %q:%q", scheme, n.text)
	if n.kind != nodeText || n.text == "" {
		return Principal{}, bad
	}
	p := Principal{Text: n.text, Kind: OtherPrincipal}
	switch scheme {
	case "Service", "Federated", "CanonicalUser":
		return p, nil
	case "AWS":
	default:
		return p, bad
	}
	if n.text == "*" {
		p.Kind = Everybody
		return p, nil
	}
	if accountForm.MatchString(n.text) {
		p.Kind, p.Account = AccountPrincipal, n.text
		return p, nil
	}
	m := principalForm.FindStringSubmatch(n.text)
	if m == nil {
		return p, bad
	}
	p.Account = m[2]
	word, _, _ := strings.Cut(m[3], "/")
	service, ok := map[string]string{"root": "iam", "user": "iam", "role": "iam", "assumed-role": "sts", "federated-user": "sts"}[word]
	if !ok || service != m[1] {
		return p, bad
	}
	p.Kind = map[string]PrincipalKind{"root": AccountPrincipal, "user": UserPrincipal, "role": RolePrincipal,
		"assumed-role": SessionPrincipal, "federated-user": OtherPrincipal}[word]
	return p, nil
}
