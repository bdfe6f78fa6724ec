package command_test

import (
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func TestDocumentsLiveAndSurviveARestart(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	coll := n.root().Database("shop").Collection("items")
	var docs []any
	for i := range 1000 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "n", Value: i % 10}, {Key: "name", Value: fmt.Sprintf("item %d", i)}})
	}
	_, err := coll.InsertMany(ctx, docs)
	must(t, err)
	up, err := coll.UpdateMany(ctx, bson.D{{Key: "n", Value: 3}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 100}}}})
	must(t, err)
	if up.MatchedCount != 100 || up.ModifiedCount != 100 {
		t.Errorf("update many: %+v", up)
	}
	up, err = coll.UpdateOne(ctx, bson.D{{Key: "_id", Value: 5000}}, bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: 1}}}}, options.UpdateOne().SetUpsert(true))
	must(t, err)
	if up.UpsertedCount != 1 || up.UpsertedID != int32(5000) {
		t.Errorf("upsert: %+v", up)
	}
	rep, err := coll.ReplaceOne(ctx, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "n", Value: -1}})
	must(t, err)
	if rep.ModifiedCount != 1 {
		t.Errorf("replace: %+v", rep)
	}
	del, err := coll.DeleteMany(ctx, bson.D{{Key: "n", Value: 4}})
	must(t, err)
	if del.DeletedCount != 100 {
		t.Errorf("delete many: %+v", del)
	}
	del, err = coll.DeleteOne(ctx, bson.D{{Key: "n", Value: 5}})
	must(t, err)
	if del.DeletedCount != 1 {
		t.Errorf("delete one: %+v", del)
	}
	var before bson.M
	must(t, coll.FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: 7}}, bson.D{{Key: "$set", Value: bson.D{{Key: "seen", Value: true}}}}).Decode(&before))
	if before["name"] != "item 7" || before["seen"] != nil {
		t.Errorf("find one and update gave %v", before)
	}

	check := func(coll *mongo.Collection) {
		t.Helper()
		total, err := coll.EstimatedDocumentCount(ctx)
		must(t, err)
		counted, err := coll.CountDocuments(ctx, bson.D{})
		must(t, err)
		if total != 900 || counted != 900 {
			t.Errorf("counts are %d and %d, want 900", total, counted)
		}
		cur, err := coll.Find(ctx, bson.D{{Key: "n", Value: bson.D{{Key: "$gte", Value: 0}}}},
			options.Find().SetSort(bson.D{{Key: "_id", Value: -1}}).SetSkip(1).SetLimit(500).SetBatchSize(50).SetProjection(bson.D{{Key: "name", Value: 1}}))
		must(t, err)
		var got []bson.M
		must(t, cur.All(ctx, &got))
		if len(got) != 500 || got[0]["_id"] != int32(999) || got[0]["name"] != "item 999" || got[0]["n"] != nil {
			t.Errorf("find gave %d documents, the first is %v", len(got), got[0])
		}
	}
	check(coll)
	n.stop()
	n.start()
	check(n.root().Database("shop").Collection("items"))
}

