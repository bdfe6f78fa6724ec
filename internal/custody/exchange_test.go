package custody_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// party is a control plane and its hosts, each with a loop of its own, and a clock of
// its own that began at another time. Words pass through the control plane.
type party struct {
	t      *testing.T
	policy custody.Policy
	delay  time.Duration // of each message
	all    map[string]*member

	mu    sync.Mutex
	cut   map[string]bool
	stop  context.CancelFunc
	ended sync.WaitGroup
}

type member struct {
	key  *key
	loop *custody.Loop
	disk *disk

	mu    sync.Mutex
	stops []time.Time
}

func newParty(t *testing.T, p custody.Policy, names ...string) *party {
	x := &party{t: t, policy: p, delay: 200 * time.Millisecond, all: map[string]*member{}, cut: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	x.stop = func() { cancel(); x.ended.Wait() }
	zero := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, name := range append([]string{""}, names...) {
		m := &member{key: valid(), disk: &disk{}}
		x.all[name] = m
		m.loop = custody.NewLoop(custody.Config{
			Project: "p", Prober: m.key, Store: m.disk, Policy: p, Generation: 1, Central: name == "",
			Now: func() custody.Reading {
				now := time.Now()
				return custody.Reading{Boot: "b", Since: now.Sub(zero) + time.Duration(i)*time.Hour, Wall: now}
			},
			Enact: func(_ context.Context, e custody.Effect, _ custody.State) error {
				if e == custody.Stop {
					m.mu.Lock()
					m.stops = append(m.stops, time.Now())
					m.mu.Unlock()
				}
				return nil
			},
		})
		x.ended.Go(func() {
			if err := m.loop.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	x.ended.Go(func() { x.exchange(ctx) })
	return x
}

// exchange passes the words on: each member hears all others, and while one is not
// valid the control plane runs as rule 12a says and makes all run.
func (x *party) exchange(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		var words []custody.Evidence
		cadence := custody.Idle
		for name, m := range x.all {
			s := m.loop.Report()
			linked := !x.isCut(name)
			words = append(words, s.Evidence(name, linked, 0))
			switch {
			case name == "":
			case linked && s.Verdict == custody.Suspect:
				cadence = custody.Confirming
			case cadence == custody.Idle && (!linked || s.Verdict != custody.Valid):
				cadence = custody.Own
			}
		}
		select {
		case <-time.After(x.delay):
		case <-ctx.Done():
			return
		}
		for name, m := range x.all {
			if x.isCut(name) {
				continue
			}
			var others []custody.Evidence
			for _, w := range words {
				if w.Validator != name {
					others = append(others, w)
				}
			}
			m.loop.SetEvidence(others, false)
			if name != "" && cadence == custody.Confirming && n%10 == 0 && m.loop.State().Verdict != custody.Suspect {
				m.loop.TryNow()
			}
		}
		x.all[""].loop.SetCadence(cadence)
		select {
		case <-time.After(x.delay):
		case <-ctx.Done():
			return
		}
	}
}

func (x *party) isCut(name string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cut[name]
}

func (x *party) setCut(name string, cut bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut[name] = cut
}

func (x *party) want(name string, v custody.Verdict) {
	x.t.Helper()
	synctest.Wait()
	if s := x.all[name].loop.State(); s.Verdict != v {
		x.t.Fatalf("%q is %s (%s), want %s; alarm %q", name, s.Verdict, s.Reason, v, s.Alarm)
	}
}

func (x *party) stops(name string) int {
	m := x.all[name]
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.stops)
}

// TestOneHostAndTheControlPlane: a role or permission that is taken away from all stops
// a lone host within interval + C and one exchange; the control plane is the witness.
func TestOneHostAndTheControlPlane(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 7 * time.Second, time.Minute, 15 * time.Minute} {
		for _, reason := range []kms.Reason{kms.RoleNotAssumable, kms.KeyAccessDenied} {
			for part := range 4 {
				synctest.Test(t, func(t *testing.T) {
					p := custody.Policy{Interval: interval}
					x := newParty(t, p, "a")
					defer x.stop()
					time.Sleep(3*interval + time.Duration(part)*interval/4)
					x.want("a", custody.Valid)
					x.want("", custody.Valid)
					for _, m := range x.all {
						m.key.set(kms.Revoked, reason)
					}
					// One exchange: the slack, a run of the control plane within C/2, a run
					// of the host within C/2, messages.
					time.Sleep(interval + p.C() + 2*time.Second + p.C() + 2*time.Second)
					x.want("a", custody.Invalid)
					if x.stops("a") != 1 {
						t.Errorf("interval %v: %d stops", interval, x.stops("a"))
					}
					time.Sleep(p.C() + 5*time.Second)
					x.want("", custody.Invalid)
					for _, m := range x.all {
						m.key.set(kms.OK, "")
					}
					time.Sleep(interval + time.Second)
					x.want("a", custody.Valid)
					x.want("", custody.Valid)
				})
			}
		}
	}
}

// TestOneHostsAddress: a denial that only one host sees stops nothing, however long it
// lasts, with one host or two; it ends by itself, and a real revocation meanwhile is
// still enforced.
func TestOneHostsAddress(t *testing.T) {
	for _, hosts := range [][]string{{"a"}, {"a", "b"}} {
		synctest.Test(t, func(t *testing.T) {
			x := newParty(t, custody.Policy{Interval: time.Minute}, hosts...)
			defer x.stop()
			time.Sleep(3 * time.Minute)
			x.all["a"].key.set(kms.Revoked, kms.KeyAccessDenied)
			time.Sleep(2 * time.Minute)
			x.want("a", custody.NAD)
			time.Sleep(time.Hour)
			x.want("a", custody.NAD)
			x.all["a"].key.set(kms.OK, "")
			time.Sleep(61 * time.Second)
			x.want("a", custody.Valid)

			x.all["a"].key.set(kms.Revoked, kms.KeyAccessDenied)
			time.Sleep(2 * time.Minute)
			x.want("a", custody.NAD)
			for _, m := range x.all {
				m.key.set(kms.Revoked, kms.RoleNotAssumable)
			}
			// The hosts that are valid find out within the interval; a's veto lapses then.
			time.Sleep(2*time.Minute + 30*time.Second)
			for _, h := range hosts {
				x.want(h, custody.Invalid)
				if x.stops(h) != 1 {
					t.Errorf("%s: %d stops", h, x.stops(h))
				}
			}
		})
	}
}

// TestAllHostsAddresses: all hosts are denied by their addresses, the control plane is
// not. Nothing stops.
func TestAllHostsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newParty(t, custody.Policy{Interval: 30 * time.Second}, "a", "b")
		defer x.stop()
		time.Sleep(3 * time.Minute)
		x.all["a"].key.set(kms.Revoked, kms.KeyAccessDenied)
		x.all["b"].key.set(kms.Revoked, kms.KeyAccessDenied)
		time.Sleep(time.Hour)
		x.want("a", custody.NAD)
		x.want("b", custody.NAD)
		x.want("", custody.Valid)
	})
}

