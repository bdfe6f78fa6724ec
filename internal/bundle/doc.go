// Package bundle is the signed file of a deployment's wrapped keys: what `keywright
// key export` writes and `keywright agent recover` reads.
//
// A bundle holds ciphertext only: each wrap with the ARN of the customer's key that
// opens it and the encryption context under which it was made. It opens without the
// control plane's store. The context in it is a hint that KMS itself proves: with any
// other one the wrap does not decrypt.
//
// Each bundle is signed with a key of its own, which is thrown away; the certificate in
// the bundle, from the authority of the agent link, says that the control plane made
// that key for this. A host's certificate of the same authority does not sign bundles.
package bundle
