package custody_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// key is a customer's key as a prober sees it, by the bubble's clock.
type key struct {
	mu      sync.Mutex
	outcome kms.Outcome
	reason  kms.Reason
	took    time.Duration
	hang    bool // ignores its context for a minute
	runs    []time.Time
	gens    []uint64
	active  int
	overlap bool
}

func (k *key) set(o kms.Outcome, r kms.Reason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.outcome, k.reason = o, r
}

func (k *key) Probe(ctx context.Context, generation uint64) kms.Result {
	k.mu.Lock()
	k.runs, k.gens = append(k.runs, time.Now()), append(k.gens, generation)
	k.active++
	k.overlap = k.overlap || k.active > 1
	took, hang := k.took, k.hang
	k.mu.Unlock()
	defer func() { k.mu.Lock(); k.active--; k.mu.Unlock() }()
	if hang {
		time.Sleep(time.Minute)
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return kms.Failed(ctx.Err(), time.Time{}, time.Now())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	res := kms.Result{Outcome: k.outcome, Reason: k.reason}
	if res.Outcome != kms.OK {
		res.Failure = &kms.Failure{Outcome: res.Outcome, Reason: res.Reason}
	}
	return res
}

func (k *key) starts() []time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.runs)
}

// disk keeps the state in JSON, as a real store does.
type disk struct {
	mu    sync.Mutex
	state []byte
	err   error
	hang  time.Duration
}

func (d *disk) Load(context.Context) (custody.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var s custody.State
	if d.state == nil {
		return s, custody.ErrNoState
	}
	return s, json.Unmarshal(d.state, &s)
}

func (d *disk) Save(_ context.Context, s custody.State) error {
	d.mu.Lock()
	hang, err := d.hang, d.err
	d.mu.Unlock()
	time.Sleep(hang)
	if err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = b
	return nil
}

func (d *disk) verdict(t *testing.T) custody.Verdict {
	t.Helper()
	s, err := d.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.Verdict
}

// host is a loop with what surrounds it.
type host struct {
	t    *testing.T
	key  *key
	disk *disk
	loop *custody.Loop
	stop func()
	// policy but for its interval, and the clock; zero values do.
	policy custody.Policy
	now    func() custody.Reading

	mu     sync.Mutex
	acts   []act
	refuse map[custody.Effect]error
	block  map[custody.Effect]time.Duration
}

type act struct {
	effect custody.Effect
	when   time.Time
	stored custody.Verdict // what the disk held at that moment
	state  custody.State
}

// bubbleClock is the boot-time clock of a bubble.
func bubbleClock(boot string) func() custody.Reading {
	zero := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() custody.Reading {
		now := time.Now()
		return custody.Reading{Boot: boot, Since: now.Sub(zero), Wall: now}
	}
}

func startHost(t *testing.T, interval time.Duration, k *key, d *disk) *host {
	h := &host{t: t, key: k, disk: d, refuse: map[custody.Effect]error{}, block: map[custody.Effect]time.Duration{}}
	h.start(interval)
	return h
}

func (h *host) start(interval time.Duration) {
	policy, now := h.policy, h.now
	policy.Interval = interval
	if now == nil {
		now = bubbleClock("boot")
	}
	h.loop = custody.NewLoop(custody.Config{
		Project: "p", Prober: h.key, Store: h.disk, Policy: policy, Generation: 1,
		Now: now, Enact: h.enact,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.loop.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
	synctest.Wait()
}

func (h *host) restart(interval time.Duration) {
	h.stop()
	h.mu.Lock()
	h.acts = nil
	h.mu.Unlock()
	h.start(interval)
}

func (h *host) enact(_ context.Context, e custody.Effect, s custody.State) error {
	h.mu.Lock()
	wait, err := h.block[e], h.refuse[e]
	h.mu.Unlock()
	time.Sleep(wait)
	if err != nil {
		return err
	}
	a := act{effect: e, when: time.Now(), state: s}
	h.disk.mu.Lock()
	if h.disk.state != nil {
		var s custody.State
		if err := json.Unmarshal(h.disk.state, &s); err == nil {
			a.stored = s.Verdict
		}
	}
	h.disk.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, a)
	return nil
}

func (h *host) find(e custody.Effect) []act {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []act
	for _, a := range h.acts {
		if a.effect == e {
			out = append(out, a)
		}
	}
	return out
}

func (h *host) wantVerdict(v custody.Verdict) {
	h.t.Helper()
	synctest.Wait()
	if got := h.loop.State().Verdict; got != v {
		h.t.Fatalf("verdict %s, want %s", got, v)
	}
	if err := h.loop.Releasable(); (err == nil) != v.Releases() || err != nil && !errors.Is(err, custody.ErrNotReleasable) {
		h.t.Fatalf("releasable in %s: %v", v, err)
	}
}

func valid() *key { return &key{outcome: kms.OK, took: 300 * time.Millisecond} }