// TestAFirewallDefeatsNoRevocation: rule 13. Host b cannot reach AWS when the key is
// disabled; it follows the others.
func TestAFirewallDefeatsNoRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newParty(t, custody.Policy{Interval: 10 * time.Second}, "a", "b")
		defer x.stop()
		time.Sleep(time.Minute)
		x.all["b"].key.set(kms.Unreachable, kms.Connect)
		time.Sleep(time.Minute)
		x.want("b", custody.Unreachable)
		x.all["a"].key.set(kms.Revoked, kms.KeyDisabled)
		x.all[""].key.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(30 * time.Second)
		x.want("a", custody.Invalid)
		x.want("b", custody.Invalid)
		if s := x.all["b"].loop.State(); !s.Adopted || x.stops("b") != 1 {
			t.Errorf("adopted %v, %d stops", s.Adopted, x.stops("b"))
		}
		x.all["a"].key.set(kms.OK, "")
		x.all[""].key.set(kms.OK, "")
		time.Sleep(time.Minute)
		x.want("a", custody.Valid)
		x.want("b", custody.Invalid) // it starts nothing before it has seen for itself
		x.all["b"].key.set(kms.OK, "")
		time.Sleep(11 * time.Second)
		x.want("b", custody.Valid)
	})
}

// TestCutOffFromTheControlPlane: rule 22. A global reason is enforced in time by the
// host's own runs, a local one after C + W.
func TestCutOffFromTheControlPlane(t *testing.T) {
	for reason, bound := range map[kms.Reason]time.Duration{
		kms.KeyDisabled: 20*time.Second + 2*time.Second, kms.KeyAccessDenied: 20*time.Second + 5*time.Minute + 10*time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			x := newParty(t, custody.Policy{Interval: 10 * time.Second}, "a")
			defer x.stop()
			time.Sleep(time.Minute)
			x.setCut("a", true)
			time.Sleep(2 * time.Minute)
			for _, m := range x.all {
				m.key.set(kms.Revoked, reason)
			}
			time.Sleep(bound)
			x.want("a", custody.Invalid)
			if !reason.Local() {
				return
			}
			if since := x.all["a"].loop.State().Confirmed - x.all["a"].loop.State().Chain.Start; since < 5*time.Minute {
				t.Errorf("confirmed after %v alone", since)
			}
		})
	}
}

