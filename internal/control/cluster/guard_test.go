package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

func nodes(n int) func(*store.RegionConfig) {
	return func(r *store.RegionConfig) { r.Electable.NodeCount = n }
}

func create(t *testing.T, w *controltest.World, p keys.ProjectID, name string, s store.ClusterSettings) cluster.View {
	t.Helper()
	v, err := w.Cluster.Create(t.Context(), w.Owner, p, name, s)
	w.Must(err)
	return v
}

// ofType gives the events of a type in the whole deployment.
func ofType(t *testing.T, w *controltest.World, kind string) (out []audit.Event) {
	t.Helper()
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) (err error) {
		out, _, err = tx.Events(store.EventFilter{Types: []string{kind}})
		return err
	}))
	return out
}

func TestNodeCounts(t *testing.T) {
	w := controltest.New(t)
	w.Host("h")
	p := w.Project("p")
	for _, n := range []int{1, 3, 5, 7} {
		v := create(t, w, p.ID, fmt.Sprintf("c%d", n), settings("NONE", nodes(n)))
		if got := v.Settings.Specs[0].Regions[0].Electable.NodeCount; got != n || len(v.Nodes) != 1 {
			t.Errorf("%d nodes: %d are stored, %d run", n, got, len(v.Nodes))
		}
	}
	before := get(t, w, p.ID, "c3")
	for _, n := range []int{-1, 0, 2, 4, 6, 8, 9, 51} {
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE", nodes(n)))
		_, change := w.Cluster.Update(t.Context(), w.Owner, p.ID, "c3", cluster.Patch{Specs: ptr(settings("", nodes(n)).Specs)})
		for what, err := range map[string]error{"create": err, "change": change} {
			if apierr.Code(err) != "INVALID_ATTRIBUTE" || !strings.Contains(err.Error(), "nodeCount") {
				t.Errorf("%s with %d nodes: %v", what, n, err)
			}
			if n > 0 && n < 50 && !strings.Contains(err.Error(), fmt.Sprintf("1, 3, 5 or 7 electable nodes, not %d", n)) {
				t.Errorf("%s with %d nodes does not say what is possible: %v", what, n, err)
			}
		}
	}
	if after := get(t, w, p.ID, "c3"); !reflect.DeepEqual(before, after) {
		t.Error("a refusal changed something")
	}
	if all, err := w.Cluster.List(t.Context(), w.Owner, p.ID); err != nil || len(all) != 4 {
		t.Errorf("%d clusters, %v", len(all), err)
	}
}

func TestHostsBelongToTheirOrganization(t *testing.T) {
	w := controltest.New(t)
	mine := w.Host("h")
	const org2 = keys.OrgID("0123456789abcdef01234567")
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error { return tx.PutOrg(store.Org{ID: org2, Name: "Other"}) }))
	k, _, err := w.Tenant.CreateAPIKey(t.Context(), tenant.System(), org2, tenant.NewAPIKey{OrgRoles: []tenant.Role{tenant.OrgOwner}})
	w.Must(err)
	other := w.Principal(k.PublicKey)
	if all, err := w.Cluster.Hosts(t.Context(), other); err != nil || len(all) != 0 {
		t.Errorf("another organization sees %+v, %v", all, err)
	}
	if all, err := w.Cluster.Hosts(t.Context(), w.Owner); err != nil || len(all) != 1 || all[0].Org != w.Org {
		t.Errorf("its own organization sees %+v, %v", all, err)
	}
	pr, err := w.Tenant.CreateProject(t.Context(), other, tenant.NewProject{Org: org2, Name: "p"})
	w.Must(err)
	if _, err := w.Cluster.Create(t.Context(), w.Principal(k.PublicKey), pr.ID, "c", settings("NONE")); apierr.Code(err) != "NO_CAPACITY" {
		t.Errorf("a cluster on somebody else's host: %v", err)
	}
	// A host's name does not let another organization take it over.
	token, err := w.Cluster.CreateToken(t.Context(), other, "h")
	w.Must(err)
	sign := func(keys.HostID) ([]byte, string, error) { return nil, "stolen", nil }
	if _, _, err := w.Cluster.Enroll(t.Context(), string(token.Token.Reveal()), "h", sign); apierr.Code(err) != "INVALID_ENROLMENT_TOKEN" {
		t.Errorf("a host was taken over: %v", err)
	}
	w.Must(w.Cluster.Admit(t.Context(), mine, "fingerprint-h"))
	if err := w.Cluster.Admit(t.Context(), mine, "stolen"); apierr.Code(err) != "HOST_NOT_ADMITTED" {
		t.Error(err)
	}
	// What happens to a host is read by its organization and by no other.
	w.Must(w.Cluster.Renewed(t.Context(), mine, "second"))
	for who, want := range map[keys.OrgID]bool{w.Org: true, org2: false} {
		events, _, err := w.Tenant.OrgEvents(t.Context(), map[keys.OrgID]tenant.Principal{w.Org: w.Owner, org2: other}[who], who, store.EventFilter{})
		w.Must(err)
		for _, kind := range []string{"HOST_ENROLLED", "HOST_CERTIFICATE_RENEWED"} {
			if got := slices.ContainsFunc(events, func(e audit.Event) bool { return e.Type == kind }); got != want {
				t.Errorf("organization %s reads %s: %v", who, kind, got)
			}
		}
	}
	w.Verify()
}

