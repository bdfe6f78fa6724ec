package custody_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
)

// TestNoHistoryBreaksTheRules draws random histories and checks what must hold in all
// of them: INVALID needs three REVOKED that span C with no OK between; UNREACHABLE
// never leads there; nothing starts unless the last word was an OK; every denial is
// persisted; what a restart reads back decides the same.
func TestNoHistoryBreaksTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.IntRange(1, 40).Draw(t, "interval")) * time.Second
		now := custody.Instant{Wall: wall}
		s := custody.NewState(custody.Policy{Interval: interval}, 1, now)
		var chain []time.Duration // begins of REVOKED runs since the last OK, in this generation
		running := false          // nodes are up
		own := false              // an OK since the last restart
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			step := time.Duration(rapid.IntRange(0, 12_000).Draw(t, "step")) * time.Millisecond
			now = custody.Instant{Elapsed: now.Elapsed + step, Wall: now.Wall.Add(step)}
			old := s
			var eff []custody.Effect
			kind := rapid.SampledFrom([]string{"ok", "revoked", "revoked", "revoked", "lost", "late", "stale", "restart", "again", "get", "commit", "policy", "cadence"}).Draw(t, "event")
			took := time.Duration(rapid.IntRange(0, 500).Draw(t, "took")) * time.Millisecond
			started := max(0, now.Elapsed-took)
			finish := func(gen uint64, o kms.Outcome, r kms.Reason) custody.Event {
				return custody.RunFinished{Generation: gen, Started: started, Result: kms.Result{Outcome: o, Reason: r}}
			}
			var e custody.Event
			switch kind {
			case "ok":
				e = finish(s.Generation, kms.OK, "")
				chain, own = nil, true
			case "revoked":
				e = finish(s.Generation, kms.Revoked, rapid.SampledFrom([]kms.Reason{kms.KeyDisabled, kms.KeyNotFound, kms.KeyPendingDeletion}).Draw(t, "reason"))
				chain = append(chain, started)
			case "lost":
				e = finish(s.Generation, kms.Unreachable, kms.DNS)
			case "late":
				now.Elapsed += 11 * time.Second
				e = custody.RunFinished{Generation: s.Generation, Started: now.Elapsed - 11*time.Second, Result: kms.Result{Outcome: rapid.SampledFrom([]kms.Outcome{kms.OK, kms.Revoked}).Draw(t, "late")}}
			case "stale":
				e = finish(s.Generation+1, rapid.SampledFrom([]kms.Outcome{kms.OK, kms.Revoked}).Draw(t, "stale"), kms.KeyDisabled)
			case "restart":
				b, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				var back custody.State
				if err := json.Unmarshal(b, &back); err != nil {
					t.Fatal(err)
				}
				s, own, e = back, false, custody.Restarted{}
			case "again":
				e = custody.TryAgain{}
			case "get":
				e = custody.GetRefused{}
			case "commit":
				e = custody.Committed{Generation: s.Generation + 1}
				chain = nil
			case "policy":
				e = custody.PolicyChanged{Policy: custody.Policy{Interval: time.Duration(rapid.IntRange(1, 40).Draw(t, "new interval")) * time.Second}}
			case "cadence":
				e = custody.CadenceChanged{Cadence: rapid.SampledFrom([]custody.Cadence{custody.Own, custody.Idle, custody.Confirming}).Draw(t, "cadence")}
			}
			c := s.InForce().C()
			s, eff = custody.Step(s, e, now)

			if s.Verdict == custody.Invalid && old.Verdict != custody.Invalid {
				if kind != "revoked" || len(chain) < 3 || chain[len(chain)-1]-chain[0] < c {
					t.Fatalf("INVALID by %s with REVOKED at %v, C %v", kind, chain, c)
				}
				if !slices.Contains(eff, custody.Stop) {
					t.Fatal("INVALID without a stop")
				}
			}
			if len(chain) >= 3 && chain[len(chain)-1]-chain[0] >= c && kind == "revoked" && s.Verdict != custody.Invalid {
				t.Fatalf("three REVOKED over C, but %s", s.Verdict)
			}
			if s.Verdict != old.Verdict && old.Verdict == custody.Invalid && kind != "ok" {
				t.Fatalf("%s led out of INVALID", kind)
			}
			for _, x := range eff {
				switch x {
				case custody.Stop:
					running = false
				case custody.Start:
					running = true
				}
			}
			if slices.Contains(eff, custody.Start) && (s.Verdict != custody.Valid || !own) {
				t.Fatalf("start under %s, own OK %v", s.Verdict, own)
			}
			if s.Verdict == custody.Invalid && running {
				t.Fatal("nodes run under INVALID")
			}
			if s.MayStart() && !own {
				t.Fatal("nodes may start without an own OK since the restart")
			}
			if s.Verdict != old.Verdict && (len(eff) == 0 || eff[0] != custody.Persist || !slices.Contains(eff, custody.Record)) {
				t.Fatalf("%s -> %s with effects %v", old.Verdict, s.Verdict, eff)
			}
			if s.Frozen == nil && s.Verdict.Bad() || s.Frozen != nil && s.Verdict == custody.Valid {
				t.Fatalf("frozen policy %v under %s", s.Frozen, s.Verdict)
			}
			if s.Next != custody.Never && s.Next > now.Elapsed+max(s.InForce().Interval, time.Second) {
				t.Fatalf("next run in %v, interval %v", s.Next-now.Elapsed, s.InForce().Interval)
			}
			if s.Next == custody.Never && (s.Verdict != custody.Valid || s.Cadence != custody.Idle) {
				t.Fatalf("no next run under %s, cadence %q", s.Verdict, s.Cadence)
			}
		}
	})
}