func TestWriteErrorsOrderedAndUnordered(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	coll := n.root().Database("d").Collection("c")
	docs := []any{bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "_id", Value: 2}}}
	_, err := coll.InsertMany(ctx, docs)
	var bulk mongo.BulkWriteException
	if !asError(err, &bulk) || len(bulk.WriteErrors) != 1 || bulk.WriteErrors[0].Code != 11000 || bulk.WriteErrors[0].Index != 1 {
		t.Fatalf("ordered: %v", err)
	}
	if c, _ := coll.CountDocuments(ctx, bson.D{}); c != 1 {
		t.Errorf("ordered insert left %d documents, want 1", c)
	}
	_, err = coll.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false))
	if !asError(err, &bulk) || len(bulk.WriteErrors) != 2 {
		t.Fatalf("unordered: %v", err)
	}
	if c, _ := coll.CountDocuments(ctx, bson.D{}); c != 2 {
		t.Errorf("unordered insert left %d documents, want 2", c)
	}
	var reply struct {
		OK          float64
		WriteErrors []struct {
			Code                 int
			KeyPattern, KeyValue bson.M
		} `bson:"writeErrors"`
	}
	// The driver makes an error of such a reply, and keeps it.
	err = n.root().Database("d").RunCommand(ctx, bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{bson.D{{Key: "_id", Value: 2}}}}}).Err()
	var we mongo.WriteException
	if !asError(err, &we) {
		t.Fatalf("raw insert: %v", err)
	}
	must(t, bson.Unmarshal(we.Raw, &reply))
	if reply.OK != 1 || len(reply.WriteErrors) != 1 || reply.WriteErrors[0].Code != 11000 {
		t.Errorf("reply is %s", we.Raw)
	}
}

func TestQueriesUseIndexes(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	db := n.root().Database("d")
	coll := db.Collection("c")
	var docs []any
	for i := range 2000 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "a", Value: i % 100}, {Key: "b", Value: i}})
	}
	_, err := coll.InsertMany(ctx, docs)
	must(t, err)
	explain := func(command bson.D) (stage string, keys, docs, returned int64) {
		t.Helper()
		var out struct {
			QueryPlanner struct {
				WinningPlan bson.Raw `bson:"winningPlan"`
			} `bson:"queryPlanner"`
			ExecutionStats bson.Raw `bson:"executionStats"`
		}
		must(t, db.RunCommand(ctx, bson.D{{Key: "explain", Value: command}, {Key: "verbosity", Value: "executionStats"}}).Decode(&out))
		return out.QueryPlanner.WinningPlan.String(), out.ExecutionStats.Lookup("totalKeysExamined").AsInt64(),
			out.ExecutionStats.Lookup("totalDocsExamined").AsInt64(), out.ExecutionStats.Lookup("nReturned").AsInt64()
	}
	byA := bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: bson.D{{Key: "a", Value: 7}}}}
	if stage, keys, docs, got := explain(byA); !contains(stage, "COLLSCAN") || keys != 0 || docs != 2000 || got != 20 {
		t.Errorf("without an index: %s, %d keys, %d documents, %d given", stage, keys, docs, got)
	}
	name, err := coll.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "a", Value: 1}, {Key: "b", Value: -1}}})
	must(t, err)
	if name != "a_1_b_-1" {
		t.Errorf("index is called %s", name)
	}
	if stage, keys, docs, got := explain(byA); !contains(stage, "IXSCAN") || keys < 20 || keys > 22 || docs != 20 || got != 20 {
		t.Errorf("with an index: %s, %d keys, %d documents, %d given", stage, keys, docs, got)
	}
	sorted := append(byA, bson.E{Key: "sort", Value: bson.D{{Key: "b", Value: -1}}}, bson.E{Key: "limit", Value: 3})
	if stage, _, docs, got := explain(sorted); contains(stage, "SORT") || docs > 4 || got != 3 {
		t.Errorf("sorted by the index: %s, %d documents, %d given", stage, docs, got)
	}
	if stage, _, docs, got := explain(bson.D{{Key: "find", Value: "c"}, {Key: "filter", Value: bson.D{{Key: "_id", Value: 9}}}}); contains(stage, "COLLSCAN") || docs != 1 || got != 1 {
		t.Errorf("by _id: %s, %d documents, %d given", stage, docs, got)
	}
	if stage, _, docs, _ := explain(bson.D{{Key: "update", Value: "c"}, {Key: "updates", Value: bson.A{bson.D{
		{Key: "q", Value: bson.D{{Key: "a", Value: 7}}}, {Key: "u", Value: bson.D{{Key: "$set", Value: bson.D{{Key: "x", Value: 1}}}}}, {Key: "multi", Value: true},
	}}}}); !contains(stage, "IXSCAN") || docs != 20 {
		t.Errorf("update: %s, %d documents", stage, docs)
	}
	cur, err := coll.Find(ctx, bson.D{{Key: "a", Value: 7}}, options.Find().SetHint("nothing"))
	if err == nil {
		_ = cur.Close(ctx)
	}
	wantCode(t, "hint for no index", err, 2)
	specs, err := coll.Indexes().ListSpecifications(ctx)
	must(t, err)
	if len(specs) != 2 {
		t.Errorf("there are %d indexes", len(specs))
	}
	must(t, coll.Indexes().DropOne(ctx, "a_1_b_-1"))
	if stage, _, _, _ := explain(byA); !contains(stage, "COLLSCAN") {
		t.Errorf("after the index is gone: %s", stage)
	}
}

