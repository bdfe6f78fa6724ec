package cluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// A chain that goes back, that ends otherwise at a known place, or that has another event
// at a known place is an alarm, once, and stays one until the host enrols again.
func TestARewrittenAuditChainIsNoticed(t *testing.T) {
	w := controltest.New(t)
	hash := func(c string) string { return strings.Repeat(c, 64) }
	say := func(h keys.HostID, seq uint64, head string, anchors ...agentlink.AuditAnchor) {
		t.Helper()
		w.Must(w.Cluster.Status(t.Context(), h, agentlink.Status{AuditSeq: seq, AuditHead: head, AuditAnchors: anchors}))
	}
	doubt := func(id keys.HostID) (out string) {
		w.Must(w.Store.View(t.Context(), func(tx *store.Tx) error {
			h, err := tx.Host(id)
			out = h.AuditDoubt
			return err
		}))
		return out
	}
	for name, c := range map[string]struct {
		then func(keys.HostID)
		says string
	}{
		"grows":           {func(h keys.HostID) { say(h, 21, hash("c"), agentlink.AuditAnchor{Seq: 10, Hash: hash("a")}) }, ""},
		"stays":           {func(h keys.HostID) { say(h, 20, hash("b")) }, ""},
		"unknown place":   {func(h keys.HostID) { say(h, 20, hash("b"), agentlink.AuditAnchor{Seq: 15, Hash: hash("d")}) }, ""},
		"goes-back":       {func(h keys.HostID) { say(h, 19, hash("b")) }, "ends at event 19"},
		"differs-at-end":  {func(h keys.HostID) { say(h, 20, hash("d")) }, "Event 20"},
		"differs-before":  {func(h keys.HostID) { say(h, 25, hash("d"), agentlink.AuditAnchor{Seq: 10, Hash: hash("e")}) }, "Event 10"},
		"lacks-the-event": {func(h keys.HostID) { say(h, 25, hash("d"), agentlink.AuditAnchor{Seq: 10, Hash: hash("0")}) }, "Event 10"},
	} {
		name = strings.ReplaceAll(name, " ", "-")
		h := w.Host(name)
		say(h, 10, hash("a"))
		say(h, 20, hash("b"))
		c.then(h)
		if got := doubt(h); (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
		if c.says == "" {
			continue
		}
		say(h, 40, hash("f")) // what comes later does not mend it
		if doubt(h) == "" {
			t.Errorf("%s: the doubt went by itself", name)
		}
		w.Host(name)
		if doubt(h) != "" {
			t.Errorf("%s: the doubt survives a new chain", name)
		}
		say(h, 1, hash("1"))
		if doubt(h) != "" {
			t.Errorf("%s: the new chain is held against the old one", name)
		}
	}
	w.Verify()
}

func TestAHostIsAskedForItsChainNowAndThen(t *testing.T) {
	w := controltest.New(t)
	c := cluster.New(cluster.Config{Store: w.Store, Custody: w.CMK, LinkCA: strings.Repeat("0", 64), AuditEvery: time.Hour})
	h := w.Host("h")
	ask := func() (out []uint64) {
		w.Must(w.Store.View(t.Context(), func(tx *store.Tx) (err error) {
			out, err = c.AuditAnchors(tx, h)
			return err
		}))
		return out
	}
	if got := ask(); got != nil {
		t.Errorf("asked for %v of a chain that is not known", got)
	}
	for i := range uint64(100) {
		w.Must(c.Status(t.Context(), h, agentlink.Status{AuditSeq: i + 1, AuditHead: strings.Repeat("a", 64)}))
	}
	got := ask()
	if len(got) < 3 || len(got) > 16 || got[0] != 100 {
		t.Errorf("%v", got)
	}
	if got[len(got)-1] >= 68 {
		t.Errorf("nothing old is asked for: %v", got)
	}
	if again := ask(); again != nil {
		t.Errorf("asked again at once: %v", again)
	}
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) error {
		if kept, err := tx.HostHeads(h); err != nil || len(kept) > 40 || len(kept) < 20 {
			t.Errorf("%d heads are kept, %v", len(kept), err)
		}
		return nil
	}))
}
