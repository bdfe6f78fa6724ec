package storage

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestRecentNeverDeniesWhatIsStored(t *testing.T) {
	for name, jitter := range map[string]uint64{"in order": 1, "nearly in order": 500, "anyhow": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, jitter))
			key := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
			stored := map[uint64]bool{}
			for range 1000 {
				stored[rng.Uint64N(1<<20)] = true
			}
			var top uint64
			for n := range stored {
				top = max(top, n)
			}
			r := newRecent(key(top))
			denied, steps := 0, uint64(300_000)
			for i := range steps {
				n := 1<<20 + i + rng.Uint64N(jitter)
				if r.absent(key(n)) {
					if denied++; stored[n] {
						t.Fatalf("%d is stored, and was denied", n)
					}
				}
				stored[n] = true
				r.add(key(n))
				if r.absent(key(n)) {
					t.Fatalf("%d was added, and denied", n)
				}
			}
			for n := range stored {
				if r.absent(key(n)) {
					t.Fatalf("%d is stored, and was denied at the end", n)
				}
			}
			if jitter < 1000 && denied < int(steps)*3/5 {
				t.Errorf("only %d of %d new keys were denied", denied, steps)
			}
		})
	}
}
