// Package replication is the only writer of a node's data.
//
// The noun is Replica: one node's part in its replica set. Every write is an
// entry of one replicated log (package entry), which raft carries and a Pebble
// instance keeps (package raftlog). The log is the oplog and the only log that is
// written ahead: databases are written without one of their own.
//
// A write goes like this. Write hands out a Writer; its statements (Do) latch
// documents and unique keys, read their newest versions and collect effects. The
// effects are proposed as entries; one fsync of the log serves the entries of many
// writers. When they are applied to the databases the latches are released, and
// only then Write returns: what it acknowledged is durable.
package replication
