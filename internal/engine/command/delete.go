package command

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
)

// deleteStatement is one element of deletes.
type deleteStatement struct {
	*target
	multi bool
}

func (st *deleteStatement) many() bool { return st.multi }

func parseDelete(doc bson.Raw) (*deleteStatement, error) {
	p := subParams("delete.deletes", doc, "q", "limit", "hint", "collation")
	p.need("q")
	p.need("limit")
	limit := p.number("limit", 0)
	filter, hint := p.doc("q"), p.hint()
	p.collation()
	if p.err != nil {
		return nil, p.err
	}
	if limit != 0 && limit != 1 {
		return nil, mongoerr.Of(mongoerr.FailedToParse, "The limit field in delete objects must be 0 or 1. Got %d", limit)
	}
	t, err := newTarget(filter, nil, hint)
	return &deleteStatement{target: t, multi: limit == 0}, err
}

func remove(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	docs := req.sequence(p, "deletes")
	ordered := p.boolean("ordered", true)
	p.refuseDoc("let")
	if p.err != nil {
		return nil, p.err
	}
	statements, err := parseStatements(req, "delete", docs, parseDelete)
	if err != nil {
		return nil, err
	}
	var n int64
	wr, err := s.runWrite(ctx, req, user, coll, func(wr *write) error {
		wr.ordered, n = ordered, 0
		return runStatements(wr, statements, func(i int, st *deleteStatement) error {
			s.counters.remove.Add(1)
			done, err := wr.delete(req.statement(i), st)
			n += done
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return wr.addErrors(wr.reply(n)), nil
}

func (wr *write) delete(stmt int32, st *deleteStatement) (int64, error) {
	if err := wr.settle(st.target); err != nil {
		return 0, err
	}
	if st.multi {
		done, err := wr.each(st.target, stmt, func(tx *replication.Tx, idKey []byte, _ bson.Raw) (updated, error) {
			return updated{matched: 1}, tx.Delete(wr.coll, idKey)
		})
		return done.matched, err
	}
	record, _, err := wr.w.Do(stmt, func(tx *replication.Tx) (bson.Raw, error) {
		idKey, doc, err := wr.locate(tx, st.target)
		if err != nil || doc == nil {
			return updated{}.record(), err
		}
		return updated{matched: 1}.record(), tx.Delete(wr.coll, idKey)
	})
	return parseRecord(record).matched, err
}
