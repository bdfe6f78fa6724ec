package command

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/engine/update"
)

// updateStatement is one element of updates.
type updateStatement struct {
	*target
	change        *update.Update
	multi, upsert bool
}

// parseUpdate reads a statement; ts fills in the empty timestamps of a
// replacement, if it is not nil.
func parseUpdate(doc bson.Raw, ts *stamps) (*updateStatement, error) {
	p := subParams("update.updates", doc, "q", "u", "c", "multi", "upsert", "hint", "collation", "arrayFilters")
	p.need("q")
	p.need("u")
	st := &updateStatement{multi: p.boolean("multi", false), upsert: p.boolean("upsert", false)}
	filter, hint := p.doc("q"), p.hint()
	p.collation()
	p.refuseDoc("c")
	p.noArrayFilters()
	if p.err != nil {
		return nil, p.err
	}
	u, _ := p.value("u")
	if ts != nil {
		u = ts.fillReplacement(u)
	}
	var err error
	if st.change, err = update.ParseUpdate(u); err != nil {
		return nil, err
	}
	if st.multi && st.change.IsReplacement() {
		return nil, mongoerr.Of(mongoerr.FailedToParse, "multi update is not supported for replacement-style update")
	}
	st.target, err = newTarget(filter, nil, hint)
	return st, err
}

func (p *params) noArrayFilters() {
	if v, ok := p.value("arrayFilters"); ok && len(v.Value) > 5 {
		p.fail(mongoerr.Of(mongoerr.NotImplemented, "arrayFilters is not supported by this engine yet"))
	}
}

// updated is what one statement did.
type updated struct {
	matched, modified int64
	upserted          bson.RawValue // the zero value: none
}

