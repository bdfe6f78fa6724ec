package tenant_test

import (
	"crypto/md5"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

func ptr[T any](v T) *T { return &v }

func TestTheFirstOrganizationIsMadeOnce(t *testing.T) {
	w := controltest.New(t)
	for range 2 {
		w.Must(w.Tenant.Bootstrap(t.Context(), tenant.Init{OrgName: "Other", PublicKey: "other", PrivateKey: secret.FromString("another-private-key")}))
		w.Reopen()
	}
	orgs, err := w.Tenant.Orgs(t.Context(), w.Owner)
	if err != nil || len(orgs) != 1 || orgs[0].Name != "Acme" {
		t.Fatalf("%+v %v", orgs, err)
	}
	_, ha1, found, err := w.Tenant.Credential(t.Context(), "ownerkey")
	sum := md5.Sum([]byte("ownerkey:MMS Public API:a-private-key-of-the-owner"))
	if err != nil || !found || string(ha1.Reveal()) != hex.EncodeToString(sum[:]) {
		t.Errorf("HA1: %v %v", found, err)
	}
	if _, _, found, err := w.Tenant.Credential(t.Context(), "other"); found || err != nil {
		t.Errorf("a second bootstrap made a key: %v %v", found, err)
	}
	if err := w.Tenant.Bootstrap(t.Context(), tenant.Init{OrgName: "X", PublicKey: "x", PrivateKey: secret.FromString("short")}); err == nil {
		t.Error("a short private key was accepted")
	}
}

func TestRolesDecide(t *testing.T) {
	p := store.Project{ID: "p", Org: "o"}
	orgRole := func(r ...tenant.Role) tenant.Principal { return tenant.Principal{Org: "o", OrgRoles: r} }
	in := func(r ...tenant.Role) tenant.Principal {
		return tenant.Principal{Org: "o", ProjectRoles: map[keys.ProjectID][]tenant.Role{"p": r}}
	}
	for name, c := range map[string]struct {
		who                             tenant.Principal
		read, manage, users, own, holds bool
	}{
		"system":             {tenant.System(), true, true, true, true, true},
		"org owner":          {orgRole(tenant.OrgOwner), true, true, true, true, false},
		"org reader":         {orgRole(tenant.OrgReadOnly), true, false, false, false, false},
		"org member":         {orgRole(tenant.OrgMember), false, false, false, false, false},
		"owner of another":   {tenant.Principal{Org: "x", OrgRoles: []tenant.Role{tenant.OrgOwner}}, false, false, false, false, false},
		"project owner":      {in(tenant.GroupOwner), true, true, true, true, true},
		"cluster manager":    {in(tenant.GroupClusterManager), true, true, false, false, false},
		"users' admin":       {in(tenant.GroupDatabaseAccessAdmin), true, false, true, false, false},
		"project reader":     {in(tenant.GroupReadOnly), true, false, false, false, false},
		"some other role":    {in("GROUP_BACKUP_MANAGER"), true, false, false, false, false},
		"nobody":             {tenant.Principal{}, false, false, false, false, false},
		"forged system name": {tenant.Principal{Name: "system"}, false, false, false, false, false},
	} {
		got := []bool{c.who.Can(tenant.GroupReadOnly, p), c.who.Can(tenant.GroupClusterManager, p), c.who.Can(tenant.GroupDatabaseAccessAdmin, p), c.who.Can(tenant.GroupOwner, p), c.who.Holds(tenant.GroupOwner, p.ID)}
		if want := []bool{c.read, c.manage, c.users, c.own, c.holds}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestProjectsOfOthersDoNotExist(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	stranger := w.Key([]tenant.Role{tenant.OrgMember}, "")
	_, foreign := w.Tenant.Project(t.Context(), stranger, p.ID)
	_, unknown := w.Tenant.Project(t.Context(), stranger, keys.ProjectID(strings.Repeat("0", 24)))
	if apierr.Code(foreign) != "GROUP_NOT_FOUND" || strings.ReplaceAll(foreign.Error(), string(p.ID), strings.Repeat("0", 24)) != unknown.Error() {
		t.Errorf("a foreign project can be told from an unknown one: %v / %v", foreign, unknown)
	}
	if _, err := w.Tenant.ProjectByName(t.Context(), stranger, "p"); apierr.Code(err) != "GROUP_NAME_NOT_FOUND" {
		t.Error(err)
	}
	all, err := w.Tenant.Projects(t.Context(), stranger, "")
	if err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
	if _, _, err := w.Tenant.ProjectEvents(t.Context(), stranger, p.ID, store.EventFilter{}); apierr.Code(err) != "GROUP_NOT_FOUND" {
		t.Error(err)
	}
	reader := w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupReadOnly)
	if _, err := w.Tenant.UpdateProject(t.Context(), reader, p.ID, tenant.ProjectPatch{Name: ptr("x")}); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	if _, err := w.Tenant.CreateProject(t.Context(), reader, tenant.NewProject{Org: w.Org, Name: "x"}); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	if got, err := w.Tenant.Project(t.Context(), reader, p.ID); err != nil || got.Name != "p" {
		t.Errorf("%+v %v", got, err)
	}
	w.Verify()
}

func TestAProjectIsMadeChangedAndDeleted(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	if !w.Owner.Holds(tenant.GroupOwner, p.ID) {
		t.Error("who makes a project is not its owner")
	}
	for name, c := range map[string]struct{ name, code string }{
		"twice": {"p", "GROUP_ALREADY_EXISTS"}, "empty": {"", "INVALID_ATTRIBUTE"}, "long": {strings.Repeat("x", 65), "INVALID_ATTRIBUTE"}, "odd": {"a<b", "INVALID_ATTRIBUTE"},
	} {
		if _, err := w.Tenant.CreateProject(t.Context(), w.Owner, tenant.NewProject{Org: w.Org, Name: c.name}); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := w.Tenant.UpdateProject(t.Context(), w.Owner, p.ID, tenant.ProjectPatch{Name: ptr("q"), Tags: &[]store.Tag{{Key: "a", Value: "b"}}, Settings: map[string]bool{"x": true}})
	if err != nil || got.Name != "q" || len(got.Tags) != 1 || !got.Settings["x"] || !got.DefaultAlerts {
		t.Fatalf("%+v %v", got, err)
	}
	w.Reopen()
	again, err := w.Tenant.Project(t.Context(), w.Owner, p.ID)
	if err != nil || !reflect.DeepEqual(got, again) {
		t.Errorf("after a restart: %+v, before: %+v", again, got)
	}
	w.Enable(p.ID) // key management without clusters does not hold a project
	w.Must(w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID))
	if _, err := w.Tenant.Project(t.Context(), w.Owner, p.ID); apierr.Code(err) != "GROUP_NOT_FOUND" {
		t.Error(err)
	}
	w.Verify()
}

func TestDatabaseUsers(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	u := store.DatabaseUser{Project: p.ID, Database: "admin", Username: "u", Roles: []store.DatabaseRole{{Role: "readWrite", Database: "db"}}}
	first, err := w.Tenant.CreateUser(t.Context(), w.Owner, u, secret.FromString("password-1"))
	w.Must(err)
	for name, c := range map[string]struct {
		change func(*store.DatabaseUser)
		pw     string
		code   string
	}{
		"twice":     {func(*store.DatabaseUser) {}, "password-2", "USER_ALREADY_EXISTS"},
		"short":     {func(u *store.DatabaseUser) { u.Username = "v" }, "short", "INVALID_ATTRIBUTE"},
		"no roles":  {func(u *store.DatabaseUser) { u.Username, u.Roles = "v", nil }, "password-2", "INVALID_ATTRIBUTE"},
		"external":  {func(u *store.DatabaseUser) { u.Database = "$external" }, "password-2", "INVALID_ATTRIBUTE"},
		"no name":   {func(u *store.DatabaseUser) { u.Username = "" }, "password-2", "INVALID_ATTRIBUTE"},
		"elsewhere": {func(u *store.DatabaseUser) { u.Project = keys.ProjectID(strings.Repeat("0", 24)) }, "password-2", "GROUP_NOT_FOUND"},
	} {
		x := u
		c.change(&x)
		if _, err := w.Tenant.CreateUser(t.Context(), w.Owner, x, secret.FromString(c.pw)); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := w.Tenant.UpdateUser(t.Context(), w.Owner, p.ID, "admin", "u", tenant.UserPatch{Description: ptr("d")})
	if err != nil || got.Revision <= first.Revision || got.Description != "d" || len(got.Roles) != 1 {
		t.Errorf("%+v %v", got, err)
	}
	w.Must(w.Tenant.DeleteUser(t.Context(), w.Owner, p.ID, "admin", "u"))
	if _, err := w.Tenant.User(t.Context(), w.Owner, p.ID, "admin", "u"); apierr.Code(err) != "USERNAME_NOT_FOUND" {
		t.Error(err)
	}
	// One who comes back under the old name has a newer revision than the one who went.
	again, err := w.Tenant.CreateUser(t.Context(), w.Owner, u, secret.FromString("password-3"))
	if err != nil || again.Revision <= got.Revision {
		t.Errorf("%+v %v", again, err)
	}
}

func TestTheAccessListKeepsCanonicalEntries(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	all, err := w.Tenant.AddAccess(t.Context(), w.Owner, p.ID, []store.AccessEntry{{IPAddress: "203.0.113.7", Comment: "c"}, {CIDR: "192.0.2.9/24"}, {CIDR: "198.51.100.1/32"}, {SecurityGroup: "sg-1"}})
	if err != nil || len(all) != 4 {
		t.Fatalf("%+v %v", all, err)
	}
	for entry, want := range map[string]store.AccessEntry{
		"203.0.113.7": {IPAddress: "203.0.113.7", CIDR: "203.0.113.7/32"}, "203.0.113.7/32": {IPAddress: "203.0.113.7", CIDR: "203.0.113.7/32"},
		"192.0.2.0/24": {CIDR: "192.0.2.0/24"}, "198.51.100.1": {IPAddress: "198.51.100.1", CIDR: "198.51.100.1/32"}, "sg-1": {SecurityGroup: "sg-1"},
	} {
		e, err := w.Tenant.AccessEntry(t.Context(), w.Owner, p.ID, entry)
		if err != nil || e.IPAddress != want.IPAddress || e.CIDR != want.CIDR || e.SecurityGroup != want.SecurityGroup {
			t.Errorf("%s: %+v %v", entry, e, err)
		}
	}
	_, err = w.Tenant.AddAccess(t.Context(), w.Owner, p.ID, []store.AccessEntry{{CIDR: "10.0.0.0/8"}, {CIDR: "everywhere"}})
	if apierr.Code(err) != "INVALID_ATTRIBUTE" {
		t.Error(err)
	}
	if all, _ := w.Tenant.AccessList(t.Context(), w.Owner, p.ID); len(all) != 4 {
		t.Errorf("a refused list added something: %+v", all)
	}
	w.Must(w.Tenant.DeleteAccess(t.Context(), w.Owner, p.ID, "203.0.113.7"))
	if _, err := w.Tenant.AccessEntry(t.Context(), w.Owner, p.ID, "203.0.113.7/32"); apierr.Code(err) != "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND" {
		t.Error(err)
	}
}

func TestEventsAreReadByThoseWhoMay(t *testing.T) {
	w := controltest.New(t)
	p, q := w.Project("p"), w.Project("q")
	events, total, err := w.Tenant.ProjectEvents(t.Context(), w.Owner, p.ID, store.EventFilter{})
	if err != nil || total != 1 || events[0].Type != "GROUP_CREATED" || events[0].Data["publicKey"] != "ownerkey" || events[0].Actor != "apikey:ownerkey" {
		t.Fatalf("%+v %d %v", events, total, err)
	}
	if _, err := w.Tenant.ProjectEvent(t.Context(), w.Owner, q.ID, events[0].ID); apierr.Code(err) != "EVENT_NOT_FOUND" {
		t.Errorf("an event of another project: %v", err)
	}
	if e, err := w.Tenant.ProjectEvent(t.Context(), w.Owner, p.ID, events[0].ID); err != nil || e.ID != events[0].ID {
		t.Error(err)
	}
	org, _, err := w.Tenant.OrgEvents(t.Context(), w.Owner, w.Org, store.EventFilter{})
	if err != nil || !slices.ContainsFunc(org, func(e audit.Event) bool { return e.Type == "ORG_CREATED" }) || slices.ContainsFunc(org, func(e audit.Event) bool { return e.Project != "" }) {
		t.Errorf("%+v %v", org, err)
	}
}

func TestAPIKeys(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	k, private, err := w.Tenant.CreateAPIKey(t.Context(), w.Owner, w.Org, tenant.NewAPIKey{Description: "d", OrgRoles: []tenant.Role{tenant.OrgMember}})
	if err != nil || private.Len() < 16 || len(k.PublicKey) != 8 {
		t.Fatalf("%+v %v", k, err)
	}
	if _, _, err := w.Tenant.CreateAPIKey(t.Context(), w.Owner, w.Org, tenant.NewAPIKey{OrgRoles: []tenant.Role{"KING"}}); apierr.Code(err) != "INVALID_ENUM_VALUE" {
		t.Error(err)
	}
	if _, _, err := w.Tenant.CreateAPIKey(t.Context(), w.Principal(k.PublicKey), w.Org, tenant.NewAPIKey{OrgRoles: []tenant.Role{tenant.OrgOwner}}); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Errorf("a member made an owner: %v", err)
	}
	_, err = w.Tenant.AssignAPIKey(t.Context(), w.Owner, p.ID, k.ID, []tenant.Role{tenant.GroupReadOnly})
	w.Must(err)
	if who := w.Principal(k.PublicKey); !who.Holds(tenant.GroupReadOnly, p.ID) || who.Holds(tenant.GroupOwner, p.ID) {
		t.Errorf("%+v", who)
	}
	if err := w.Tenant.DeleteAPIKey(t.Context(), w.Owner, w.Org, w.Owner.KeyID); apierr.Code(err) != "CANNOT_DELETE_OWN_API_KEY" {
		t.Error(err)
	}
	w.Must(w.Tenant.DeleteAPIKey(t.Context(), w.Owner, w.Org, k.ID))
	if _, _, found, err := w.Tenant.Credential(t.Context(), k.PublicKey); found || err != nil {
		t.Error("a deleted key still works")
	}
	w.Verify()
}

// The end of a project is read where its own events cannot be any more.
func TestTheOrganizationReadsThatAProjectIsGone(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Must(w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID))
	events, _, err := w.Tenant.OrgEvents(t.Context(), w.Owner, w.Org, store.EventFilter{Types: []string{"GROUP_DELETED"}})
	if err != nil || len(events) != 1 || events[0].Data["groupId"] != string(p.ID) {
		t.Errorf("%+v %v", events, err)
	}
}
