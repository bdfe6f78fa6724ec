// Package storage keeps the documents of a node: one Pebble instance per
// database, handed out by the Store.
//
// The noun is Store. Reading goes through a Reader, a consistent snapshot of one
// database. Writing goes through Apply alone: it takes an entry of the replicated
// log (package replication/entry) and carries out its effects blindly and
// deterministically. Databases have no log of their own: an entry's data and its
// index in the replicated log reach a database in one batch, a crash loses a
// suffix of batches, and the replicated log is applied again from there.
//
// Nobody but package replication calls Apply and the methods for log keeping
// (Flush, Checkpoint, Applied).
//
// What stands where:
//
//	state instance (the replicated log's Pebble)   names of databases and their ids,
//	                                               retry records, set name and host
//	a database's instance                          its collections, their indexes and
//	                                               counts, documents, index entries,
//	                                               applied index
//
// A database describes itself, so that its collections, indexes and documents
// change in one batch and a snapshot of it is consistent.
package storage
