// Package store keeps the control plane's records: organizations and projects,
// API keys, database users, access roles, key configurations, clusters and their
// nodes, hosts, escrowed wraps, and the audit chain.
//
// A Store is one data directory, held by one process (lock file). Work happens in
// transactions: Tx for changes, one at a time and durable when it returns, View
// for reading. A change and the audit event that describes it are written by the
// same transaction, so neither exists without the other.
//
// The SQL is portable: identities and relations are columns, the rest of a record
// is one JSON document, times are microseconds since 1970, binary data is inside
// the documents. What differs between databases is in dialect.go only.
//
// Secrets lie sealed in the store (see Sealer): the key is in a file of its own,
// DATA/deployment.key, and a sealed value opens only in the row and column that it
// was sealed for. A store that holds sealed values does not open without that key.
package store
