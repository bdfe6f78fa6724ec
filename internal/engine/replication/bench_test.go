package replication

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
)

// BenchmarkInsert compares durable inserts through the replica with synced writes
// to Pebble alone, same file system, same number of writers. Run with -benchtime 3000x
// or more, and read the ratios.
func BenchmarkInsert(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("pebble/%d", writers), func(b *testing.B) {
			db, err := pebble.Open(b.TempDir(), cryptofs.PebbleOptions(vfs.Default, cryptofs.Shared{}))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			value := make([]byte, 300)
			spread(b, writers, func(i uint64) error {
				return db.Set(binary.BigEndian.AppendUint64(nil, i), value, pebble.Sync)
			})
		})
		for _, encrypted := range []bool{false, true} {
			b.Run(fmt.Sprintf("replica/encrypted=%v/%d", encrypted, writers), func(b *testing.B) {
				dir := b.TempDir() + "/n"
				r := open(b, config(b, filesFor(b, vfs.Default, dir, encrypted), dir))
				defer shut(b, r)
				value := make([]byte, 270)
				spread(b, writers, func(i uint64) error {
					return insert(context.Background(), r, "d", "c", encode(bson.D{{Key: "_id", Value: int64(i)}, {Key: "v", Value: value}}))
				})
			})
		}
	}
}

func spread(b *testing.B, writers int, do func(i uint64) error) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := next.Add(1); i <= uint64(b.N); i = next.Add(1) {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// encode is doc without testing.T, whose lock the writers would wait for.
func encode(d bson.D) bson.Raw {
	raw, err := bson.Marshal(d)
	if err != nil {
		panic(err)
	}
	return raw
}