func TestAHostThatEnrolsAgainBeginsANewChain(t *testing.T) {
	w := controltest.New(t)
	host := w.Host("h")
	st := agentlink.Status{AuditSeq: 40, AuditHead: strings.Repeat("a", 64)}
	w.Must(w.Cluster.Status(t.Context(), host, st))
	if again := w.Host("h"); again != host {
		t.Fatalf("host %s became %s", host, again)
	}
	w.Must(w.Cluster.Status(t.Context(), host, agentlink.Status{AuditSeq: 1}))
	if n := len(ofType(t, w, "HOST_AUDIT_WENT_BACK")); n != 0 {
		t.Error("a host that lost its disk is called rolled back")
	}
	if e := ofType(t, w, "HOST_REENROLLED"); len(e) != 1 || e[0].Data["previousAuditSeq"] != "40" || e[0].Data["previousAuditHead"] != st.AuditHead {
		t.Errorf("%+v", e)
	}
	w.Must(w.Cluster.Status(t.Context(), host, agentlink.Status{AuditSeq: 0}))
	if n := len(ofType(t, w, "HOST_AUDIT_WENT_BACK")); n != 1 {
		t.Errorf("%d alarms of a host that was rolled back", n)
	}
}

// wrapOf escrows a key of a cluster's node.
func wrapOf(t *testing.T, w *controltest.World, host keys.HostID, c cluster.View) agentlink.EscrowedWrap {
	t.Helper()
	x := agentlink.EscrowedWrap{
		Node: c.Nodes[0].ID, Project: c.Project, Cluster: c.ID, Key: keys.NewKeyID(), Purpose: keys.PurposeMasterKey,
		State: keys.StateActive, Generation: 1, Revision: 1, Wrapped: []byte("wrapped"),
	}
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{x}))
	return x
}

// Whose key it is that a host has destroyed is known to the escrow; what the message
// says about it does not make a ciphertext go.
func TestAKeyInUseStaysInEscrowWhateverNodeIsNamed(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	used, gone := create(t, w, p.ID, "used", settings("AWS")), create(t, w, p.ID, "gone", settings("AWS"))
	x := wrapOf(t, w, host, used)
	w.Must(w.Cluster.Delete(t.Context(), w.Owner, p.ID, "gone"))
	for _, node := range []keys.NodeID{gone.Nodes[0].ID, keys.NodeID(strings.Repeat("0", 24)), ""} {
		lie := x
		lie.Node, lie.State, lie.Revision, lie.Wrapped = node, keys.StateDestroyed, 2, nil
		w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{lie}))
		if got, err := w.Cluster.Wraps(t.Context(), host); err != nil || len(got) != 1 || string(got[0].Wrapped) != "wrapped" {
			t.Fatalf("named node %q: %+v %v", node, got, err)
		}
	}
	if e := ofType(t, w, "NODE_KEY_DESTROYED"); len(e) != 1 || e[0].Node != string(x.Node) || e[0].Data["key"] != string(x.Key) || !strings.Contains(e[0].Message, "stays in escrow") {
		t.Errorf("events %+v", e)
	}
	w.Verify()
}

func TestANodeHasAtMostSoManyKeys(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	x := wrapOf(t, w, host, create(t, w, p.ID, "c", settings("AWS")))
	var many []agentlink.EscrowedWrap
	for range 999 {
		y := x
		y.Key = keys.NewKeyID()
		many = append(many, y)
	}
	w.Must(w.Cluster.Escrow(t.Context(), host, many))
	y := x
	y.Key = keys.NewKeyID()
	if err := w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{y}); apierr.Code(err) != "TOO_MANY_KEYS" {
		t.Fatal(err)
	}
	x.Revision, x.State = 2, keys.StateDeactivated
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{x}))
}

