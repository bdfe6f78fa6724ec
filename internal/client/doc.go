// Package client calls Keywright's own HTTP API, with digest authentication as
// Atlas's clients use it. The command line, `keywright up` and the tests go
// through it: what they can do, everybody can do.
package client
