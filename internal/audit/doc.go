// Package audit is the tamper-evident record of what happened: events that form
// a hash chain.
//
// Each event carries the hash of the one before it, and its own hash covers all
// of its fields in one canonical form (see Canonical; FORMATS.md repeats it). A
// changed, dropped, added or reordered event breaks the chain from there on.
// What a thief of the whole store can still do without a head kept elsewhere is
// to rewrite everything; hence Head, which can be exported.
//
// The control plane keeps its chain in the metadata store, an agent in a file
// (FileLog). Both use the same events and the same verifier.
package audit
