package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

func TestPortsStayWithTheirNodesAndBusyOnesAreSkipped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy := l.Addr().(*net.TCPAddr).Port
	p := newPorts(PortRange{From: busy, To: min(busy+20, 65535)})
	first, err := p.take()
	if err != nil || first == busy {
		t.Fatalf("took %d, %v", first, err)
	}
	second, err := p.take() // first is free for others to listen on, but it is a node's
	if err != nil || second == first || second == busy {
		t.Fatalf("took %d after %d, %v", second, first, err)
	}
	p.drop(first)
	if third, err := p.take(); err != nil || third != first {
		t.Errorf("took %d, %v", third, err)
	}
	one := newPorts(PortRange{From: second, To: second})
	one.keep(second)
	if _, err := one.take(); err == nil || !strings.Contains(err.Error(), "--node-ports") {
		t.Errorf("full range: %v", err)
	}
	any := newPorts(PortRange{})
	if a, err := any.take(); err != nil || a == 0 {
		t.Errorf("any free port: %d, %v", a, err)
	}
}

func TestParsePortRange(t *testing.T) {
	for in, want := range map[string]PortRange{"27100-27199": {27100, 27199}, "0": {}, "5000": {5000, 5000}} {
		if got, err := ParsePortRange(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "2-1", "0-5", "1-70000", "-1", "1-2-3"} {
		if got, err := ParsePortRange(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestWishesAreKeptWithoutPasswordsAndNeverGoBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "desired.json")
	w, err := openWishes(path)
	if err != nil {
		t.Fatal(err)
	}
	id := func() string { return keys.NewID(time.Now()) }
	node := agentlink.Node{ID: keys.NodeID(id()), Project: keys.ProjectID(id()), Cluster: keys.ClusterID(id()), KMIPClientFingerprints: []string{"aa"}}
	d := agentlink.Desired{
		Version: 1, Revision: 5, Nodes: []agentlink.Node{node},
		Projects: []agentlink.Project{{ID: node.Project, Users: []agentlink.DatabaseUser{{Username: "u", Password: "the-password"}}}},
	}
	if err := w.take(d); err != nil {
		t.Fatal(err)
	}
	if p, _ := w.project(node.Project); p.Users[0].Password != "the-password" {
		t.Error("the password is not in memory")
	}
	if raw, err := os.ReadFile(path); err != nil || strings.Contains(string(raw), "the-password") {
		t.Errorf("the password is on disk (%v)", err)
	}
	older := d
	older.Revision, older.Nodes = 4, nil
	if err := w.take(older); !errors.Is(err, errRolledBack) || w.alarm() == "" {
		t.Errorf("older state: %v, alarm %q", err, w.alarm())
	}
	if p, ok := w.Admit("aa"); !ok || p.Node != node.ID || p.Cluster != node.Cluster {
		t.Error("the old state is not in force")
	}
	again, err := openWishes(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := again.get(); got.Revision != 5 {
		t.Errorf("after a restart revision %d", got.Revision)
	}
	if p, _ := again.project(node.Project); p.Users[0].Password != "" {
		t.Error("a password came from the disk")
	}
	if err := again.take(d); err != nil { // the same revision brings the passwords
		t.Error(err)
	}
	if p, _ := again.project(node.Project); p.Users[0].Password != "the-password" {
		t.Error("the password did not come")
	}
	removed := d
	removed.Revision, removed.Nodes = 6, nil
	if err := again.take(removed); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Admit("aa"); ok {
		t.Error("a removed certificate is admitted")
	}
	if err := os.WriteFile(path, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openWishes(path); !errors.Is(err, agentlink.ErrVersion) {
		t.Errorf("newer file: %v", err)
	}
}

func TestIdentifiersThatCouldBePathsAreRefused(t *testing.T) {
	good := keys.NewID(time.Now())
	for name, d := range map[string]agentlink.Desired{
		"project":   {Projects: []agentlink.Project{{ID: "../x"}}},
		"node":      {Nodes: []agentlink.Node{{ID: "..", Project: keys.ProjectID(good), Cluster: keys.ClusterID(good)}}},
		"tombstone": {Tombstones: []agentlink.Tombstone{{Node: ""}}},
	} {
		if err := check(d); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// patient is a provider whose runs wait until they are let go.
type patient struct {
	kms.Provider
	entered chan struct{}
	leave   chan struct{}
}

func (p *patient) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	p.entered <- struct{}{}
	<-p.leave
	return p.Provider.Assume(ctx, t)
}

// withWraps gives a custodian an empty store of wraps.
func withWraps(t *testing.T, c *custodian) {
	t.Helper()
	store, err := wraps.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.log = discard()
	c.wraps = newStager(c, &vault{store: store}, func() {}, func(string) error { return nil })
}

func TestValidateIsReportedForRunsThatBeganAfterIt(t *testing.T) {
	cloud := kmstest.NewCloud()
	tg := cloud.Project()
	p := &patient{Provider: cloud, entered: make(chan struct{}), leave: make(chan struct{})}
	c := &custodian{project: "p", provider: p, asked: 4, key: agentlink.CustomerKey{
		Generation: 2, RoleARN: tg.RoleARN, ExternalID: tg.ExternalID, KeyARN: tg.KeyID, Region: tg.Region,
	}}
	c.loop = custody.NewLoop(custody.Config{Prober: c})
	withWraps(t, c)
	results := make(chan kms.Result, 2)
	go func() { results <- c.Probe(t.Context(), 2) }()
	<-p.entered
	key := c.key
	c.update(agentlink.Project{CustomerKey: &key, Validate: 5}) // Try Again while a run is under way
	p.leave <- struct{}{}
	if r := <-results; r.Outcome != kms.OK || c.status().Validate != 4 {
		t.Errorf("%+v; reported as %d", r, c.status().Validate)
	}
	go func() { results <- c.Probe(t.Context(), 2) }()
	<-p.entered
	p.leave <- struct{}{}
	if <-results; c.status().Validate != 5 {
		t.Errorf("reported as %d", c.status().Validate)
	}
	// A run of a configuration that is not current any more is none.
	if r := c.Probe(t.Context(), 1); r.Outcome != "" {
		t.Errorf("outcome %s of no run", r.Outcome)
	}
}

// forgetful notes whose sessions are dropped.
type forgetful struct {
	kms.Provider
	forgot []kms.Target
}

func (f *forgetful) Forget(t kms.Target) { f.forgot = append(f.forgot, t) }

func TestWithdrawnKeyReleasesAndStartsNothing(t *testing.T) {
	f := &forgetful{}
	c := &custodian{provider: f, key: agentlink.CustomerKey{Generation: 1, RoleARN: "old"}}
	c.loop = custody.NewLoop(custody.Config{Prober: c})
	withWraps(t, c)
	c.withdraw()
	if err := c.releasable("c"); !errors.Is(err, errWithdrawn) || c.mayStart("c") || c.alarm() == "" {
		t.Errorf("withdrawn: %v, %t, %q", err, c.mayStart("c"), c.alarm())
	}
	c.update(agentlink.Project{CustomerKey: &agentlink.CustomerKey{Generation: 1, RoleARN: "new"}})
	if err := c.releasable("c"); errors.Is(err, errWithdrawn) || c.alarm() != "" {
		t.Errorf("named again: %v, %q", err, c.alarm())
	}
	if len(f.forgot) != 1 || f.forgot[0].RoleARN != "old" {
		t.Errorf("sessions dropped: %+v", f.forgot)
	}
}

func TestDamagedCustodyStateReleasesNothingAndAlarms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "custody.json")
	if err := os.WriteFile(path, []byte(`{"format":1,"verd`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{Provider: kmstest.NewCloud()}, log: discard(), dir: layout{filepath.Dir(path)}}
	a.reporter = newReporter(a)
	c := newCustodian(a, agentlink.Project{ID: "p", CustomerKey: &agentlink.CustomerKey{Generation: 1}})
	c.loop = custody.NewLoop(custody.Config{Prober: c, Store: custodyFile(path)})
	c.run(t.Context())
	if c.releasable("c") == nil || c.mayStart("c") || !strings.Contains(c.alarm(), "does not work") {
		t.Errorf("%v, %t, %q", c.releasable("c"), c.mayStart("c"), c.alarm())
	}
}

func TestRetryWaitsInTheSameSituationOnly(t *testing.T) {
	var r retry
	s := situation{wanted: &agentlink.Node{Run: true, KMIPClientFingerprints: []string{"a"}}, exists: true}
	if r.left(doStart, s) != 0 {
		t.Error("nothing failed yet")
	}
	first := r.failed(doStart, s)
	if second := r.failed(doStart, s); first != backoffMin || second != 2*backoffMin {
		t.Errorf("waits %s, then %s", first, second)
	}
	same := s
	same.wanted = &agentlink.Node{Run: true, KMIPClientFingerprints: []string{"a"}}
	if r.left(doStart, same) == 0 {
		t.Error("tried at once in the same situation")
	}
	other := s
	other.mayStart = true
	if r.left(doStart, other) != 0 || r.left(doRemove, s) != 0 {
		t.Error("another situation or action waits")
	}
	for range 20 {
		r.failed(doStart, s)
	}
	if d := r.failed(doStart, s); d != backoffMax {
		t.Errorf("backoff grew to %s", d)
	}
}

func TestAlarmsAreBoundedAndLastAsLongAsTheirCause(t *testing.T) {
	var a alarms
	for i := range 3 * maxAlarms {
		a.raise(fmt.Sprint("about ", i/2), strings.Repeat("x", i/2))
	}
	if got := a.list(); len(got) != maxAlarms || len(slices.Compact(got)) != maxAlarms {
		t.Errorf("%d alarms", len(got))
	}
	for i := range maxAlarms {
		a.clear(fmt.Sprint("about ", i))
	}
	if got := a.list(); len(got) != 0 {
		t.Errorf("alarms %q", got)
	}
	a.raise("one", "old")
	a.raise("one", "new")
	a.raise("two", "new")
	if got := a.list(); len(got) != 1 || got[0] != "new" {
		t.Errorf("alarms %q", got)
	}
}
