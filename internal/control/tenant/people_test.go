package tenant_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

const right, home = "correct horse battery", "192.0.2.7"

func person(w *controltest.World, name string, roles ...tenant.Role) store.Person {
	w.T.Helper()
	p, err := w.Tenant.CreatePerson(w.T.Context(), w.Owner, w.Org, tenant.NewPerson{Username: name, Password: secret.FromString(right), OrgRoles: roles})
	w.Must(err)
	return p
}

func code(err error) string {
	var e *apierr.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func signIn(w *controltest.World, name, password, from string) (secret.Bytes, string) {
	token, err := w.Tenant.SignIn(context.Background(), name, secret.FromString(password), from)
	if err != nil {
		return token, code(err)
	}
	return token, ""
}

func TestAPersonSignsInAndOut(t *testing.T) {
	w := controltest.New(t)
	p := person(w, "mara", tenant.OrgOwner)
	token, refusal := signIn(w, " Mara ", right, home)
	if refusal != "" || token.Len() != 43 {
		t.Fatal(refusal, token.Len())
	}
	s, found, _, err := w.Tenant.Session(t.Context(), token, home)
	w.Must(err)
	if !found || s.Who.PersonID != p.ID || s.Who.Name != "user:mara" || !s.Who.HasOrg(tenant.OrgOwner, w.Org) || !s.Fresh() {
		t.Fatalf("%v %+v", found, s.Who)
	}
	made, err := w.Tenant.CreateProject(t.Context(), s.Who, tenant.NewProject{Org: w.Org, Name: "hers"})
	w.Must(err)
	s, _, _, err = w.Tenant.Session(t.Context(), token, home)
	w.Must(err)
	if !s.Who.Holds(tenant.GroupOwner, made.ID) {
		t.Error("who makes a project does not own it")
	}
	w.Must(w.Tenant.SignOut(t.Context(), s))
	if _, found, expired, err := w.Tenant.Session(t.Context(), token, home); found || expired || err != nil {
		t.Error("a session outlived its end", found, expired, err)
	}
	events, _, err := w.Tenant.OrgEvents(t.Context(), w.Owner, w.Org, store.EventFilter{})
	w.Must(err)
	for _, kind := range []string{"USER_CREATED", "USER_SIGNED_IN", "USER_SIGNED_OUT"} {
		i := slices.IndexFunc(events, func(e audit.Event) bool { return e.Type == kind })
		if i < 0 {
			t.Fatal("no event", kind)
		}
		if kind != "USER_CREATED" && (events[i].Actor != "user:mara" || events[i].Data["remoteAddress"] != home || events[i].Data["userId"] != p.ID) {
			t.Errorf("%+v", events[i])
		}
	}
}

func TestNothingOnDiskOpensASession(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara")
	token, _ := signIn(w, "mara", right, home)
	w.Close()
	_ = filepath.WalkDir(w.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, secret := range []string{string(token.Reveal()), right, "argon2id"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s holds %q", d.Name(), secret)
			}
		}
		return err
	})
	w.Reopen()
	if _, found, _, err := w.Tenant.Session(t.Context(), token, home); !found || err != nil {
		t.Error("a session did not outlive a restart", err)
	}
}

