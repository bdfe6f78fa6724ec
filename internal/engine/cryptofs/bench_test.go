package cryptofs

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The benchmarks run plain and encrypted Pebble by turns in one run and report
// the ratio of their medians (enc/plain throughput: 1 is equal, less is slower),
// since absolute figures of a small noisy machine say little.

const (
	benchKeys   = 60_000
	benchRounds = 5
)

func benchValue(r *rand.Rand) []byte {
	b := make([]byte, 300)
	for i := range b {
		b[i] = "abcdefghijklmnop"[r.IntN(16)]
	}
	return b
}

type benchSide struct {
	db    *pebble.DB
	cache *pebble.Cache
	times []time.Duration
}

func (s *benchSide) median() float64 {
	sort.Slice(s.times, func(i, j int) bool { return s.times[i] < s.times[j] })
	return float64(s.times[len(s.times)/2])
}

// benchSides opens a plain and an encrypted database with the same content and a
// block cache of the given size.
func benchSides(b *testing.B, cacheSize int64) [2]*benchSide {
	b.Helper()
	var sides [2]*benchSide
	for i := range sides {
		fs := vfs.Default
		if i == 1 {
			fs = newTestFS(b, vfs.Default)
		}
		s := &benchSide{cache: pebble.NewCache(cacheSize)}
		o := PebbleOptions(fs, Shared{Cache: s.cache})
		db, err := pebble.Open(filepath.Join(b.TempDir(), "db"), o)
		must(b, err)
		r := rand.New(rand.NewPCG(1, 1))
		for k := 0; k < benchKeys; k += 500 {
			batch := db.NewBatch()
			for j := range 500 {
				must(b, batch.Set(fmt.Appendf(nil, "%012d", k+j), benchValue(r), nil))
			}
			must(b, batch.Commit(pebble.NoSync))
		}
		must(b, db.Flush())
		must(b, db.Compact(b.Context(), []byte("0"), []byte("9"), false))
		s.db = db
		sides[i] = s
		b.Cleanup(func() { must(b, db.Close()); s.cache.Unref() })
	}
	return sides
}

// compare runs work on both sides by turns and reports the ratio.
func compare(b *testing.B, sides [2]*benchSide, work func(db *pebble.DB, r *rand.Rand, n int)) {
	b.Helper()
	n := max(b.N, 200)
	b.ResetTimer()
	for round := range benchRounds {
		for i := range sides {
			s := sides[(i+round)%2]
			start := time.Now()
			work(s.db, rand.New(rand.NewPCG(uint64(round), 2)), n)
			s.times = append(s.times, time.Since(start))
		}
	}
	b.StopTimer()
	b.ReportMetric(sides[0].median()/sides[1].median(), "enc/plain")
	for _, s := range sides {
		s.times = nil
	}
}

func BenchmarkRandomReads(b *testing.B) {
	for name, cache := range map[string]int64{"cached": 128 << 20, "page_cache": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			compare(b, benchSides(b, cache), func(db *pebble.DB, r *rand.Rand, n int) {
				for range n {
					_, closer, err := db.Get(fmt.Appendf(nil, "%012d", r.IntN(benchKeys)))
					must(b, err)
					must(b, closer.Close())
				}
			})
		})
	}
}

func BenchmarkWrites(b *testing.B) {
	for name, o := range map[string]*pebble.WriteOptions{"synced": pebble.Sync, "unsynced": pebble.NoSync} {
		b.Run(name, func(b *testing.B) {
			compare(b, benchSides(b, 8<<20), func(db *pebble.DB, r *rand.Rand, n int) {
				v := benchValue(r)
				for range n {
					must(b, db.Set(fmt.Appendf(nil, "%012d", r.IntN(benchKeys)), v, o))
				}
			})
		})
	}
}

func BenchmarkReadAt4K(b *testing.B) {
	fs := newTestFS(b, vfs.Default)
	name := filepath.Join(b.TempDir(), "000001.sst")
	r := rand.New(rand.NewPCG(1, 1))
	writeChunks(b, fs, r, name, randomBytes(r, 8<<20), 60_000)
	f, err := fs.Open(name, vfs.RandomReadsOption)
	must(b, err)
	p := make([]byte, 2300)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.ReadAt(p, int64(r.IntN(8<<20-len(p)))); err != nil {
			b.Fatal(err)
		}
	}
	must(b, f.Close())
}
