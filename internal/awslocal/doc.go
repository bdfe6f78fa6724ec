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
// # Data directory
//
//   - lock: held with flock while a server runs.
//   - state.json: accounts, users, roles, policies, keys and their material;
//     replaced as a whole (write, fsync, rename, fsync of the directory).
//     The field "version" is 1.
//   - seed.json: the seeded accounts' credentials (see Seed), mode 0600.
//   - calls.jsonl: one JSON object per call: who, what, with which encryption
//     context, from where, the outcome, and which policy statement decided.
//     Never plaintext, never a secret.
//
// # Bounds
//
// A request body has at most 1 MiB, at most 512 connections are open, an
// account has at most 1,000 roles and a Region of an account 10,000 keys.
package awslocal
