// Package kmip is the KMIP server through which database nodes reach their
// keys, over mutual TLS, in front of whatever implements Keys.
//
// It speaks KMIP 1.0 to 1.4 to Percona Server for MongoDB, MongoDB Enterprise,
// libmongocrypt and the bundled node. Codec and payload types come from
// github.com/ovh/kmip-go; the connection loop is its own: bytes from outside
// are bounded, checked (see CheckMessage), decoded under recover, and only then
// executed.
//
// Who a client is, is its certificate and nothing else. The certificate must
// come from the deployment's KMIP client authority, and its SHA-256 fingerprint
// must be one that Admission names. Anything else ends in the TLS handshake: a
// stranger never gets to send a request, which is safer than answering
// Permission Denied to it, and mongod treats both as a failed host. Admission
// is asked again for every request, so that a fingerprint that is taken out
// stops working on open connections too.
//
// Two answers carry weight beyond their text. Item Not Found makes a running
// mongod stop for good and is sent only for identifiers that are not of our
// form, or that Keys reports as destroyed. A State other than Active makes it
// stop at its next poll. Everything temporary is General Failure.
package kmip
