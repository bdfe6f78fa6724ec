package engine

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/cryptofs"
	"github.com/keywright/keywright/internal/engine/replication"
	"github.com/keywright/keywright/internal/engine/storage"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// BenchmarkWritesBesideACompaction lets 16 writers insert documents of a kilobyte in
// short rounds, by turns with and without a compaction of keysets beside them. It
// reports the median over the rounds of the throughput beside / that without (budget
// 0.50). Run it with -benchtime 10x or more.
func BenchmarkWritesBesideACompaction(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "data")
	must(b, vfs.Default.MkdirAll(dir, 0o700))
	ring, err := cryptofs.CreateKeyring(vfs.Default, dir, testNode, cryptofs.MasterKey{
		ID: "kw-00000000000000000000000000000001", Key: secret.New(bytes.Repeat([]byte{7}, 32))})
	must(b, err)
	defer ring.Close()
	r, err := replication.Open(b.Context(), replication.Config{Dir: dir, Node: keys.NodeID(testNode), Files: storage.Encrypted(ring, vfs.Default)})
	must(b, err)
	defer func() { must(b, r.Close(context.Background())) }()
	must(b, r.Initiate(b.Context(), "rs", "h:1"))
	k := newKeysets(Options{}, &opened{keyring: ring}, r, make(chan string, 1), slog.New(slog.DiscardHandler))
	defer k.close()
	w := &benchWriters{b: b, r: r}
	w.insert(30_000) // to compact
	b.ResetTimer()
	var ratios []float64
	for range b.N {
		quiet := w.insert(3000)
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				k.mu.Lock()
				running := k.running
				k.mu.Unlock()
				if !running {
					if err := k.Rotate(""); err != nil {
						b.Error(err)
						return
					}
					k.Compact()
				}
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		beside := w.insert(3000)
		close(done)
		wg.Wait()
		k.work.Wait()
		if st, err := k.Status(); err != nil || st.Failure != "" {
			b.Fatal(err, st.Failure)
		}
		ratios = append(ratios, float64(quiet)/float64(beside))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "beside/without")
}

type benchWriters struct {
	b    *testing.B
	r    *replication.Replica
	next atomic.Int64
}

// insert gives how long n inserts took.
func (w *benchWriters) insert(n int64) time.Duration {
	w.b.Helper()
	began, end := time.Now(), w.next.Load()+n
	value := make([]byte, 1000)
	for i := range value {
		value[i] = byte(rand.IntN(256))
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := w.next.Add(1); i <= end; i = w.next.Add(1) {
				raw, err := bson.Marshal(bson.D{{Key: "_id", Value: i}, {Key: "v", Value: value}})
				if err == nil {
					_, err = w.r.Write(w.b.Context(), replication.WriteOptions{DB: fmt.Sprint("d", i%3)}, func(t *replication.Writer) error {
						_, _, err := t.Do(0, func(tx *replication.Tx) (bson.Raw, error) { return nil, tx.Insert("c", raw) })
						return err
					})
				}
				if err != nil {
					w.b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}
