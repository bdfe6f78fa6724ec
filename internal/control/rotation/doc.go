// Package rotation plans the rotation of the clusters' master keys and follows it.
//
// A rotation is asked for (Request), or due because a node's master key has grown old.
// Its plan is part of the cluster's record, so a crash at any point resumes. One
// cluster of a project after the other and one node after the other is told, through
// its host's desired state, to rotate; the node makes a new key and seals its keyring
// with it while it runs (key-plane section 4). When the host reports the new key and
// the key is Active in escrow, that rotation is acknowledged: only then the replaced
// key is named for destruction, explicitly and with an event. Nothing else destroys it.
//
// A rotation because of age begins with a node only while the project's maintenance
// window is open, if it has one; one on demand does not wait.
//
// The keysets of the databases are rotated on demand in the same order (DatabaseKeys),
// and, if that is wanted, all files are rewritten under the new keys and the old keys
// removed. Nothing is retired by it: the node itself knows when no file needs a key.
//
// A node that cannot rotate now (it is paused, or its customer key cannot be used)
// waits and does not keep other clusters waiting.
package rotation
