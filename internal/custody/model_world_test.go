package custody

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// models is the world of the model check: validator 0 is the control plane, 1 and 2 are
// the hosts a and b.
type models struct {
	now    time.Duration
	all    [3]State
	shift  [3]time.Duration // of each one's Elapsed clock, beside now
	runs   [3]bool          // its nodes are up
	policy Policy
	gen    uint64
	env    environment
	// words are what the hosts said last; asked makes a validator run at once.
	words [3]State
	heard [3]time.Duration
	asked [3]bool
	// disturbed is when something happened to a validator other than the customer's will,
	// exchanged the same for the exchange, repeated when all were asked to run again.
	disturbed           [3]time.Duration
	exchanged, repeated time.Duration
	// revokedLast is when the key was taken away from all last, while it still is.
	revokedLast time.Duration
	// ideal: everybody was VALID when the key was taken away, and nothing happened since.
	ideal  bool
	broken string
}

// environment is the truth.
type environment struct {
	revoked kms.Reason // for all, "" if not
	changed time.Duration
	fault   bool
	denied  [3]bool
	lost    [3]bool
	cut     [3]bool
}

var modelNames = [3]string{"", "a", "b"}

func nameOf(h int) string { return [3]string{"control plane", "a", "b"}[h] }

// newModels gives a quiet world: all VALID, the hosts a tick apart.
func newModels(p Policy) *models {
	w := &models{now: 100 * time.Hour, policy: p, gen: 1, revokedLast: -time.Hour}
	for h := range w.all {
		w.shift[h] = time.Duration(h) * time.Hour
		w.all[h] = NewState(p, 1, w.at(h))
		w.all[h].Central = h == 0
	}
	for range 20 {
		w.turn()
	}
	return w
}

func (w *models) clone() *models { c := *w; return &c }

func (w *models) at(h int) Instant {
	return Instant{Elapsed: w.now + w.shift[h], Wall: time.Unix(0, 0).Add(w.now)}
}

func (w *models) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

func (w *models) anyDenied() bool { return slices.Contains(w.env.denied[:], true) }

func (w *models) disturb(hs ...int) {
	for _, h := range hs {
		w.disturbed[h] = w.now
	}
	w.ideal = false
}

func (w *models) revoke(r kms.Reason) {
	w.env.revoked, w.env.changed = r, w.now
	w.ideal = r != "" && w.env == (environment{revoked: r, changed: w.now})
	for h := range w.all {
		w.ideal = w.ideal && w.all[h].Verdict == Valid
	}
}

func (w *models) restart(h int) {
	b, err := json.Marshal(w.all[h])
	var s State
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		w.fail("state does not survive: %v", err)
	}
	s.Central = h == 0
	s.Policy.shortW = modelW
	if s.Frozen != nil {
		s.Frozen.shortW = modelW
	}
	w.all[h] = s
	w.disturb(h)
	w.exchanged = w.now
	w.step(h, Restarted{})
	w.step(h, PolicyChanged{w.told(h)})
	w.step(h, Committed{w.toldGen(h)})
	if h == 0 { // older words are of no known age
		w.heard = [3]time.Duration{}
	}
}

// told is the policy that a validator was told last: a cut off one none since.
func (w *models) told(h int) Policy {
	if w.env.cut[h] {
		return w.all[h].Policy
	}
	return w.policy
}

func (w *models) toldGen(h int) uint64 {
	if w.env.cut[h] {
		return w.all[h].Generation
	}
	return w.gen
}

func (w *models) setPolicy(p Policy) { w.policy = p }

func (w *models) commit() { w.gen++; w.disturb(0, 1, 2); w.exchanged = w.now }

func (w *models) tryAgain() { w.askAll() }

func (w *models) askAll() {
	for h := range w.asked {
		w.asked[h] = w.asked[h] || !w.env.cut[h]
	}
}

