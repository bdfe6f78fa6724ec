package command

import (
	"bytes"
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
)

func writeCommands() []command {
	bypass := []string{"ordered", "bypassDocumentValidation", "bypassEmptyTsReplacement", "let"}
	return []command{
		{
			name: "insert", needs: onCollection(auth.Insert), run: insert, writes: true, retryable: true, stable: true,
			fields: append([]string{"documents"}, bypass[:3]...),
		},
		{
			name: "update", needs: updateNeeds, run: updateDocuments, writes: true, retryable: true, stable: true,
			fields: append([]string{"updates"}, bypass...),
		},
		{
			name: "delete", needs: onCollection(auth.Find, auth.Remove), run: remove, writes: true, retryable: true, stable: true,
			fields: append([]string{"deletes"}, bypass...),
		},
		{
			name: "findAndModify", aliases: []string{"findandmodify"}, needs: findAndModifyNeeds, run: findAndModify, writes: true, retryable: true, stable: true,
			fields: append([]string{"query", "sort", "remove", "update", "new", "fields", "upsert", "hint", "arrayFilters", "collation"}, bypass[1:]...),
		},
	}
}

// write is one command that changes documents, under way.
type write struct {
	server  *Server
	req     *request
	coll    string
	ordered bool
	w       *replication.Writer
	ctx     context.Context

	errs    *array
	errSize int
}

// runWrite runs fn with a Writer of the command's database. A client that goes
// away does not undo what it asked for, so that only maxTimeMS ends a write.
func (s *Server) runWrite(ctx context.Context, req *request, user *auth.User, coll string, fn func(*write) error) (*write, error) {
	if err := checkWritable(req.db, coll); err != nil {
		return nil, err
	}
	deadline, limited := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	o := replication.WriteOptions{DB: req.db}
	if req.hasTxn {
		o.LSID, o.TxnNumber, o.HasTxn = req.logicalSession(user), req.txnNumber, true
	}
	wr := &write{server: s, req: req, coll: coll, errs: newArray()}
	optime, err := s.cfg.Node.Write(ctx, o, func(w *replication.Writer) error {
		wr.w, wr.ctx, wr.errs, wr.errSize = w, ctx, newArray(), 0
		return fn(wr)
	})
	if isUsers(req.db, coll) {
		s.users.Invalidate()
	}
	if err != nil {
		return nil, err
	}
	req.wrote, req.optime = true, optime.Timestamp
	return wr, nil
}

// checkWritable refuses the server's own collections, but for those that a
// restore writes.
func checkWritable(db, coll string) error {
	if len(coll) > 7 && coll[:7] == "system." && coll != "system.js" {
		if db == "admin" && (coll == "system.users" || coll == "system.roles" || coll == "system.version") {
			return nil
		}
		return mongoerr.Of(mongoerr.InvalidNamespace, "cannot write to %s.%s", db, coll)
	}
	return nil
}

func isUsers(db, coll string) bool { return db == "admin" && coll == "system.users" }

// insert inserts a document.
func (wr *write) insert(tx *replication.Tx, doc bson.Raw) error {
	if err := wr.checkAccount(doc); err != nil {
		return err
	}
	return tx.Insert(wr.coll, doc)
}

// replace replaces a document that was latched.
func (wr *write) replace(tx *replication.Tx, idKey []byte, doc bson.Raw) error {
	if err := wr.checkAccount(doc); err != nil {
		return err
	}
	return tx.Replace(wr.coll, idKey, doc)
}

// checkAccount refuses users that could not be read again: one of them would
// stand in the way of all that lists users.
func (wr *write) checkAccount(doc bson.Raw) error {
	if !isUsers(wr.req.db, wr.coll) {
		return nil
	}
	if _, err := auth.ParseUser(doc); err != nil {
		return mongoerr.Of(mongoerr.BadValue, "this is no user that this engine can keep: %v", err)
	}
	return nil
}

