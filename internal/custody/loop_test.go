package custody_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// TestRevocationIsEnforcedInTime proves the bound of key-plane section 1: from the
// moment the key is disabled to the stop, at most interval + C + 2 s, wherever in the
// cycle of runs the moment falls.
func TestRevocationIsEnforcedInTime(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 1500 * time.Millisecond, 7 * time.Second, 30 * time.Second, 15 * time.Minute} {
		for part := range 8 {
			synctest.Test(t, func(t *testing.T) {
				h := startHost(t, interval, valid(), &disk{})
				defer func() { h.stop() }()
				time.Sleep(3*interval + time.Duration(part)*interval/8)
				h.wantVerdict(custody.Valid)
				disabled := time.Now()
				h.key.set(kms.Revoked, kms.KeyDisabled)
				bound := interval + custody.Policy{Interval: interval}.C() + 2*time.Second
				time.Sleep(bound)
				synctest.Wait()
				stops := h.find(custody.Stop)
				if len(stops) != 1 {
					t.Fatalf("interval %v, part %d: %d stops after %v", interval, part, len(stops), bound)
				}
				if took := stops[0].when.Sub(disabled); took < (custody.Policy{Interval: interval}).C() {
					t.Errorf("interval %v: stopped after %v, before it was confirmed", interval, took)
				}
				if stops[0].stored != custody.Invalid {
					t.Errorf("the disk held %s when the nodes were stopped", stops[0].stored)
				}
				h.wantVerdict(custody.Invalid)
			})
		}
	}
}

func TestBackoffWhileUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, time.Minute, k, &disk{})
		defer func() { h.stop() }()
		h.wantVerdict(custody.Valid)
		k.set(kms.Unreachable, kms.DNS)
		begin := time.Now()
		time.Sleep(10 * time.Minute)
		h.wantVerdict(custody.Unreachable)
		var waits []time.Duration
		last := begin
		for _, s := range k.starts()[1:] {
			waits = append(waits, s.Sub(last))
			last = s
		}
		want := []time.Duration{60 * sec, 5 * sec, 10 * sec, 20 * sec, 40 * sec, 60 * sec, 60 * sec}
		if len(waits) < len(want) || !slices.Equal(waits[:len(want)], want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
		if len(h.find(custody.Stop)) != 0 {
			t.Error("UNREACHABLE stopped something")
		}
		k.set(kms.OK, "")
		time.Sleep(61 * sec)
		h.wantVerdict(custody.Valid)
	})
}

func TestSuspectRunsEachHalfC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, 15*time.Minute, k, &disk{})
		defer func() { h.stop() }()
		k.set(kms.Revoked, kms.KeyDisabled)
		begin := time.Now()
		h.loop.TryNow()
		time.Sleep(9 * sec)
		h.wantVerdict(custody.Suspect)
		time.Sleep(sec)
		h.wantVerdict(custody.Invalid)
		var offs []time.Duration
		for _, s := range k.starts()[1:] {
			offs = append(offs, s.Sub(begin))
		}
		if want := []time.Duration{0, 5 * sec, 10 * sec}; !slices.Equal(offs, want) {
			t.Errorf("runs at %v, want %v", offs, want)
		}
	})
}

func TestFlappingDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, time.Second, k, &disk{})
		defer func() { h.stop() }()
		for range 50 {
			k.set(kms.Revoked, kms.KeyAccessDenied)
			time.Sleep(900 * time.Millisecond)
			k.set(kms.OK, "")
			time.Sleep(1100 * time.Millisecond)
		}
		if n := len(h.find(custody.Stop)); n != 0 {
			t.Errorf("%d stops", n)
		}
		if len(h.find(custody.Record)) < 10 {
			t.Error("the flapping was not seen at all, so the test shows nothing")
		}
	})
}

func TestNothingIsReleasedBeforeTheStateIsLoaded(t *testing.T) {
	l := custody.NewLoop(custody.Config{Project: "p", Prober: valid(), Store: &disk{}})
	if err := l.Releasable(); !errors.Is(err, custody.ErrNotReleasable) {
		t.Fatalf("releasable before the start: %v", err)
	}
}

func TestNothingIsReleasedOnceTheLoopHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Minute, valid(), &disk{})
		time.Sleep(sec)
		h.wantVerdict(custody.Valid)
		h.stop()
		if err := h.loop.Releasable(); !errors.Is(err, custody.ErrNotReleasable) {
			t.Fatalf("releasable although nobody watches: %v", err)
		}
	})
}

func TestUnreadableStoreIsAnError(t *testing.T) {
	for name, d := range map[string]*disk{"damaged": {state: []byte("{")}, "newer": {state: []byte(`{"format":3,"verdict":"VALID"}`)}} {
		l := custody.NewLoop(custody.Config{Project: "p", Prober: valid(), Store: d})
		if err := l.Run(t.Context()); err == nil {
			t.Errorf("%s state: the loop ran", name)
		} else if name == "newer" && !errors.Is(err, custody.ErrNewerState) {
			t.Errorf("newer state: %v", err)
		}
	}
}

// TestFailingDiskDelaysNoStop: rule 29.
func TestFailingDiskDelaysNoStop(t *testing.T) {
	for name, breakDisk := range map[string]func(*disk){
		"error": func(d *disk) { d.err = errors.New("no space left on device") },
		"hangs": func(d *disk) { d.hang = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startHost(t, time.Second, valid(), &disk{})
				defer func() { h.disk.mu.Lock(); h.disk.err, h.disk.hang = nil, 0; h.disk.mu.Unlock(); h.stop() }()
				time.Sleep(5 * sec)
				h.disk.mu.Lock()
				breakDisk(h.disk)
				h.disk.mu.Unlock()
				h.key.set(kms.Revoked, kms.KeyDisabled)
				time.Sleep(4 * sec)
				synctest.Wait()
				if n := len(h.find(custody.Stop)); n != 1 {
					t.Fatalf("%d stops with a disk that %s", n, name)
				}
			})
		})
	}
}

func TestHangingAuditDelaysNoStopButEveryStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Second, valid(), &disk{})
		defer func() { h.stop() }()
		time.Sleep(5 * sec)
		h.mu.Lock()
		h.refuse[custody.Record] = errors.New("audit log is full")
		starts := 1
		h.mu.Unlock()
		h.key.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(4 * sec)
		synctest.Wait()
		if n := len(h.find(custody.Stop)); n != 1 {
			t.Fatalf("%d stops", n)
		}
		h.key.set(kms.OK, "")
		time.Sleep(time.Minute)
		h.wantVerdict(custody.Valid)
		if n := len(h.find(custody.Start)); n != starts || h.loop.MayStart() {
			t.Fatalf("%d starts without a record", n-starts)
		}
		h.mu.Lock()
		delete(h.refuse, custody.Record)
		h.mu.Unlock()
		time.Sleep(2 * sec)
		synctest.Wait()
		if n := len(h.find(custody.Start)); n != starts+1 || !h.loop.MayStart() {
			t.Fatalf("%d starts once the audit log works", n-starts)
		}
		var verdicts []custody.Verdict
		for _, a := range h.find(custody.Record) {
			verdicts = append(verdicts, a.state.Verdict)
		}
		if want := []custody.Verdict{custody.Valid, custody.Suspect, custody.Invalid, custody.Valid}; !slices.Equal(verdicts, want) {
			t.Errorf("recorded %v, want %v", verdicts, want)
		}
	})
}

func TestStartWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Second, &key{outcome: kms.Revoked, reason: kms.KeyDisabled}, &disk{})
		defer func() { h.stop() }()
		time.Sleep(5 * sec)
		h.wantVerdict(custody.Invalid)
		h.disk.mu.Lock()
		h.disk.err = errors.New("input/output error")
		h.disk.mu.Unlock()
		h.key.set(kms.OK, "")
		time.Sleep(5 * sec)
		synctest.Wait()
		if len(h.find(custody.Start)) != 0 || h.loop.MayStart() || h.disk.verdict(t) != custody.Invalid {
			t.Fatal("nodes were started although a restart would find INVALID")
		}
		h.disk.mu.Lock()
		h.disk.err = nil
		h.disk.mu.Unlock()
		time.Sleep(3 * sec)
		synctest.Wait()
		if len(h.find(custody.Start)) != 1 || !h.loop.MayStart() || h.disk.verdict(t) != custody.Valid {
			t.Fatalf("%d starts once the disk works, it holds %s", len(h.find(custody.Start)), h.disk.verdict(t))
		}
	})
}

// TestLateStartIsDropped: a Start that waited for the disk is not carried out for a
// later VALID whose record is not written.
func TestLateStartIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Second, &key{outcome: kms.Revoked, reason: kms.KeyDisabled}, &disk{})
		defer func() { h.stop() }()
		time.Sleep(5 * sec)
		h.wantVerdict(custody.Invalid)
		h.disk.mu.Lock()
		h.disk.err = errors.New("input/output error")
		h.disk.mu.Unlock()
		h.key.set(kms.OK, "")
		time.Sleep(3 * sec)
		h.wantVerdict(custody.Valid)
		h.mu.Lock()
		h.refuse[custody.Record] = errors.New("audit log is full")
		h.mu.Unlock()
		h.key.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(1500 * time.Millisecond)
		h.key.set(kms.OK, "")
		time.Sleep(3 * sec)
		h.wantVerdict(custody.Valid)
		h.disk.mu.Lock()
		h.disk.err = nil
		h.disk.mu.Unlock()
		time.Sleep(10 * sec)
		synctest.Wait()
		if n := len(h.find(custody.Start)); n != 0 || h.loop.MayStart() {
			t.Fatalf("%d starts without a record", n)
		}
		h.mu.Lock()
		delete(h.refuse, custody.Record)
		h.mu.Unlock()
		time.Sleep(5 * sec)
		if n := len(h.find(custody.Start)); n != 1 || !h.loop.MayStart() {
			t.Fatalf("%d starts once all is well", n)
		}
	})
}

// TestOpenRecordsAreWrittenAtTheEnd: a record that could not be written is tried once
// more when the loop ends.
func TestOpenRecordsAreWrittenAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Minute, valid(), &disk{})
		h.mu.Lock()
		h.refuse[custody.Record] = errors.New("audit log is full")
		h.mu.Unlock()
		time.Sleep(1600 * time.Millisecond)
		h.wantVerdict(custody.Valid)
		h.mu.Lock()
		delete(h.refuse, custody.Record)
		h.mu.Unlock()
		h.stop()
		if r := h.find(custody.Record); len(r) != 1 || r[0].state.Verdict != custody.Valid || len(h.find(custody.Start)) != 0 {
			t.Fatalf("records %v", r)
		}
	})
}

func TestStopIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Second, &key{outcome: kms.Revoked, reason: kms.KeyDisabled}, &disk{})
		defer func() { h.stop() }()
		h.mu.Lock()
		h.refuse[custody.Stop] = errors.New("supervisor is busy")
		h.mu.Unlock()
		time.Sleep(5 * sec)
		h.wantVerdict(custody.Invalid)
		h.mu.Lock()
		delete(h.refuse, custody.Stop)
		h.mu.Unlock()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if n := len(h.find(custody.Stop)); n != 1 {
			t.Fatalf("%d stops", n)
		}
	})
}

