// Package access leads to the customer's account: the registration of IAM roles
// that the platform may assume.
//
// A registration hands out two values for the role's trust policy, the root ARN of
// the platform's account and an external id that is made here from 128 random bits
// and used for nothing else. Authorizing proves the trust policy: the role must be
// assumable with the external id, and must not be assumable without one or with
// another one (the confused deputy; Atlas does not check this). A registration that
// a project's key management uses cannot be removed or pointed at another role.
package access