// failed records the error of one statement; stop tells that the command must
// not go on, because it is ordered. Errors of the whole command are returned.
func (wr *write) failed(i int, err error) (stop bool, whole error) {
	if fatalForCommand(err) {
		return true, err
	}
	const mostText = 4 << 20
	e := wr.server.clientError(err)
	text := e.Message
	var dup *storage.DuplicateKeyError
	isDup := errors.As(err, &dup)
	if wr.errSize += len(text); isDup {
		wr.errSize += len(dup.KeyPattern) + len(dup.KeyValue)
	}
	if wr.errSize > mostText { // what follows is told by its code alone
		text, isDup = "", false
	}
	d := newDoc().int32("index", int32(i)).int32("code", e.Code).str("errmsg", text) //nolint:gosec // at most 100,000
	if isDup {
		d.doc("keyPattern", dup.KeyPattern).doc("keyValue", dup.KeyValue)
	}
	wr.errs.doc(d.done())
	return wr.ordered, nil
}

// reply starts the reply of a write command.
func (wr *write) reply(n int64) *builder {
	return newDoc().int32("n", int32(n)) //nolint:gosec // documents of one command; MongoDB answers int32
}

func (wr *write) addErrors(out *builder) *builder {
	if wr.errs.n > 0 {
		out.array("writeErrors", wr.errs)
	}
	return out
}

func checkBatch(name string, n int) error {
	if n < 1 || n > maxWriteBatch {
		return mongoerr.Of(mongoerr.InvalidLength, "Write batch sizes must be between 1 and %d. Got %d operations in '%s'.", maxWriteBatch, n, name)
	}
	return nil
}

// checkStatements refuses statement ids that do not fit the statements.
func (r *request) checkStatements(n int) error {
	if len(r.stmtIDs) > 1 && len(r.stmtIDs) != n {
		return mongoerr.Of(mongoerr.InvalidOptions, "stmtIds must have as many ids as there are statements")
	}
	if len(r.stmtIDs) == 1 && int64(r.stmtIDs[0])+int64(n) > 1<<31-1 {
		return mongoerr.Of(mongoerr.InvalidOptions, "stmtId is too large")
	}
	return nil
}

// maxRescans bounds how often a statement looks again because what it had found
// was changed by somebody else meanwhile.
const maxRescans = 100

// target is what a statement works on.
type target struct {
	filter *query.Filter
	sort   *query.Sort
	hint   bson.RawValue
	// point is the _id key if the filter names one document.
	point []byte
}

func newTarget(filter, sort bson.Raw, hint bson.RawValue) (*target, error) {
	t := &target{hint: hint}
	var err error
	if t.filter, err = query.ParseFilter(filter); err != nil {
		return nil, err
	}
	if t.sort, err = query.ParseSort(sort); err != nil {
		return nil, err
	}
	if hint.Type != 0 {
		return t, nil
	}
	plan, err := query.ChoosePlan(t.filter, nil, bson.RawValue{}, nil, func(string) bool { return false })
	if err == nil && plan.Kind == query.IDLookup && plan.Point && len(plan.Bounds) == 1 {
		t.point = plan.Bounds[0].Lower
	}
	return t, err
}

// settle makes what the command wrote so far visible, if the target can only be
// found by a scan.
func (wr *write) settle(t *target) error {
	if t.point == nil && wr.w.Pending() {
		return wr.w.Flush()
	}
	return nil
}

// locate finds the first document that matches, and latches it. It gives nil if
// there is none.
func (wr *write) locate(tx *replication.Tx, t *target) (idKey []byte, doc bson.Raw, err error) {
	if t.point != nil {
		doc, err := tx.Lock(wr.coll, t.point)
		if doc == nil || err != nil {
			return nil, nil, err
		}
		ok, err := t.filter.Match(doc)
		if !ok || err != nil {
			return nil, nil, err
		}
		return t.point, doc, nil
	}
	for range maxRescans {
		idKey, doc, missed, err := wr.locateOnce(tx, t)
		if err != nil || doc != nil || !missed {
			return idKey, doc, err
		}
	}
	return nil, nil, mongoerr.Of(mongoerr.WriteConflict, "the documents that match change too fast; try again")
}

