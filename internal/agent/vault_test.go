package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
	"github.com/keywright/keywright/internal/secret"
)

// desk is a vault with everything around it scripted but the store and the wrapping.
type desk struct {
	*vault
	t     testing.TB
	dir   string
	cloud *kmstest.Cloud
	fault *kms.Fault
	key   agentlink.CustomerKey
	more  keyPlan
	news  int // keys made

	mu        sync.Mutex
	verdict   error
	down      bool
	asked     int // runs asked for because AWS refused
	journal   []audit.Event
	noJournal error
	noEscrow  error
	onEscrow  func()
	escrowed  []agentlink.EscrowedWrap
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	d := &desk{t: t, dir: filepath.Join(t.TempDir(), "keys"), cloud: kmstest.NewCloud()}
	d.fault = kms.NewFault(d.cloud)
	target := d.cloud.Project()
	d.key = agentlink.CustomerKey{Generation: 7, RoleARN: target.RoleARN, ExternalID: target.ExternalID, KeyARN: target.KeyID, Region: target.Region}
	d.vault = &vault{deployment: keys.DeploymentID(keys.NewID(time.Now())), escrow: d, recorder: d, custodians: d, provider: d.fault, alarms: new(alarms), log: slog.New(slog.DiscardHandler)}
	d.reopen()
	return d
}

// reopen is what a crash and a new start of the agent make of the store.
func (d *desk) reopen() {
	d.t.Helper()
	var err error
	if d.store, err = wraps.Open(d.dir); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) access(keys.ProjectID) (access, bool) { return d, true }
func (d *desk) releasable(keys.ClusterID) error      { d.mu.Lock(); defer d.mu.Unlock(); return d.verdict }
func (d *desk) mustBeDown(keys.ClusterID) bool       { return d.down }
func (d *desk) refused()                             { d.asked++ }
func (d *desk) config() (agentlink.CustomerKey, kms.Target) {
	return d.key, target(d.key)
}

func (d *desk) plan() keyPlan {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.more
	p.current = d.key
	return p
}

func (d *desk) made() { d.news++ }

func (d *desk) record(_ context.Context, e audit.Event) error {
	if d.noJournal == nil {
		d.journal = append(d.journal, e)
	}
	return d.noJournal
}

func (d *desk) Escrow(_ context.Context, w ...agentlink.EscrowedWrap) error {
	if d.onEscrow != nil {
		d.onEscrow()
	}
	if d.noEscrow == nil {
		d.escrowed = append(d.escrowed, w...)
	}
	return d.noEscrow
}

func (d *desk) types() (out []string) {
	for _, e := range d.journal {
		out = append(out, e.Type)
	}
	return out
}

func principal() kmip.Principal {
	id := func() string { return keys.NewID(time.Now()) }
	return kmip.Principal{Node: keys.NodeID(id()), Project: keys.ProjectID(id()), Cluster: keys.ClusterID(id())}
}

func aes() kmip.Meta {
	return kmip.Meta{Type: kmip.TypeSymmetricKey, Format: kmip.FormatRaw, Algorithm: "AES", Length: 256, UsageMask: 12, Name: "master"}
}