func TestWrongPasswordsAreThrottled(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara")
	for range 3 { // right ones do not count
		if _, refusal := signIn(w, "mara", right, home); refusal != "" {
			t.Fatal(refusal)
		}
	}
	for i := range 5 {
		for _, name := range []string{"mara", "nobody"} {
			if _, refusal := signIn(w, name, "wrong", home); refusal != tenant.WrongPassword {
				t.Fatal(i, name, refusal)
			}
		}
	}
	if _, refusal := signIn(w, "mara", right, home); refusal != tenant.TooManyAttempts {
		t.Error("the sixth attempt was let through:", refusal)
	}
	if _, refusal := signIn(w, "mara", right, "192.0.2.8"); refusal != "" {
		t.Error("somebody was locked out of another address:", refusal)
	}
	events, _, err := w.Tenant.OrgEvents(t.Context(), w.Owner, w.Org, store.EventFilter{Types: []string{"USER_SIGN_IN_FAILED"}})
	w.Must(err)
	if len(events) != 5 || strings.Contains(events[0].Message, "nobody") {
		t.Errorf("%d events, the newest %+v", len(events), events)
	}
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		person(w, "mara")
		alive := func(token secret.Bytes) (found, expired bool, s tenant.Session) {
			s, found, expired, err := w.Tenant.Session(t.Context(), token, home)
			w.Must(err)
			return found, expired, s
		}
		idle, _ := signIn(w, "mara", right, home)
		time.Sleep(tenant.SessionIdle + time.Minute)
		if found, expired, _ := alive(idle); found || !expired {
			t.Error("an unused session lives", found, expired)
		}
		used, _ := signIn(w, "mara", right, home)
		for range 35 {
			time.Sleep(20 * time.Minute)
			found, _, s := alive(used)
			if !found || s.Fresh() {
				t.Fatal("a used session ended early, or its proof did not age", found)
			}
		}
		_, _, s := alive(used)
		w.Must(w.Tenant.ProveAgain(t.Context(), s, secret.FromString(right)))
		if _, _, s := alive(used); !s.Fresh() {
			t.Error("the password was given again and does not count")
		}
		if err := w.Tenant.ProveAgain(t.Context(), s, secret.FromString("wrong")); code(err) != tenant.WrongPassword {
			t.Error(err)
		}
		time.Sleep(20 * time.Minute)
		if found, expired, _ := alive(used); found || !expired {
			t.Error("a session lives longer than 12 hours", found, expired)
		}
	})
}

func TestOnlyOwnersMakePeople(t *testing.T) {
	w := controltest.New(t)
	project := w.Project("one")
	reader := w.Key([]tenant.Role{tenant.OrgReadOnly}, "")
	in := tenant.NewPerson{Username: "mara", Password: secret.FromString(right)}
	if _, err := w.Tenant.CreatePerson(t.Context(), reader, w.Org, in); code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	person(w, "mara")
	if _, err := w.Tenant.CreatePerson(t.Context(), w.Owner, w.Org, in); code(err) != "USER_ALREADY_EXISTS" {
		t.Error(err)
	}
	for _, bad := range []tenant.NewPerson{
		{Username: "Mara", Password: in.Password},
		{Username: "", Password: in.Password},
		{Username: "x", Password: secret.FromString("short")},
	} {
		if _, err := w.Tenant.CreatePerson(t.Context(), w.Owner, w.Org, bad); code(err) != "INVALID_ATTRIBUTE" {
			t.Error(bad.Username, err)
		}
	}
	if _, err := w.Tenant.AssignPerson(t.Context(), reader, project.ID, "mara", []tenant.Role{tenant.GroupOwner}); code(err) != "USER_UNAUTHORIZED" {
		t.Error(err)
	}
	if _, err := w.Tenant.AssignPerson(t.Context(), w.Owner, project.ID, "nobody", nil); code(err) != "USER_NOT_FOUND" {
		t.Error(err)
	}
	got, err := w.Tenant.AssignPerson(t.Context(), w.Owner, project.ID, "mara", []tenant.Role{tenant.GroupReadOnly})
	w.Must(err)
	if len(got.ProjectRoles[project.ID]) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestBootstrapMakesTheOwnerOfAnOlderInstallation(t *testing.T) {
	w := controltest.New(t)
	for range 2 {
		w.Must(w.Tenant.Bootstrap(t.Context(), tenant.Init{
			OrgName: "Acme", PublicKey: "ownerkey", PrivateKey: secret.FromString("a-private-key-of-the-owner"), Username: "owner", Password: secret.FromString(right),
		}))
	}
	people, err := w.Tenant.People(t.Context(), w.Owner, w.Org)
	w.Must(err)
	if len(people) != 1 || people[0].Username != "owner" || !slices.Contains(people[0].OrgRoles, string(tenant.OrgOwner)) {
		t.Errorf("%+v", people)
	}
}