// locateOnce looks on one snapshot. missed tells that a document matched there
// and did not any more when it was latched.
func (wr *write) locateOnce(tx *replication.Tx, t *target) (idKey []byte, doc bson.Raw, missed bool, err error) {
	reader, err := wr.server.cfg.Node.Store().Read(wr.ctx, wr.req.db)
	if err != nil {
		return nil, nil, false, err
	}
	defer reader.Close()
	coll, _ := reader.Collection(wr.coll)
	plan, err := planFor(coll, t.filter, t.sort, t.hint)
	if err != nil {
		return nil, nil, false, err
	}
	sc := newScan(coll, plan, t.filter)
	defer sc.close()
	var from source = sc
	if t.sort != nil && !plan.SortCovered {
		from = &sorter{from: sc, sort: t.sort, limit: 1}
	}
	for {
		found, ok, err := from.next(wr.ctx)
		if err != nil || !ok {
			return nil, nil, missed, err
		}
		id, err := index.EncodeID(found.Lookup("_id"))
		if err != nil {
			return nil, nil, false, err
		}
		newest, matches, err := wr.latch(tx, t, id)
		if err != nil {
			return nil, nil, false, err
		}
		if matches && (t.sort == nil || bytes.Equal(newest, found)) {
			return id, newest, false, nil
		}
		missed = true
		if t.sort != nil { // its place in the order may be another now
			return nil, nil, true, nil
		}
	}
}

// latch takes a document and looks whether it still matches.
func (wr *write) latch(tx *replication.Tx, t *target, idKey []byte) (bson.Raw, bool, error) {
	doc, err := tx.Lock(wr.coll, idKey)
	if doc == nil || err != nil {
		return nil, false, err
	}
	ok, err := t.filter.Match(doc)
	return doc, ok, err
}

// flushEvery is after how many documents a statement on many makes room.
const flushEvery = 500

// each runs do on every document that matches, one statement for each, and adds
// up what the statements did.
func (wr *write) each(t *target, stmt int32, do func(tx *replication.Tx, idKey []byte, doc bson.Raw) (updated, error)) (total updated, err error) {
	reader, err := wr.server.cfg.Node.Store().Read(wr.ctx, wr.req.db)
	if err != nil {
		return total, err
	}
	defer reader.Close()
	coll, _ := reader.Collection(wr.coll)
	plan, err := planFor(coll, t.filter, nil, t.hint)
	if err != nil {
		return total, err
	}
	sc := newScan(coll, plan, t.filter)
	defer sc.close()
	for n := 1; ; n++ {
		_, ok, err := sc.next(wr.ctx)
		if err != nil || !ok {
			return total, err
		}
		if wr.server.draining() {
			return total, mongoerr.Of(mongoerr.InterruptedAtShutdown, "interrupted at shutdown")
		}
		id := bytes.Clone(sc.idKey)
		var done updated
		if _, _, err := wr.w.Do(stmt, func(tx *replication.Tx) (bson.Raw, error) {
			done = updated{}
			newest, matches, err := wr.latch(tx, t, id)
			if err != nil || !matches {
				return nil, err
			}
			done, err = do(tx, id, newest)
			return nil, err
		}); err != nil {
			return total, err
		}
		total.matched += done.matched
		total.modified += done.modified
		if n%flushEvery == 0 {
			if err := wr.w.Flush(); err != nil {
				return total, err
			}
		}
	}
}

func idKey(id string) ([]byte, error) {
	v := newDoc().str("_id", id).done().Lookup("_id")
	return index.EncodeID(v)
}
