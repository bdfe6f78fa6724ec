package storage

import (
	"encoding/binary"

	"github.com/keywright/keywright/internal/engine/index"
)

// Keys in a database's instance:
//
//	00 'v'                          format version(1)
//	00 'a'                          applied: index(8) term(8) of the replicated log
//	00 'n'                          number(4) for the next collection
//	01 coll(4)                      collection: BSON, see record
//	02 coll(4) 'd' idKey            document
//	02 coll(4) 'i' index(4) key     index entry; unique: the value is the idKey;
//	                                else the idKey follows the key and the value is
//	                                the key's length(4)
//	03 coll(4)                      number of documents(8)
//
// Keys in the state instance start at 10; below is the log's (package raftlog):
//
//	10 'v'                          format version(1)
//	10 'a'                          applied: index(8) term(8)
//	10 't'                          cluster time(8) of the newest entry at the last flush
//	10 'c'                          set: BSON {v, set, host, version}
//	10 'k'                          generation(8) of the keyring
//	10 'r'                          id of the received snapshot that was restored last
//	11 name                         database: BSON {v, id}
//	12 len(2) session               retry records of one entry: version(1), seconds(4),
//	   transaction(8) index(8)      statements as in the entry
//	13 id(16)                       applied index(8) of the database at its last flush
const (
	formatVersion = 1

	metaVersion  = "\x00v"
	metaApplied  = "\x00a"
	metaNext     = "\x00n"
	prefixColl   = 0x01
	prefixData   = 0x02
	prefixCount  = 0x03
	tagDocument  = 'd'
	tagIndex     = 'i'
	docPrefixLen = 1 + 4 + 1
	idxPrefixLen = 1 + 4 + 1 + 4

	stateVersion  = "\x10v"
	stateApplied  = "\x10a"
	stateTime     = "\x10t"
	stateSet      = "\x10c"
	stateKeyring  = "\x10k"
	stateRestored = "\x10r"
	prefixName    = 0x11
	prefixRetry   = 0x12
	prefixFlushed = 0x13
)

func collKey(n uint32) []byte  { return binary.BigEndian.AppendUint32([]byte{prefixColl}, n) }
func countKey(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{prefixCount}, n) }

// dataPrefix covers documents and index entries of a collection.
func dataPrefix(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{prefixData}, n) }

func docPrefix(n uint32) []byte { return append(dataPrefix(n), tagDocument) }

func docKey(n uint32, idKey []byte) []byte {
	k := make([]byte, 0, docPrefixLen+len(idKey))
	k = binary.BigEndian.AppendUint32(append(k, prefixData), n)
	return append(append(k, tagDocument), idKey...)
}

func indexPrefix(coll, idx uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dataPrefix(coll), tagIndex), idx)
}

// indexEntry gives key and value of an index entry.
func indexEntry(coll uint32, ix *indexDef, key, idKey []byte) (k, v []byte) {
	k = make([]byte, 0, idxPrefixLen+len(key)+len(idKey))
	k = binary.BigEndian.AppendUint32(append(k, prefixData), coll)
	k = binary.BigEndian.AppendUint32(append(k, tagIndex), ix.number)
	k = append(k, key...)
	if ix.spec.Unique {
		return k, idKey
	}
	return append(k, idKey...), binary.BigEndian.AppendUint32(nil, uint32(len(key))) //nolint:gosec // below 64 MiB
}

// prefixRange is the range of all keys with a prefix.
func prefixRange(prefix []byte) (lower, upper []byte) { return prefix, index.PrefixEnd(prefix) }

// within turns a bound over index keys into one over stored keys.
func within(prefix []byte, b index.Bound) (lower, upper []byte) {
	lower = append(prefix[:len(prefix):len(prefix)], b.Lower...)
	if b.Upper == nil {
		return lower, index.PrefixEnd(prefix)
	}
	return lower, append(prefix[:len(prefix):len(prefix)], b.Upper...)
}

func encodePosition(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}
