package cluster_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
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

func ptr[T any](v T) *T { return &v }

// settings is what a client sends for a cluster.
func settings(provider string, change ...func(*store.RegionConfig)) store.ClusterSettings {
	r := store.RegionConfig{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}
	for _, c := range change {
		c(&r)
	}
	return store.ClusterSettings{EncryptionProvider: provider, Specs: []store.ReplicationSpec{{Regions: []store.RegionConfig{r}}}}
}

func size(s string) func(*store.RegionConfig) {
	return func(r *store.RegionConfig) { r.Electable.InstanceSize = s }
}

func get(t *testing.T, w *controltest.World, p keys.ProjectID, name string) cluster.View {
	t.Helper()
	v, err := w.Cluster.Get(t.Context(), w.Owner, p, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func step(t *testing.T, w *controltest.World, a *controltest.Agent) {
	t.Helper()
	if err := a.Step(w); err != nil {
		t.Fatal(err)
	}
}

func TestPrerequisitesAreCheckedByName(t *testing.T) {
	w := controltest.New(t)
	w.Host("h")
	on, off := w.Project("on"), w.Project("off")
	w.Enable(on.ID)
	_, err := w.Cluster.Create(t.Context(), w.Owner, on.ID, "Existing", settings("NONE"))
	w.Must(err)
	_, err = w.Cluster.Create(t.Context(), w.Owner, on.ID, "a-name-with-exactly-23x1", settings("NONE"))
	w.Must(err)
	sharded := settings("NONE")
	sharded.ClusterType = "SHARDED"
	for name, c := range map[string]struct {
		project keys.ProjectID
		name    string
		s       store.ClusterSettings
		code    string
	}{
		"encryption before the project's": {off.ID, "c", settings("AWS"), "ENCRYPTION_AT_REST_NOT_ENABLED"},
		"M0 encrypted":                    {on.ID, "c", settings("AWS", size("M0")), "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"M2 encrypted":                    {on.ID, "c", settings("AWS", size("M2")), "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"M5 encrypted":                    {off.ID, "c", settings("AWS", size("M5")), "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"Flex encrypted":                  {on.ID, "c", settings("AWS", func(r *store.RegionConfig) { r.ProviderName = "FLEX" }), "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"Serverless encrypted":            {on.ID, "c", settings("AWS", func(r *store.RegionConfig) { r.ProviderName = "SERVERLESS" }), "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"M0":                              {on.ID, "c", settings("NONE", size("M0")), "INSUFFICIENT_INSTANCE_SIZE"},
		"no such size":                    {on.ID, "c", settings("NONE", size("M11")), "INVALID_ENUM_VALUE"},
		"two nodes":                       {on.ID, "c", settings("NONE", func(r *store.RegionConfig) { r.Electable.NodeCount = 2 }), "INVALID_ATTRIBUTE"},
		"no region":                       {on.ID, "c", settings("NONE", func(r *store.RegionConfig) { r.RegionName = "NOWHERE" }), "INVALID_ATTRIBUTE"},
		"no specs":                        {on.ID, "c", store.ClusterSettings{}, "MISSING_ATTRIBUTE"},
		"Azure keys":                      {on.ID, "c", settings("AZURE"), "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED"},
		"nonsense":                        {on.ID, "c", settings("ROT13"), "INVALID_ENUM_VALUE"},
		"sharded":                         {on.ID, "c", sharded, "FEATURE_UNSUPPORTED"},
		"taken name":                      {on.ID, "Existing", settings("NONE"), "DUPLICATE_CLUSTER_NAME"},
		"taken prefix":                    {on.ID, "a-name-with-exactly-23x2", settings("NONE"), "DUPLICATE_CLUSTER_NAME_PREFIX"},
		"bad name":                        {on.ID, "no spaces", settings("NONE"), "CLUSTER_NAME_INVALID"},
		"hyphen at 23":                    {on.ID, "0123456789012345678901-x", settings("NONE"), "CLUSTER_NAME_INVALID"},
		"project of nobody":               {keys.ProjectID(strings.Repeat("0", 24)), "c", settings("NONE"), "GROUP_NOT_FOUND"},
	} {
		_, err := w.Cluster.Create(t.Context(), w.Owner, c.project, c.name, c.s)
		if got := apierr.Code(err); got != c.code {
			t.Errorf("%s: %q, want %q (%v)", name, got, c.code, err)
		}
	}
	for _, p := range []keys.ProjectID{on.ID, off.ID} {
		all, err := w.Cluster.List(t.Context(), w.Owner, p)
		if want := map[keys.ProjectID]int{on.ID: 2, off.ID: 0}[p]; err != nil || len(all) != want {
			t.Errorf("%d clusters after refusals, %v", len(all), err)
		}
	}
	for name, c := range map[string]struct {
		patch cluster.Patch
		code  string
	}{
		"scaling below M10":   {cluster.Patch{Specs: ptr(settings("", size("M5")).Specs)}, "INSUFFICIENT_INSTANCE_SIZE"},
		"M5 with encryption":  {cluster.Patch{Specs: ptr(settings("", size("M5")).Specs), EncryptionProvider: ptr("AWS")}, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT"},
		"direct other vendor": {cluster.Patch{EncryptionProvider: ptr("GCP")}, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED"},
	} {
		before := get(t, w, on.ID, "Existing")
		if _, err := w.Cluster.Update(t.Context(), w.Owner, on.ID, "Existing", c.patch); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if after := get(t, w, on.ID, "Existing"); !reflect.DeepEqual(before, after) {
			t.Errorf("%s changed something", name)
		}
	}
	w.Verify()
}

func TestWithoutAHostThereIsNoCapacity(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	if apierr.Code(err) != "NO_CAPACITY" || !strings.Contains(err.Error(), "enrol") {
		t.Fatal(err)
	}
}

// The whole life of a cluster, with the process restarted between every two steps.
func TestAClusterLivesThroughRestarts(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	a := controltest.NewAgent(w.Host("h"))
	v, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "Cluster0", settings("NONE"))
	if err != nil || v.State != cluster.Creating || v.ID == "" || v.Settings.Specs[0].ID == "" || v.ConnectionString != "" {
		t.Fatalf("%+v %v", v, err)
	}
	expect := func(when, state, provider string, connectable bool) cluster.View {
		t.Helper()
		w.Reopen()
		v := get(t, w, p.ID, "Cluster0")
		if v.State != state || v.Settings.EncryptionProvider != provider || (v.ConnectionString != "") != connectable {
			t.Fatalf("%s: state %s provider %s connection %q", when, v.State, v.Settings.EncryptionProvider, v.ConnectionString)
		}
		return v
	}
	expect("created", cluster.Creating, "NONE", false)
	a.Stuck = agentlink.PhaseStarting
	step(t, w, a)
	expect("starting", cluster.Creating, "NONE", false)
	a.Stuck = ""
	step(t, w, a)
	ready := expect("running", cluster.Idle, "NONE", true)
	if want := "mongodb://127.0.0.1:27100/?ssl=true&authSource=admin&replicaSet=" + ready.ReplicaSet; ready.ConnectionString != want {
		t.Errorf("connection string %q, want %q", ready.ConnectionString, want)
	}
	// A host that has the generation but not the encryption has not done it.
	lagging := a.Status()
	// Encryption on: the node is rewritten, the project cannot switch its key off.
	_, err = w.Cluster.Update(t.Context(), w.Owner, p.ID, "Cluster0", cluster.Patch{EncryptionProvider: ptr("AWS")})
	w.Must(err)
	expect("conversion wanted", cluster.Updating, "AWS", true)
	lagging.Nodes[0].Generation += 5
	w.Must(w.Cluster.Status(t.Context(), a.Host, lagging))
	expect("not encrypted yet", cluster.Updating, "AWS", true)
	a.Stuck = agentlink.PhaseRewriting
	step(t, w, a)
	expect("rewriting", cluster.Updating, "AWS", true)
	a.Stuck = ""
	step(t, w, a)
	if v := expect("converted", cluster.Idle, "AWS", true); v.Converting != "" || !v.Nodes[0].Status.Encrypted {
		t.Errorf("%+v", v)
	}
	// The key is taken away: the cluster says so, and a wish for it is accepted.
	a.Verdict, a.Reason = custody.Invalid, kms.KeyDisabled
	step(t, w, a)
	if v := expect("stopped", cluster.Idle, "AWS", true); v.Stopped == "" {
		t.Error("it does not say that it is stopped")
	}
	_, err = w.Cluster.Update(t.Context(), w.Owner, p.ID, "Cluster0", cluster.Patch{EncryptionProvider: ptr("NONE")})
	w.Must(err)
	off := false
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}})
	if apierr.Code(err) != "CANNOT_DISABLE_ENCRYPTION_AT_REST" {
		t.Errorf("key off while the cluster is still encrypted: %v", err)
	}
	a.Stuck = agentlink.PhaseStoppedByCustody
	step(t, w, a)
	expect("wish accepted", cluster.Updating, "NONE", true)
	a.Stuck, a.Verdict, a.Reason = "", custody.Valid, ""
	step(t, w, a)
	if v := expect("decrypted", cluster.Idle, "NONE", true); v.Stopped != "" {
		t.Error("still called stopped")
	}
	// A node that falls over is being repaired.
	a.Stuck = agentlink.PhaseStarting
	step(t, w, a)
	expect("fallen", cluster.Repairing, "NONE", true)
	a.Stuck = ""
	step(t, w, a)
	expect("repaired", cluster.Idle, "NONE", true)
	// Deletion is seen, then done when the host has acknowledged.
	w.Must(w.Cluster.Delete(t.Context(), w.Owner, p.ID, "Cluster0"))
	expect("deleting", cluster.Deleting, "NONE", false)
	if err := w.Cluster.Delete(t.Context(), w.Owner, p.ID, "Cluster0"); apierr.Code(err) != "CLUSTER_ALREADY_REQUESTED_DELETION" {
		t.Error(err)
	}
	if err := w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID); apierr.Code(err) != "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS" {
		t.Error(err)
	}
	step(t, w, a)
	w.Reopen()
	if _, err := w.Cluster.Get(t.Context(), w.Owner, p.ID, "Cluster0"); apierr.Code(err) != "CLUSTER_NOT_FOUND" {
		t.Errorf("deleted: %v", err)
	}
	step(t, w, a)
	if len(a.Last.Nodes)+len(a.Last.Tombstones)+len(a.Last.Projects) != 0 {
		t.Errorf("desired state after the end: %+v", a.Last)
	}
	got := w.Events(p.ID)
	for _, want := range []string{"CLUSTER_CREATED", "CLUSTER_READY", "CLUSTER_UPDATE_SUBMITTED", "CLUSTER_UPDATE_STARTED", "CLUSTER_UPDATE_COMPLETED", "CLUSTER_INSTANCE_DISABLED", "CLUSTER_INSTANCE_ENABLED", "CLUSTER_INSTANCE_UNAVAILABLE", "CLUSTER_INSTANCE_RESTARTED", "CLUSTER_DELETE_SUBMITTED", "NODE_REMOVED", "CLUSTER_DELETED"} {
		if !slices.Contains(got, want) {
			t.Errorf("no event %s in %v", want, got)
		}
	}
	for _, e := range w.FullEvents(p.ID) {
		if e.Type == "CLUSTER_CREATED" && !strings.Contains(e.Message, "one data-bearing node") {
			t.Errorf("the event does not say what runs: %s", e.Message)
		}
	}
	w.Must(w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID))
	w.Verify()
}

func TestTheDesiredStateCarriesKeysUsersAndFingerprints(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, target := w.Enable(p.ID)
	host := w.Host("h")
	a := controltest.NewAgent(host)
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	for _, u := range []store.DatabaseUser{
		{Username: "all"}, {Username: "here", Scopes: []store.Scope{{Name: "c", Type: "CLUSTER"}}}, {Username: "elsewhere", Scopes: []store.Scope{{Name: "later", Type: "CLUSTER"}}},
	} {
		u.Project, u.Database, u.Roles = p.ID, "admin", []store.DatabaseRole{{Role: "readWrite", Database: "db"}}
		_, err := w.Tenant.CreateUser(t.Context(), w.Owner, u, secret.FromString("password-of-"+u.Username))
		w.Must(err)
	}
	step(t, w, a)
	first := a.Revision
	d := a.Last
	if len(d.Nodes) != 1 || !d.Nodes[0].Encrypted || !d.Nodes[0].Run || d.Nodes[0].Cluster != c.ID || d.Deployment != w.Store.Deployment() {
		t.Fatalf("%+v", d.Nodes)
	}
	k := d.Projects[0].CustomerKey
	if k == nil || k.KeyARN != target.KeyID || k.Region != "us-east-1" || k.Generation != v.Generation || len(k.Probe) == 0 || k.ExternalID == "" {
		t.Errorf("customer key %+v", k)
	}
	users := d.Projects[0].Users
	if len(users) != 2 || users[0].Username != "all" || len(users[0].Clusters) != 0 || users[1].Username != "here" || !slices.Equal(users[1].Clusters, []keys.ClusterID{c.ID}) || users[1].Password != "password-of-here" {
		t.Errorf("users %+v", users)
	}
	step(t, w, a)
	if a.Revision != first {
		t.Errorf("revision %d became %d though nothing changed", first, a.Revision)
	}
	w.Reopen()
	w.Must(w.Cluster.AdmitNode(t.Context(), host, d.Nodes[0].ID, strings.Repeat("f", 64)))
	step(t, w, a)
	if a.Revision != first+1 || len(a.Last.Nodes[0].KMIPClientFingerprints) != 1 {
		t.Errorf("after a new certificate: revision %d, %+v", a.Revision, a.Last.Nodes[0])
	}
	_, err = w.Tenant.UpdateUser(t.Context(), w.Owner, p.ID, "admin", "all", tenant.UserPatch{Password: secret.FromString("another-password")})
	w.Must(err)
	step(t, w, a)
	if a.Revision != first+2 || a.Last.Projects[0].Users[0].Password != "another-password" {
		t.Errorf("after a new password: revision %d", a.Revision)
	}
}

func TestAHostThatKnowsMoreThanTheStoreIsFrozen(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	host := w.Host("h")
	a := controltest.NewAgent(host)
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	w.Must(err)
	step(t, w, a)
	st := a.Status()
	st.Revision += 5
	w.Must(w.Cluster.Status(t.Context(), host, st))
	for range 2 {
		if _, err := w.Cluster.Desired(t.Context(), host, 0); apierr.Code(err) != "HOST_FROZEN" {
			t.Fatal(err)
		}
		w.Reopen()
	}
	if _, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "d", settings("NONE")); apierr.Code(err) != "NO_CAPACITY" {
		t.Error(err)
	}
	alarms := 0
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) error {
		events, _, err := tx.Events(store.EventFilter{Types: []string{"HOST_AHEAD_OF_STORE"}})
		alarms = len(events)
		return err
	}))
	if alarms != 1 {
		t.Errorf("%d alarms", alarms)
	}
	_, err = w.Cluster.Unfreeze(t.Context(), w.Owner, string(host), "h")
	w.Must(err)
	step(t, w, a)
	if a.Revision <= st.Revision {
		t.Errorf("revision %d after %d", a.Revision, st.Revision)
	}
}

