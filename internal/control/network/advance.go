package network

import (
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// kept is how many confirmed changes stay visible.
const kept = 20

// validator is what a machine last said about the project's key.
type validator struct {
	verdict  custody.Verdict
	reason   kms.Reason
	outcome  kms.Outcome
	lastRun  time.Time
	finished uint64
}

// ok tells whether a run that began after the change could use the key. The control
// plane does not count asked-for runs, but shares our clock.
func (v validator) ok(c store.AddressChange) bool {
	if v.outcome != kms.OK || !v.lastRun.After(c.LastRun) {
		return false
	}
	if c.Holder == "" {
		return v.lastRun.After(c.Changed)
	}
	return v.finished >= c.Validate
}

// observed is what is true of a project now.
type observed struct {
	now time.Time
	// validate is the counter that the next asked-for run will have.
	validate   uint64
	sources    map[keys.HostID]store.Source
	validators map[keys.HostID]validator
}

// kind is what happened to a project's addresses.
type kind string

const (
	changed   kind = "changed"   // a machine's addresses are others, or it is new
	left      kind = "left"      // a machine does not use the key any more
	confirmed kind = "confirmed" // a change waits no more
	denied    kind = "denied"    // a host is refused although others are not
	restored  kind = "restored"  // it is not refused any more
)

// happening is something that a person wants to know.
type happening struct {
	kind   kind
	holder keys.HostID
	change store.AddressChange
	reason kms.Reason
}

const byValidation = "validation"

// advance brings what was told of a project up to what is observed: a pure function.
func advance(told store.ProjectNetwork, o observed) (store.ProjectNetwork, []happening) {
	b := &book{observed: o, ProjectNetwork: store.ProjectNetwork{
		Project: told.Project, Sources: maps.Clone(told.Sources), Changes: slices.Clone(told.Changes), Denied: maps.Clone(told.Denied),
	}}
	if b.Denied == nil {
		b.Denied = map[keys.HostID]time.Time{}
	}
	if b.Sources == nil {
		// What the key was configured with needs no telling.
		b.Sources = map[keys.HostID]store.Source{}
		for h, s := range o.sources {
			if len(s.Addresses) > 0 {
				b.Sources[h] = s
			}
		}
	}
	b.leave()
	b.change()
	b.confirm()
	b.deny()
	b.trim()
	return b.ProjectNetwork, b.happened
}

// book is what was told, on its way to what is observed.
type book struct {
	store.ProjectNetwork
	observed
	happened []happening
}

func (b *book) tell(k kind, c store.AddressChange, r kms.Reason) {
	b.happened = append(b.happened, happening{kind: k, holder: c.Holder, change: c, reason: r})
}

// leave drops the machines that do not use the key any more.
func (b *book) leave() {
	for _, h := range slices.Sorted(maps.Keys(b.Sources)) {
		if _, ok := b.sources[h]; ok {
			continue
		}
		s := b.Sources[h]
		delete(b.Sources, h)
		b.drop(h)
		b.tell(left, store.AddressChange{Holder: h, Hostname: s.Hostname, Old: s.Addresses, Changed: b.now}, "")
	}
}

// drop forgets a change that waits.
func (b *book) drop(h keys.HostID) {
	b.Changes = slices.DeleteFunc(b.Changes, func(c store.AddressChange) bool { return c.Holder == h && c.Confirmed.IsZero() })
}

// change notes the machines whose addresses are others than was told. One that does not
// know its addresses has not changed them.
func (b *book) change() {
	for _, h := range slices.Sorted(maps.Keys(b.sources)) {
		s := b.sources[h]
		before := b.Sources[h].Addresses
		if len(s.Addresses) == 0 || slices.Equal(before, s.Addresses) {
			continue
		}
		old := before
		for _, c := range b.Changes {
			if c.Holder == h && c.Confirmed.IsZero() {
				old = c.Old // what the customer's policies still have
			}
		}
		b.Sources[h] = s
		b.drop(h)
		c := store.AddressChange{
			Holder: h, Hostname: s.Hostname, Old: old, New: s.Addresses, Changed: b.now, Validate: b.validate, LastRun: b.validators[h].lastRun,
		}
		b.tell(changed, c, "")
		if !slices.Equal(old, s.Addresses) { // else it is back to what the policies have
			b.Changes = append(b.Changes, c)
		}
	}
}

// confirm ends the changes from whose addresses the key could be used.
func (b *book) confirm() {
	for i, c := range b.Changes {
		if c.Confirmed.IsZero() && b.validators[c.Holder].ok(c) {
			b.Changes[i].Confirmed, b.Changes[i].By = b.now, byValidation
			b.tell(confirmed, b.Changes[i], "")
		}
	}
}

// deny follows the hosts that are NETWORK_ACCESS_DENIED. One whose word is not to be had
// stays what it was.
func (b *book) deny() {
	for _, h := range slices.Sorted(maps.Keys(b.sources)) {
		v, heard := b.validators[h]
		_, was := b.Denied[h]
		s := b.sources[h]
		c := store.AddressChange{Holder: h, Hostname: s.Hostname, New: s.Addresses, Changed: b.now}
		switch {
		case h == "" || !heard:
		case v.verdict == custody.NAD && !was:
			b.Denied[h] = b.now
			b.tell(denied, c, v.reason)
		case v.verdict != custody.NAD && was:
			delete(b.Denied, h)
			if v.verdict == custody.Valid {
				b.tell(restored, c, "")
			}
		}
	}
	maps.DeleteFunc(b.Denied, func(h keys.HostID, _ time.Time) bool { _, here := b.sources[h]; return !here })
}

// trim bounds what is kept of confirmed changes.
func (b *book) trim() {
	done := 0
	for i := len(b.Changes) - 1; i >= 0; i-- {
		if b.Changes[i].Confirmed.IsZero() {
			continue
		}
		if done++; done > kept {
			b.Changes = slices.Delete(b.Changes, i, i+1)
		}
	}
}
