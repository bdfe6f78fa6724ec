// Package awslocal is a local AWS: KMS, STS and IAM over the real wire
// protocols (JSON 1.1 for KMS, query and XML for STS and IAM) on one port, so
// that the story of a customer's key can be lived and tested without an AWS
// account, and so that a policy can be tried before it is used.
//
// What is real: Signature Version 4 is verified on every call (sub-package
// sigv4), every call is authorised by the policies of caller, key and role
// (sub-package policy, on by default and not to be switched off), symmetric
// keys encrypt for real with the encryption context authenticated, key states
// are honoured, and everything survives a restart. What is not implemented
// is refused by name; nothing is pretended.
//
// It is NOT for production: the key material lies in clear in the data
// directory, the connection is plain HTTP, and the server listens on loopback
// only.
//
// One port serves all Regions and all accounts: the Region and the service of
// a call come from the scope of its signature, the account from the access
// key. Three accounts exist from the first start on (see Seed).
//
// # What there is
//
// KMS: keys (CreateKey, DescribeKey, ListKeys, UpdateKeyDescription, EnableKey,
// DisableKey, ScheduleKeyDeletion, CancelKeyDeletion), their policies
// (GetKeyPolicy, PutKeyPolicy, ListKeyPolicies), aliases (CreateAlias,
// UpdateAlias, DeleteAlias, ListAliases) and tags (TagResource, UntagResource,
// ListResourceTags); Encrypt, Decrypt, ReEncrypt, GenerateDataKey and
// GenerateDataKeyWithoutPlaintext, all with DryRun; rotation, automatic and on
// demand (EnableKeyRotation, DisableKeyRotation, GetKeyRotationStatus,
// RotateKeyOnDemand, ListKeyRotations); multi-Region keys (ReplicateKey,
// UpdatePrimaryRegion). Keys of the RSA, ECC and HMAC specs exist with their
// metadata and states, so that a key of the wrong type can be tried; only
// symmetric keys encrypt.
//
// STS: AssumeRole (trust policy with external id, session policy, duration,
// role chaining), GetCallerIdentity.
//
// IAM: roles (CreateRole, GetRole, ListRoles, UpdateRole, DeleteRole,
// UpdateAssumeRolePolicy), users (CreateUser, GetUser, ListUsers, DeleteUser)
// with access keys (CreateAccessKey, ListAccessKeys, UpdateAccessKey,
// DeleteAccessKey), managed policies with versions (CreatePolicy, GetPolicy,
// ListPolicies, DeletePolicy, CreatePolicyVersion, GetPolicyVersion,
// ListPolicyVersions, SetDefaultPolicyVersion, DeletePolicyVersion; of AWS's own
// only AdministratorAccess), and for roles and users alike inline and attached
// policies, permissions boundaries and tags. Groups and instance profiles
// answer with empty lists. The users of the seed file and their first access
// keys cannot be deleted.
//
// Differences from AWS: changes take effect at once, unless a delay is set by
// the control path; there are no grants, groups, organizations or imported keys,
// and no presigned URLs. A policy with a condition key that the local AWS cannot
// supply is refused.
//
// # Control path
//
// With Config.Control, calls below ControlPath, outside the AWS protocol, let
// tests and a console do to the local AWS what AWS does by itself now and then
// (see Control, which calls them): changes are seen only after a delay, calls
// are throttled, slow, reset, failing, answered with garbage, or checked by a
// wrong clock, each for one service, operation or principal and for a number of
// calls; and time is moved. Moved time is kept in the state; delay and faults
// end with the process. Moved time governs waiting periods, rotation, sessions
// and the time in policies, while signatures stay with the real time, so that
// clients need not know.
//
// The calls are JSON with "version" 1: GET state; POST delay, time and faults;
// DELETE faults and faults/ID. They need the header "Authorization: Bearer
// TOKEN" with the token in ControlTokenFile.
//
// # Data directory
//
//   - lock: held with flock while a server runs.
//   - state.json: accounts, users, roles, policies, keys and their material;
//     replaced as a whole (write, fsync, rename, fsync of the directory).
//     The field "version" is 2; version 1 is read too.
//   - seed.json: the seeded accounts' credentials (see Seed), mode 0600.
//   - control.token: the token of the control path, mode 0600; made by the first
//     start with Config.Control.
//   - calls.jsonl: one JSON object per call: who, what, with which encryption
//     context, from where, the outcome, and which policy statement decided.
//     Never plaintext, never a secret.
//
// # Bounds
//
// A request body has at most 1 MiB, at most 512 connections are open, an
// account has at most 1,000 roles, users and managed policies each, and a Region
// of an account 10,000 keys. At most 100 faults are in force, and at most 64 older
// states (64 MiB) are kept for a delay: beyond that, changes are seen early. The
// call log grows until somebody removes it while the server is stopped.
package awslocal