// outcome is what a run of a validator finds.
func (w *models) outcome(h int) kms.Result {
	switch e := w.env; {
	case e.lost[h]:
		return kms.Result{Outcome: kms.Unreachable, Reason: kms.Throttled}
	case e.fault:
		return kms.Result{Outcome: kms.Unreachable, Reason: kms.PlatformPermissions}
	case e.revoked != "" && (!e.denied[h] || e.revoked.Local()):
		return kms.Result{Outcome: kms.Revoked, Reason: e.revoked}
	case e.denied[h]:
		return kms.Result{Outcome: kms.Revoked, Reason: kms.KeyAccessDenied}
	}
	return kms.Result{Outcome: kms.OK}
}

// step applies an event to one validator and checks what must hold after each.
func (w *models) step(h int, e Event) {
	old := w.all[h]
	s, eff := Step(old, e, w.at(h))
	w.all[h] = s
	for _, x := range eff {
		switch x {
		case Start:
			if s.Verdict != Valid {
				w.fail("%s starts under %s", nameOf(h), s.Verdict)
			}
			w.runs[h] = true
		case Stop:
			w.runs[h] = false
		case AskValidators:
			if _, again := e.(TryAgain); !again && !w.env.cut[h] {
				w.askAll()
			}
		default:
		}
	}
	switch {
	case h == 0: // it stops nothing
	case s.Verdict == Invalid && w.runs[h]:
		w.fail("the nodes of %s run under INVALID", nameOf(h))
	case s.Verdict.confirmed() && !old.Verdict.confirmed() && !w.justified(h):
		w.fail("%s is %s (%s), and the key was taken away from nobody", nameOf(h), s.Verdict, s.Reason)
	case old.Verdict == Grace && s.Verdict == Grace && s.Deadline > old.Deadline:
		w.fail("the grace of %s is extended by %T", nameOf(h), e)
	case old.Verdict.confirmed() && !s.Verdict.confirmed() && s.Verdict != Valid:
		w.fail("%s is %s after %s", nameOf(h), s.Verdict, old.Verdict)
	case s.MayStart() && s.Verdict != Valid, s.Verdict.Releases() != (s.Verdict == Valid || s.Verdict == Unreachable):
		w.fail("%s releases or starts under %s", nameOf(h), s.Verdict)
	}
}

// justified tells whether the customer took the key away from all lately: since that
// host's last OK, or so that others are about to tell it.
func (w *models) justified(h int) bool {
	return w.env.revoked != "" || w.now-w.revokedLast <= tick || w.all[h].LastOK-w.shift[h] < w.revokedLast
}

// turn is one tick: what is due runs, and words are passed on.
func (w *models) turn() {
	w.now += tick
	if w.env.revoked != "" {
		w.revokedLast = w.now
	}
	w.cadence()
	for h := range w.all {
		if w.toldGen(h) > w.all[h].Generation {
			w.step(h, Committed{w.toldGen(h)})
		}
		if p := w.told(h); p != w.all[h].Policy {
			w.step(h, PolicyChanged{p})
		}
		w.step(h, TimePassed{})
		if w.asked[h] || w.all[h].Next <= w.at(h).Elapsed {
			w.asked[h] = false
			w.step(h, RunFinished{Generation: w.all[h].Generation, Started: w.at(h).Elapsed, Result: w.outcome(h)})
		}
	}
	w.exchange()
}

// cadence is what the control plane does about hosts that are not well (rule 12a), and
// repeats while somebody's word is weighed (rule 12).
func (w *models) cadence() {
	c, weighed, others := Idle, false, false
	for h := 1; h < 3; h++ {
		silent := w.now-w.heard[h] > 30*time.Second
		s := w.words[h]
		switch {
		case !silent && s.Verdict == Suspect:
			c = Confirming
		case c == Idle && (silent || s.Verdict != Valid || s.Generation != w.gen):
			c = Own
		}
		weighed = weighed || s.Verdict == Suspect && s.Reason.Local()
		others = others || !silent && s.Verdict != Suspect
	}
	w.step(0, CadenceChanged{c})
	if weighed && others && w.now-w.repeated >= modelC {
		w.repeated = w.now
		w.askAll()
	}
}

