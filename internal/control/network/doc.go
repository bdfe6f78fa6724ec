// Package network knows from where Keywright calls AWS, so that customers can restrict
// their roles and keys to these addresses.
//
// The control plane and every host name their addresses: those that an operator
// configured (behind an address translation only a person knows them), else the local
// ones of their connections to KMS and STS. Nobody else is asked. Each machine's
// addresses are kept with their history.
//
// A reconciler (Run) compares, for each project with a customer key, the addresses of
// the machines that use the key with what the customer was last told. A difference is an
// event with old, new and the statement to put into the policies, and a change that
// waits: it is confirmed when a validation run from there is OK, or by a person. A host
// that AWS refuses although others can use the key (NETWORK_ACCESS_DENIED) is an event
// that names the address to allow. What to do about a difference is one pure function,
// advance; nothing here starts or stops anything.
package network