func updateDocuments(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	docs := req.sequence(p, "updates")
	ordered := p.boolean("ordered", true)
	ts := &s.stamps
	if p.boolean("bypassEmptyTsReplacement", false) {
		ts = nil
	}
	p.refuseDoc("let")
	if p.err != nil {
		return nil, p.err
	}
	statements, err := parseStatements(req, "update", docs, func(doc bson.Raw) (*updateStatement, error) { return parseUpdate(doc, ts) })
	if err != nil {
		return nil, err
	}
	var total updated
	var upserts *array
	wr, err := s.runWrite(ctx, req, user, coll, func(wr *write) error {
		wr.ordered = ordered
		total, upserts = updated{}, newArray()
		return runStatements(wr, statements, func(i int, st *updateStatement) error {
			s.counters.update.Add(1)
			done, err := wr.update(req.statement(i), st)
			total.matched += done.matched
			total.modified += done.modified
			if done.upserted.Type != 0 {
				total.matched++
				upserts.doc(newDoc().int32("index", int32(i)).value("_id", done.upserted).done()) //nolint:gosec // at most 100,000
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	out := wr.reply(total.matched)
	if upserts.n > 0 {
		out.array("upserted", upserts)
	}
	out.int32("nModified", int32(total.modified)) //nolint:gosec // documents of one command; MongoDB answers int32
	return wr.addErrors(out), nil
}

// statement is one parsed element of a write command, or the reason why it
// cannot be carried out.
type statement[T any] struct {
	do  T
	err error
}

// parseStatements reads the elements. Unknown fields end the command, like all
// errors of its shape; others are errors of their statement.
func parseStatements[T multiStatement](req *request, name string, docs []bson.Raw, parse func(bson.Raw) (T, error)) ([]statement[T], error) {
	if err := checkBatch(name, len(docs)); err != nil {
		return nil, err
	}
	if err := req.checkStatements(len(docs)); err != nil {
		return nil, err
	}
	out := make([]statement[T], len(docs))
	for i, doc := range docs {
		if len(doc) > maxCommandSize { // a sequence is bounded by its message only
			return nil, mongoerr.Of(mongoerr.BSONObjectTooLarge, "BSONObj size: %d is invalid. Size must be at most %d", len(doc), maxCommandSize)
		}
		out[i].do, out[i].err = parse(doc)
		for _, code := range []int32{mongoerr.UnknownField, 40414, mongoerr.TypeMismatch} {
			if mongoerr.HasCode(out[i].err, code) {
				return nil, out[i].err
			}
		}
		if out[i].err == nil && req.hasTxn && out[i].do.many() {
			return nil, mongoerr.Of(mongoerr.InvalidOptions, "Cannot use (or request) retryable writes with multi=true")
		}
	}
	return out, nil
}

// multiStatement tells whether a statement is for many documents.
type multiStatement interface{ many() bool }

func (st *updateStatement) many() bool { return st.multi }

// runStatements runs statements in order and records their errors.
func runStatements[T any](wr *write, list []statement[T], run func(i int, st T) error) error {
	for i, st := range list {
		if err := wr.ctx.Err(); err != nil {
			return err
		}
		err := st.err
		if err == nil {
			err = run(i, st.do)
		}
		if err == nil {
			continue
		}
		if stop, whole := wr.failed(i, err); whole != nil {
			return whole
		} else if stop {
			return nil
		}
	}
	return nil
}

// update carries out one statement.
func (wr *write) update(stmt int32, st *updateStatement) (updated, error) {
	if err := wr.settle(st.target); err != nil {
		return updated{}, err
	}
	if st.multi {
		done, err := wr.updateMany(stmt, st)
		if err != nil || done.matched > 0 || !st.upsert {
			return done, err
		}
	}
	return wr.updateOne(stmt, st)
}

func (wr *write) updateMany(stmt int32, st *updateStatement) (updated, error) {
	return wr.each(st.target, stmt, func(tx *replication.Tx, idKey []byte, doc bson.Raw) (updated, error) {
		out, changed, err := st.change.Apply(doc)
		if err != nil || !changed {
			return updated{matched: 1}, err
		}
		return updated{matched: 1, modified: 1}, wr.replace(tx, idKey, out)
	})
}

// updateOne changes the first document that matches, or inserts one. What it
// did is kept as the statement's record.
func (wr *write) updateOne(stmt int32, st *updateStatement) (updated, error) {
	var record bson.Raw
	run := func() (err error) {
		record, _, err = wr.w.Do(stmt, func(tx *replication.Tx) (bson.Raw, error) {
			done, err := wr.updateIn(tx, st)
			return done.record(), err
		})
		return err
	}
	err := run()
	// Two upserts of one key at the same time: the second finds what the first
	// has made.
	for range maxRescans {
		if !st.upsert || !isDuplicate(err) || !wr.wouldMatchNow(st) {
			break
		}
		err = run()
	}
	if err != nil {
		return updated{}, err
	}
	return parseRecord(record), nil
}

func (wr *write) updateIn(tx *replication.Tx, st *updateStatement) (updated, error) {
	idKey, doc, err := wr.locate(tx, st.target)
	if err != nil {
		return updated{}, err
	}
	if doc == nil {
		if !st.upsert {
			return updated{}, nil
		}
		fresh, err := st.change.Upsert(st.filter)
		if err != nil {
			return updated{}, err
		}
		return updated{upserted: fresh.Lookup("_id")}, wr.insert(tx, fresh)
	}
	out, changed, err := st.change.Apply(doc)
	if err != nil || !changed {
		return updated{matched: 1}, err
	}
	return updated{matched: 1, modified: 1}, wr.replace(tx, idKey, out)
}

func isDuplicate(err error) bool {
	var dup *storage.DuplicateKeyError
	return errors.As(err, &dup)
}

// wouldMatchNow tells whether a document matches on the newest snapshot.
func (wr *write) wouldMatchNow(st *updateStatement) bool {
	reader, err := wr.server.cfg.Node.Store().Read(wr.ctx, wr.req.db)
	if err != nil {
		return false
	}
	defer reader.Close()
	coll, _ := reader.Collection(wr.coll)
	plan, err := planFor(coll, st.filter, nil, st.hint)
	if err != nil {
		return false
	}
	sc := newScan(coll, plan, st.filter)
	defer sc.close()
	_, ok, err := sc.next(wr.ctx)
	return ok && err == nil
}

// record encodes what a statement did, for an answer to its repetition.
func (u updated) record() bson.Raw {
	d := newDoc().int64("n", u.matched).int64("m", u.modified)
	if u.upserted.Type != 0 {
		d.value("u", u.upserted)
	}
	return d.done()
}

func parseRecord(b bson.Raw) (u updated) {
	if b == nil {
		return u
	}
	u.matched, _ = b.Lookup("n").AsInt64OK()
	u.modified, _ = b.Lookup("m").AsInt64OK()
	if v, err := b.LookupErr("u"); err == nil {
		u.upserted = v
	}
	return u
}

// updateNeeds: an upsert inserts.
func updateNeeds(req *request) ([]need, error) {
	actions := []auth.Action{auth.Find, auth.Update}
	p := req.params()
	for _, doc := range req.sequence(p, "updates") {
		if v, err := doc.LookupErr("upsert"); err == nil && v.Type != bson.TypeNull && (v.Type != bson.TypeBoolean || v.Boolean()) {
			actions = append(actions, auth.Insert)
			break
		}
	}
	return onCollection(actions...)(req)
}
