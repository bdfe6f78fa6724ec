// Package command carries out MongoDB's commands.
//
// One table (commands, in table.go) says for each command its name, its fields,
// what a user needs to be allowed to run it, and the function that does it.
// Everything else follows a fixed path (dispatch, in dispatch.go): read the
// command strictly, find out who asks, check what they may do, run, and shape the
// reply. A handler never looks at the connection's login by itself, and a command
// that is not in the table does not exist.
//
// The files follow the groups of commands: hello, sasl, users, insert, update,
// delete, find, cursors, aggregate, catalogue, diagnostics, replica set.
//
// Reads are taken from a snapshot of a database (storage.Reader). Writes go
// through the replica's Writer, which makes statements atomic, durable and, with a
// session and a transaction number, exactly once.
package command
