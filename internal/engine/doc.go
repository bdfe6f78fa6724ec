// Package engine is the bundled database node, the process behind `keywright
// mongod`: it puts together the file system that encrypts (cryptofs), the log
// and the data (replication, storage), and the port (wire, auth, command).
//
// It knows nothing of any control plane or agent. It is started with the options
// of a mongod, gets its master key over KMIP, and takes users and replica set
// through commands like any mongod.
package engine