func (d *desk) create(p kmip.Principal) keys.KeyID {
	d.t.Helper()
	id, err := d.Create(d.t.Context(), p, aes())
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

func TestKeyIsDurableVerifiedAndEscrowedBeforeItIsAcknowledged(t *testing.T) {
	d, p := newDesk(t), principal()
	d.onEscrow = func() {
		s, err := wraps.Open(d.dir)
		if err != nil || len(s.OfNode(p.Node)) != 1 {
			t.Errorf("escrow before the key was on disk (%v)", err)
		}
	}
	id := d.create(p)
	d.onEscrow = nil
	if len(d.escrowed) != 1 || d.escrowed[0].Key != id || d.escrowed[0].Generation != 7 || len(d.store.Unescrowed()) != 0 {
		t.Errorf("escrow has %+v", d.escrowed)
	}
	var ops []kms.Operation
	for _, c := range d.cloud.Calls() {
		ops = append(ops, c.Operation)
		want := map[string]string{
			"keywright:deployment": string(d.deployment), "keywright:project": string(p.Project), "keywright:cluster": string(p.Cluster),
			"keywright:node": string(p.Node), "keywright:purpose": "master-key", "keywright:key": string(id),
		}
		for k, v := range want {
			if len(c.Context) != len(want) || c.Context[k] != v {
				t.Errorf("%s: context %v", c.Operation, c.Context)
			}
		}
	}
	if !slices.Equal(ops, []kms.Operation{kms.OpEncrypt, kms.OpDecrypt}) { // rule 2.2
		t.Errorf("KMS was asked for %v", ops)
	}
	d.reopen()
	a, err := d.Get(t.Context(), p, id)
	if err != nil || a.Material.Len() != 32 || a.Name != "master" {
		t.Fatalf("get: %+v, %v", a, err)
	}
	if b, err := d.Get(t.Context(), p, id); err != nil || !a.Material.Equal(b.Material) {
		t.Errorf("second get: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(d.dir, string(p.Node), string(id)+".json"))
	if err != nil || strings.Contains(string(raw), string(a.Material.Reveal())) {
		t.Errorf("plaintext on disk (%v)", err)
	}
	if got := d.types(); !slices.Equal(got, []string{"KEY_CREATED", "KEY_RELEASED", "KEY_RELEASED"}) {
		t.Errorf("journal %v", got)
	}
}

func TestRegisteredSecretDataComesBackAsItWas(t *testing.T) {
	d, p := newDesk(t), principal()
	obj := kmip.Object{Meta: kmip.Meta{Type: kmip.TypeSecretData, Format: kmip.FormatOpaque, SecretType: "Seed"}, Material: secret.FromString("percona's own key")}
	id, err := d.Register(t.Context(), p, obj)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Get(t.Context(), p, id)
	if err != nil || string(got.Material.Reveal()) != "percona's own key" || got.SecretType != "Seed" {
		t.Errorf("%+v, %v", got, err)
	}
	if c := d.cloud.Calls()[0].Context["keywright:purpose"]; c != "secret-data" {
		t.Errorf("purpose %q", c)
	}
}

func TestNothingIsAcknowledgedOrReleasedWhenAStepFails(t *testing.T) {
	denied := &kms.Failure{Outcome: kms.Revoked, Reason: kms.KeyAccessDenied}
	for _, c := range []struct {
		name  string
		spoil func(*desk)
		calls int // of KMS
		files int
		runs  int
	}{
		{"verdict does not allow it", func(d *desk) { d.verdict = errors.New("SUSPECT") }, 0, 0, 0},
		{"audit log full", func(d *desk) { d.noJournal = errors.New("disk full") }, 0, 0, 0},
		{"no session", func(d *desk) { d.fault.Fail(kms.OpAssumeRole, -1, denied) }, 0, 0, 1},
		{"encrypt refused", func(d *desk) { d.fault.Fail(kms.OpEncrypt, -1, denied) }, 0, 0, 1},
		{"encrypt unreachable", func(d *desk) { d.fault.Fail(kms.OpEncrypt, -1, context.DeadlineExceeded) }, 0, 0, 0},
		{"verification refused", func(d *desk) { d.fault.Fail(kms.OpDecrypt, -1, denied) }, 1, 0, 1},
		{"disk", func(d *desk) { _ = os.RemoveAll(d.dir); _ = os.WriteFile(d.dir, nil, 0o600) }, 2, 0, 0},
		{"escrow", func(d *desk) { d.noEscrow = errors.New("control plane away") }, 2, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, p := newDesk(t), principal()
			c.spoil(d)
			id, err := d.Create(t.Context(), p, aes())
			if err == nil || id != "" {
				t.Fatalf("acknowledged %q", id)
			}
			if c.name != "disk" && !errors.Is(err, kmip.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
			if n := len(d.cloud.Calls()); n != c.calls {
				t.Errorf("%d calls of KMS, want %d", n, c.calls)
			}
			if n := len(d.store.OfNode(p.Node)); n != c.files || d.asked != c.runs {
				t.Errorf("%d keys kept, %d runs asked for; want %d and %d", n, d.asked, c.files, c.runs)
			}
		})
	}
}

func TestGetReleasesNothingWhenAStepFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*desk)
		calls int
		runs  int
	}{
		{"verdict does not allow it", func(d *desk) { d.verdict = errors.New("INVALID") }, 0, 0},
		{"audit log full", func(d *desk) { d.noJournal = errors.New("disk full") }, 0, 0},
		{"refused", func(d *desk) { d.cloud.SetState(d.key.KeyARN, "Disabled") }, 1, 1},
		{"unreachable", func(d *desk) { d.cloud.Down(kms.Timeout) }, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, p := newDesk(t), principal()
			id := d.create(p)
			before := len(d.cloud.Calls())
			c.spoil(d)
			o, err := d.Get(t.Context(), p, id)
			if !errors.Is(err, kmip.ErrUnavailable) || !o.Material.IsEmpty() {
				t.Errorf("released: %v", err)
			}
			if n := len(d.cloud.Calls()) - before; n != c.calls || d.asked != c.runs {
				t.Errorf("%d calls, %d runs; want %d and %d", n, d.asked, c.calls, c.runs)
			}
		})
	}
}

