// Package keys names the things of the key plane: typed identifiers, ARNs, key
// states, purposes, and the encryption context that binds a ciphertext to its
// owner. It is pure: no I/O, no secrets.
//
// An identifier never changes and is never reused; names of projects and
// clusters may change and therefore never enter a key's context.
package keys
