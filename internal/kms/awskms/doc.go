// Package awskms reaches customers' keys in AWS KMS through roles that the customers
// let the platform assume. It implements kms.Provider.
//
// A project that was migrated with an access key of an IAM user is reached with that key
// instead: KMS sees it on every call, and no session policy narrows it.
//
// The platform's own credentials call STS only; KMS sees nothing but the session of
// the customer's role, narrowed by a session policy to one key and three actions.
// AssumeRole is always an own call, never left to a credentials provider inside a KMS
// call, so that who refused is never in doubt. Every answer is classified by one
// table, in classify.go.
package awskms
