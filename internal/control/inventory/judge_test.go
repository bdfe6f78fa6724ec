package inventory_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/keys"
)

const arn = "arn:aws:kms:us-east-1:111122223333:key/1"

func conf(u inventory.Use) inventory.Configuration {
	return inventory.Configuration{Project: "p", Name: "Shop", Use: u, Until: time.Unix(1e9, 0)}
}

func wrap(state keys.State, change ...func(*inventory.Wrap)) inventory.Wrap {
	w := inventory.Wrap{Project: "p", ProjectName: "Shop", Cluster: "c", ClusterName: "db", Node: "n", Host: "h", Hostname: "host", Key: "k", State: state}
	for _, c := range change {
		c(&w)
	}
	return w
}

func inUse(w *inventory.Wrap)   { w.InUse = true }
func covered(w *inventory.Wrap) { w.Covered = true }

func host(change func(*inventory.Host)) inventory.Host {
	h := inventory.Host{ID: "h", Hostname: "host", LastSeen: time.Unix(1e9, 0), Tells: true}
	if change != nil {
		change(&h)
	}
	return h
}

// The verdict: each line is a promise. Only a key that was here, and of which everything
// is known, may be deleted.
func TestVerdict(t *testing.T) {
	past, fine := conf(inventory.Past), host(nil)
	type facts = inventory.Facts
	for name, tc := range map[string]struct {
		f     facts
		want  inventory.Verdict
		kinds []inventory.Kind
	}{
		"nothing known at all":        {facts{}, inventory.Unknown, []inventory.Kind{inventory.NeverSeen}},
		"once used, all hosts fine":   {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{fine}}, inventory.MayDelete, []inventory.Kind{inventory.NotNeeded}},
		"once used, no host left":     {facts{Configurations: []inventory.Configuration{past}}, inventory.MayDelete, []inventory.Kind{inventory.NotNeeded}},
		"in force without any wrap":   {facts{Configurations: []inventory.Configuration{conf(inventory.InForce)}}, inventory.MustKeep, []inventory.Kind{inventory.ConfigurationInForce}},
		"staged":                      {facts{Configurations: []inventory.Configuration{conf(inventory.Staged)}}, inventory.MustKeep, []inventory.Kind{inventory.ConfigurationStaged}},
		"kept for a rollback":         {facts{Configurations: []inventory.Configuration{conf(inventory.Retained)}}, inventory.MustKeep, []inventory.Kind{inventory.ConfigurationRetained}},
		"key in use":                  {facts{Configurations: []inventory.Configuration{past}, Wraps: []inventory.Wrap{wrap(keys.StateActive, inUse)}}, inventory.MustKeep, []inventory.Kind{inventory.ActiveWrap}},
		"replaced key":                {facts{Wraps: []inventory.Wrap{wrap(keys.StateDeactivated)}}, inventory.MustKeep, []inventory.Kind{inventory.DeactivatedWrap}},
		"pending destruction":         {facts{Wraps: []inventory.Wrap{wrap(keys.StatePendingDestruction)}}, inventory.MustKeep, []inventory.Kind{inventory.DeactivatedWrap}},
		"left by a broken creation":   {facts{Wraps: []inventory.Wrap{wrap(keys.StatePreActive)}}, inventory.MustKeep, []inventory.Kind{inventory.OrphanWrap}},
		"destroyed without an order":  {facts{Wraps: []inventory.Wrap{wrap(keys.StateDestroyed)}}, inventory.MustKeep, []inventory.Kind{inventory.OrphanWrap}},
		"wrapped elsewhere too":       {facts{Wraps: []inventory.Wrap{wrap(keys.StateActive, inUse, covered)}}, inventory.MustKeep, []inventory.Kind{inventory.RollbackWrap}},
		"snapshot":                    {facts{Configurations: []inventory.Configuration{past}, Snapshots: []inventory.Snapshot{{ID: "s"}}}, inventory.MustKeep, []inventory.Kind{inventory.SnapshotKey}},
		"on a disk, not in escrow":    {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Holds = 2 })}}, inventory.MustKeep, []inventory.Kind{inventory.WrapOnHost}},
		"silent host":                 {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{fine, host(func(h *inventory.Host) { h.Silent = true })}}, inventory.Unknown, []inventory.Kind{inventory.HostSilent}},
		"frozen host":                 {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Frozen = "older." })}}, inventory.Unknown, []inventory.Kind{inventory.HostFrozen}},
		"host has not acknowledged":   {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Behind = true })}}, inventory.Unknown, []inventory.Kind{inventory.HostBehind}},
		"old agent":                   {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Tells = false })}}, inventory.Unknown, []inventory.Kind{inventory.HostUntold}},
		"damaged wrap on a host":      {facts{Configurations: []inventory.Configuration{past}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Unreadable = 1 })}}, inventory.Unknown, []inventory.Kind{inventory.HostUnreadable}},
		"damaged wrap in escrow":      {facts{Configurations: []inventory.Configuration{past}, Unreadable: 1}, inventory.Unknown, []inventory.Kind{inventory.WrapUnreadable}},
		"something hidden":            {facts{Configurations: []inventory.Configuration{past}, Hidden: true}, inventory.Unknown, []inventory.Kind{inventory.NotVisible}},
		"only something hidden":       {facts{Hidden: true}, inventory.Unknown, []inventory.Kind{inventory.NotVisible}},
		"needed, and a host is away":  {facts{Configurations: []inventory.Configuration{conf(inventory.InForce)}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Silent = true })}}, inventory.MustKeep, []inventory.Kind{inventory.ConfigurationInForce, inventory.HostSilent}},
		"silent host with a last say": {facts{Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Silent, h.Holds = true, 1 })}}, inventory.MustKeep, []inventory.Kind{inventory.WrapOnHost, inventory.HostSilent}},
	} {
		tc.f.KeyARN = arn
		got, why := inventory.Judge(tc.f)
		var kinds []inventory.Kind
		for _, r := range why {
			kinds = append(kinds, r.Kind)
			if r.Message == "" || r.Remedy == "" {
				t.Errorf("%s: %s says not what it is or what would change it: %+v", name, r.Kind, r)
			}
		}
		if got != tc.want || !slices.Equal(kinds, tc.kinds) {
			t.Errorf("%s: %s %v, want %s %v", name, got, kinds, tc.want, tc.kinds)
		}
	}
}

