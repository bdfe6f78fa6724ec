// Package raftlog keeps raft's log and its stable values in a Pebble instance.
//
// The noun is Log. It is the only log that the engine writes ahead, and it is the
// oplog too: when raft truncates the front, only the first index moves, the
// entries stay readable (Get by index, Oldest) until Trim removes what is above the
// retention. A truncation of the back removes entries at once.
//
// Keys start with one byte; Log owns those below 0x10, the rest of the instance is
// its owner's:
//
//	01 index(8)   entry: version 1, type, term(8), time(8, Unix nanoseconds, 0 for
//	              none), uvarint length of extensions, extensions, data
//	02 name       stable value
//	03            first index(8)
//	04 index(8)   mark: bytes(8) of the entries between the mark before and index
package raftlog
