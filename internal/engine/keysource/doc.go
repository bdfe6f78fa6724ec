// Package keysource is the node's KMIP client: it has a master key made, fetches
// it, and asks for its state. It does what a mongod does, with the options of a
// mongod: one connection per operation over mutual TLS, the servers of a list
// in order, rounds of retries over the whole list.
//
// A node must be able to tell three things apart, and the errors do: the key
// does not exist (ErrNotFound), the node may not have it (ErrDenied), and it
// cannot be had now (ErrUnavailable). Only the first two are an answer; the last
// never stops a running node.
package keysource