func (w *models) exchange() {
	for h := 1; h < 3; h++ {
		if !w.env.cut[h] {
			w.words[h], w.heard[h] = w.all[h], w.now
			w.words[h].Clock.Elapsed = w.at(h).Elapsed
			w.words[h].others = others{}
		}
	}
	own := w.all[0]
	own.Clock.Elapsed = w.at(0).Elapsed
	for h := range w.all {
		if w.env.cut[h] {
			continue
		}
		var out []Evidence
		if h != 0 {
			out = append(out, own.Evidence("", true, 0))
		}
		for p := 1; p < 3; p++ {
			if age := w.now - w.heard[p]; p != h && w.heard[p] != 0 {
				out = append(out, w.words[p].Evidence(modelNames[p], age <= 30*time.Second, age))
			}
		}
		w.step(h, EvidenceReceived{Validators: out})
	}
}

func (w *models) String() string {
	var parts []string
	for h, s := range w.all {
		text := fmt.Sprintf("%s:%s", nameOf(h), s.Verdict)
		if s.Chain.Count > 0 {
			text += fmt.Sprintf("(%s %d since %v)", s.Reason, s.Chain.Count, w.at(h).Elapsed-s.Chain.Start)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// modelSeed makes hashes comparable within a process.
var modelSeed = maphash.MakeSeed()

// hash is of all that matters for what can still happen: times as ages, old ones the
// same.
func (w *models) hash(left int) uint64 {
	var h maphash.Hash
	h.SetSeed(modelSeed)
	num := func(vs ...int64) {
		var b [8]byte
		for _, v := range vs {
			for i := range b {
				b[i] = byte(v >> (8 * i))
			}
			_, _ = h.Write(b[:])
		}
	}
	flags := func(vs ...bool) {
		for _, v := range vs {
			if v {
				_ = h.WriteByte(1)
			} else {
				_ = h.WriteByte(0)
			}
		}
	}
	text := func(vs ...string) {
		for _, v := range vs {
			_, _ = h.WriteString(v)
			_ = h.WriteByte(0)
		}
	}
	age := func(now, then time.Duration) { num(int64(max(-horizon, min(horizon, now-then)))) }
	policy := func(p *Policy) {
		if p == nil {
			text("-")
			return
		}
		text(string(p.Mode))
		num(int64(p.Grace))
	}
	chain := func(now time.Duration, c Chain) {
		num(int64(min(c.Count, confirmations)))
		if c.Count > 0 {
			age(now, c.Start)
			age(now, c.Last)
		}
	}
	num(int64(left))
	policy(&w.policy)
	text(string(w.env.revoked))
	flags(w.env.fault, w.ideal)
	flags(w.env.denied[:]...)
	flags(w.env.lost[:]...)
	flags(w.env.cut[:]...)
	age(w.now, w.env.changed)
	age(w.now, w.exchanged)
	age(w.now, w.repeated)
	age(w.now, w.revokedLast)
	for i, s := range w.all {
		now := w.at(i).Elapsed
		text(string(s.Verdict), string(s.Reason), string(s.LastOutcome), string(s.Cadence), s.Veto.By)
		flags(s.OnceOK, s.AwaitOK, s.Hold, s.NoWitness, s.Adopted, w.runs[i], w.asked[i], s.others.heard)
		num(int64(w.gen-s.Generation), int64(s.Backoff))
		policy(s.Frozen)
		policy(&s.Policy)
		chain(now, s.Chain)
		for _, x := range []time.Duration{s.LastOK, s.LastStart, s.Confirmed, s.Deadline, s.Veto.Until, s.Next, s.Entered, s.others.at} {
			age(now, x)
		}
		age(now, s.others.since)
		age(now, max(s.FastUntil, now-1))
		age(w.now, w.disturbed[i])
		age(w.now, w.heard[i])
		for _, p := range s.others.peers {
			text(p.Validator, string(p.Verdict), string(p.Outcome), string(p.Reason))
			flags(p.Linked, p.OnceOK, p.NoWitness, p.Adopted, p.contradicted)
			num(int64(w.gen - p.Generation))
			chain(p.Now, p.Chain)
			for _, x := range []time.Duration{p.run, p.ok, p.chain, p.entered, p.confirmed, p.deadline} {
				age(now, x)
			}
		}
	}
	return h.Sum64()
}
