// Package secret holds bytes that must not leak.
//
// The noun is Bytes: key material, passwords, private keys. A Bytes prints,
// formats, logs and marshals as "[redacted]", compares in constant time, and is
// wiped on request. The plaintext is reachable through one method only, Reveal,
// so that a search for that word finds every place that sees a secret.
package secret
