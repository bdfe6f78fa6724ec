// Package index turns BSON values into bytes that sort as MongoDB sorts the
// values, and documents into the keys of an index.
//
// It is pure: no storage, no clock. Three things live here because the rooms
// above need exactly the same answers: the order of values (Compare), its byte
// form (EncodeValue, EncodeID, Spec.Keys) and the bounded walk over raw
// documents (Validate, Elements). Two values are equal if and only if their key
// bytes are equal, so the bytes also serve as hash keys for grouping.
//
// # Key bytes, version 1
//
// A value is one tag byte in the order of types, then a self-delimiting body;
// compound keys are plain concatenation; a descending field has all its bytes
// inverted. No encoding is a prefix of another one.
//
//	type                 tag   body
//	MinKey               0x10
//	undefined, [] entry  0x20
//	null, missing        0x28
//	numbers              0x30  8 bytes: the value cut toward zero to a double, sign flipped so that bytes sort;
//	                           then 0x01 exact, 0x02 above it or 0x00 below it, followed by the exact decimal
//	string, symbol       0x40  bytes, 0x00 as 0x00 0xFF, end 0x00 0x00
//	object               0x48  per field: tag, name, body; end 0x00
//	array                0x50  per element: tag, body; end 0x00
//	binary               0x58  length (4), subtype, bytes
//	ObjectId             0x60  12 bytes
//	bool                 0x68  1 byte
//	date                 0x70  8 bytes, sign flipped
//	timestamp            0x78  8 bytes
//	regex                0x80  pattern, options as strings
//	DBPointer            0x88  namespace as string, 12 bytes
//	code                 0x90  as string
//	code with scope      0x98  code as string, scope as object body
//	MaxKey               0xF0
//
// Whoever stores these bytes stores FormatVersion beside them.
package index
