// Package entry is the format of the replicated log: what one entry says, byte for
// byte. It is pure.
//
// An Entry holds effects, not commands: whole documents as they are after the
// write, so that applying it needs no decision. All integers are big endian;
// uvarint is the shortest base-128 form, a longer one is refused:
//
//	0        version, 1
//	1..4     seconds of the cluster time
//	5..8     counter of the cluster time
//	uvarint  length of the session's id, 0 for none (at most MaxLSID)
//	         the session's id: encoded lsid with the user's hash
//	8        transaction number, only with a session
//	uvarint  number of statements, only with a session
//	           4        statement id
//	           uvarint  length of the result, the result (a BSON document, or nothing)
//	uvarint  number of operations
//	           1        kind
//	           16       database id
//	           16       collection UUID
//	           uvarint  length of the payload, the payload
//
// The payload of an insert and a replace is the document, that of a delete
// {_id: value}, that of a catalogue operation a document whose field op names it
// (see Catalogue).
package entry
