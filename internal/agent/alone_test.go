package agent

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// TestAHostThatAloneIsRefused: a denial that only this host sees stops nothing and
// starts nothing (NETWORK_ACCESS_DENIED); with the control plane refused too it stops.
func TestAHostThatAloneIsRefused(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	s := r.await(id, agentlink.PhaseRunning)
	// The control plane's word; its clock is the test's.
	begin := time.Now()
	tell := func(word func(now time.Duration) custody.Evidence) (done func()) {
		stop, gone := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(gone)
			for {
				e := word(time.Since(begin) + time.Hour)
				r.change(func(d *agentlink.Desired) { d.Projects[0].Validators = []agentlink.ValidatorEvidence{e} })
				select {
				case <-stop:
					return
				case <-time.After(300 * time.Millisecond):
				}
			}
		}()
		return func() { close(stop); <-gone }
	}
	done := tell(func(now time.Duration) custody.Evidence {
		return custody.Evidence{Linked: true, Now: now, Generation: 1, Verdict: custody.Valid, Outcome: kms.OK, OnceOK: true, Run: now, LastOK: now}
	})
	r.cloud.Deny(r.target.RoleARN, true, kms.OpDecrypt)
	eventually(t, "only this host is refused", func() bool {
		return slices.ContainsFunc(r.last().Custody, func(c agentlink.CustodyStatus) bool { return c.State.Verdict == custody.NAD })
	})
	waiting := r.add(true)
	w := r.await(waiting, agentlink.PhaseWaitingForKey)
	if !strings.Contains(w.Message, "NETWORK_ACCESS_DENIED") || !strings.Contains(w.Message, "KEY_ACCESS_DENIED") {
		t.Errorf("the new node does not say why it waits: %q", w.Message)
	}
	if n := r.node(id); n.Phase != agentlink.PhaseRunning || n.PID != s.PID || !alive(s.PID) {
		t.Errorf("the running node was touched: %+v", n)
	}
	if alarms := fmt.Sprint(r.last().Alarms); !strings.Contains(alarms, "allow its addresses") {
		t.Errorf("alarms: %s", alarms)
	}
	if raw, err := os.ReadFile(layout{r.cfg.DataDir}.desired()); err != nil || strings.Contains(string(raw), "validators") {
		t.Errorf("what others said is on the disk (%v)", err)
	}
	r.cloud.Deny(r.target.RoleARN, false, kms.OpDecrypt)
	r.await(waiting, agentlink.PhaseRunning)
	done()
	var first time.Duration
	done = tell(func(now time.Duration) custody.Evidence {
		if first == 0 {
			first = now
		}
		return custody.Evidence{
			Linked: true, Now: now, Generation: 1, Verdict: custody.Suspect, Outcome: kms.Revoked, Reason: kms.KeyAccessDenied, OnceOK: true, Run: now,
			Chain: custody.Chain{Count: 2, Start: first, Last: now},
		}
	})
	defer func() { done() }()
	r.cloud.Deny(r.target.RoleARN, true, kms.OpDecrypt)
	r.await(id, agentlink.PhaseStoppedByCustody)
	r.await(waiting, agentlink.PhaseStoppedByCustody)
}
