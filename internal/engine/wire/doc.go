// Package wire speaks MongoDB's wire protocol: it frames messages, carries them
// over TCP with or without TLS on one port, and hands each request to a session.
//
// Three messages exist for a client of today. OP_MSG carries every command;
// OP_QUERY carries a driver's very first hello and the commands of very old
// clients; OP_REPLY answers OP_QUERY. Compression is never offered, so a
// compressed message is a protocol error.
//
// Everything that comes in is bounded: the length of a message (far less before
// login than after), the depth of its documents, the time it may take, the
// number of connections. A message that breaks a rule ends its connection, as
// nothing that follows it can be trusted to be in step.
//
// The package knows nothing of commands. It meets them through Handler and
// Session.
package wire
