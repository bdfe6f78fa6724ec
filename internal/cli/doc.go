// Package cli is the command line of the one program: it reads flags, builds
// the parts that a process needs, and runs them until a signal comes.
//
// Results go to standard output, everything else to standard error. Errors are
// "error: ..." with an exit code of 1; a wrong command line is 2. `keywright
// mongod` has the exit codes of a mongod.
package cli
