package inventory_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// wrapped is a wrap under a customer key.
func wrapped(t *testing.T, arn string) []byte {
	t.Helper()
	b, err := envelope.Wrapped{Version: envelope.Version, KeyARN: arn, Ciphertext: []byte("x"), Created: time.Unix(1e9, 0)}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encrypted() store.ClusterSettings {
	return store.ClusterSettings{EncryptionProvider: "AWS", Specs: []store.ReplicationSpec{{
		Regions: []store.RegionConfig{{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}},
	}}}
}

// expect asks about a key as somebody.
func expect(t *testing.T, w *controltest.World, who tenant.Principal, arn string, want inventory.Verdict, kinds ...inventory.Kind) inventory.Entry {
	t.Helper()
	e, err := inventory.New(w.Store).Get(t.Context(), who, w.Org, arn)
	if err != nil {
		t.Fatal(err)
	}
	var got []inventory.Kind
	for _, r := range e.Reasons {
		got = append(got, r.Kind)
	}
	if e.Verdict != want || !slices.Equal(got, kinds) {
		t.Helper()
		t.Errorf("%s %v, want %s %v: %+v", e.Verdict, got, want, kinds, e.Reasons)
	}
	return e
}

func touch(w *controltest.World, host keys.HostID, change func(*store.Host)) {
	w.T.Helper()
	w.Must(w.Store.Tx(w.T.Context(), func(tx *store.Tx) error {
		h, err := tx.Host(host)
		if err != nil {
			return err
		}
		change(&h)
		return tx.PutHost(h)
	}))
}

// A key's whole life: in force, with a cluster, away from its host, switched off.
func TestAKeyIsNeededUntilNothingIsUnderIt(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("Shop")
	view, _ := w.Enable(p.ID)
	arn := view.KeyARN
	expect(t, w, w.Owner, arn, inventory.MustKeep, inventory.ConfigurationInForce)

	host := w.Host("host")
	agent := controltest.NewAgent(host)
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "db", encrypted())
	w.Must(err)
	w.Must(agent.Step(w))
	key := keys.NewKeyID()
	wrap := agentlink.EscrowedWrap{
		Node: c.Nodes[0].ID, Project: p.ID, Cluster: c.ID, Key: key, Purpose: keys.PurposeMasterKey, State: keys.StateActive,
		Generation: 1, Revision: 1, Wrapped: wrapped(t, arn), Created: time.Now(),
	}
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{wrap}))
	expect(t, w, w.Owner, arn, inventory.MustKeep, inventory.ConfigurationInForce, inventory.OrphanWrap)
	st := agent.Nodes[wrap.Node]
	st.MasterKey = key
	agent.Nodes[wrap.Node] = st
	w.Must(w.Cluster.Status(t.Context(), host, agent.Status()))
	e := expect(t, w, w.Owner, arn, inventory.MustKeep, inventory.ConfigurationInForce, inventory.ActiveWrap)
	if n := e.Counts(); n != (inventory.Counts{Projects: 1, Clusters: 1, Nodes: 1, Wraps: 1, Hosts: 1}) {
		t.Errorf("counts %+v", n)
	}
	all, err := inventory.New(w.Store).List(t.Context(), w.Owner, w.Org)
	if err != nil || len(all) != 1 || all[0].KeyARN != arn || all[0].Verdict != inventory.MustKeep {
		t.Errorf("inventory %+v, %v", all, err)
	}

	// The cluster goes, and while its host has not carried that out, nothing is free.
	w.Must(w.Cluster.Delete(t.Context(), w.Owner, p.ID, "db"))
	w.Start()
	w.Must(agent.Step(w))
	controltest.Eventually(t, "the cluster is gone", func() bool {
		cs, err := w.Cluster.List(t.Context(), w.Owner, p.ID)
		return err == nil && len(cs) == 0
	})
	expect(t, w, w.Owner, arn, inventory.MustKeep, inventory.ConfigurationInForce)
	off := false
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}})
	w.Must(err)
	expect(t, w, w.Owner, arn, inventory.MayDelete, inventory.NotNeeded)

	// It is remembered when its project is gone too.
	w.Must(w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID))
	expect(t, w, w.Owner, arn, inventory.MayDelete, inventory.NotNeeded)
	expect(t, w, w.Owner, "arn:aws:kms:us-east-1:111122223333:key/another", inventory.Unknown, inventory.NeverSeen)
}

