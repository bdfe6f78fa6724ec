// Package tenant knows who there is and what they may do: organizations, projects,
// API keys with their roles, the database users and the IP access list of a
// project, and the events that people may read.
//
// Every method of the control services takes the Principal that asks and checks
// its roles itself, so no way into the system can forget to. A project that the
// principal has no role for does not exist for them: the answer is GROUP_NOT_FOUND,
// whether there is such a project or not (key-plane rule 5.8).
//
// All refusals are *apierr.Error with Atlas's codes.
package tenant
