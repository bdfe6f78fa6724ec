package policy

import (
	"bytes"
	"fmt"
	"strconv"
)

// Kind is where a policy hangs; it decides which elements a document may have.
type Kind string

// The kinds of policy documents.
const (
	// Identity hangs on a user or role.
	Identity Kind = "identity policy"
	// Boundary narrows what the identity policies of a user or role can give.
	Boundary Kind = "permissions boundary"
	// Session was passed to AssumeRole and narrows that session.
	Session Kind = "session policy"
	// Key hangs on a KMS key.
	Key Kind = "key policy"
	// Trust says who may assume a role.
	Trust Kind = "trust policy"
)

// Effects of a statement.
const (
	Allow = "Allow"
	Deny  = "Deny"
)

// MaxDocument is the length in bytes beyond which no document is read at all.
// Callers enforce AWS's smaller limits per kind.
const MaxDocument = 131072

// MalformedError says what is wrong with a document. Its text is fit for the
// author of the document.
type MalformedError struct{ Text string }

// Error implements error.
func (e *MalformedError) Error() string { return e.Text }

func malformed(format string, args ...any) error {
	return &MalformedError{Text: fmt.Sprintf(format, args...)}
}

// Document is a parsed policy. It does not change after Parse, so it may be
// shared by goroutines.
type Document struct {
	Kind       Kind
	ID         string
	Statements []Statement

	variables bool // Version 2012-10-17: ${...} is replaced
	root      node
}

// Statement is one statement of a policy. Exactly one of an element and its
// Not form is set.
type Statement struct {
	Sid          string
	Index        int // from 1
	Effect       string
	Principal    []Principal
	NotPrincipal []Principal
	Action       []string
	NotAction    []string
	Resource     []string
	NotResource  []string
	Conditions   []Condition
}

// Label names a statement in logs: its Sid, or its number.
func (s *Statement) Label() string {
	if s.Sid != "" {
		return strconv.Quote(s.Sid)
	}
	return "#" + strconv.Itoa(s.Index)
}

// PrincipalKind is how a policy names somebody.
type PrincipalKind byte

// The ways to name a principal.
const (
	Everybody PrincipalKind = iota
	AccountPrincipal
	UserPrincipal
	RolePrincipal
	SessionPrincipal
	// OtherPrincipal is a service, a federated or canonical identity, none of
	// which ever calls the local AWS.
	OtherPrincipal
)

// Principal is one entry of a Principal element.
type Principal struct {
	Kind    PrincipalKind
	Text    string // as written
	Account string // of account, user, role and session
}

// NamedPrincipals gives the distinct users, roles and sessions that the document
// names: whoever stores it checks that they exist and keeps their unique ids.
func (d *Document) NamedPrincipals() []Principal {
	var out []Principal
	seen := map[string]bool{}
	for _, st := range d.Statements {
		for _, list := range [][]Principal{st.Principal, st.NotPrincipal} {
			for _, p := range list {
				if p.Kind == Everybody || p.Kind == OtherPrincipal || seen[p.Text] {
					continue
				}
				seen[p.Text] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// Rename gives the document's text with principals replaced, for reading back a
// policy whose principals were deleted since: AWS then shows their bare ids.
func (d *Document) Rename(names map[string]string) string {
	n := rename(d.root, names, false)
	var b bytes.Buffer
	n.encode(&b)
	return b.String()
}

func rename(n node, names map[string]string, inside bool) node {
	switch n.kind {
	case nodeText:
		if to, ok := names[n.text]; ok && inside {
			n.text = to
		}
	case nodeList:
		list := make([]node, len(n.list))
		for i, v := range n.list {
			list[i] = rename(v, names, inside)
		}
		n.list = list
	case nodeObject:
		members := make([]member, len(n.members))
		for i, m := range n.members {
			in := inside || m.name == "Principal" || m.name == "NotPrincipal"
			members[i] = member{name: m.name, value: rename(m.value, names, in)}
		}
		n.members = members
	}
	return n
}
