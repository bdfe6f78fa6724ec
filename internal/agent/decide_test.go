package agent

import (
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
)

func TestDecide(t *testing.T) {
	want := func(run, encrypted bool, generation uint64) *agentlink.Node {
		return &agentlink.Node{Run: run, Encrypted: encrypted, Generation: generation}
	}
	clear, keyed, off := want(true, false, 1), want(true, true, 1), want(false, true, 1)
	for _, c := range []struct {
		name  string
		in    situation
		act   action
		phase agentlink.Phase
	}{
		{"new, unencrypted", situation{wanted: clear}, doStart, agentlink.PhaseCreating},
		{"new, encrypted, key usable", situation{wanted: keyed, mayStart: true}, doStart, agentlink.PhaseCreating},
		{"new, encrypted, no verdict yet", situation{wanted: keyed}, doNothing, agentlink.PhaseWaitingForKey},
		{"new, encrypted, key revoked", situation{wanted: keyed, mustBeDown: true}, doNothing, agentlink.PhaseStoppedByCustody},
		{"new, unencrypted, key revoked", situation{wanted: clear, mustBeDown: true}, doStart, agentlink.PhaseCreating},
		{"new, paused", situation{wanted: off, mayStart: true}, doNothing, agentlink.PhaseStopped},
		{"down, unencrypted", situation{wanted: clear, exists: true, generation: 1}, doStart, agentlink.PhaseStarting},
		{"down, unencrypted, key revoked", situation{wanted: clear, exists: true, generation: 1, mustBeDown: true}, doStart, agentlink.PhaseStarting},
		{"down, encrypted, key usable", situation{wanted: keyed, exists: true, encrypted: true, generation: 1, mayStart: true}, doStart, agentlink.PhaseStarting},
		{"down, encrypted, key unreachable or suspect", situation{wanted: keyed, exists: true, encrypted: true, generation: 1}, doNothing, agentlink.PhaseWaitingForKey},
		{"down, encrypted, key revoked", situation{wanted: keyed, exists: true, encrypted: true, generation: 1, mustBeDown: true}, doNothing, agentlink.PhaseStoppedByCustody},
		{"down, encrypted, shall be in clear, key revoked", situation{wanted: clear, exists: true, encrypted: true, mustBeDown: true}, doNothing, agentlink.PhaseStoppedByCustody},
		{"down, encrypted, shall be in clear, key suspect", situation{wanted: clear, exists: true, encrypted: true}, doNothing, agentlink.PhaseWaitingForKey},
		{"down, in clear, shall be encrypted, key revoked", situation{wanted: keyed, exists: true, mustBeDown: true}, doStart, agentlink.PhaseStarting},
		{"down, in clear, shall be encrypted, key usable", situation{wanted: keyed, exists: true, mayStart: true}, doRewrite, agentlink.PhaseRewriting},
		{"runs", situation{wanted: clear, exists: true, running: true, generation: 1}, doNothing, agentlink.PhaseRunning},
		{"runs, encrypted, key unreachable or suspect", situation{wanted: keyed, exists: true, encrypted: true, running: true, generation: 1}, doNothing, agentlink.PhaseRunning},
		{"runs, encrypted, key revoked", situation{wanted: keyed, exists: true, encrypted: true, running: true, mustBeDown: true}, doStop, agentlink.PhaseStoppedByCustody},
		{"runs, encrypted, key revoked, shall be paused", situation{wanted: off, exists: true, encrypted: true, running: true, mustBeDown: true}, doStop, agentlink.PhaseStoppedByCustody},
		{"runs, encrypted, key revoked, not named", situation{exists: true, encrypted: true, running: true, mustBeDown: true}, doStop, agentlink.PhaseStoppedByCustody},
		{"runs, in clear, key revoked", situation{wanted: clear, exists: true, running: true, generation: 1, mustBeDown: true}, doNothing, agentlink.PhaseRunning},
		{"runs, shall be paused", situation{wanted: want(false, false, 2), exists: true, running: true}, doStop, agentlink.PhaseStopped},
		{"paused, generation behind", situation{wanted: want(false, true, 2), exists: true, encrypted: true, generation: 1}, doAcknowledge, agentlink.PhaseStopped},
		{"paused, generation noted", situation{wanted: off, exists: true, encrypted: true, generation: 1}, doNothing, agentlink.PhaseStopped},
		{"paused, encryption waits for the next run", situation{wanted: off, exists: true, generation: 0}, doNothing, agentlink.PhaseStopped},
		{"runs in clear, shall be encrypted, key usable", situation{wanted: keyed, exists: true, running: true, mayStart: true}, doRewrite, agentlink.PhaseRewriting},
		{"runs in clear, shall be encrypted, key not usable", situation{wanted: keyed, exists: true, running: true}, doNothing, agentlink.PhaseRunning},
		{"runs encrypted, shall be in clear, key usable", situation{wanted: clear, exists: true, encrypted: true, running: true, mayStart: true}, doRewrite, agentlink.PhaseRewriting},
		{"runs encrypted, shall be in clear, key suspect", situation{wanted: clear, exists: true, encrypted: true, running: true}, doNothing, agentlink.PhaseRunning},
		{"runs, users or leftovers wait", situation{wanted: clear, exists: true, running: true, generation: 1, untended: true}, doTend, agentlink.PhaseRunning},
		{"runs, a change needs nothing", situation{wanted: want(true, false, 2), exists: true, running: true, generation: 1}, doAcknowledge, agentlink.PhaseRunning},
		{"runs, not named: absence is not deletion", situation{exists: true, running: true}, doNothing, agentlink.PhaseRunning},
		{"down, not named", situation{exists: true, mayStart: true}, doNothing, agentlink.PhaseStopped},
		{"tombstone", situation{exists: true, running: true, tombstone: true}, doRemove, agentlink.PhaseStopped},
		{"tombstone, key revoked", situation{exists: true, encrypted: true, running: true, tombstone: true, mustBeDown: true}, doRemove, agentlink.PhaseStopped},
		{"tombstone of what is gone", situation{tombstone: true}, doRemove, agentlink.PhaseStopped},
	} {
		if act, phase, _ := decide(c.in); act != c.act || phase != c.phase {
			t.Errorf("%s: %s in %s, want %s in %s", c.name, act, phase, c.act, c.phase)
		}
	}
}

// No combination starts or rewrites anything encrypted without a usable key, or
// leaves anything encrypted running that must be down.
func TestDecideNeverUsesARevokedKey(t *testing.T) {
	for bits := range 1 << 10 {
		b := func(i int) bool { return bits>>i&1 == 1 }
		s := situation{exists: b(0), encrypted: b(0) && b(1), running: b(2) && b(0), mayStart: b(3), mustBeDown: !b(3) && b(4), untended: b(5), tombstone: b(6)}
		if b(7) {
			s.wanted = &agentlink.Node{Run: b(8), Encrypted: b(9)}
		}
		act, _, _ := decide(s)
		key := s.encrypted || s.wanted != nil && s.wanted.Encrypted && !s.exists
		if !s.mayStart && (act == doRewrite || act == doStart && key) {
			t.Errorf("%+v: %s without a usable key", s, act)
		}
		if s.running && s.encrypted && s.mustBeDown && act != doStop && act != doRemove {
			t.Errorf("%+v: %s instead of a stop", s, act)
		}
		if act == doRemove && !s.tombstone {
			t.Errorf("%+v: removed without an order", s)
		}
	}
}
