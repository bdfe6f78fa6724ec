// Package cluster knows what clusters there shall be, where their nodes run, and
// what has become of them.
//
// A customer's wish is desired state with a generation: handlers only check it and
// write it down. Agents fetch the state that their host shall have (Desired), act,
// and report (Status); each report moves clusters from one state to the next. All
// of it is in the store, so a crash at any point resumes.
//
// Hosts belong here too: they enrol with a token that works once, and a host that
// remembers a newer desired state than the store does is frozen, since somebody
// restored an old store then (key-plane rule 2.4).
//
// Until replica sets come, one data-bearing node runs, whatever node count is
// stored; the events of the cluster say so.
package cluster