// What hosts say, and that they say nothing, counts.
func TestHostsThatCannotBeAskedLeaveItOpen(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("Shop")
	view, _ := w.Enable(p.ID)
	host := w.Host("host")
	agent := controltest.NewAgent(host)
	plain := encrypted()
	plain.EncryptionProvider = "NONE"
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "db", plain)
	w.Must(err)
	off := false
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}})
	w.Must(err)
	arn := view.KeyARN
	expect(t, w, w.Owner, arn, inventory.Unknown, inventory.HostSilent) // enrolled, never heard of
	w.Must(agent.Step(w))
	expect(t, w, w.Owner, arn, inventory.MayDelete, inventory.NotNeeded)

	touch(w, host, func(h *store.Host) { h.LastSeen = h.LastSeen.Add(-time.Hour) })
	expect(t, w, w.Owner, arn, inventory.Unknown, inventory.HostSilent)
	touch(w, host, func(h *store.Host) { h.LastSeen, h.Holdings = time.Now(), nil })
	expect(t, w, w.Owner, arn, inventory.Unknown, inventory.HostUntold)
	agent.Holdings = []agentlink.KeyHolding{{KeyARN: arn, Wraps: 1, Unescrowed: 1}}
	w.Must(agent.Step(w))
	expect(t, w, w.Owner, arn, inventory.MustKeep, inventory.WrapOnHost)
	agent.Holdings = []agentlink.KeyHolding{{Wraps: 1}}
	w.Must(agent.Step(w))
	expect(t, w, w.Owner, arn, inventory.Unknown, inventory.HostUnreadable)
	agent.Holdings = []agentlink.KeyHolding{}
	agent.Revision = 1000
	w.Must(w.Cluster.Status(t.Context(), host, agent.Status()))
	expect(t, w, w.Owner, arn, inventory.Unknown, inventory.HostFrozen)
}

// A wrap that cannot be read could be under any key.
func TestDamagedWrapsLeaveItOpen(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("Shop")
	view, _ := w.Enable(p.ID)
	off := false
	_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}})
	w.Must(err)
	host := w.Host("host")
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		return tx.PutEscrow(store.EscrowedWrap{Key: keys.NewKeyID(), Generation: 1, Revision: 1, Node: "n", Host: host, Project: p.ID, Wrapped: []byte("damaged")})
	}))
	expect(t, w, w.Owner, view.KeyARN, inventory.Unknown, inventory.WrapUnreadable)
}

// Who sees a part only is never told that the whole does not need a key, nor what does.
func TestOthersUseKeepsTheAnswerOpen(t *testing.T) {
	w := controltest.New(t)
	mine, other := w.Project("Mine"), w.Project("Other")
	view, target := w.Enable(mine.ID)
	r, err := w.Access.Register(t.Context(), w.Owner, other.ID)
	w.Must(err)
	w.AWS.Trust(target, r.ExternalID)
	r, err = w.Access.Authorize(t.Context(), w.Owner, other.ID, r.ID, target.RoleARN)
	w.Must(err)
	_, err = w.CMK.Update(t.Context(), w.Owner, other.ID, controltest.Patch(r.ID, target.KeyID, "US_EAST_1"))
	w.Must(err)
	off := false
	_, err = w.CMK.Update(t.Context(), w.Owner, mine.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}})
	w.Must(err)
	expect(t, w, w.Owner, view.KeyARN, inventory.MustKeep, inventory.ConfigurationInForce)
	some := w.Key([]tenant.Role{tenant.OrgMember}, mine.ID, tenant.GroupReadOnly)
	e := expect(t, w, some, view.KeyARN, inventory.Unknown, inventory.NotVisible)
	for _, c := range e.Configurations {
		if c.Project != mine.ID {
			t.Errorf("told of %+v", c)
		}
	}
	if _, err := inventory.New(w.Store).List(t.Context(), w.Owner, keys.OrgID(keys.NewID(time.Now()))); apierr.Code(err) != "ORG_NOT_FOUND" {
		t.Errorf("another organization: %v", err)
	}
}

