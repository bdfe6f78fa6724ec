package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
)

// Write runs fn, proposes what its statements collected and waits until it is
// durable and applied. Statements that succeeded are written even if fn returns
// an error, which Write then returns. Errors with the label RetryableWriteError
// leave the outcome open.
func (r *Replica) Write(ctx context.Context, o WriteOptions, fn func(*Writer) error) (OpTime, error) {
	if err := r.enter(); err != nil {
		return OpTime{}, err
	}
	defer r.leave()
	w := &Writer{r: r, ctx: ctx, o: o, set: r.latches.set(), colls: map[string]*storage.LiveCollection{}}
	defer w.reset()
	if o.HasTxn {
		if len(o.LSID) == 0 || len(o.LSID) > entry.MaxLSID {
			return OpTime{}, mongoerr.Of(mongoerr.InvalidOptions, "a transaction number needs an lsid of at most %d bytes", entry.MaxLSID)
		}
		k := sessionLatch(o.LSID)
		if err := r.latches.take(ctx, k, exclusive); err != nil {
			return OpTime{}, err
		}
		defer r.latches.release(k)
		txn, results, known := r.store.Session(o.LSID)
		if known && o.TxnNumber < txn {
			return OpTime{}, mongoerr.Of(mongoerr.TransactionTooOld,
				"Retryable write with txnNumber %d is prohibited because a newer one with txnNumber %d has already started on this session", o.TxnNumber, txn)
		}
		if known && o.TxnNumber == txn {
			w.results = results
		}
	}
	err := fn(w)
	if ferr := w.Flush(); ferr != nil {
		return w.last, ferr
	}
	if w.last == (OpTime{}) {
		r.mu.Lock()
		w.last = r.applied
		r.mu.Unlock()
	}
	return w.last, err
}

// Writer collects the effects of one command's statements. It belongs to the one
// goroutine that runs Write's fn.
type Writer struct {
	r       *Replica
	ctx     context.Context //nolint:containedctx // a Writer lives within one call
	o       WriteOptions
	results map[int32]bson.Raw // of the transaction number, from before
	set     *latchSet

	live  *storage.Live
	colls map[string]*storage.LiveCollection
	view  overlay // what was collected and is not applied yet

	ops       []entry.Op
	stmts     []entry.Statement
	size      int
	proposals []proposal
	last      OpTime
	err       error // the outcome of a proposal is unknown, or the node refused it
}

// overlay is what effects that are not applied yet change: documents by
// collection and _id key (nil for deleted), owners of unique keys by latch ("" for
// none).
type overlay struct {
	docs   map[string]bson.Raw
	owners map[latchKey]string
}

func (o *overlay) setDoc(k string, d bson.Raw) {
	if o.docs == nil {
		o.docs = map[string]bson.Raw{}
	}
	o.docs[k] = d
}

func (o *overlay) setOwner(k latchKey, id string) {
	if o.owners == nil {
		o.owners = map[latchKey]string{}
	}
	o.owners[k] = id
}

// add takes over what is in other, which must not be used afterwards.
func (o *overlay) add(other overlay) {
	if o.docs == nil {
		o.docs = other.docs
	} else {
		maps.Copy(o.docs, other.docs)
	}
	if o.owners == nil {
		o.owners = other.owners
	} else {
		maps.Copy(o.owners, other.owners)
	}
}

// Do evaluates one statement, atomically: if fn returns an error, its effects are
// dropped and the error is returned. fn may be run several times (when a document
// that it needs is held by another writer), so it must not have effects but
// through tx, and must return errors of tx's methods at once.
//
// With a transaction number, a statement that ran before is not run again: its
// recorded result is returned with replayed set. A statement without effects leaves
// no record.
func (w *Writer) Do(stmt int32, fn func(*Tx) (bson.Raw, error)) (result bson.Raw, replayed bool, err error) {
	if w.err != nil {
		return nil, false, w.err
	}
	if res, ok := w.results[stmt]; ok {
		return res, true, nil
	}
	var want map[latchKey]latchMode
	for {
		if err := w.ctx.Err(); err != nil {
			return nil, false, err
		}
		tx := &Tx{w: w}
		result, err = fn(tx)
		tx.over = true
		if tx.blocked == "" && tx.missing == "" {
			if err != nil {
				return nil, false, err
			}
			return result, false, w.collect(tx, stmt, result)
		}
		if want == nil {
			want = map[latchKey]latchMode{}
		}
		if err := w.makeWay(tx, want); err != nil {
			return nil, false, err
		}
	}
}

