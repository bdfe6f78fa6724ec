package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
)

// resyncEvery is the time between two comparisons of the host's wraps with escrow. The
// first one comes with the first report, another one after changes were frozen: a store
// that was restored has forgotten wraps that it had confirmed.
const resyncEvery = time.Hour

// aboutMissing is the alarm about keys that escrow has and this host has not.
const aboutMissing = "missing keys"

// resync compares the wraps of this host with those in escrow. What escrow lacks, or has
// in an older form, is sent again, since a confirmation of before the store was restored
// is worth nothing. What this host lacks is told: `agent recover` puts it back.
func (v *vault) resync(ctx context.Context, kept func(context.Context) ([]agentlink.EscrowedWrap, error)) error {
	before := v.store.All()
	there, err := kept(ctx)
	if err != nil {
		return fmt.Errorf("compare wrapped keys with escrow: %w", err)
	}
	type place struct {
		key        keys.KeyID
		generation uint64
	}
	revisions, held := map[place]uint64{}, map[keys.KeyID]uint64{}
	for _, w := range there {
		revisions[place{w.Key, w.Generation}] = w.Revision
		held[w.Key] = max(held[w.Key], w.Revision)
	}
	forgotten := 0
	for _, r := range before {
		if now, ok := v.store.Get(r.Key); !ok || now.Revision != r.Revision || r.Escrowed == 0 {
			continue // it is on its way
		}
		lacks := false
		for _, w := range r.Wraps() {
			have, ok := revisions[place{r.Key, w.Generation}]
			lacks = lacks || !ok || have < r.Escrowed
		}
		if have, ok := held[r.Key]; ok && !r.State.Readable() && have < r.Escrowed {
			lacks = true
		}
		if !lacks || held[r.Key] > r.Revision {
			continue
		}
		forgotten++
		if err := v.store.Unconfirm(r.Key); err != nil {
			return err
		}
	}
	if forgotten > 0 {
		v.log.Warn("escrow has lost wrapped keys of this host; they are sent again", "keys", forgotten)
		return v.recorder.record(ctx, audit.Event{
			Type: "ESCROW_HAD_FORGOTTEN", Message: "Wrapped keys that escrow had confirmed were missing or older there; they are sent again.",
			Data: map[string]string{"keys": fmt.Sprint(forgotten)},
		})
	}
	v.tellMissing(there)
	return nil
}

// tellMissing raises an alarm about keys that escrow has and this host has not, or has in
// an older form.
func (v *vault) tellMissing(there []agentlink.EscrowedWrap) {
	missing := map[keys.KeyID]bool{}
	for _, w := range there {
		if r, ok := v.store.Get(w.Key); w.State.Readable() && (!ok || r.Revision < w.Revision) {
			missing[w.Key] = true
		}
	}
	if len(missing) == 0 {
		v.alarms.clear(aboutMissing)
	} else {
		v.alarms.raise(aboutMissing, fmt.Sprintf("%d wrapped keys in escrow are missing or older on this host: its directory was lost or restored; stop the agent and run `keywright agent recover`", len(missing)))
	}
}

// resync compares with escrow when it is time to; what has to be sent goes with the next
// report.
func (r *reporter) resync(ctx context.Context) {
	thawed := r.a.wishes.thaws()
	if thawed == r.thawed && time.Now().Before(r.resyncAt) {
		return
	}
	if err := r.a.vault.resync(ctx, r.a.link.Wraps); err != nil {
		r.a.log.Warn("wrapped keys were not compared with escrow, trying again", "error", err)
		r.resyncAt = time.Now().Add(refusedPause)
		return
	}
	r.thawed, r.resyncAt = thawed, time.Now().Add(resyncEvery)
	if len(r.a.vault.store.Unescrowed()) > 0 {
		r.poke()
	}
}
