// Package envelope wraps keys under a customer's key (CMK) and opens them again.
//
// A Wrapped is the only form in which a node's master key, a snapshot's key or a
// client's secret is stored or sent: the ciphertext of the key management service,
// the ARN of the CMK that made it, and the time. Whose key it is stands nowhere in
// it: the encryption context is rebuilt from an authenticated identity, and the
// service refuses to open a ciphertext under any other.
//
// Wrap opens what it made and compares before it answers, so that nothing ever
// depends on a ciphertext that does not open.
package envelope
