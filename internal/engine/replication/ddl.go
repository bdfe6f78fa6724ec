package replication

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/index"
	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/replication/entry"
	"github.com/keywright/keywright/internal/engine/storage"
)

// Initiate names the set and makes this node its one voter (replSetInitiate).
// host is the member's address as clients use it. A second call fails with
// AlreadyInitialized (23).
func (r *Replica) Initiate(ctx context.Context, set, host string) error {
	if set == "" || host == "" {
		return mongoerr.Of(mongoerr.InvalidOptions, "a replica set needs a name and its member's host")
	}
	k := databaseLatch("")
	if err := r.latches.take(ctx, k, exclusive); err != nil {
		return err
	}
	defer r.latches.release(k)
	if r.store.Set().Set != "" {
		return mongoerr.Of(mongoerr.AlreadyInitialized, "already initialized")
	}
	id := raft.ServerID(r.dir.Node)
	err := r.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: id, Address: raft.ServerAddress(id)}}}).Error()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) { // that one: interrupted here before
		return fmt.Errorf("initiate: %w", err)
	}
	if err := r.waitPrimary(ctx); err != nil {
		return fmt.Errorf("initiate: %w", err)
	}
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	op, err := entry.Change{Op: entry.Configure, Name: set, Host: host}.Encode([16]byte{}, [16]byte{})
	if err != nil {
		return err
	}
	err = r.commit(ctx, &entry.Entry{Ops: []entry.Op{op}})
	return err
}

// ddl is one change of the catalogue: it holds the latches of what it changes.
type ddl struct {
	r    *Replica
	ctx  context.Context //nolint:containedctx // lives within one call
	db   string
	live *storage.Live // nil if the database does not exist
	coll *storage.LiveCollection
	ops  []entry.Op
}

// change latches a collection, or the whole database if it does not exist yet or
// coll is empty, runs fn and commits the operations that it collected.
func (r *Replica) changeCatalogue(ctx context.Context, db, coll string, fn func(*ddl) error) error {
	if db == "" || len(db)+len(coll) > 254 {
		return mongoerr.Of(mongoerr.InvalidNamespace, "Invalid namespace specified '%s.%s'", db, coll)
	}
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	for whole := coll == ""; ; whole = true {
		again, err := r.tryChange(ctx, db, coll, whole, fn)
		if !again {
			return err
		}
	}
}

func (r *Replica) tryChange(ctx context.Context, db, coll string, whole bool, fn func(*ddl) error) (again bool, err error) {
	want := map[latchKey]latchMode{databaseLatch(db): exclusive}
	if !whole {
		want = map[latchKey]latchMode{databaseLatch(db): shared, collectionLatch(db, coll): exclusive}
	}
	set := r.latches.set()
	if err := set.take(ctx, want); err != nil {
		return false, err
	}
	defer set.releaseAll()
	live, err := r.store.Live(db)
	if err != nil {
		return false, err
	}
	d := &ddl{r: r, ctx: ctx, db: db, live: live}
	if live != nil {
		defer live.Close()
		d.coll = live.Collection(coll)
	} else if !whole {
		return true, nil
	}
	if err := fn(d); err != nil || len(d.ops) == 0 {
		return false, err
	}
	err = r.commit(ctx, &entry.Entry{Ops: d.ops})
	return false, err
}

func (d *ddl) add(c entry.Change, db, coll [16]byte) error {
	op, err := c.Encode(db, coll)
	d.ops = append(d.ops, op)
	return err
}

// create makes the collection, and the database if need be.
func (d *ddl) create(coll string, options bson.Raw) (db storage.DatabaseID, uuid storage.UUID, err error) {
	if d.live != nil {
		db = d.live.ID()
	} else {
		db = cryptofs.NewDatabaseID()
		if err := d.r.store.PrepareDatabase(db); err != nil {
			return db, uuid, err
		}
		if err := d.add(entry.Change{Op: entry.CreateDatabase, Name: d.db}, db, [16]byte{}); err != nil {
			return db, uuid, err
		}
	}
	_, _ = rand.Read(uuid[:])
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // version 4
	return db, uuid, d.add(entry.Change{Op: entry.CreateCollection, Name: coll, Options: options}, db, uuid)
}

// CreateCollection makes a collection (and its database). It fails with
// NamespaceExists (48) if there is one.
func (r *Replica) CreateCollection(ctx context.Context, db, coll string, options bson.Raw) error {
	return r.changeCatalogue(ctx, db, coll, func(d *ddl) error {
		if d.coll != nil {
			return mongoerr.Of(mongoerr.NamespaceExists, "Collection %s.%s already exists.", db, coll)
		}
		_, _, err := d.create(coll, options)
		return err
	})
}

// ensureCollection makes a collection unless somebody did.
func (r *Replica) ensureCollection(ctx context.Context, db, coll string) error {
	err := r.CreateCollection(ctx, db, coll, nil)
	if mongoerr.HasCode(err, mongoerr.NamespaceExists) {
		return nil
	}
	return err
}

// DropCollection removes a collection; existed tells whether there was one, indexes how many
// indexes it had.
func (r *Replica) DropCollection(ctx context.Context, db, coll string) (existed bool, indexes int, err error) {
	err = r.changeCatalogue(ctx, db, coll, func(d *ddl) error {
		if existed = d.coll != nil; !existed {
			return nil
		}
		indexes = len(d.coll.Info().Indexes)
		return d.add(entry.Change{Op: entry.DropCollection}, d.live.ID(), d.coll.UUID())
	})
	return existed, indexes, err
}

