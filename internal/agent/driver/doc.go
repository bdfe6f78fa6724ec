// Package driver runs one kind of database node as an operating system process.
//
// A Driver knows the command lines of its engine; Process is a running node,
// started or adopted; Admin speaks to it as its administrator, through the
// official MongoDB driver and with the commands that a real mongod takes, so
// that every engine goes the same path.
//
// A node outlives the agent that started it. The next agent adopts it: the lock
// on its data directory says which process holds it, the start time that it is
// still the same process, and an authenticated command that it is ours.
package driver