func TestAHostEscrowsItsOwnKeysOnly(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	a := controltest.NewAgent(host)
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	step(t, w, a)
	other := w.Host("other")
	good := agentlink.EscrowedWrap{Node: c.Nodes[0].ID, Project: p.ID, Cluster: c.ID, Key: keys.NewKeyID(), Purpose: keys.PurposeMasterKey, State: keys.StateActive, Generation: 1, Revision: 1, Wrapped: []byte("wrapped")}
	try := func(from keys.HostID, change func(*agentlink.EscrowedWrap)) string {
		x := good
		change(&x)
		return apierr.Code(w.Cluster.Escrow(t.Context(), from, []agentlink.EscrowedWrap{x}))
	}
	for name, c := range map[string]struct {
		from   keys.HostID
		change func(*agentlink.EscrowedWrap)
		code   string
	}{
		"another host's node": {other, func(*agentlink.EscrowedWrap) {}, "NODE_NOT_FOUND"},
		"another project":     {host, func(x *agentlink.EscrowedWrap) { x.Project = "x" }, "INVALID_WRAP"},
		"malformed key":       {host, func(x *agentlink.EscrowedWrap) { x.Key = "1" }, "INVALID_WRAP"},
		"nothing":             {host, func(x *agentlink.EscrowedWrap) { x.Wrapped = nil }, "INVALID_WRAP"},
		"too large":           {host, func(x *agentlink.EscrowedWrap) { x.Wrapped = make([]byte, 1<<20) }, "INVALID_WRAP"},
	} {
		if got := try(c.from, c.change); got != c.code {
			t.Errorf("%s: %q", name, got)
		}
	}
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{good}))
	if got := try(host, func(x *agentlink.EscrowedWrap) { x.Wrapped = []byte("other") }); got != "WRAP_IS_OLDER" {
		t.Errorf("overwritten: %q", got)
	}
	w.Reopen()
	wraps, err := w.Cluster.Wraps(t.Context(), host)
	if err != nil || len(wraps) != 1 || string(wraps[0].Wrapped) != "wrapped" {
		t.Fatalf("%+v %v", wraps, err)
	}
	// What a host says it has destroyed stays in escrow while the node uses it.
	gone := func(from keys.HostID) string {
		return try(from, func(x *agentlink.EscrowedWrap) { x.State, x.Revision, x.Wrapped = keys.StateDestroyed, 2, nil })
	}
	if got := gone(other); got != "WRAP_IS_FOREIGN" {
		t.Errorf("another host destroys: %q", got)
	}
	if got := gone(host); got != "" {
		t.Error(got)
	}
	if wraps, _ := w.Cluster.Wraps(t.Context(), host); len(wraps) != 1 || string(wraps[0].Wrapped) != "wrapped" || wraps[0].State != keys.StateDestroyed {
		t.Errorf("after an unordered destruction: %+v", wraps)
	}
	_, err = w.Cluster.Update(t.Context(), w.Owner, p.ID, "c", cluster.Patch{EncryptionProvider: ptr("NONE")})
	w.Must(err)
	if got := gone(host); got != "" {
		t.Error(got)
	}
	if wraps, _ := w.Cluster.Wraps(t.Context(), host); len(wraps) != 1 || len(wraps[0].Wrapped) != 0 {
		t.Errorf("after a rewrite without encryption: %+v", wraps)
	}
	// Nobody but a carried-out tombstone removes a wrap.
	st := a.Status()
	st.Buried = []keys.NodeID{c.Nodes[0].ID}
	w.Must(w.Cluster.Status(t.Context(), host, st))
	if wraps, _ := w.Cluster.Wraps(t.Context(), host); len(wraps) != 1 {
		t.Error("a burial that nobody ordered removed a wrap")
	}
	w.Must(w.Cluster.Delete(t.Context(), w.Owner, p.ID, "c"))
	if wraps, _ := w.Cluster.Wraps(t.Context(), host); len(wraps) != 1 {
		t.Error("the wrap went before the host acknowledged")
	}
	step(t, w, a)
	if wraps, _ := w.Cluster.Wraps(t.Context(), host); len(wraps) != 0 {
		t.Error("the wrap is still there")
	}
	if got := gone(host); got != "" {
		t.Errorf("a destruction that is told late: %q", got)
	}
	w.Verify()
}

