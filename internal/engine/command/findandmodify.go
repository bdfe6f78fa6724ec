package command

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/update"
)

// modification is a parsed findAndModify.
type modification struct {
	updateStatement
	remove, after bool
	shown         *query.Projection
}

// parseModification reads a findAndModify; ts fills in the empty timestamps of a
// replacement, if it is not nil.
func parseModification(p *params, ts *stamps) (*modification, error) {
	m := &modification{remove: p.boolean("remove", false), after: p.boolean("new", false)}
	m.upsert = p.boolean("upsert", false)
	filter, sort, hint, fields := p.doc("query"), p.doc("sort"), p.hint(), p.doc("fields")
	p.collation()
	p.refuseDoc("let")
	p.noArrayFilters()
	u, hasUpdate := p.value("update")
	switch {
	case p.err != nil:
		return nil, p.err
	case m.remove == hasUpdate:
		return nil, mongoerr.Of(mongoerr.FailedToParse, "Either an update or remove=true must be specified, not both")
	case m.remove && (m.after || m.upsert):
		return nil, mongoerr.Of(mongoerr.FailedToParse, "Cannot specify new=true or upsert=true with remove=true")
	}
	var err error
	if hasUpdate {
		if ts != nil && !p.boolean("bypassEmptyTsReplacement", false) {
			u = ts.fillReplacement(u)
		}
		if m.change, err = update.ParseUpdate(u); err != nil {
			return nil, err
		}
	}
	if m.shown, err = query.ParseProjection(fields); err != nil {
		return nil, err
	}
	m.target, err = newTarget(filter, sort, hint)
	return m, err
}

func findAndModify(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	m, err := parseModification(p, &s.stamps)
	if err != nil {
		return nil, err
	}
	if err := req.checkStatements(1); err != nil {
		return nil, err
	}
	var record bson.Raw
	_, err = s.runWrite(ctx, req, user, coll, func(wr *write) error {
		run := func() (err error) {
			record, _, err = wr.w.Do(req.statement(0), func(tx *replication.Tx) (bson.Raw, error) { return wr.modify(tx, m) })
			return err
		}
		err := run()
		for range maxRescans {
			if !m.upsert || !isDuplicate(err) || !wr.wouldMatchNow(&m.updateStatement) {
				break
			}
			err = run()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := newDoc()
	out.b = append(out.b, record[4:len(record)-1]...)
	return out, nil
}

// modify does it and gives the reply, which is also the record: a repetition
// must get the same document.
func (wr *write) modify(tx *replication.Tx, m *modification) (bson.Raw, error) {
	idKey, before, err := wr.locate(tx, m.target)
	if err != nil {
		return nil, err
	}
	last := newDoc()
	var value bson.Raw
	switch {
	case before == nil && m.upsert:
		fresh, err := m.change.Upsert(m.filter)
		if err != nil {
			return nil, err
		}
		if err := wr.insert(tx, fresh); err != nil {
			return nil, err
		}
		last.int32("n", 1).boolean("updatedExisting", false).value("upserted", fresh.Lookup("_id"))
		if m.after {
			value = fresh
		}
	case before == nil:
		last.int32("n", 0)
		if !m.remove {
			last.boolean("updatedExisting", false)
		}
	case m.remove:
		if err := tx.Delete(wr.coll, idKey); err != nil {
			return nil, err
		}
		last.int32("n", 1)
		value = before
	default:
		out, changed, err := m.change.Apply(before)
		if err != nil {
			return nil, err
		}
		if changed {
			if err := wr.replace(tx, idKey, out); err != nil {
				return nil, err
			}
		}
		last.int32("n", 1).boolean("updatedExisting", true)
		value = before
		if m.after {
			value = out
		}
	}
	reply := newDoc().doc("lastErrorObject", last.done())
	if value == nil {
		return reply.null("value").done(), nil
	}
	if value, err = m.shown.Apply(value); err != nil {
		return nil, err
	}
	return reply.doc("value", value).done(), nil
}

func findAndModifyNeeds(req *request) ([]need, error) {
	actions := []auth.Action{auth.Find}
	p := req.params()
	if p.boolean("remove", false) {
		actions = append(actions, auth.Remove)
	} else {
		actions = append(actions, auth.Update)
	}
	if p.boolean("upsert", false) {
		actions = append(actions, auth.Insert)
	}
	return onCollection(actions...)(req)
}
