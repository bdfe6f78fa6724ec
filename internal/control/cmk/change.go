package cmk

import (
	"fmt"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// Retention is how long wraps of a configuration stay after another one was committed
// (key-plane section 4).
const Retention = 30 * 24 * time.Hour

// HostProgress is how far a host is with a project's wraps.
type HostProgress struct {
	Host     keys.HostID
	Hostname string
	// Silent tells that the host has not reported lately.
	Silent bool
	// Told is false for a host that has never said anything about wraps.
	Told bool
	agentlink.WrapStatus
}

// ready tells whether the host has proven every kept key for the candidate.
func (h HostProgress) ready(generation uint64) bool {
	return h.Told && h.Staging == generation && h.Done == h.Total && h.Failure == nil
}

// facts is what the next state of a change is decided from.
type facts struct {
	now time.Time
	// verdict and reason are the project's, on the configuration in force.
	verdict custody.Verdict
	reason  kms.Reason
	// proven: the control plane's newest run with the candidate was OK. refused and
	// refusedCode say why it is refused, once that is confirmed.
	proven               bool
	refused, refusedCode string
	// hosts are those that keep keys of the project.
	hosts []HostProgress
	// unwrapped counts the kept keys that escrow has no wrap of for the candidate (while
	// it is staged), or for the configuration in force.
	unwrapped int
	// elsewhere says what else needs the key of the configuration before.
	elsewhere string
	// reused: the key of the configuration to be dropped is in use, or kept for another
	// rollback.
	reused bool
	// order is the number of the next order to drop wraps.
	order uint64
}

// decide gives the change as it is next. It is the state machine of key-plane section 4:
//
//	STAGING ⇄ PAUSED        the key in force was taken away, and comes back
//	STAGING, PAUSED → ABORTED    the candidate is refused
//	STAGING → COMMITTED     every host has proven every kept key
//	COMMITTED               → safe: every host acts on it, nothing else needs the old key
//	COMMITTED → RETIRED     after Retention; wraps of the old key are dropped
func decide(c store.KeyChange, f facts) store.KeyChange {
	switch {
	case c.Staged():
		return decideStaged(c, f)
	case c.State == store.ChangeCommitted:
		c = decideCommitted(c, f)
	}
	if c.Drop != nil && c.Dropped.IsZero() && all(f.hosts, func(h HostProgress) bool { return h.Dropped >= c.Drop.Order }) {
		c.Dropped = f.now
	}
	return c
}

func decideStaged(c store.KeyChange, f facts) store.KeyChange {
	if f.refused != "" {
		return aborted(c, f, f.refusedCode, f.refused)
	}
	for _, h := range f.hosts {
		if w := h.Failure; h.Staging == c.Generation && w != nil && w.Candidate && w.Confirmed && w.Outcome == kms.Revoked {
			return aborted(c, f, "CANDIDATE_REFUSED_ON_HOST", failureText(h, c))
		}
	}
	// The key in force is needed to wrap anew. Where its own role is refused the
	// candidate's leads to it.
	if c.Rewrap && !c.Rollback && f.verdict.Bad() && (!c.ViaCandidate || !f.reason.Local()) {
		why := fmt.Sprintf("The key in force, %s, is %s (%s): it is needed to wrap the kept keys anew. The change goes on when it can be used again.", c.Previous.KeyARN, f.verdict, f.reason)
		return enter(c, f, store.ChangePaused, why)
	}
	if c.State == store.ChangePaused {
		c = enter(c, f, store.ChangeStaging, "")
	}
	if f.proven && f.unwrapped == 0 && all(f.hosts, func(h HostProgress) bool { return h.ready(c.Generation) }) {
		c = enter(c, f, store.ChangeCommitted, "")
		c.Committed, c.Retires = f.now, f.now.Add(Retention)
		if Switches(c.Previous, c.Candidate) {
			c.Retires = f.now // there is no way back to an access key
		}
	}
	return c
}

func decideCommitted(c store.KeyChange, f facts) store.KeyChange {
	done := f.unwrapped == 0 && all(f.hosts, func(h HostProgress) bool { return h.Committed >= c.Generation })
	if done && f.elsewhere == "" && c.Safe.IsZero() {
		c.Safe = f.now
	}
	if !done || f.now.Before(c.Retires) {
		return c
	}
	c = enter(c, f, store.ChangeRetired, "")
	if c.Rewrap && !f.reused {
		c.Drop = &store.WrapDrop{Order: f.order, KeyARN: c.Previous.KeyARN, To: c.Generation - 1}
	}
	return c
}

// aborted ends a change that is being prepared; what was prepared is dropped.
func aborted(c store.KeyChange, f facts, code, why string) store.KeyChange {
	c = enter(c, f, store.ChangeAborted, why)
	c.Code = code
	if !c.Rewrap {
		return c // nothing was wrapped
	}
	c.Drop = &store.WrapDrop{Order: f.order, KeyARN: c.Candidate.KeyARN, From: c.Generation, To: c.Generation}
	return c
}

func enter(c store.KeyChange, f facts, state, why string) store.KeyChange {
	if c.State != state {
		c.State, c.Since = state, f.now
	}
	c.Why, c.Code = why, ""
	return c
}

func all(hosts []HostProgress, ok func(HostProgress) bool) bool {
	for _, h := range hosts {
		if !ok(h) {
			return false
		}
	}
	return true
}

// failureText says what a host was refused, and the statement that was missing.
func failureText(h HostProgress, c store.KeyChange) string {
	w := h.Failure
	var b strings.Builder
	fmt.Fprintf(&b, "Host %s could not open a kept key with the new configuration: %s was refused (%s).", h.Hostname, orWord(string(w.Operation), "a call"), w.Reason)
	if w.Key != "" {
		fmt.Fprintf(&b, " The key is %s.", w.Key)
	}
	if w.Permission != "" {
		fmt.Fprintf(&b, " Missing: %s", w.Permission)
		if strings.HasPrefix(w.Permission, "kms:") {
			fmt.Fprintf(&b, "; a statement that allows it for every kept key, whatever its encryption context: %s", statement(needed(), c.Candidate.KeyARN, ""))
		}
		b.WriteString(".")
	}
	for _, s := range []string{w.Detail, w.Remedy} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	return b.String()
}

func orWord(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