func TestWhatAHostRepeatsIsToldOnce(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	c := create(t, w, p.ID, "c", settings("AWS"))
	x := wrapOf(t, w, host, c)
	unasked := agentlink.Status{Buried: []keys.NodeID{c.Nodes[0].ID}}
	for range 3 {
		w.Must(w.Cluster.Status(t.Context(), host, unasked))
	}
	if n := len(ofType(t, w, "NODE_BURIED_WITHOUT_ORDER")); n != 1 {
		t.Errorf("%d alarms for one burial", n)
	}
	w.Must(w.Cluster.Status(t.Context(), host, agentlink.Status{}))
	w.Must(w.Cluster.Status(t.Context(), host, unasked))
	if n := len(ofType(t, w, "NODE_BURIED_WITHOUT_ORDER")); n != 2 {
		t.Errorf("%d alarms after it was taken back and said again", n)
	}
	older := x
	older.Wrapped = []byte("another")
	for round := 1; round <= 2; round++ {
		for range 3 {
			if err := w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{older}); apierr.Code(err) != "WRAP_IS_OLDER" {
				t.Fatal(err)
			}
		}
		if n := len(ofType(t, w, "HOST_ESCROW_REFUSED")); n != round {
			t.Errorf("%d alarms in round %d", n, round)
		}
		w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{x})) // all is well again
	}
}

func TestAHostsTextsAreBounded(t *testing.T) {
	w := controltest.New(t)
	host := w.Host("h")
	long := strings.Repeat("ä", 100_000) // a cut at an odd place goes through a character
	st := agentlink.Status{EgressAddresses: append(slices.Repeat([]string{"x" + long, "0.0.0.0/0"}, 100), "192.0.2.7"), Alarms: slices.Repeat([]string{"x" + long}, 100)}
	for range 2 {
		w.Must(w.Cluster.Status(t.Context(), host, st))
	}
	all, err := w.Cluster.Hosts(t.Context(), w.Owner)
	if err != nil || len(all[0].Egress) > 0 {
		t.Errorf("egress addresses %.100v, %v", all[0].Egress, err)
	}
	if n := len(ofType(t, w, "HOST_ALARM")); n > 20 {
		t.Errorf("%d events for the alarms of two messages", n)
	}
}

func TestAClusterIsDeletedWhileItsKeyIsAway(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("h"))
	c := create(t, w, p.ID, "c", settings("AWS"))
	step(t, w, a)
	wrapOf(t, w, a.Host, c)
	a.Verdict, a.Reason = custody.Invalid, kms.KeyDisabled
	step(t, w, a)
	v := get(t, w, p.ID, "c")
	for _, want := range []string{"KEY_DISABLED", kms.RemedyFor(kms.KeyDisabled, "")} {
		if !strings.Contains(v.Stopped+".", want) {
			t.Errorf("the cluster does not say %q: %s", want, v.Stopped)
		}
	}
	w.Must(w.Cluster.Delete(t.Context(), w.Owner, p.ID, "c"))
	if v := get(t, w, p.ID, "c"); v.State != cluster.Deleting {
		t.Errorf("state %s", v.State)
	}
	step(t, w, a)
	if len(a.Last.Tombstones) != 1 || !a.Last.Tombstones[0].DestroyKeys {
		t.Errorf("%+v", a.Last.Tombstones)
	}
	if _, err := w.Cluster.Get(t.Context(), w.Owner, p.ID, "c"); apierr.Code(err) != "CLUSTER_NOT_FOUND" {
		// the reconciler removes the record when DELETING was shown long enough
		w.Start()
		controltest.Eventually(t, "the cluster is gone", func() bool {
			_, err := w.Cluster.Get(context.Background(), w.Owner, p.ID, "c")
			return apierr.Code(err) == "CLUSTER_NOT_FOUND"
		})
	}
	if wraps, err := w.Cluster.Wraps(t.Context(), a.Host); err != nil || len(wraps) != 0 {
		t.Errorf("%+v %v", wraps, err)
	}
	_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}})
	w.Must(err)
	w.Verify()
}

func TestANodeThatFailsAfterItsKeyIsBackIsRepaired(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("h"))
	create(t, w, p.ID, "c", settings("AWS"))
	step(t, w, a)
	a.Verdict, a.Reason = custody.Invalid, kms.KeyDisabled
	step(t, w, a)
	a.Verdict, a.Reason, a.Stuck = custody.Valid, "", agentlink.PhaseStarting
	step(t, w, a)
	if v := get(t, w, p.ID, "c"); v.State != cluster.Idle || v.Stopped == "" {
		t.Errorf("on its way back: %s %q", v.State, v.Stopped)
	}
	a.Stuck = agentlink.PhaseFailed
	step(t, w, a)
	if v := get(t, w, p.ID, "c"); v.State != cluster.Repairing || v.Stopped != "" {
		t.Errorf("failed: %s %q", v.State, v.Stopped)
	}
	a.Stuck = ""
	step(t, w, a)
	if v := get(t, w, p.ID, "c"); v.State != cluster.Idle || v.Stopped != "" {
		t.Errorf("repaired: %s %q", v.State, v.Stopped)
	}
}