func TestReleaseAsksTheVerdictAgain(t *testing.T) {
	d, p := newDesk(t), principal()
	id := d.create(p)
	if err := d.Release(t.Context(), p, id); err != nil {
		t.Fatal(err)
	}
	d.verdict = errors.New("SUSPECT")
	if err := d.Release(t.Context(), p, id); !errors.Is(err, kmip.ErrUnavailable) {
		t.Errorf("release: %v", err)
	}
}

func TestIdentifiersAreToldApart(t *testing.T) {
	d, a, b := newDesk(t), principal(), principal()
	id := d.create(a)
	gone := d.create(a)
	if err := d.destroy(t.Context(), "test", a.Node, id); err != nil {
		t.Fatal(err)
	}
	sameNode := a
	sameNode.Project = b.Project
	otherCluster := a
	otherCluster.Cluster = b.Cluster
	for _, c := range []struct {
		name string
		p    kmip.Principal
		id   keys.KeyID
		want error
	}{
		{"not of our form", a, "1", kmip.ErrNotFound},
		{"recorded as destroyed", a, gone, kmip.ErrNotFound},
		{"well-formed and unknown", a, keys.NewKeyID(), kmip.ErrUnknown},
		{"another node's", b, id, kmip.ErrForeign},
		{"another project's", sameNode, id, kmip.ErrForeign},
		{"another cluster's", otherCluster, id, kmip.ErrForeign},
	} {
		before := len(d.cloud.Calls())
		if _, err := d.Get(t.Context(), c.p, c.id); !errors.Is(err, c.want) {
			t.Errorf("get %s: %v", c.name, err)
		}
		if _, err := d.Attributes(t.Context(), c.p, c.id); !errors.Is(err, c.want) {
			t.Errorf("attributes %s: %v", c.name, err)
		}
		if err := d.Activate(t.Context(), c.p, c.id); !errors.Is(err, c.want) {
			t.Errorf("activate %s: %v", c.name, err)
		}
		if len(d.cloud.Calls()) != before {
			t.Errorf("%s: KMS was asked", c.name)
		}
	}
	if got := d.alarms.list(); len(got) != 1 || !strings.Contains(got[0], string(a.Node)) {
		t.Errorf("alarms %v", got)
	}
	if _, err := d.Get(t.Context(), a, id); err != nil || len(d.alarms.list()) != 0 {
		t.Errorf("its own key: %v, alarms %v", err, d.alarms.list())
	}
	if got, _ := d.Locate(t.Context(), b, ""); len(got) != 0 {
		t.Errorf("another node sees %v", got)
	}
	if got, _ := d.Locate(t.Context(), a, ""); !slices.Equal(got, []keys.KeyID{id}) {
		t.Errorf("the node sees %v", got)
	}
}

func TestContextIsThatOfWhoAsksNotOfTheFile(t *testing.T) {
	d, a, b := newDesk(t), principal(), principal()
	id := d.create(a)
	// A thief of the disk relabels a's wrap as b's.
	r, _ := d.store.Get(id)
	r.Node, r.Project, r.Cluster, r.Revision = b.Node, b.Project, b.Cluster, 0
	dir := filepath.Join(t.TempDir(), "keys")
	other, err := wraps.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Put(r); err != nil {
		t.Fatal(err)
	}
	d.store = other
	o, err := d.Get(t.Context(), b, id)
	if err == nil || !o.Material.IsEmpty() {
		t.Fatal("another node's wrap was opened")
	}
	if len(d.alarms.list()) != 1 {
		t.Error("no alarm")
	}
	if d.asked != 0 {
		t.Error("a mismatch was taken for a revocation")
	}
}