// makeWay lets go of everything, so that nobody waits for this writer, and then gets
// what the statement lacked.
func (w *Writer) makeWay(tx *Tx, want map[latchKey]latchMode) error {
	if err := w.Flush(); err != nil {
		return err
	}
	if tx.missing != "" {
		return w.r.ensureCollection(w.ctx, w.o.DB, tx.missing)
	}
	want[tx.blocked] = max(want[tx.blocked], tx.mode)
	return w.set.take(w.ctx, want)
}

// collect takes over a statement's effects and proposes what is large enough.
func (w *Writer) collect(tx *Tx, stmt int32, result bson.Raw) error {
	w.view.add(tx.view)
	if len(tx.ops) == 0 {
		return nil
	}
	total := 0
	for _, o := range tx.ops {
		total += o.Size()
	}
	if w.size > 0 && w.size+total > entry.TargetSize {
		if err := w.send(); err != nil {
			return err
		}
	}
	for _, o := range tx.ops {
		if len(w.ops) > 0 && w.size+o.Size() > entry.TargetSize {
			if err := w.send(); err != nil {
				return err
			}
		}
		w.ops = append(w.ops, o)
		w.size += o.Size()
	}
	if w.o.HasTxn {
		s := entry.Statement{ID: stmt, Result: result}
		w.stmts = append(w.stmts, s)
		w.size += s.Size()
		if w.results == nil {
			w.results = map[int32]bson.Raw{}
		}
		w.results[stmt] = result
	}
	return nil
}

// send proposes what was collected, without waiting for it.
func (w *Writer) send() error {
	if len(w.ops) == 0 {
		return nil
	}
	e := &entry.Entry{Ops: w.ops}
	if len(w.stmts) > 0 {
		e.LSID, e.TxnNumber, e.Statements = w.o.LSID, w.o.TxnNumber, w.stmts
	}
	encoded, err := e.Encode()
	w.ops, w.stmts, w.size = nil, nil, 0
	if err != nil {
		w.err = fmt.Errorf("encode log entry: %w", err)
		if errors.Is(err, entry.ErrTooLarge) {
			w.err = mongoerr.Of(mongoerr.BSONObjectTooLarge, "The write is too large for one log entry: %v", err)
		}
		return w.err
	}
	n := int64(len(encoded))
	if !w.r.budget.try(n) {
		if err := w.await(); err != nil { // who waits for the budget holds none of it
			return err
		}
		if err := w.r.budget.take(context.WithoutCancel(w.ctx), n); err != nil {
			w.err = err
			return err
		}
	}
	w.proposals = append(w.proposals, w.r.propose(encoded))
	return nil
}

// await waits for everything that was proposed.
func (w *Writer) await() error {
	for _, p := range w.proposals {
		at, err := w.r.wait(p)
		if err != nil && w.err == nil {
			w.err = err
		}
		if err == nil {
			w.last = at
		}
	}
	w.proposals = nil
	return w.err
}

// Flush proposes what was collected so far and waits until it is applied: after
// it a Reader sees it, and other writers may have what this one latched.
func (w *Writer) Flush() error {
	err := w.send()
	if aerr := w.await(); err == nil {
		err = aerr
	}
	w.reset()
	return err
}

// Pending tells whether something was collected that a Reader does not see yet.
func (w *Writer) Pending() bool { return len(w.ops) > 0 || len(w.proposals) > 0 }

// reset forgets what was seen under the latches, and releases them.
func (w *Writer) reset() {
	w.set.releaseAll()
	clear(w.colls)
	w.view = overlay{}
	if w.live != nil {
		w.live.Close()
		w.live = nil
	}
}
