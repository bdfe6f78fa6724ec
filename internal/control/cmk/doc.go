// Package cmk manages a project's customer key: which role, which key, which
// region, and whether the key is ours to use.
//
// A change is a candidate first: a validation run (kms.Run) must be OK with it, and
// where data is encrypted already the candidate must open the stored probe, before
// one transaction commits it as a new generation. A refusal changes nothing. Where keys
// are kept, the candidate is prepared on every host before that: KeyChange is its
// record, decide its state machine (key-plane section 4).
//
// The verdict of a project comes from its validators: every host with nodes of the
// project, and the control plane itself, which runs a custody loop of its own but
// keeps it quiet while the hosts report VALID (key-plane rule 12a). The worst
// verdict of the hosts is the project's; each change of it is an event that says
// why, what to do, and who noticed.
package cmk