func TestATokenEnrolsOneHostOnce(t *testing.T) {
	w := controltest.New(t)
	token, err := w.Cluster.CreateToken(t.Context(), w.Owner, "h")
	w.Must(err)
	if _, err := w.Cluster.CreateToken(t.Context(), w.Key([]tenant.Role{tenant.OrgMember}, ""), "h"); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	enroll := func(text, host string) error {
		_, _, err := w.Cluster.Enroll(t.Context(), text, host, func(keys.HostID) ([]byte, string, error) { return nil, "f", nil })
		return err
	}
	text := string(token.Token.Reveal())
	for name, c := range map[string]struct{ token, host string }{
		"another host": {text, "other"}, "nonsense": {"x", "h"}, "unknown": {agentlink.TokenPrefix + "x." + strings.Repeat("0", 64), "h"},
	} {
		if err := enroll(c.token, c.host); apierr.Code(err) != "INVALID_ENROLMENT_TOKEN" {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.Reopen()
	w.Must(enroll(text, "h"))
	if err := enroll(text, "h"); apierr.Code(err) != "INVALID_ENROLMENT_TOKEN" {
		t.Errorf("twice: %v", err)
	}
}

func TestPausedAndProtectedClusters(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	a := controltest.NewAgent(w.Host("h"))
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	w.Must(err)
	step(t, w, a)
	update := func(patch cluster.Patch) string {
		_, err := w.Cluster.Update(t.Context(), w.Owner, p.ID, "c", patch)
		return apierr.Code(err)
	}
	before := get(t, w, p.ID, "c")
	if code := update(cluster.Patch{}); code != "" || !reflect.DeepEqual(before, get(t, w, p.ID, "c")) {
		t.Errorf("an empty patch: %q", code)
	}
	if code := update(cluster.Patch{TerminationProtection: ptr(true)}); code != "" {
		t.Error(code)
	}
	if err := w.Cluster.Delete(t.Context(), w.Owner, p.ID, "c"); apierr.Code(err) != "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED" {
		t.Error(err)
	}
	if code := update(cluster.Patch{Paused: ptr(true)}); code != "" {
		t.Error(code)
	}
	step(t, w, a)
	if v := get(t, w, p.ID, "c"); v.State != cluster.Idle || !v.Settings.Paused || a.Last.Nodes[0].Run {
		t.Errorf("paused: %+v", v.State)
	}
	if code := update(cluster.Patch{Labels: &[]store.Tag{{Key: "a", Value: "b"}}}); code != "CANNOT_UPDATE_PAUSED_CLUSTER" {
		t.Error(code)
	}
	if code := update(cluster.Patch{Paused: ptr(false)}); code != "" {
		t.Error(code)
	}
	step(t, w, a)
	if v := get(t, w, p.ID, "c"); v.State != cluster.Idle || !a.Last.Nodes[0].Run {
		t.Errorf("resumed: %+v", v.State)
	}
}

func TestANodeThatKeepsFailingIsToldOnce(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	a := controltest.NewAgent(w.Host("h"))
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("NONE"))
	w.Must(err)
	count := func() (n int) {
		for _, e := range w.Events(p.ID) {
			if e == "CLUSTER_INSTANCE_FAILED" {
				n++
			}
		}
		return n
	}
	fail := func() {
		for range 5 {
			for _, a.Stuck = range []agentlink.Phase{agentlink.PhaseStarting, agentlink.PhaseFailed} {
				step(t, w, a)
			}
		}
	}
	fail()
	if n := count(); n != 1 {
		t.Errorf("%d events for one failing node", n)
	}
	a.Stuck = ""
	step(t, w, a)
	fail()
	if n := count(); n != 2 {
		t.Errorf("%d events after it has run and failed again", n)
	}
}
