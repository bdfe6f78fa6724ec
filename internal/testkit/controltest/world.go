// Package controltest sets up the services of the control plane over a real store
// and a key service in memory. Only tests import it.
package controltest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// World is a control plane without listeners.
type World struct {
	T        testing.TB
	Dir      string
	Interval time.Duration
	AWS      *AWS
	Store    *store.Store
	Tenant   *tenant.Service
	Access   *access.Service
	CMK      *cmk.Service
	Cluster  *cluster.Service
	Alert    *alert.Service
	Network  *network.Service
	// Egress are the addresses from which the control plane calls AWS.
	Egress []string
	// Owner is an API key with Organization Owner.
	Owner tenant.Principal
	Org   keys.OrgID
	stop  func()
}

// New makes a world with one organization.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{T: t, Dir: t.TempDir(), AWS: NewAWS(), Interval: time.Minute, Egress: []string{"192.0.2.1"}}
	w.open()
	t.Cleanup(w.Close)
	w.Must(w.Tenant.Bootstrap(t.Context(), tenant.Init{OrgName: "Acme", OwnerName: "owner", PublicKey: "ownerkey", PrivateKey: secret.FromString("a-private-key-of-the-owner")}))
	w.Owner = w.Principal("ownerkey")
	w.Org = w.Owner.Org
	return w
}

func (w *World) open() {
	w.T.Helper()
	st, err := store.Open(context.Background(), store.Config{Dir: w.Dir})
	w.Must(err)
	w.Store = st
	w.Tenant = tenant.New(st)
	w.Access = access.New(st, w.AWS, kmstest.Region)
	w.CMK = cmk.New(cmk.Config{Store: st, Provider: w.AWS, Interval: w.Interval, Clock: Clock})
	w.Cluster = cluster.New(cluster.Config{
		Store: st, Custody: w.CMK, LinkCA: strings.Repeat("0", 64), ShowCreating: time.Nanosecond, ShowDeleting: time.Nanosecond,
	})
	w.Network = network.New(network.Config{
		Store: st, Hostname: "control", Region: kmstest.Region, Ask: cmk.Ask, Addresses: func(context.Context) []string { return w.Egress },
	})
	w.Alert, err = alert.New(alert.Config{Store: st, LocalHooks: true})
	w.Must(err)
	w.stop = func() {}
}

var birth = time.Now()

// Clock is a boot-time clock that follows time.Now, under synctest too.
func Clock() custody.Reading {
	return custody.Reading{Boot: "test", Since: time.Since(birth), Wall: time.Now()}
}

// Start runs the reconcilers until Close or Reopen.
func (w *World) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.CMK.Run(ctx) })
	wg.Go(func() { _ = w.Cluster.Run(ctx) })
	wg.Go(func() { _ = w.Network.Run(ctx) })
	w.stop = func() { cancel(); wg.Wait() }
}

// Close stops everything.
func (w *World) Close() {
	w.stop()
	w.stop = func() {}
	_ = w.Store.Close()
}

// Reopen is a restart of the process: everything but the data directory is new.
func (w *World) Reopen() {
	w.T.Helper()
	w.Close()
	w.open()
	if w.Owner.PublicKey != "" {
		w.Owner = w.Principal(w.Owner.PublicKey)
	}
}

// Must ends the test on an error.
func (w *World) Must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Principal is what a right digest of the API key proves.
func (w *World) Principal(public string) tenant.Principal {
	w.T.Helper()
	p, _, found, err := w.Tenant.Credential(context.Background(), public)
	w.Must(err)
	if !found {
		w.T.Fatalf("no API key %s", public)
	}
	return p
}

// Key makes an API key with roles in the organization and in one project.
func (w *World) Key(org []tenant.Role, project keys.ProjectID, roles ...tenant.Role) tenant.Principal {
	w.T.Helper()
	in := tenant.NewAPIKey{OrgRoles: org}
	if project != "" {
		in.Projects = map[keys.ProjectID][]tenant.Role{project: roles}
	}
	k, _, err := w.Tenant.CreateAPIKey(w.T.Context(), tenant.System(), w.Org, in)
	w.Must(err)
	return w.Principal(k.PublicKey)
}

// Project makes a project; the owner becomes its Project Owner.
func (w *World) Project(name string) store.Project {
	w.T.Helper()
	p, err := w.Tenant.CreateProject(w.T.Context(), w.Owner, tenant.NewProject{Org: w.Org, Name: name})
	w.Must(err)
	w.Owner = w.Principal(w.Owner.PublicKey)
	return p
}

// Role makes a customer's key and role, and a registration that is authorized.
func (w *World) Role(project keys.ProjectID) (access.Role, kms.Target) {
	w.T.Helper()
	r, err := w.Access.Register(w.T.Context(), w.Owner, project)
	w.Must(err)
	t := w.AWS.Project()
	w.AWS.Trust(t, r.ExternalID)
	r, err = w.Access.Authorize(w.T.Context(), w.Owner, project, r.ID, t.RoleARN)
	w.Must(err)
	return r, t
}

// Patch is a complete awsKms object.
func Patch(role keys.RoleID, key, region string) cmk.Patch {
	on, id := true, string(role)
	return cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &on, CustomerMasterKeyID: &key, Region: &region, RoleID: &id}}
}

// Enable switches a project's key management on and gives its key.
func (w *World) Enable(project keys.ProjectID) (cmk.View, kms.Target) {
	w.T.Helper()
	r, t := w.Role(project)
	v, err := w.CMK.Update(w.T.Context(), w.Owner, project, Patch(r.ID, t.KeyID, "US_EAST_1"))
	w.Must(err)
	return v, t
}

// Host enrols a host.
func (w *World) Host(name string) keys.HostID {
	w.T.Helper()
	token, err := w.Cluster.CreateToken(w.T.Context(), w.Owner, name)
	w.Must(err)
	id, _, err := w.Cluster.Enroll(w.T.Context(), string(token.Token.Reveal()), name, func(keys.HostID) ([]byte, string, error) {
		return []byte("certificate"), "fingerprint-" + name, nil
	})
	w.Must(err)
	return id
}

// Events gives the types of a project's events, oldest first.
func (w *World) Events(project keys.ProjectID) []string {
	w.T.Helper()
	var out []string
	for _, e := range w.FullEvents(project) {
		out = append(out, e.Type)
	}
	return out
}

// FullEvents gives a project's events, oldest first.
func (w *World) FullEvents(project keys.ProjectID) []audit.Event {
	w.T.Helper()
	events, _, err := w.Tenant.ProjectEvents(context.Background(), tenant.System(), project, store.EventFilter{Limit: 500})
	w.Must(err)
	var out []audit.Event
	for i := len(events) - 1; i >= 0; i-- {
		out = append(out, events[i])
	}
	return out
}

// Verify checks the audit chain.
func (w *World) Verify() {
	w.T.Helper()
	_, err := w.Store.VerifyAudit(context.Background(), audit.Head{})
	w.Must(err)
}

// Eventually polls until ok, or ends the test.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