func TestOnlyARNsOfKeysAreAskedAbout(t *testing.T) {
	for _, bad := range []string{"", "1234", "alias/x", "arn:aws:kms:us-east-1:1:alias/x", "arn:aws:s3:::b", "arn:aws:kms:us-east-1:111122223333:key/", "arn:aws:kms::111122223333:key/1"} {
		if err := inventory.CheckARN(bad); apierr.Code(err) != "INVALID_ATTRIBUTE" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := inventory.CheckARN("arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1"); err != nil {
		t.Error(err)
	}
}

// A change needs the new key while it is prepared, and the old one as long as it can be
// rolled back to; then the wraps that both made tell which one is needed.
func TestChangesNeedBothKeys(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("Shop")
	view, _ := w.Enable(p.ID)
	const next = "arn:aws:kms:eu-west-1:111122223333:key/next"
	host := w.Host("host")
	agent := controltest.NewAgent(host)
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "db", encrypted())
	w.Must(err)
	w.Must(agent.Step(w))
	key := keys.NewKeyID()
	wrap := agentlink.EscrowedWrap{
		Node: c.Nodes[0].ID, Project: p.ID, Cluster: c.ID, Key: key, Purpose: keys.PurposeMasterKey, State: keys.StateActive,
		Generation: 1, Revision: 1, Wrapped: wrapped(t, view.KeyARN), Created: time.Now(),
	}
	st := agent.Nodes[wrap.Node]
	st.MasterKey = key
	agent.Nodes[wrap.Node] = st
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{wrap}))
	w.Must(w.Cluster.Status(t.Context(), host, agent.Status()))
	change := store.KeyChange{Project: p.ID, Generation: 2, State: store.ChangeStaging, Candidate: view.KeyConfig}
	change.Candidate.KeyARN, change.Candidate.Generation = next, 2
	put := func(configs ...store.KeyConfig) {
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
			for _, c := range configs {
				if err := tx.PutKeyConfig(c); err != nil {
					return err
				}
			}
			return tx.PutKeyChange(change)
		}))
	}
	put()
	expect(t, w, w.Owner, next, inventory.MustKeep, inventory.ConfigurationStaged)
	expect(t, w, w.Owner, view.KeyARN, inventory.MustKeep, inventory.ConfigurationInForce, inventory.ActiveWrap)

	wrap.Generation, wrap.Wrapped = 2, wrapped(t, next)
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{wrap}))
	change.State, change.Previous, change.Retires = store.ChangeCommitted, view.KeyConfig, time.Now().Add(time.Hour)
	put(change.Candidate)
	w.Must(agent.Step(w))
	expect(t, w, w.Owner, next, inventory.MustKeep, inventory.ConfigurationInForce, inventory.ActiveWrap)
	e := expect(t, w, w.Owner, view.KeyARN, inventory.MustKeep, inventory.ConfigurationRetained, inventory.RollbackWrap)
	if !e.OnlyRollback {
		t.Error("the old key is needed for more than a rollback")
	}

	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error { return tx.DropEscrow(key, 1) }))
	change.State = store.ChangeRetired
	put()
	expect(t, w, w.Owner, view.KeyARN, inventory.MayDelete, inventory.NotNeeded)
}