// A node's wraps of one kind are one reason, which names the cluster, the host and the
// keys.
func TestWrapsAreToldByNode(t *testing.T) {
	second := wrap(keys.StateDeactivated)
	second.Key = "k2"
	_, why := inventory.Judge(inventory.Facts{KeyARN: arn, Wraps: []inventory.Wrap{wrap(keys.StateDeactivated), second, wrap(keys.StateActive, inUse)}})
	if len(why) != 2 || why[0].Kind != inventory.ActiveWrap || !slices.Equal(why[1].Keys, []keys.KeyID{"k", "k2"}) {
		t.Fatalf("%+v", why)
	}
	for _, word := range []string{"node n", "cluster db", "project Shop", "host host"} {
		if !strings.Contains(why[0].Message, word) {
			t.Errorf("%q lacks %q", why[0].Message, word)
		}
	}
}

func TestOnlyRollback(t *testing.T) {
	for name, tc := range map[string]struct {
		f    inventory.Facts
		want bool
	}{
		"rollback":             {inventory.Facts{Configurations: []inventory.Configuration{conf(inventory.Retained)}, Wraps: []inventory.Wrap{wrap(keys.StateActive, inUse, covered)}}, true},
		"and a host away":      {inventory.Facts{Configurations: []inventory.Configuration{conf(inventory.Retained)}, Hosts: []inventory.Host{host(func(h *inventory.Host) { h.Silent = true })}}, false},
		"and a wrap not anew":  {inventory.Facts{Configurations: []inventory.Configuration{conf(inventory.Retained)}, Wraps: []inventory.Wrap{wrap(keys.StateActive, inUse)}}, false},
		"nothing needs it":     {inventory.Facts{Configurations: []inventory.Configuration{conf(inventory.Past)}}, false},
		"another's in force":   {inventory.Facts{Configurations: []inventory.Configuration{conf(inventory.Retained), conf(inventory.InForce)}}, false},
		"nothing is known yet": {inventory.Facts{}, false},
	} {
		if got := inventory.OnlyRollback(inventory.Judge(tc.f)); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
