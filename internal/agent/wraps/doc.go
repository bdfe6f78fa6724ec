// Package wraps keeps a host's wrapped keys on disk: one file a key, holding
// ciphertext of KMS and what is known about the key, never plaintext.
//
// A key is acknowledged only when its file is durable here and its copy is in
// the control plane's escrow (key-plane rule 2.1). A record is never removed: a
// destroyed key leaves a record without ciphertext, so that "destroyed" and
// "unknown" stay different answers.
package wraps
