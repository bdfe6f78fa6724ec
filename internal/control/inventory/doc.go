// Package inventory answers which customer keys are needed, by what, and whether one may
// be deleted.
//
// The answer is a pure function (Judge) of facts about one key: the configurations that
// name it, the wraps in escrow that are under it, what the hosts say of their own disks,
// and which hosts cannot be asked. It says MAY_DELETE only if all of that is known and
// nothing of it needs the key. Absence of knowledge never does: a host that is silent, a
// wrap that cannot be read, a key that was never here, or something that the caller may
// not see give UNKNOWN. Each reason says what would change it.
//
// The inventory speaks of what Keywright wraps. Whatever else a customer encrypts with
// the same key is not known here, and every answer says so.
package inventory
