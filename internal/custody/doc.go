// Package custody answers one question about a project: is the customer's key ours to
// use? Read this package first.
//
// The evidence is the outcome of validation runs (kms.Run): OK, REVOKED with a reason,
// or UNREACHABLE with a reason. The answer is a Verdict. One REVOKED makes a project
// SUSPECT: nothing stops, but no key is released and nothing starts. Three of them,
// the third begun at least C after the first and no OK between, confirm it, and the
// project's Policy decides: INVALID, in which every database process of the project's
// encrypted clusters stops, GRACE, which becomes INVALID at a deadline, or ALERT.
//
// Two reasons can be true for one host only, since an address in a policy can be their
// cause. For them another validator is heard: one that can use the key makes it
// NETWORK_ACCESS_DENIED, which stops nothing; one that is refused too is a witness and
// confirms; with neither it is held for a while. What others say is only believed if
// its runs began after the own refusals did, in the same generation.
//
// UNREACHABLE alone never stops anything, unless the policy sets a limit for a host that
// is cut off from everything. One OK makes it VALID again.
//
// Step is the whole of it as a pure function: from a State, an Event, the Policy and
// the time to the next State and the Effects that are to happen. Loop owns what Step
// must not have: the timer, the runs, the disk. Control plane and agents run the same
// code, each over its own runs.
//
// All durations count on Elapsed, a clock that goes on while the machine sleeps and is
// carried over restarts; the wall clock is for display only.
package custody
