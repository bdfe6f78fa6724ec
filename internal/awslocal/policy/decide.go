package policy

// CallerKind is what sort of principal makes a call.
type CallerKind byte

// The kinds of callers.
const (
	RootCaller CallerKind = iota
	UserCaller
	SessionCaller
)

// Caller is who makes a call.
type Caller struct {
	Kind    CallerKind
	Account string
	// ARN is the caller's own ARN: of the user, the root, or the session
	// (arn:aws:sts::A:assumed-role/ROLE/SESSION).
	ARN string
	// PrincipalARN is what aws:PrincipalArn says: for a session its role's ARN.
	PrincipalARN string
	// UniqueID is the id of user or role that survives no deletion (AIDA, AROA).
	UniqueID string
}

// Call is what is to be decided.
type Call struct {
	Caller          Caller
	Action          string // kms:Encrypt
	Resource        string // ARN, or "*" if the operation has none
	ResourceAccount string
	// Crosses tells whether the operation works on another account's resource.
	Crosses bool
	Context Context
}

// Named is a document with the name that a log shows.
type Named struct {
	Name string
	Doc  *Document
}

// ResourcePolicy is a key policy or trust policy as it was stored: IDs gives the
// unique id that each named user or role had at that time, so that a principal
// made anew under the same name does not match.
type ResourcePolicy struct {
	Named
	IDs map[string]string
}

// Policies are all that apply to a call. Resource is nil for operations without
// a resource policy; Boundary is nil if user or role has no permissions
// boundary; Session is nil if the session has no policy of its own.
type Policies struct {
	Resource *ResourcePolicy
	Identity []Named
	Boundary *Named
	Session  *Named
}

// Reason is why a call was refused.
type Reason byte

// The reasons, strongest first.
const (
	Allowed Reason = iota
	DenyInResource
	DenyInIdentity
	DenyInBoundary
	DenyInSession
	NotAcrossAccounts
	NoSession
	NoBoundary
	NoResource
	NoIdentity
)

// Decision is the outcome of Decide.
type Decision struct {
	Reason Reason
	// By names the policies and statements that decided; empty if a missing
	// allow did.
	By []string
}

// Allowed tells whether the call may go ahead.
func (d Decision) Allowed() bool { return d.Reason == Allowed }

// Text is how AWS ends the sentence "... is not authorized to perform: A on
// resource: R".
func (d Decision) Text(action string) string {
	switch d.Reason {
	case DenyInResource:
		return "with an explicit deny in a resource-based policy"
	case DenyInIdentity:
		return "with an explicit deny in an identity-based policy"
	case DenyInBoundary:
		return "with an explicit deny in a permissions boundary"
	case DenyInSession:
		return "with an explicit deny in a session policy"
	case NotAcrossAccounts:
		return "because " + action + " does not work on a resource of another account"
	case NoSession:
		return "because no session policy allows the " + action + " action"
	case NoBoundary:
		return "because no permissions boundary allows the " + action + " action"
	case NoResource:
		return "because no resource-based policy allows the " + action + " action"
	case NoIdentity:
		return "because no identity-based policy allows the " + action + " action"
	}
	return ""
}

// strength is how a resource policy names the caller; it decides which other
// policies must allow too.
type strength byte

const (
	unnamed strength = iota
	byAccount
	byRole
	direct
)

// Decide evaluates all policies. See the package comment for the rule.
func Decide(call Call, p Policies) Decision {
	if d, denied := explicitDeny(call, p); denied {
		return d
	}
	identity := side{ok: call.Caller.Kind == RootCaller}
	for _, n := range p.Identity {
		if by, ok := find(n, call, Allow); ok && !identity.ok {
			identity = side{ok: true, by: by}
		}
	}
	boundary, session := limit(p.Boundary, call), limit(p.Session, call)
	if p.Resource == nil {
		return verdict(direct, true, side{ok: true}, identity, boundary, session)
	}
	named, by := resourceAllows(call, p.Resource)
	other := call.Caller.Account != call.ResourceAccount
	if other && !call.Crosses {
		return Decision{Reason: NotAcrossAccounts}
	}
	return verdict(named, other, side{ok: named != unnamed, by: by}, identity, boundary, session)
}

// side is one kind of policy: whether it allows the call, and by which
// statement.
type side struct {
	ok bool
	by string
}

// limit asks a policy that narrows others: a boundary or a session policy. One
// that is not there narrows nothing.
func limit(n *Named, call Call) side {
	if n == nil {
		return side{ok: true}
	}
	by, ok := find(*n, call, Allow)
	return side{ok: ok, by: by}
}