func TestStateIsComputedFromTheVerdict(t *testing.T) {
	d, p := newDesk(t), principal()
	id := d.create(p)
	state := func() keys.State {
		a, err := d.Attributes(t.Context(), p, id)
		if err != nil {
			t.Fatal(err)
		}
		return a.State
	}
	if s := state(); s != keys.StatePreActive {
		t.Errorf("new key is %s", s)
	}
	if err := d.Activate(t.Context(), p, id); err != nil {
		t.Fatal(err)
	}
	if err := d.Activate(t.Context(), p, id); !errors.Is(err, kmip.ErrIllegal) {
		t.Errorf("second activation: %v", err)
	}
	d.down = true
	if s := state(); s != keys.StateDeactivated {
		t.Errorf("under INVALID the key is %s", s)
	}
	if r, _ := d.store.Get(id); r.State != keys.StateActive {
		t.Errorf("stored as %s", r.State)
	}
	d.down = false
	if s := state(); s != keys.StateActive {
		t.Errorf("afterwards it is %s", s)
	}
}

func TestRetriesWithoutEscrowPileUpNoKeysAndAreSentLater(t *testing.T) {
	d, p := newDesk(t), principal()
	d.noEscrow = errors.New("control plane away")
	for range 5 {
		if _, err := d.Create(t.Context(), p, aes()); err == nil {
			t.Fatal("acknowledged")
		}
	}
	if n := len(d.store.OfNode(p.Node)); n != 1 {
		t.Fatalf("%d keys for one that never came to be", n)
	}
	d.noEscrow = nil
	d.reopen()
	id := d.create(p)
	if len(d.escrowed) != 2 || d.escrowed[1].Key != id || len(d.store.Unescrowed()) != 0 {
		t.Errorf("escrow has %+v", d.escrowed)
	}
	if err := d.Activate(t.Context(), p, id); err != nil {
		t.Fatal(err)
	}
	if last := d.escrowed[len(d.escrowed)-1]; last.State != keys.StateActive || last.Revision != 2 {
		t.Errorf("escrow was told %+v", last)
	}
}

func TestOneRefusedWrapKeepsNoOtherBack(t *testing.T) {
	d, p := newDesk(t), principal()
	d.noEscrow = errors.New("away")
	q := principal()
	_, _ = d.Create(t.Context(), p, aes())
	_, _ = d.Create(t.Context(), q, aes())
	d.noEscrow = &agentlink.Error{Status: 409, Code: "WRAP_IS_OLDER"}
	tries := 0
	d.onEscrow = func() { tries++ }
	if err := d.syncEscrow(t.Context(), d.store.Unescrowed()); err == nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
	d.noEscrow, tries = errors.New("away"), 0
	if err := d.syncEscrow(t.Context(), d.store.Unescrowed()); err == nil || tries != 1 {
		t.Errorf("%d tries at a control plane that is away, %v", tries, err)
	}
}

func TestDestroyIsRecordedFirstKeepsTheKeyInUseAndIsToldOnce(t *testing.T) {
	d, p, q := newDesk(t), principal(), principal()
	old, used, other := d.create(p), d.create(p), d.create(q)
	d.noJournal = errors.New("disk full")
	if err := d.destroy(t.Context(), "test", p.Node, used); err == nil || !d.holds(p.Node, used) {
		t.Fatal("destroyed without a record")
	}
	d.noJournal = nil
	if err := d.destroy(t.Context(), "test", p.Node, keys.NewKeyID()); err == nil || !d.holds(p.Node, used) {
		t.Error("destroyed although the key in use is not here")
	}
	d.journal = nil
	for range 2 {
		if err := d.destroy(t.Context(), "generation 4", p.Node, used); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.types(); !slices.Equal(got, []string{"KEYS_DESTROYED"}) {
		t.Errorf("journal %v", got)
	}
	d.reopen()
	if r, ok := d.store.Get(old); !ok || r.State != keys.StateDestroyed || len(r.Wrapped) != 0 {
		t.Errorf("old key is %+v", r)
	}
	for _, id := range []keys.KeyID{used, other} {
		if r, _ := d.store.Get(id); len(r.Wrapped) == 0 {
			t.Errorf("key %s lost its ciphertext", id)
		}
	}
	open := d.store.Unescrowed()
	if len(open) != 1 || open[0].Key != old {
		t.Errorf("to be told: %+v", open)
	}
}