func TestAggregateAndDistinct(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	coll := n.root().Database("d").Collection("c")
	var docs []any
	for i := range 300 {
		docs = append(docs, bson.D{{Key: "k", Value: i % 3}, {Key: "v", Value: i}, {Key: "tags", Value: bson.A{"x", i % 2}}})
	}
	_, err := coll.InsertMany(ctx, docs)
	must(t, err)
	cur, err := coll.Aggregate(ctx, bson.A{
		bson.D{{Key: "$match", Value: bson.D{{Key: "v", Value: bson.D{{Key: "$lt", Value: 30}}}}}},
		bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$k"}, {Key: "sum", Value: bson.D{{Key: "$sum", Value: "$v"}}}, {Key: "n", Value: bson.D{{Key: "$sum", Value: 1}}}}}},
		bson.D{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
	}, options.Aggregate().SetBatchSize(1))
	must(t, err)
	var got []struct {
		ID  int `bson:"_id"`
		N   int
		Sum int
	}
	must(t, cur.All(ctx, &got))
	if fmt.Sprint(got) != "[{0 10 135} {1 10 145} {2 10 155}]" {
		t.Errorf("groups are %v", got)
	}
	var values []any
	must(t, coll.Distinct(ctx, "tags", bson.D{}).Decode(&values))
	if len(values) != 3 {
		t.Errorf("distinct gave %v", values)
	}
	_, err = coll.Aggregate(ctx, bson.A{bson.D{{Key: "$nonsense", Value: 1}}})
	wantCode(t, "unknown stage", err, 40324)
}

func TestCatalogue(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	c := n.root()
	db := c.Database("d")
	must(t, db.CreateCollection(ctx, "made"))
	wantCode(t, "create again", db.CreateCollection(ctx, "made"), 48)
	_, err := db.Collection("other").InsertOne(ctx, bson.D{{Key: "x", Value: 1}})
	must(t, err)
	names, err := db.ListCollectionNames(ctx, bson.D{})
	must(t, err)
	if fmt.Sprint(names) != "[made other]" {
		t.Errorf("collections are %v", names)
	}
	dbs, err := c.ListDatabaseNames(ctx, bson.D{{Key: "name", Value: "d"}})
	must(t, err)
	if len(dbs) != 1 {
		t.Errorf("databases are %v", dbs)
	}
	must(t, db.Collection("made").Drop(ctx))
	must(t, db.Collection("never").Drop(ctx))
	must(t, db.Drop(ctx))
	if names, err = db.ListCollectionNames(ctx, bson.D{}); err != nil || len(names) != 0 {
		t.Errorf("after dropDatabase: %v, %v", names, err)
	}
	names, err = c.Database("admin").ListCollectionNames(ctx, bson.D{})
	must(t, err)
	for _, name := range names {
		if name == "system.keys" {
			t.Error("the server's secrets are listed")
		}
	}
	wantCode(t, "read the server's secrets", c.Database("admin").Collection("system.keys").FindOne(ctx, bson.D{}).Err(), 13)
	wantCode(t, "drop admin", c.Database("admin").Drop(ctx), 20)
}
