package command

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication"
)

func insert(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	docs := req.sequence(p, "documents")
	ordered, bypass := p.boolean("ordered", true), p.boolean("bypassEmptyTsReplacement", false)
	if p.err != nil {
		return nil, p.err
	}
	if err := checkBatch("insert", len(docs)); err != nil {
		return nil, err
	}
	if err := req.checkStatements(len(docs)); err != nil {
		return nil, err
	}
	s.counters.insert.Add(int64(len(docs)))
	var n int64
	wr, err := s.runWrite(ctx, req, user, coll, func(wr *write) error {
		wr.ordered = ordered
		n = 0
		for i, doc := range docs {
			if err := wr.ctx.Err(); err != nil {
				return err
			}
			err := wr.insertOne(i, doc, bypass)
			if err == nil {
				n++
				continue
			}
			if stop, whole := wr.failed(i, err); whole != nil {
				return whole
			} else if stop {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return wr.addErrors(wr.reply(n)), nil
}

func (wr *write) insertOne(i int, doc bson.Raw, bypass bool) error {
	ready, err := withID(doc)
	if err != nil {
		return err
	}
	if !bypass {
		ready = wr.server.stamps.fill(ready)
	}
	_, _, err = wr.w.Do(wr.req.statement(i), func(tx *replication.Tx) (bson.Raw, error) {
		return nil, wr.insert(tx, ready)
	})
	return err
}

// withID gives the document as it is stored: with an _id, as the first field.
func withID(doc bson.Raw) (bson.Raw, error) {
	if len(doc) > maxDocumentSize {
		return nil, mongoerr.Of(mongoerr.BSONObjectTooLarge, "object to insert too large. size in bytes: %d, max size: %d", len(doc), maxDocumentSize)
	}
	if err := index.Validate(doc); err != nil {
		return nil, err
	}
	id, ok := index.Lookup(doc, "_id")
	if !ok {
		out := newDoc().oid("_id", bson.NewObjectID())
		out.b = append(out.b, doc[4:len(doc)-1]...)
		return out.done(), nil
	}
	if _, err := index.EncodeID(id); err != nil {
		return nil, err
	}
	if string(doc[5:9]) == "_id\x00" {
		return doc, nil
	}
	out := newDoc().value("_id", id)
	seen := false
	for e := range index.Elements(doc) {
		if key := string(e.Key); key != "_id" || seen {
			out.value(key, e.Value)
		} else {
			seen = true
		}
	}
	return out.done(), nil
}
