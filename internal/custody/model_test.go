package custody

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/kms"
)

// The model check explores what two hosts and the control plane can come to: the real
// Step of each, words passed on as the control plane does, and an adversary who makes
// one of the moves below at any moment. Time goes in ticks. In short runs the interval
// is four of them, C two, and W six in place of sixty. model_world_test.go is the world,
// this file its rules and the search.
const (
	tick    = 5 * time.Second
	modelI  = 4 * tick
	modelC  = 2 * tick
	modelW  = 6 * tick
	horizon = modelC + 3*modelW + 2*modelI // ages above are the same to the search
)

// a move of the adversary; allowed is nil for one that is always possible.
type move struct {
	name    string
	allowed func(*models) bool
	make    func(*models)
}

func atHost(name string, h int, allowed func(*models, int) bool, do func(*models, int)) move {
	m := move{name: name + " " + nameOf(h), make: func(w *models) { do(w, h) }}
	if allowed != nil {
		m.allowed = func(w *models) bool { return allowed(w, h) }
	}
	return m
}

// moves of whoever is no customer taking the key away: one host's address, networks,
// throttling, the platform's own fault, restarts, clocks, people at the console.
func faults() []move {
	out := []move{
		{"platform fault", func(w *models) bool { return !w.env.fault && !w.anyDenied() }, func(w *models) { w.env.fault = true; w.disturb(0, 1, 2) }},
		{"platform mended", func(w *models) bool { return w.env.fault }, func(w *models) { w.env.fault = false; w.disturb(0, 1, 2) }},
		{"try again", nil, (*models).tryAgain},
	}
	for h := range 3 {
		out = append(out,
			atHost("AWS unreachable for", h, func(w *models, h int) bool { return !w.env.lost[h] && !w.anyDenied() }, func(w *models, h int) { w.env.lost[h] = true; w.disturb(h) }),
			atHost("AWS reachable for", h, func(w *models, h int) bool { return w.env.lost[h] }, func(w *models, h int) { w.env.lost[h] = false; w.disturb(h) }),
			atHost("restart of", h, nil, (*models).restart))
	}
	for h := 1; h < 3; h++ {
		out = append(out,
			atHost("address refused of", h, func(w *models, h int) bool {
				return !w.anyDenied() && !w.env.cut[h] && !w.env.fault && !w.env.lost[0]
			}, func(w *models, h int) { w.env.denied[h] = true; w.disturb(h) }),
			atHost("address allowed of", h, func(w *models, h int) bool { return w.env.denied[h] }, func(w *models, h int) { w.env.denied[h] = false; w.disturb(h) }),
			atHost("link cut of", h, func(w *models, h int) bool { return !w.env.cut[h] && !w.env.denied[h] }, func(w *models, h int) { w.env.cut[h], w.exchanged, w.ideal = true, w.now, false }),
			atHost("link mended of", h, func(w *models, h int) bool { return w.env.cut[h] }, func(w *models, h int) { w.env.cut[h], w.exchanged, w.ideal = false, w.now, false }),
			atHost("reboot and clock forward of", h, nil, func(w *models, h int) { w.shift[h] += 3 * modelI; w.restart(h) }),
			atHost("reboot and clock back of", h, nil, func(w *models, h int) { w.restart(h); w.step(h, ClockWentBack{}) }))
	}
	return out
}

// customers are the moves of people who own the key.
func customers() []move {
	set := func(name string, p Policy) move {
		return move{"policy " + name, func(w *models) bool { return w.policy.Mode != p.Mode }, func(w *models) { w.setPolicy(p) }}
	}
	revoke := func(name string, r kms.Reason) move {
		return move{name, func(w *models) bool { return w.env.revoked == "" }, func(w *models) { w.revoke(r) }}
	}
	return []move{
		revoke("key disabled", kms.KeyDisabled), revoke("role taken away", kms.RoleNotAssumable),
		{"key given back", func(w *models) bool { return w.env.revoked != "" }, func(w *models) { w.revoke("") }},
		{"new generation", func(w *models) bool { return w.env.revoked == "" && w.outcome(0).Outcome == kms.OK }, (*models).commit},
		set("STOP", stopPolicy()), set("GRACE", gracePolicy()), set("ALERT", modelPolicy(ModeAlert, 0)),
	}
}

func modelPolicy(m Mode, grace time.Duration) Policy {
	return Policy{Interval: modelI, Mode: m, Grace: grace, shortW: modelW}.Normal()
}

func stopPolicy() Policy  { return modelPolicy(ModeStop, 0) }
func gracePolicy() Policy { return modelPolicy(ModeGrace, time.Minute) }

// lively checks what has to have happened by now.
func (w *models) lively() {
	calm := max(w.env.changed, w.exchanged)
	for h := 1; h < 3 && w.broken == ""; h++ {
		v := w.all[h].Verdict
		own := max(w.env.changed, w.disturbed[h])
		able := !w.env.fault && !w.env.lost[h]
		switch {
		case !able:
		case w.env.revoked != "" && !w.env.revoked.Local() && !w.env.denied[h]:
			if !v.confirmed() && w.now-own > modelI+modelC {
				w.fail("%s is %s %v after the key was taken away from all", nameOf(h), v, w.now-own)
			}
		case w.env.revoked != "":
			last := max(own, calm, w.disturbed[0], w.disturbed[1], w.disturbed[2])
			if !v.confirmed() && w.now-last > modelI+modelC+3*modelW+tick {
				w.fail("%s is %s %v after the key or role was taken away from all", nameOf(h), v, w.now-last)
			}
			// Somebody else could tell: everybody was VALID, and nothing but this happened.
			if w.ideal && !v.confirmed() && w.now-w.env.changed > modelI+2*modelC+2*tick {
				w.fail("%s is %s %v after the role was taken away, and the others could tell", nameOf(h), v, w.now-w.env.changed)
			}
		case !w.env.denied[h]:
			if v != Valid && w.now-own > modelI+tick {
				w.fail("%s is %s %v after everything came back", nameOf(h), v, w.now-own)
			}
		}
	}
}

