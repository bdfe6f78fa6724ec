package replication

import (
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
)

// Config says where and how a node keeps its data.
type Config struct {
	// Dir is the node's data directory (dbpath).
	Dir string
	// Node is the node's identity, also its server id in raft. Empty is taken from
	// the directory, or made at its creation.
	Node keys.NodeID
	// Files gives the databases their file systems.
	Files storage.Files
	// Logger receives messages; nil discards them.
	Logger *slog.Logger
	// Cache and FileCache are shared by all databases; nil makes ones of 32 MiB and
	// 512 tables for this node.
	Cache     *pebble.Cache
	FileCache *pebble.FileCache
	// MemTableSize of each database in bytes; 0 is 4 MiB.
	MemTableSize uint64
	// OpenDatabases bounds the databases that are open at once; 0 is 64.
	OpenDatabases int
	// ElectionTimeout of raft; 0 is 50 ms, right for one voter.
	ElectionTimeout time.Duration
	// Transport carries raft's messages; nil is a loopback for a set of one voter.
	Transport raft.Transport
	// SnapshotBytes and SnapshotEntries say after how much log the databases are
	// flushed and the log is cut; 0 is 64 MiB and 50,000.
	SnapshotBytes   int64
	SnapshotEntries uint64
	// OplogBytes is how much of the log stays readable after it was cut; 0 is
	// 256 MiB.
	OplogBytes int64
	// Reserve is the free disk space in bytes below which writes are refused;
	// 0 is 64 MiB, negative none.
	Reserve int64
	// OnFatal is called once when the node cannot go on: a write of the log or of
	// a database failed, or data is damaged. It must end the process.
	OnFatal func(msg string)

	step func(name string) error // for tests: where a rewrite is
}

// OpTime is the place of a write in the log.
type OpTime struct {
	Timestamp bson.Timestamp
	Term      uint64
}

// Status describes the node in its set.
type Status struct {
	// Node is the node's identity.
	Node keys.NodeID
	// Set is the set's name, empty before Initiate; Host is this member's address
	// as clients use it; Version is that of the set's configuration.
	Set     string
	Host    string
	Version int64
	// Primary tells whether the node takes writes.
	Primary bool
	Term    uint64
	// ElectionID never goes down, over restarts and rewrites too.
	ElectionID bson.ObjectID
	// Applied and Committed are the newest entries applied here and known durable.
	Applied, Committed OpTime
	// TopologyVersion counts the changes since the process started.
	TopologyVersion int64
}

// WriteOptions says for whom a Write is.
type WriteOptions struct {
	// DB is the database.
	DB string
	// LSID is the encoded lsid with the user's hash, nil for none.
	LSID []byte
	// TxnNumber is looked at if HasTxn.
	TxnNumber int64
	HasTxn    bool
}
