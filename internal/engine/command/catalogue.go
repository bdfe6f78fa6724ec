package command

import (
	"context"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/query"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
)

func catalogueCommands() []command {
	return []command{
		{name: "create", needs: onCollection(auth.CreateCollection), run: create, writes: true, stable: true, fields: []string{
			"capped", "size", "max", "autoIndexId", "idIndex", "storageEngine", "validator", "validationLevel", "validationAction", "indexOptionDefaults",
			"viewOn", "pipeline", "collation", "timeseries", "expireAfterSeconds", "clusteredIndex", "changeStreamPreAndPostImages", "encryptedFields", "temp",
		}},
		{name: "drop", needs: onCollection(auth.DropCollection), run: drop, writes: true, stable: true},
		{name: "dropDatabase", needs: onDatabase(auth.DropDatabase), run: dropDatabase, writes: true, stable: true},
		{name: "createIndexes", needs: onCollection(auth.CreateIndex), run: createIndexes, writes: true, stable: true, fields: []string{"indexes", "commitQuorum", "ignoreUnknownIndexOptions"}},
		{name: "dropIndexes", aliases: []string{"deleteIndexes"}, needs: onCollection(auth.DropIndex), run: dropIndexes, writes: true, stable: true, fields: []string{"index"}},
		{name: "listIndexes", needs: onCollection(auth.ListIndexes), run: listIndexes, stable: true, fields: []string{"cursor", "includeIndexBuildInfo"}},
		{name: "listCollections", needs: listCollectionsNeeds, run: listCollections, stable: true, fields: []string{"filter", "nameOnly", "authorizedCollections", "cursor"}},
		{name: "listDatabases", run: listDatabases, adminOnly: true, stable: true, fields: []string{"filter", "nameOnly", "authorizedDatabases"}},
		{name: "collStats", aliases: []string{"collstats"}, needs: onCollection(auth.CollStats), run: collStats, fields: []string{"scale", "verbose"}},
		{name: "dbStats", aliases: []string{"dbstats"}, needs: onDatabase(auth.DBStats), run: dbStats, fields: []string{"scale", "freeStorage"}},
	}
}

// wrote marks a command that changed the catalogue.
func (s *Server) wrote(req *request) {
	req.wrote, req.optime = true, s.cfg.Node.Status().Applied.Timestamp
	if req.db == "admin" {
		s.users.Invalidate()
	}
}

func create(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	p.refuse("capped", "temp")
	p.collation()
	for _, name := range []string{
		"viewOn", "pipeline", "timeseries", "expireAfterSeconds", "clusteredIndex", "encryptedFields", "storageEngine", "indexOptionDefaults", "validationLevel", "validationAction",
	} {
		if _, ok := p.value(name); ok {
			p.fail(mongoerr.Of(mongoerr.NotImplemented, "the option %s of create is not supported by this engine yet", name))
		}
	}
	p.refuseDoc("validator", "changeStreamPreAndPostImages")
	if p.err != nil {
		return nil, p.err
	}
	if err := checkWritable(req.db, coll); err != nil {
		return nil, err
	}
	if err := s.cfg.Node.CreateCollection(ctx, req.db, coll, nil); err != nil {
		return nil, err
	}
	s.wrote(req)
	return nil, nil
}

func drop(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	if p.err != nil {
		return nil, p.err
	}
	if err := checkWritable(req.db, coll); err != nil {
		return nil, err
	}
	if strings.HasPrefix(coll, "system.") && req.db == "admin" {
		// The exception for the first user would come back.
		return nil, mongoerr.Of(mongoerr.IllegalOperation, "can't drop system collection %s.%s", req.db, coll)
	}
	existed, indexes, err := s.cfg.Node.DropCollection(ctx, req.db, coll)
	if err != nil {
		return nil, err
	}
	s.wrote(req)
	if !existed {
		return nil, nil
	}
	return newDoc().int32("nIndexesWas", int32(indexes)).str("ns", req.db+"."+coll), nil //nolint:gosec // at most 64
}

func dropDatabase(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	switch req.db {
	case "admin", "local", "config":
		return nil, mongoerr.Of(mongoerr.IllegalOperation, "Dropping the '%s' database is prohibited.", req.db)
	}
	existed, err := s.cfg.Node.DropDatabase(ctx, req.db)
	if err != nil {
		return nil, err
	}
	s.wrote(req)
	if !existed {
		return nil, nil
	}
	return newDoc().str("dropped", req.db), nil
}