// TestGraceInTheLoop: the deadline stops the nodes, at its time, also if runs hang,
// and a restart keeps it.
func TestGraceInTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := valid()
		h := &host{t: t, key: k, disk: &disk{}, refuse: map[custody.Effect]error{}, block: map[custody.Effect]time.Duration{}, policy: custody.Policy{Mode: custody.ModeGrace, Grace: 10 * time.Minute}}
		h.start(time.Minute)
		defer func() { h.stop() }()
		time.Sleep(5 * time.Minute)
		k.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(72 * time.Second)
		h.wantVerdict(custody.Grace)
		deadline := h.loop.State().DeadlineWall
		time.Sleep(3 * time.Minute)
		h.restart(time.Minute)
		h.wantVerdict(custody.Grace)
		k.set(kms.Unreachable, kms.Connect)
		if !h.loop.State().DeadlineWall.Equal(deadline) {
			t.Fatalf("deadline %v, it was %v", h.loop.State().DeadlineWall, deadline)
		}
		time.Sleep(time.Until(deadline) - time.Second)
		h.wantVerdict(custody.Grace)
		if len(h.find(custody.Stop)) != 0 {
			t.Fatal("stopped before the deadline")
		}
		time.Sleep(2 * time.Second)
		h.wantVerdict(custody.Invalid)
		if s := h.find(custody.Stop); len(s) != 1 || s[0].when.Sub(deadline) > time.Second {
			t.Fatalf("stops %v, deadline %v", s, deadline)
		}
	})
}

// TestClockBackAndReboot: rule 27. The clock is stored every ten seconds where a
// duration counts; after a reboot with a wall clock that went back the deadline is the
// same and an alarm is raised.
func TestClockBackAndReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, boot := valid(), machine{name: "one", began: time.Now()}
		h := &host{t: t, key: k, disk: &disk{}, refuse: map[custody.Effect]error{}, block: map[custody.Effect]time.Duration{}, policy: custody.Policy{Mode: custody.ModeGrace, Grace: 10 * time.Minute}, now: boot.read}
		h.start(time.Hour)
		k.set(kms.Revoked, kms.KeyDisabled)
		h.loop.TryNow()
		time.Sleep(12 * time.Second)
		h.wantVerdict(custody.Grace)
		left := h.loop.State().Deadline - h.loop.Report().Clock.Elapsed
		time.Sleep(4 * time.Minute) // no run is due in all this time
		stored, err := h.disk.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if gone := left - (stored.Deadline - stored.Clock.Elapsed); gone < 4*time.Minute-11*time.Second {
			t.Fatalf("the stored clock is behind: %v of 4 minutes", gone)
		}
		h.now = machine{name: "two", began: time.Now(), back: 48 * time.Hour}.read
		h.restart(time.Hour)
		defer func() { h.stop() }()
		h.wantVerdict(custody.Grace)
		s := h.loop.State()
		if s.Deadline != stored.Deadline || len(h.find(custody.RaiseAlarm)) != 1 {
			t.Fatalf("deadline %v, it was %v; %d alarms", s.Deadline, stored.Deadline, len(h.find(custody.RaiseAlarm)))
		}
		time.Sleep(6*time.Minute + 15*time.Second)
		h.wantVerdict(custody.Invalid)
	})
}

// machine is a boot of a machine whose wall clock is behind.
type machine struct {
	name  string
	began time.Time
	back  time.Duration
}

func (m machine) read() custody.Reading {
	now := time.Now()
	return custody.Reading{Boot: m.name, Since: now.Sub(m.began), Wall: now.Add(-m.back)}
}

// TestDrillInTheLoop: rule 28, with a crash in between.
func TestDrillInTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHost(t, time.Minute, valid(), &disk{})
		defer func() { h.stop() }()
		time.Sleep(sec)
		h.loop.Drill(custody.DrillOrdered{ID: "d", Cluster: "c", For: time.Minute})
		time.Sleep(sec)
		h.wantVerdict(custody.Valid)
		if len(h.find(custody.BeginDrill)) != 1 || !h.loop.State().Drilled("c") {
			t.Fatal("no drill")
		}
		h.loop.DrillMeasured("d", false)
		time.Sleep(20 * sec)
		h.restart(time.Minute)
		time.Sleep(sec)
		if len(h.find(custody.BeginDrill)) != 1 || !h.loop.State().Drilled("c") || len(h.find(custody.Stop)) != 0 {
			t.Fatal("the drill does not go on after a crash, or more than its cluster was stopped")
		}
		time.Sleep(40 * sec)
		synctest.Wait()
		if len(h.find(custody.EndDrill)) != 1 || h.loop.State().Drilled("c") {
			t.Fatal("the drill does not end by itself")
		}
		h.loop.Drill(custody.DrillOrdered{ID: "d", Cluster: "c", For: time.Minute})
		h.loop.DrillMeasured("d", true)
		time.Sleep(sec)
		if d := h.loop.State().Drills; len(d) != 1 || d[0].Down == 0 || d[0].Up == 0 || h.loop.State().Drilled("c") {
			t.Fatalf("%+v", d)
		}
	})
}
