package custody_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// TestRestartInHoldAndSofterVerdicts: rule 21 in the states that TestRestartInEachState
// leaves out. The reboot's clock is hours ahead, which decides nothing.
func TestRestartInHoldAndSofterVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := valid()
		h := &host{t: t, key: k, disk: &disk{}, refuse: map[custody.Effect]error{}, block: map[custody.Effect]time.Duration{}, policy: custody.Policy{Mode: custody.ModeAlert}}
		h.start(time.Minute)
		defer func() { h.stop() }()
		time.Sleep(2 * time.Minute)
		k.set(kms.Revoked, kms.KeyAccessDenied)
		time.Sleep(2 * time.Minute)
		h.wantVerdict(custody.Suspect)
		if !h.loop.State().Hold {
			t.Fatal("no hold")
		}
		h.now = machine{name: "two", began: time.Now(), back: -5 * time.Hour}.read
		h.restart(time.Minute)
		time.Sleep(30 * time.Second)
		h.wantVerdict(custody.Suspect) // nobody was listened to in those five hours
		time.Sleep(time.Minute)
		h.wantVerdict(custody.Alert)
		h.restart(time.Minute)
		time.Sleep(5 * time.Minute)
		h.wantVerdict(custody.Alert)
		if len(h.find(custody.Stop)) != 0 || len(h.find(custody.Start)) != 0 {
			t.Fatal("something was stopped or started under ALERT")
		}
		k.set(kms.OK, "")
		time.Sleep(62 * time.Second)
		h.wantVerdict(custody.Valid)
	})
}

// TestRestartInNAD: kept, and no key is released by restarting.
func TestRestartInNAD(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := valid()
		h := startHost(t, time.Minute, k, &disk{})
		defer func() { h.stop() }()
		time.Sleep(2 * time.Minute)
		k.set(kms.Revoked, kms.KeyAccessDenied)
		for range 24 {
			time.Sleep(5 * time.Second)
			now := h.loop.Report().Clock.Elapsed
			e := custody.Evidence{Linked: true, Now: now, Generation: 1, Verdict: custody.Valid, Outcome: kms.OK, Run: now, LastOK: now, OnceOK: true, Policy: custody.Policy{}.Normal()}
			h.loop.SetEvidence([]custody.Evidence{e}, false)
		}
		h.wantVerdict(custody.NAD)
		h.restart(time.Minute)
		time.Sleep(2 * time.Minute)
		h.wantVerdict(custody.NAD)
		if len(h.find(custody.Stop)) != 0 || len(h.find(custody.Start)) != 0 {
			t.Fatal("something was stopped or started")
		}
	})
}

// TestTheCanarySavesACustomerFromThePlatform: rule 9. The platform's own role fails for
// an hour in the middle of a suspicion; nothing stops, and all goes on after it.
func TestTheCanarySavesACustomerFromThePlatform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newParty(t, custody.Policy{Interval: 10 * time.Second}, "a", "b")
		defer x.stop()
		time.Sleep(time.Minute)
		for _, m := range x.all {
			m.key.set(kms.Unreachable, kms.PlatformPermissions)
		}
		time.Sleep(time.Hour)
		for _, h := range []string{"a", "b"} {
			x.want(h, custody.Unreachable)
			if x.stops(h) != 0 {
				t.Errorf("%s was stopped", h)
			}
		}
		for _, m := range x.all {
			m.key.set(kms.OK, "")
		}
		time.Sleep(12 * time.Second)
		x.want("a", custody.Valid)
		x.want("b", custody.Valid)
	})
}

// TestForwardJumpInsideOneBoot: rule 27. The wall clock jumps by a day during a grace;
// the deadline stays where it was on the boot-time clock.
func TestForwardJumpInsideOneBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, began := valid(), time.Now()
		var jump time.Duration
		h := &host{t: t, key: k, disk: &disk{}, refuse: map[custody.Effect]error{}, block: map[custody.Effect]time.Duration{}, policy: custody.Policy{Mode: custody.ModeGrace, Grace: 10 * time.Minute}}
		h.now = func() custody.Reading {
			now := time.Now()
			return custody.Reading{Boot: "one", Since: now.Sub(began), Wall: now.Add(jump)}
		}
		h.start(time.Minute)
		defer func() { h.stop() }()
		time.Sleep(time.Minute)
		k.set(kms.Revoked, kms.KeyDisabled)
		time.Sleep(72 * time.Second)
		h.wantVerdict(custody.Grace)
		h.stop() // so that the clock is changed without a race
		jump = 24 * time.Hour
		h.start(time.Minute)
		time.Sleep(8 * time.Minute)
		h.wantVerdict(custody.Grace)
		time.Sleep(2 * time.Minute)
		h.wantVerdict(custody.Invalid)
	})
}