// verdict combines the allows of all sides.
func verdict(named strength, needBoth bool, resource, identity, boundary, session side) Decision {
	switch {
	case !needBoth && named == direct:
		return allowedBy(resource)
	case !session.ok:
		return Decision{Reason: NoSession}
	case !boundary.ok:
		return Decision{Reason: NoBoundary}
	case !resource.ok:
		return Decision{Reason: NoResource}
	case !needBoth && named == byRole:
		return allowedBy(resource, boundary, session)
	case !identity.ok:
		return Decision{Reason: NoIdentity}
	}
	return allowedBy(resource, identity, boundary, session)
}

func allowedBy(sides ...side) Decision {
	var d Decision
	for _, s := range sides {
		if s.by != "" {
			d.By = append(d.By, s.by)
		}
	}
	return d
}

func explicitDeny(call Call, p Policies) (Decision, bool) {
	if r := p.Resource; r != nil {
		for i := range r.Doc.Statements {
			st := &r.Doc.Statements[i]
			if st.Effect == Deny && principalOf(st, call.Caller, r.IDs) != unnamed && st.applies(r.Doc, call) {
				return Decision{Reason: DenyInResource, By: []string{label(r.Named, st)}}, true
			}
		}
	}
	for _, n := range p.Identity {
		if by, ok := find(n, call, Deny); ok {
			return Decision{Reason: DenyInIdentity, By: []string{by}}, true
		}
	}
	for _, narrows := range []struct {
		policy *Named
		reason Reason
	}{{p.Boundary, DenyInBoundary}, {p.Session, DenyInSession}} {
		if narrows.policy == nil {
			continue
		}
		if by, ok := find(*narrows.policy, call, Deny); ok {
			return Decision{Reason: narrows.reason, By: []string{by}}, true
		}
	}
	return Decision{}, false
}

// resourceAllows finds the strongest way in which the policy names the caller.
func resourceAllows(call Call, r *ResourcePolicy) (strength, string) {
	best, by := unnamed, ""
	for i := range r.Doc.Statements {
		st := &r.Doc.Statements[i]
		if st.Effect != Allow {
			continue
		}
		if how := principalOf(st, call.Caller, r.IDs); how > best && st.applies(r.Doc, call) {
			best, by = how, label(r.Named, st)
		}
	}
	return best, by
}

// find looks for the first statement of an effect that applies.
func find(n Named, call Call, effect string) (string, bool) {
	for i := range n.Doc.Statements {
		st := &n.Doc.Statements[i]
		if st.Effect == effect && st.applies(n.Doc, call) {
			return label(n, st), true
		}
	}
	return "", false
}

func label(n Named, st *Statement) string {
	name := string(n.Doc.Kind)
	if n.Name != "" {
		name += " " + n.Name
	}
	return name + ", statement " + st.Label()
}

// applies checks action, resource and conditions, not the principal.
func (s *Statement) applies(d *Document, call Call) bool {
	switch {
	case s.Action != nil:
		if !matchAction(s.Action, call.Action) {
			return false
		}
	case s.NotAction == nil || matchAction(s.NotAction, call.Action):
		return false
	}
	if d.Kind != Trust {
		list, negated := s.Resource, false
		if list == nil {
			list, negated = s.NotResource, true
		}
		if list == nil {
			return false // a key policy's statement without Resource has no effect
		}
		match, ok := matchResource(list, call.Resource, d.variables, call.Context)
		if !ok || match == negated {
			return false
		}
	}
	for i := range s.Conditions {
		if met, ok := s.Conditions[i].holds(call.Context, d.variables); !met || !ok {
			return false
		}
	}
	return true
}

// principalOf tells how a statement names the caller.
func principalOf(st *Statement, c Caller, ids map[string]string) strength {
	if st.NotPrincipal != nil {
		if exempt(st.NotPrincipal, c, ids) {
			return unnamed
		}
		return direct
	}
	best := unnamed
	for _, p := range st.Principal {
		if s := names(p, c, ids); s > best {
			best = s
		}
	}
	return best
}

// exempt tells whether NotPrincipal lists the caller in full: the account and
// the user; for a session the account, the role and the session.
func exempt(list []Principal, c Caller, ids map[string]string) bool {
	var account, role, self bool
	for _, p := range list {
		s := names(p, c, ids)
		account = account || s == byAccount
		role = role || s == byRole
		self = self || s == direct
		if s == direct && p.Kind == Everybody {
			return true
		}
	}
	switch c.Kind {
	case RootCaller:
		return account
	case UserCaller:
		return account && self
	}
	return account && role && self
}

func names(p Principal, c Caller, ids map[string]string) strength {
	switch p.Kind {
	case Everybody:
		return direct
	case AccountPrincipal:
		if p.Account == c.Account {
			return byAccount
		}
	case UserPrincipal:
		if c.Kind == UserCaller && ids[p.Text] == c.UniqueID {
			return direct
		}
	case RolePrincipal:
		if c.Kind == SessionCaller && ids[p.Text] == c.UniqueID {
			return byRole
		}
	case SessionPrincipal:
		if c.Kind == SessionCaller && p.Text == c.ARN {
			return direct
		}
	}
	return unnamed
}
