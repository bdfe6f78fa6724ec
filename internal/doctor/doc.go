// Package doctor looks at one machine and says whether a control plane or an agent can
// work on it: the platform's own AWS identity, the way to AWS and the clock, the way to
// the control plane, the data directory, limits of the system, ports.
//
// Each check is a function that gives one Finding: ok, a warning or a failure, with what
// to do. Checks change nothing (a file that proves that a directory can be written is
// removed at once), use the same code as the processes, and never wait long.
package doctor
