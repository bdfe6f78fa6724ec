// Package policy reads AWS policy documents and decides by them. It is pure: no
// I/O, no clock, no state.
//
// Parse reads a document of one Kind (identity, key, trust or session policy, boundary)
// and is strict: duplicate or unknown elements, unknown operators, condition
// keys that the local AWS cannot supply, and anything else that would silently
// change a policy's meaning are refused with a *MalformedError.
//
// Decide answers whether a call is allowed. It follows the rule of KMS, which
// differs from the general one: an identity policy alone never opens a key;
// the key policy must name the caller, or the caller's account, in which case
// the caller's identity policies decide. Across accounts both sides must allow.
// A permissions boundary and a session policy narrow what identity policies
// give, and what a key policy gives to a role or account, but not what it gives
// to a user, a session or everybody by name.
// AssumeRole is decided in the same way with the trust policy in the key
// policy's place. An explicit deny anywhere beats everything.
package policy
