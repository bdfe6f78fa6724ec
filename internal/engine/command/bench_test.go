package command_test

import (
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func BenchmarkInsertOverTheWire(b *testing.B) {
	n := startNode(b)
	coll := n.root().Database("d").Collection("c")
	payload := string(make([]byte, 300))
	var id atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := coll.InsertOne(b.Context(), bson.D{{Key: "_id", Value: id.Add(1)}, {Key: "p", Value: payload}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkFindByIDOverTheWire(b *testing.B) {
	n := startNode(b)
	coll := n.root().Database("d").Collection("c")
	var docs []any
	for i := range 10_000 {
		docs = append(docs, bson.D{{Key: "_id", Value: i}, {Key: "p", Value: string(make([]byte, 300))}})
	}
	_, err := coll.InsertMany(b.Context(), docs)
	must(b, err)
	var id atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := coll.FindOne(b.Context(), bson.D{{Key: "_id", Value: id.Add(7919) % 10_000}}).Err(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
