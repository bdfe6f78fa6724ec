package replication

import "go.mongodb.org/mongo-driver/v2/bson"

// Writer collects the effects of one command's statements. It belongs to the one
// goroutine that runs Write's fn.
type Writer struct{}

// Tx is one statement being evaluated. It is valid only within Do.
type Tx struct{}

// Do evaluates one statement, atomically: if fn returns an error, its effects are
// dropped and the error is returned. fn may be run several times (when a document
// that it needs is held by another writer), so it must not have effects but
// through tx, and must return errors of tx's methods at once.
//
// With a transaction number, a statement that ran before is not run again: its
// recorded result is returned with replayed set.
func (w *Writer) Do(stmt int32, fn func(*Tx) (bson.Raw, error)) (result bson.Raw, replayed bool, err error) {
	return nil, false, errTodo
}

// Flush proposes what was collected so far and waits until it is applied: after
// it a Reader sees it.
func (w *Writer) Flush() error { return errTodo }

// Pending tells whether something was collected that a Reader does not see yet.
func (w *Writer) Pending() bool { return false }

// Lock latches a document and gives its newest version, effects of this Writer
// included, or nil if there is none (also if the collection does not exist).
func (tx *Tx) Lock(coll string, idKey []byte) (bson.Raw, error) { return nil, errTodo }

// Insert adds a document, which must have an _id as its first field. A collection that does not
// exist is made. A duplicate is refused with a storage.DuplicateKeyError (11000).
func (tx *Tx) Insert(coll string, doc bson.Raw) error { return errTodo }

// Replace puts doc in the place of the document with idKey, which must have been
// locked and exist; doc must have the same _id.
func (tx *Tx) Replace(coll string, idKey []byte, doc bson.Raw) error { return errTodo }

// Delete removes the document with idKey, which must have been locked; one that
// is not there is no error.
func (tx *Tx) Delete(coll string, idKey []byte) error { return errTodo }