func createIndexes(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	docs := req.sequence(p, "indexes")
	lenient := p.boolean("ignoreUnknownIndexOptions", false)
	if p.err != nil {
		return nil, p.err
	}
	if len(docs) == 0 {
		return nil, mongoerr.Of(mongoerr.BadValue, "Must specify at least one index to create")
	}
	if len(docs) > storage.MaxIndexes {
		return nil, mongoerr.Of(mongoerr.CannotCreateIndex, "add index fails, too many indexes for %s.%s", req.db, coll)
	}
	if err := checkWritable(req.db, coll); err != nil {
		return nil, err
	}
	specs := make([]index.Spec, len(docs))
	for i, doc := range docs {
		parse := index.ParseSpec
		if lenient {
			parse = index.ParseSpecIgnoringUnknown
		}
		var err error
		if specs[i], err = parse(doc); err != nil {
			return nil, err
		}
	}
	before, after, made, err := s.cfg.Node.CreateIndexes(ctx, req.db, coll, specs)
	if err != nil {
		return nil, err
	}
	s.wrote(req)
	out := newDoc().int32("numIndexesBefore", int32(before)).int32("numIndexesAfter", int32(after)).boolean("createdCollectionAutomatically", made) //nolint:gosec // at most 64
	if before == after {
		return out.str("note", "all indexes already exist"), nil
	}
	return out.str("commitQuorum", "votingMembers"), nil
}

func dropIndexes(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	p.need("index")
	if p.err != nil {
		return nil, p.err
	}
	if err := checkWritable(req.db, coll); err != nil {
		return nil, err
	}
	info, err := s.collectionInfo(ctx, req.db, coll)
	if err != nil {
		return nil, err
	}
	v, _ := p.value("index")
	names, err := indexNames(p, v, info)
	if err != nil {
		return nil, err
	}
	before, err := s.cfg.Node.DropIndexes(ctx, req.db, coll, names)
	if err != nil {
		return nil, err
	}
	s.wrote(req)
	return newDoc().int32("nIndexesWas", int32(before)), nil //nolint:gosec // at most 64
}

// indexNames finds the indexes that dropIndexes means; nil stands for all.
func indexNames(p *params, v bson.RawValue, info storage.CollectionInfo) ([]string, error) {
	switch v.Type {
	case bson.TypeString:
		if v.StringValue() == "*" {
			return nil, nil
		}
		return []string{v.StringValue()}, nil
	case bson.TypeArray:
		list := p.strings("index")
		if p.err == nil && len(list) == 0 {
			return []string{}, nil
		}
		return list, p.err
	case bson.TypeEmbeddedDocument:
		spec, err := index.ParseSpec(newDoc().doc("key", v.Document()).str("name", "x").done())
		if err != nil {
			return nil, err
		}
		for _, have := range info.Indexes {
			if have.SameKeys(spec) {
				return []string{have.Name}, nil
			}
		}
		return nil, mongoerr.Of(mongoerr.IndexNotFound, "can't find index with key: %.500s", v.Document().String())
	}
	return nil, mongoerr.Of(mongoerr.TypeMismatch, "index must be a name, a key pattern, '*' or a list of names")
}

func (s *Server) collectionInfo(ctx context.Context, db, coll string) (storage.CollectionInfo, error) {
	reader, err := s.cfg.Node.Store().Read(ctx, db)
	if err != nil {
		return storage.CollectionInfo{}, err
	}
	defer reader.Close()
	c, ok := reader.Collection(coll)
	if !ok {
		return storage.CollectionInfo{}, mongoerr.Of(mongoerr.NamespaceNotFound, "ns does not exist: %s.%s", db, coll)
	}
	return c.Info(), nil
}

// listed is a source over documents that are there already.
type listed struct{ docs []bson.Raw }

func (l *listed) next(context.Context) (bson.Raw, bool, error) {
	if len(l.docs) == 0 {
		return nil, false, nil
	}
	doc := l.docs[0]
	l.docs = l.docs[1:]
	return doc, true, nil
}

func (l *listed) close() { l.docs = nil }

// cursorSize reads cursor: {batchSize: n}.
func (p *params) cursorSize() int64 {
	doc := p.doc("cursor")
	if doc == nil {
		return firstBatch
	}
	sub := subParams("cursor", doc, "batchSize")
	n := sub.count("batchSize", firstBatch)
	p.fail(sub.err)
	return n
}

func listIndexes(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	coll, size := req.collection(p), p.cursorSize()
	if p.err != nil {
		return nil, p.err
	}
	info, err := s.collectionInfo(ctx, req.db, coll)
	if err != nil {
		return nil, err
	}
	list := &listed{}
	for _, ix := range info.Indexes {
		list.docs = append(list.docs, ix.Document())
	}
	return s.firstReply(ctx, req, user, req.db+"."+coll, list, size, false)
}

// listCollectionsNeeds: whoever asks only for the names of what they may read
// needs nothing more.
func listCollectionsNeeds(req *request) ([]need, error) {
	p := req.params()
	if p.boolean("nameOnly", false) && p.boolean("authorizedCollections", false) {
		return nil, nil
	}
	return onDatabase(auth.ListCollections)(req)
}