// TestRestartInEachState: rules 20, 21.
func TestRestartInEachState(t *testing.T) {
	const interval = 20 * time.Second
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, interval, k, &disk{})
		defer func() { h.stop() }()
		h.wantVerdict(custody.Valid)

		k.set(kms.Unreachable, kms.Connect)
		h.restart(interval)
		h.wantVerdict(custody.Unreachable)
		if len(h.find(custody.Start)) != 0 || h.loop.State().MayStart() {
			t.Fatal("restart in VALID without a network started nodes")
		}
		h.restart(interval)
		h.wantVerdict(custody.Unreachable)
		k.set(kms.OK, "")
		time.Sleep(6 * sec)
		h.wantVerdict(custody.Valid)
		if len(h.find(custody.Start)) != 1 {
			t.Fatal("nodes did not start with the first OK")
		}

		k.set(kms.Revoked, kms.KeyDisabled)
		h.loop.TryNow()
		time.Sleep(5 * sec)
		h.wantVerdict(custody.Suspect)
		count := h.loop.State().Chain.Count
		k.set(kms.Unreachable, kms.Connect)
		h.restart(interval)
		h.wantVerdict(custody.Suspect)
		if got := h.loop.State().Chain.Count; got != count {
			t.Fatalf("%d in the chain after a restart, %d before", got, count)
		}
		k.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(6 * sec)
		h.wantVerdict(custody.Invalid)

		k.set(kms.Unreachable, kms.Connect)
		h.restart(interval)
		h.wantVerdict(custody.Invalid)
		if len(h.find(custody.Stop)) != 1 || len(h.find(custody.Start)) != 0 {
			t.Fatal("restart in INVALID did not stop what may be running")
		}
		k.set(kms.OK, "")
		time.Sleep(interval)
		h.wantVerdict(custody.Valid)
		if len(h.find(custody.Start)) != 1 {
			t.Fatal("nodes did not come back")
		}
	})
}

func TestHangingProberIsATimeoutAndNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, time.Second, k, &disk{})
		defer func() { h.stop() }()
		k.mu.Lock()
		k.hang = true
		k.mu.Unlock()
		time.Sleep(12 * sec)
		h.wantVerdict(custody.Unreachable)
		if r := h.loop.State().Reason; r != kms.Timeout {
			t.Errorf("reason %s", r)
		}
		time.Sleep(5 * time.Minute)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.overlap {
			t.Error("two runs at a time")
		}
	})
}

func TestTryAgainDuringARunRunsOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK, took: 2 * time.Second}
		h := startHost(t, time.Hour, k, &disk{})
		defer func() { h.stop() }()
		time.Sleep(time.Second)
		asked := time.Now()
		h.loop.TryNow()
		h.loop.TryNow()
		time.Sleep(10 * sec)
		s := k.starts()
		if len(s) != 2 || s[1].Before(asked) {
			t.Fatalf("runs %v, asked at %v", s, asked)
		}
	})
}

func TestRefusedGetsMakeOneRunASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		h := startHost(t, time.Hour, k, &disk{})
		defer func() { h.stop() }()
		time.Sleep(time.Minute)
		before := len(k.starts())
		for range 100 {
			h.loop.GetRefused()
			time.Sleep(50 * time.Millisecond)
		}
		if n := len(k.starts()) - before; n < 4 || n > 6 {
			t.Errorf("%d runs in five seconds", n)
		}
	})
}

func TestCommitTestsTheNewGenerationAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK, took: time.Second}
		h := startHost(t, time.Hour, k, &disk{})
		defer func() { h.stop() }()
		h.loop.Commit(2)
		time.Sleep(5 * sec)
		synctest.Wait()
		k.mu.Lock()
		defer k.mu.Unlock()
		if !slices.Equal(k.gens, []uint64{1, 2}) {
			t.Errorf("generations tested: %v", k.gens)
		}
	})
}

func TestJitterOnlyShortens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &key{outcome: kms.OK}
		l := custody.NewLoop(custody.Config{
			Project: "p", Prober: k, Store: &disk{}, Policy: custody.Policy{Interval: time.Minute}, Now: bubbleClock("b"),
			Jitter: func(d time.Duration) time.Duration { return 3 * d },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(5*time.Minute + sec)
		cancel()
		if err := <-done; err != nil || len(k.starts()) != 6 {
			t.Fatalf("%d runs, %v", len(k.starts()), err)
		}
	})
}
