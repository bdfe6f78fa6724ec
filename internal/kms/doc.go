// Package kms says what Keywright asks of a customer's key management service,
// and what its answers mean.
//
// A Provider assumes the customer's role; the Session that comes out of it uses
// one key: describe it, encrypt and decrypt a few bytes. Every refusal comes back
// as a *Failure, which carries an Outcome (is the key ours to use, taken away, or
// can we not tell?) and a Reason. Decisions are made on these two, never on the
// text of an error.
//
// The rule behind the classes: REVOKED only on a statement of the service about
// the customer's key, role or permission. Everything that could be our side, the
// network or the health of the service is UNREACHABLE. A wrong REVOKED stops
// databases; a wrong UNREACHABLE delays a stop by one interval.
//
// Run makes one validation run, the only evidence that package custody accepts.
// Meter and Fault decorate a Provider; package awskms implements it for AWS, and
// package kmstest holds the contract that every Provider keeps.
package kms