// DropDatabase removes a database with its files and keys; files go when the last
// Reader is closed.
func (r *Replica) DropDatabase(ctx context.Context, db string) (existed bool, err error) {
	err = r.changeCatalogue(ctx, db, "", func(d *ddl) error {
		if existed = d.live != nil; !existed {
			return nil
		}
		return d.add(entry.Change{Op: entry.DropDatabase}, d.live.ID(), [16]byte{})
	})
	return existed, err
}

// CreateIndexes builds indexes, all or none of them. Ones that are there
// already are left alone. The collection is made if it is missing. before and
// after count the collection's indexes, the one on _id included.
func (r *Replica) CreateIndexes(ctx context.Context, db, coll string, specs []index.Spec) (before, after int, createdColl bool, err error) {
	err = r.changeCatalogue(ctx, db, coll, func(d *ddl) error {
		infos := []storage.IndexInfo{{Spec: index.IDSpec()}}
		if createdColl = d.coll == nil; !createdColl {
			infos = d.coll.Info().Indexes
		}
		before = len(infos)
		fresh, err := newIndexes(infos, specs)
		if err != nil {
			return err
		}
		if after = before + len(fresh); after > storage.MaxIndexes {
			return mongoerr.Of(mongoerr.CannotCreateIndex, "add index fails, too many indexes for %s.%s", db, coll)
		}
		return d.createIndexes(coll, fresh)
	})
	return before, after, createdColl && err == nil, err
}

func (d *ddl) createIndexes(coll string, fresh []index.Spec) error {
	var id storage.DatabaseID
	var uuid storage.UUID
	if d.coll == nil {
		var err error
		if id, uuid, err = d.create(coll, nil); err != nil {
			return err
		}
	} else {
		id, uuid = d.live.ID(), d.coll.UUID()
		if err := d.checkIndexes(coll, fresh); err != nil {
			return err
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	c := entry.Change{Op: entry.CreateIndexes}
	for _, s := range fresh {
		c.Indexes = append(c.Indexes, s.Document())
	}
	return d.add(c, id, uuid)
}

// newIndexes leaves out the indexes that exist, and refuses those that contradict
// an existing one.
func newIndexes(have []storage.IndexInfo, specs []index.Spec) ([]index.Spec, error) {
	var fresh []index.Spec
	for _, s := range specs {
		if s.IsID() {
			continue
		}
		known := false
		check := func(o index.Spec) error {
			switch {
			case s.Equal(o):
				known = true
			case s.Name == o.Name:
				return mongoerr.Of(mongoerr.IndexKeySpecsConflict, "An existing index has the same name as the requested index. "+
					"When index names are not specified, they are auto generated and can cause conflicts. Please refer to our documentation. "+
					"Requested index: %s, existing index: %s", s.Document(), o.Document())
			case s.SameKeys(o):
				return mongoerr.Of(mongoerr.IndexOptionsConflict, "Index already exists with a different name: %s", o.Name)
			}
			return nil
		}
		for _, o := range have {
			if err := check(o.Spec); err != nil {
				return nil, err
			}
		}
		for _, o := range fresh {
			if err := check(o); err != nil {
				return nil, err
			}
		}
		if !known {
			fresh = append(fresh, s)
		}
	}
	return fresh, nil
}

// checkIndexes finds out whether every document can be indexed, so that applying
// cannot fail. Unique keys are remembered by their hashes: 16 bytes each.
func (d *ddl) checkIndexes(coll string, fresh []index.Spec) error {
	if len(fresh) == 0 {
		return nil
	}
	seen := make([]map[[16]byte]struct{}, len(fresh))
	return d.coll.Each(func(doc bson.Raw) error {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		for i, s := range fresh {
			keys, _, err := s.Keys(doc)
			if err != nil {
				return err
			}
			if !s.Unique {
				continue
			}
			if seen[i] == nil {
				seen[i] = map[[16]byte]struct{}{}
			}
			for _, k := range keys {
				h := sha256.Sum256(k)
				if _, twice := seen[i][[16]byte(h[:16])]; twice {
					return storage.Duplicate(d.db, coll, s, doc, k)
				}
				seen[i][[16]byte(h[:16])] = struct{}{}
			}
		}
		return nil
	})
}

// DropIndexes removes indexes by name; nil means all but the one on _id. before is the
// number of indexes there were. A collection or index that does not exist is
// NamespaceNotFound (26) or IndexNotFound (27).
func (r *Replica) DropIndexes(ctx context.Context, db, coll string, names []string) (before int, err error) {
	err = r.changeCatalogue(ctx, db, coll, func(d *ddl) error {
		if d.coll == nil {
			return mongoerr.Of(mongoerr.NamespaceNotFound, "ns not found %s.%s", db, coll)
		}
		infos := d.coll.Info().Indexes
		before = len(infos)
		drop := map[string]bool{}
		for _, n := range names {
			drop[n] = true
		}
		c := entry.Change{Op: entry.DropIndexes}
		for _, x := range infos {
			if !x.IsID() && (names == nil || drop[x.Name]) {
				c.Names = append(c.Names, x.Name)
			}
			delete(drop, x.Name)
		}
		if len(names) > 0 && containsID(names) {
			return mongoerr.Of(mongoerr.InvalidOptions, "cannot drop _id index")
		}
		for n := range drop {
			return mongoerr.Of(mongoerr.IndexNotFound, "index not found with name [%s]", n)
		}
		if len(c.Names) == 0 {
			return nil
		}
		return d.add(c, d.live.ID(), d.coll.UUID())
	})
	return before, err
}

func containsID(names []string) bool {
	for _, n := range names {
		if n == index.IDIndexName {
			return true
		}
	}
	return false
}
