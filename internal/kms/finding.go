package kms

// PolicyKind is the kind of policy that refused, as far as the service tells. The
// strings are stored and sent: they never change.
type PolicyKind string

// The kinds of policies. In the answer to an AssumeRole the service's "resource-based
// policy" is the role's trust policy, in that of a KMS call it is the key's policy.
const (
	TrustPolicy           PolicyKind = "trust policy"
	KeyPolicy             PolicyKind = "key policy"
	IdentityPolicy        PolicyKind = "identity-based policy"
	PermissionsBoundary   PolicyKind = "permissions boundary"
	SessionPolicy         PolicyKind = "session policy"
	ServiceControlPolicy  PolicyKind = "service control policy"
	ResourceControlPolicy PolicyKind = "resource control policy"
	EndpointPolicy        PolicyKind = "VPC endpoint policy"
)

// Finding is one refused permission: which one, whether a statement denies it or none
// allows it, and in which policy.
type Finding struct {
	// Permission is the IAM action, such as kms:Encrypt.
	Permission string `json:"permission"`
	// Explicit tells that a deny statement refused, not a missing allow.
	Explicit bool `json:"explicit,omitempty"`
	// Policy is "" when the service did not say.
	Policy PolicyKind `json:"policy,omitempty"`
}

// Finding is what the failure says about a permission; ok is false when no permission
// was refused.
func (f *Failure) Finding() (out Finding, ok bool) {
	switch f.Reason {
	case KeyAccessDenied, RoleNotAssumable, PlatformPermissions:
		return Finding{Permission: f.Operation.Permission(), Explicit: f.Explicit, Policy: f.Policy}, f.Operation.Permission() != ""
	}
	return Finding{}, false
}

// String is the finding as a short clause: "no identity-based policy allows
// kms:Encrypt", "the key policy denies kms:Decrypt".
func (f Finding) String() string {
	switch {
	case f.Explicit && f.Policy != "":
		return "a statement of the " + string(f.Policy) + " denies " + f.Permission
	case f.Explicit:
		return "a statement denies " + f.Permission
	case f.Policy != "":
		return "no " + string(f.Policy) + " allows " + f.Permission
	}
	return f.Permission + " is refused"
}