// Where the key cannot be checked a cluster waits, where it was taken away it is
// refused; clusters without customer keys do not care.
func TestTheVerdictDecidesAboutNewEncryption(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	w.Host("h")
	create(t, w, p.ID, "plain", settings("NONE"))
	set := func(kind custody.Verdict, reason kms.Reason) {
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
			return tx.PutVerdict(store.Verdict{Project: p.ID, Kind: string(kind), Reason: string(reason), Remedy: "Do this."})
		}))
	}
	set(custody.Unreachable, kms.Timeout)
	create(t, w, p.ID, "waits", settings("AWS"))
	events := w.FullEvents(p.ID)
	if e := events[len(events)-1]; e.Type != "CLUSTER_CREATED" || !strings.Contains(e.Message, "TIMEOUT") || !strings.Contains(e.Message, "waits until the key can be used") {
		t.Errorf("%s: %s", e.Type, e.Message)
	}
	for _, kind := range []custody.Verdict{custody.Invalid, custody.Grace, custody.Alert} {
		set(kind, kms.KeyDisabled)
		before := get(t, w, p.ID, "plain")
		_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "no", settings("AWS"))
		_, change := w.Cluster.Update(t.Context(), w.Owner, p.ID, "plain", cluster.Patch{EncryptionProvider: ptr("AWS")})
		for _, err := range []error{err, change} {
			if apierr.Code(err) != "ENCRYPTION_AT_REST_SETTINGS_INVALID" || !strings.Contains(err.Error(), "KEY_DISABLED") || !strings.Contains(err.Error(), "Do this.") {
				t.Errorf("%s: %v", kind, err)
			}
		}
		if after := get(t, w, p.ID, "plain"); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: a refusal changed something", kind)
		}
	}
	create(t, w, p.ID, "plain-too", settings("NONE"))
}

func TestCustodyEndsWhenKeyManagementIsSwitchedOff(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("h"))
	c := create(t, w, p.ID, "c", settings("AWS"))
	step(t, w, a)
	x := wrapOf(t, w, a.Host, c)
	_, err := w.Cluster.Update(t.Context(), w.Owner, p.ID, "c", cluster.Patch{EncryptionProvider: ptr("NONE")})
	w.Must(err)
	off := cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}}
	if _, err := w.CMK.Update(t.Context(), w.Owner, p.ID, off); apierr.Code(err) != "CANNOT_DISABLE_ENCRYPTION_AT_REST" {
		t.Fatalf("while the node is rewritten: %v", err)
	}
	step(t, w, a)
	x.State, x.Revision, x.Wrapped = keys.StateDestroyed, 2, nil
	w.Must(w.Cluster.Escrow(t.Context(), a.Host, []agentlink.EscrowedWrap{x}))
	if got, err := w.Cluster.Wraps(t.Context(), a.Host); err != nil || len(got) != 1 || len(got[0].Wrapped) != 0 {
		t.Errorf("the ciphertext is still in escrow: %+v %v", got, err)
	}
	if e := ofType(t, w, "NODE_KEY_DESTROYED"); len(e) != 1 || strings.Contains(e[0].Message, "stays") {
		t.Errorf("%+v", e)
	}
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, off)
	w.Must(err)
	before := a.Revision
	step(t, w, a)
	if a.Revision <= before || a.Last.Projects[0].CustomerKey != nil {
		t.Errorf("the host still has custody: %+v", a.Last.Projects[0])
	}
	if v := get(t, w, p.ID, "c"); v.State != cluster.Idle {
		t.Errorf("state %s", v.State)
	}
}

// A host that polls sees the newest state after any burst of changes, in growing
// revisions, and no user that was deleted.
func TestALongPollEndsWithTheNewestState(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	host := w.Host("h")
	create(t, w, p.ID, "c", settings("NONE"))
	names := func(d agentlink.Desired) (out []string) {
		for _, u := range d.Projects[0].Users {
			out = append(out, u.Username)
		}
		return out
	}
	done := make(chan error, 1)
	go func() {
		have := uint64(0)
		for {
			d, err := w.Cluster.Desired(t.Context(), host, have)
			if err != nil {
				done <- err
				return
			}
			if d.Revision < have {
				done <- errors.New("the revision went down")
				return
			}
			have = d.Revision
			if slices.Equal(names(d), []string{"last"}) {
				done <- nil
				return
			}
		}
	}()
	user := func(name string) {
		u := store.DatabaseUser{Project: p.ID, Database: "admin", Username: name, Roles: []store.DatabaseRole{{Role: "read", Database: "db"}}}
		_, err := w.Tenant.CreateUser(t.Context(), w.Owner, u, secret.FromString("a-long-password"))
		w.Must(err)
	}
	for i := range 30 {
		user(fmt.Sprintf("u%02d", i))
	}
	user("last")
	for i := range 30 {
		w.Must(w.Tenant.DeleteUser(t.Context(), w.Owner, p.ID, "admin", fmt.Sprintf("u%02d", i)))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
