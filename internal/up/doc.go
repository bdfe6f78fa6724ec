// Package up composes a whole Keywright on one machine: the local AWS, the
// control plane and an agent as child processes, with the flags that a user
// would give them, and samples to try everything on.
//
// It holds no logic of theirs: it starts, watches and stops processes (child),
// keeps the secrets that it made (secrets), makes the samples through the same
// interfaces as a customer would (samples), and writes bootstrap.json, whose
// fields are a promise to programs (bootstrap).
//
// A second start finds everything as it was. After a crash, children that were
// left running are stopped and started anew; database nodes go on meanwhile and
// are adopted by the new agent.
package up