// search goes through all that the moves can do within so many ticks and moves, breadth
// first, and fails with the shortest way to what must not be. It gives the number of
// states seen.
func search(t *testing.T, start *models, all []move, ticks, depth, limit int) int {
	t.Helper()
	type node struct {
		w      *models
		parent int
		move   string
		left   int
	}
	nodes := []node{{w: start, parent: -1, left: depth}}
	seen := map[uint64]bool{start.hash(depth): true}
	frontier := []int{0}
	trace := func(i int) string {
		var lines []string
		for ; i > 0; i = nodes[i].parent {
			lines = append(lines, nodes[i].move)
		}
		slices.Reverse(lines)
		return strings.Join(lines, "\n")
	}
	for range ticks {
		var next []int
		for _, i := range frontier {
			from := nodes[i]
			nodes[i].w = nil
			try := func(name string, m *move) {
				w := from.w.clone()
				left := from.left
				if m != nil {
					m.make(w)
					left--
				}
				w.turn()
				w.lively()
				nodes = append(nodes, node{parent: i, move: fmt.Sprintf("%6v %-40s %s", w.now-start.now, name, w)})
				if w.broken != "" {
					t.Fatalf("%s\nstart: %s\n%s", w.broken, start, trace(len(nodes)-1))
				}
				h := w.hash(left)
				if seen[h] {
					nodes = nodes[:len(nodes)-1]
					return
				}
				seen[h] = true
				nodes[len(nodes)-1].w, nodes[len(nodes)-1].left = w, left
				next = append(next, len(nodes)-1)
			}
			try("", nil)
			if from.left == 0 || len(nodes) > limit {
				continue
			}
			for k := range all {
				if m := &all[k]; m.allowed == nil || m.allowed(from.w) {
					try(m.name, m)
				}
			}
		}
		frontier = next
	}
	return len(seen)
}

// starts are the situations that a search begins in: quiet, and what a revocation or a
// refused address has brought.
func starts() map[string]*models {
	out := map[string]*models{}
	add := func(name string, p Policy, prepare func(w *models), ticks int) {
		w := newModels(p)
		if prepare != nil {
			prepare(w)
		}
		for range ticks {
			w.turn()
		}
		out[name] = w
	}
	add("valid", stopPolicy(), nil, 0)
	add("one refused", stopPolicy(), func(w *models) { w.env.denied[1] = true; w.disturb(1) }, 8)
	add("disabled, suspect", stopPolicy(), func(w *models) { w.revoke(kms.KeyDisabled) }, 3)
	add("role away, suspect", stopPolicy(), func(w *models) { w.revoke(kms.RoleNotAssumable) }, 4)
	add("disabled, invalid", stopPolicy(), func(w *models) { w.revoke(kms.KeyDisabled) }, 10)
	add("disabled, grace", gracePolicy(), func(w *models) { w.revoke(kms.KeyDisabled) }, 10)
	add("disabled, alert", modelPolicy(ModeAlert, 0), func(w *models) { w.revoke(kms.KeyDisabled) }, 10)
	add("one unreachable", stopPolicy(), func(w *models) { w.env.lost[2] = true; w.disturb(2) }, 6)
	add("one cut off", stopPolicy(), func(w *models) { w.env.cut[1] = true }, 8)
	return out
}

// size reads how much is searched: KEYWRIGHT_MODEL_CHECK multiplies the number of states.
func size(t *testing.T, states int) int {
	t.Helper()
	if testing.Short() {
		states /= 8
	}
	if n, err := strconv.Atoi(os.Getenv("KEYWRIGHT_MODEL_CHECK")); err == nil && n > 0 {
		states *= n
	}
	return states
}

// moves is how many moves the adversary has; KEYWRIGHT_MODEL_MOVES gives another number.
func moves() int {
	if n, err := strconv.Atoi(os.Getenv("KEYWRIGHT_MODEL_MOVES")); err == nil && n > 0 {
		return n
	}
	return 3
}

// TestModelOfFaults: whatever happens without a customer's will, nothing stops, and all
// returns (key-plane section 1, the claim above the table).
func TestModelOfFaults(t *testing.T) {
	for _, name := range []string{"valid", "one refused", "one unreachable", "one cut off"} {
		n := search(t, starts()[name], faults(), 40, moves(), size(t, 3_000))
		t.Logf("%s: %d states", name, n)
	}
}

// TestModelOfRevocations adds what the key's owner does.
func TestModelOfRevocations(t *testing.T) {
	all := starts()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		n := search(t, all[name], append(customers(), faults()...), 40, moves(), size(t, 2_000))
		t.Logf("%s: %d states", name, n)
	}
}