func listCollections(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	size, nameOnly, mine := p.cursorSize(), p.boolean("nameOnly", false), p.boolean("authorizedCollections", false)
	filterDoc := p.doc("filter")
	if p.err != nil {
		return nil, p.err
	}
	filter, err := query.ParseFilter(filterDoc)
	if err != nil {
		return nil, err
	}
	reader, err := s.cfg.Node.Store().Read(ctx, req.db)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	list := &listed{}
	for _, info := range reader.Collections() {
		if req.db == "admin" && info.Name == keyCollection {
			continue
		}
		if mine && user != nil && !auth.Allowed(user.Roles, auth.Find, auth.Resource{DB: req.db, Collection: info.Name}) {
			continue
		}
		doc := showCollection(info, nameOnly)
		ok, err := filter.Match(doc)
		if err != nil {
			return nil, err
		}
		if ok {
			list.docs = append(list.docs, doc)
		}
	}
	return s.firstReply(ctx, req, user, req.db+".$cmd.listCollections", list, size, false)
}

func showCollection(info storage.CollectionInfo, nameOnly bool) bson.Raw {
	out := newDoc().str("name", info.Name).str("type", "collection")
	if nameOnly {
		return out.done()
	}
	options := info.Options
	if options == nil {
		options = newDoc().done()
	}
	out.doc("options", options).doc("info", newDoc().boolean("readOnly", false).binary("uuid", 4, info.UUID[:]).done())
	return out.doc("idIndex", index.IDSpec().Document()).done()
}

func listDatabases(ctx context.Context, s *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	nameOnly, filterDoc := p.boolean("nameOnly", false), p.doc("filter")
	mine := p.boolean("authorizedDatabases", false)
	if p.err != nil {
		return nil, p.err
	}
	if user != nil && !auth.Allowed(user.Roles, auth.ListDatabases, auth.Resource{Cluster: true}) {
		if p.has("authorizedDatabases") && !mine {
			return nil, notAuthorized(req)
		}
		mine = true
	}
	filter, err := query.ParseFilter(filterDoc)
	if err != nil {
		return nil, err
	}
	dbs, err := s.cfg.Node.Store().Databases(ctx)
	if err != nil {
		return nil, err
	}
	out, total := newArray(), int64(0)
	for _, db := range dbs {
		if mine && user != nil && !auth.Allowed(user.Roles, auth.ListCollections, auth.Resource{DB: db.Name}) {
			continue
		}
		doc := newDoc().str("name", db.Name)
		if !nameOnly {
			doc.int64("sizeOnDisk", db.SizeOnDisk).boolean("empty", db.Empty)
		}
		shown := doc.done()
		ok, err := filter.Match(shown)
		if err != nil {
			return nil, err
		}
		if ok {
			out.doc(shown)
			total += db.SizeOnDisk
		}
	}
	reply := newDoc().array("databases", out)
	if !nameOnly {
		reply.int64("totalSize", total).int64("totalSizeMb", total>>20)
	}
	return reply, nil
}

func collStats(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	p := req.params()
	coll := req.collection(p)
	if p.err != nil {
		return nil, p.err
	}
	reader, err := s.cfg.Node.Store().Read(ctx, req.db)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	c, ok := reader.Collection(coll)
	n, indexes := int64(0), 0
	if ok {
		indexes = len(c.Info().Indexes)
		if n, err = c.Count(); err != nil {
			return nil, fmt.Errorf("count documents: %w", err)
		}
	}
	return newDoc().str("ns", req.db+"."+coll).number("count", n).int32("nindexes", int32(indexes)).boolean("capped", false), nil
}

func dbStats(ctx context.Context, s *Server, req *request, _ *auth.User) (*builder, error) {
	reader, err := s.cfg.Node.Store().Read(ctx, req.db)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var objects int64
	var indexes int
	list := reader.Collections()
	for _, info := range list {
		c, ok := reader.Collection(info.Name)
		if !ok {
			continue
		}
		n, err := c.Count()
		if err != nil {
			return nil, fmt.Errorf("count documents: %w", err)
		}
		objects += n
		indexes += len(info.Indexes)
	}
	var size int64
	dbs, err := s.cfg.Node.Store().Databases(ctx)
	if err != nil {
		return nil, err
	}
	for _, db := range dbs {
		if db.Name == req.db {
			size = db.SizeOnDisk
		}
	}
	return newDoc().str("db", req.db).int64("collections", int64(len(list))).int64("views", 0).int64("objects", objects).
		int64("indexes", int64(indexes)).double("totalSize", float64(size)).double("scaleFactor", 1), nil
}

var _ Node = (*replication.Replica)(nil)
