package replication

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/storage"
)

var errTodo = errors.New("replication: not written yet")

// Replica is one node's part in its set.
type Replica struct{}

// Open opens or creates the node's data and replays its log; it returns when
// everything acknowledged before is visible.
func Open(ctx context.Context, cfg Config) (*Replica, error) { return nil, errTodo }

// Store gives the node's data for reading.
func (r *Replica) Store() *storage.Store { return nil }

// Initiate names the set and makes this node its one voter (replSetInitiate).
// host is the member's address as clients use it. A second call fails with
// AlreadyInitialized (23).
func (r *Replica) Initiate(ctx context.Context, set, host string) error { return errTodo }

// Status describes the node.
func (r *Replica) Status() Status { return Status{} }

// Changed gives a channel that is closed at the next change of the topology.
func (r *Replica) Changed() <-chan struct{} { return nil }

// Close refuses new writes, waits for those under way, flushes and closes.
func (r *Replica) Close(ctx context.Context) error { return errTodo }

// Write runs fn, proposes what its statements collected and waits until it is
// durable and applied. Statements that succeeded are written even if fn returns
// an error, which Write then returns. Errors with the label RetryableWriteError
// leave the outcome open.
func (r *Replica) Write(ctx context.Context, o WriteOptions, fn func(*Writer) error) (OpTime, error) {
	return OpTime{}, errTodo
}

// CreateCollection makes a collection (and its database). It fails with
// NamespaceExists (48) if there is one.
func (r *Replica) CreateCollection(ctx context.Context, db, coll string, options bson.Raw) error {
	return errTodo
}

// DropCollection removes a collection; existed tells whether there was one and how many
// indexes it had.
func (r *Replica) DropCollection(ctx context.Context, db, coll string) (existed bool, indexes int, err error) {
	return false, 0, errTodo
}

// DropDatabase removes a database with its files and keys.
func (r *Replica) DropDatabase(ctx context.Context, db string) (existed bool, err error) {
	return false, errTodo
}

// CreateIndexes builds indexes, all or none of them. Ones that are there
// already are left alone. The collection is made if it is missing.
func (r *Replica) CreateIndexes(ctx context.Context, db, coll string, specs []index.Spec) (before, after int, createdColl bool, err error) {
	return 0, 0, false, errTodo
}

// DropIndexes removes indexes by name; nil means all but the one on _id. before is the
// number of indexes there were.
func (r *Replica) DropIndexes(ctx context.Context, db, coll string, names []string) (before int, err error) {
	return 0, errTodo
}

// Rewrite copies a stopped node's data into a fresh directory with other Files.
func Rewrite(ctx context.Context, from, to Config) error { return errTodo }
