package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// bench is a desk with a stager.
type bench struct {
	*desk
	s  *stager
	p  kmip.Principal
	at string // the step that fails
}

var errKilled = errors.New("killed here")

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{desk: newDesk(t), p: principal()}
	b.restart()
	return b
}

// restart is what is left after a crash of the agent.
func (b *bench) restart() {
	b.reopen()
	c := &custodian{project: b.p.Project, log: discard(), key: b.key, plans: b.plan()}
	c.loop = custody.NewLoop(custody.Config{Prober: c})
	b.s = newStager(c, b.vault, func() {}, func(step string) error {
		if step == b.at {
			return errKilled
		}
		return nil
	})
	c.wraps = b.s
}

// tell is a new desired state.
func (b *bench) tell(fn func(*keyPlan)) {
	p := b.plan()
	fn(&p)
	b.key, b.more = p.current, p
	b.s.c.mu.Lock()
	b.s.c.plans = p
	b.s.c.mu.Unlock()
}

func (b *bench) newKey(generation uint64) agentlink.CustomerKey {
	k := b.key
	k.Generation, k.KeyARN = generation, b.cloud.CreateKey()
	return k
}

// opens tells by which of the keys each record can be opened, to the same material.
func (b *bench) opens(under ...agentlink.CustomerKey) {
	b.t.Helper()
	for _, r := range b.store.OfProject(b.p.Project) {
		if !r.State.Readable() {
			continue
		}
		var first []byte
		for _, k := range under {
			w, ok := r.Under(k.KeyARN)
			if !ok {
				b.t.Errorf("key %s has no wrap under %s", r.Key, k.KeyARN)
				continue
			}
			m, err := b.unwrap(b.t.Context(), target(k), r.Context(b.deployment), w)
			if err != nil {
				b.t.Errorf("key %s under %s: %v", r.Key, k.KeyARN, err)
				continue
			}
			if first == nil {
				first = bytes.Clone(m.Reveal())
			}
			if !bytes.Equal(first, m.Reveal()) {
				b.t.Errorf("key %s is another one under %s", r.Key, k.KeyARN)
			}
		}
	}
}

func TestEveryKeptKeyIsWrappedAnewWhateverDiesMeanwhile(t *testing.T) {
	for _, step := range []string{"unwrapped", "wrapped", "stored", "escrowed", ""} {
		t.Run("killed at "+step, func(t *testing.T) {
			b := newBench(t)
			first, second := b.create(b.p), b.create(b.p)
			secretData, err := b.Register(t.Context(), b.p, kmip.Object{Meta: kmip.Meta{Type: kmip.TypeSecretData, Format: kmip.FormatOpaque}, Material: secret.FromString("some secret data")})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Activate(t.Context(), b.p, first); err != nil {
				t.Fatal(err)
			}
			if err := b.Activate(t.Context(), b.p, second); err != nil {
				t.Fatal(err)
			}
			if err := b.deactivate(t.Context(), b.p.Node, second); err != nil { // first stays readable
				t.Fatal(err)
			}
			gone := b.create(b.p)
			if err := b.store.DestroyKey(gone); err != nil {
				t.Fatal(err)
			}
			old, candidate := b.key, b.newKey(8)
			b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
			b.at = step
			if err := b.s.pass(t.Context()); (err != nil) != (step != "") {
				t.Fatal(err)
			}
			if st := b.s.status(); step != "" && step != "escrowed" && (st.Done == st.Total || st.Committed != old.Generation) {
				t.Errorf("%+v", st)
			}
			b.at = ""
			b.restart()
			for _, k := range []keys.KeyID{first, second, secretData} {
				if _, err := b.Get(t.Context(), b.p, k); err != nil {
					t.Errorf("key %s after the crash: %v", k, err)
				}
			}
			if err := b.s.pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			st := b.s.status()
			if st.Staging != 8 || st.Done != 3 || st.Total != 3 || st.Failure != nil || st.Committed != old.Generation {
				t.Fatalf("%+v", st)
			}
			for _, r := range b.store.OfProject(b.p.Project) {
				if n := len(r.Wraps()); r.Key == gone && n != 0 || r.Key != gone && n != 2 {
					t.Errorf("key %s has %d wraps", r.Key, n)
				}
			}
			b.opens(old, candidate)
			last := b.escrowed[len(b.escrowed)-1]
			if last.Generation != 8 || len(last.Wrapped) == 0 {
				t.Errorf("escrow has %+v", last)
			}
			// The commit switches which wrap is used.
			b.tell(func(p *keyPlan) { p.current, p.candidate, p.retained = candidate, nil, []agentlink.CustomerKey{old} })
			b.cloud.SetState(old.KeyARN, "Disabled")
			if _, err := b.Get(t.Context(), b.p, first); err != nil {
				t.Errorf("under the new key: %v", err)
			}
			if st := b.s.status(); st.Committed != 8 || st.Staging != 0 {
				t.Errorf("%+v", st)
			}
			b.cloud.SetState(old.KeyARN, "Enabled")
			if _, err := b.Get(t.Context(), b.p, second); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeysThatAreMadeMeanwhileGetBothWraps(t *testing.T) {
	b := newBench(t)
	old, candidate := b.key, b.newKey(8)
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	b.onEscrow = func() {
		for _, r := range b.store.OfProject(b.p.Project) {
			if len(r.Wraps()) != 2 {
				t.Errorf("escrowed with %d wraps", len(r.Wraps()))
			}
		}
	}
	b.create(b.p)
	b.onEscrow = nil
	if len(b.escrowed) != 2 || b.news != 1 {
		t.Errorf("escrow has %+v; %d keys told of", b.escrowed, b.news)
	}
	b.opens(old, candidate)
	// A candidate that refuses: no key is acknowledged, none is left behind.
	b.cloud.SetState(candidate.KeyARN, "Disabled")
	n := len(b.store.OfProject(b.p.Project))
	if _, err := b.Create(t.Context(), b.p, aes()); !errors.Is(err, kmip.ErrUnavailable) || len(b.store.OfProject(b.p.Project)) != n || b.asked != 0 {
		t.Errorf("%v; %d keys; %d runs asked for", err, len(b.store.OfProject(b.p.Project)), b.asked)
	}
	// Paused, or aborted: only the key in force counts.
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate, Paused: true} })
	b.create(b.p)
	if st := b.s.status(); st.Done != 0 || st.Total != 2 || st.Failure != nil {
		t.Errorf("paused: %+v", st)
	}
}

// A key that is made by the plan of before while the commit comes is wrapped anew, and
// can be read until then.
func TestAKeyThatTheCommitOvertookIsHealed(t *testing.T) {
	b := newBench(t)
	id := b.create(b.p)
	old, next := b.key, b.newKey(8)
	b.tell(func(p *keyPlan) { p.current, p.retained = next, []agentlink.CustomerKey{old} })
	if _, err := b.Get(t.Context(), b.p, id); err != nil {
		t.Error(err)
	}
	if st := b.s.status(); st.Committed != 0 {
		t.Errorf("acknowledged: %+v", st)
	}
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := b.s.status(); st.Committed != 8 {
		t.Errorf("%+v", st)
	}
	b.opens(old, next)
}

// held is a provider whose first session waits until it is let go.
type held struct {
	kms.Provider
	once           sync.Once
	entered, leave chan struct{}
}

func (h *held) Session(ctx context.Context, t kms.Target) (kms.Session, error) {
	h.once.Do(func() { close(h.entered); <-h.leave })
	return h.Provider.Session(ctx, t)
}

func TestTheBarrierWaitsForKeysOfTheOlderPlan(t *testing.T) {
	b := newBench(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	b.provider = &held{Provider: b.fault, entered: entered, leave: leave}
	made := make(chan error, 1)
	go func() { _, err := b.Create(context.Background(), b.p, aes()); made <- err }()
	<-entered
	candidate := b.newKey(8)
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	passed := make(chan error, 1)
	go func() { passed <- b.s.pass(context.Background()) }()
	close(leave)
	if err := errors.Join(<-made, <-passed); err != nil {
		t.Fatal(err)
	}
	if st := b.s.status(); st.Done != 1 || st.Total != 1 {
		t.Errorf("a key that was being made was not looked at: %+v", st)
	}
}

func TestANewRoleIsProvenByOpeningEveryKey(t *testing.T) {
	b := newBench(t)
	b.create(b.p)
	b.create(b.p)
	other := b.cloud.Project() // a role of its own; the key stays
	candidate := b.key
	candidate.Generation, candidate.RoleARN, candidate.ExternalID = 8, other.RoleARN, other.ExternalID
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	b.cloud.Deny(other.RoleARN, true, kms.OpDecrypt)
	if err := b.s.pass(t.Context()); err == nil {
		t.Fatal("a role without permission was proven")
	}
	f := b.s.status().Failure
	if f == nil || !f.Candidate || f.Outcome != kms.Revoked || f.Reason != kms.KeyAccessDenied || f.Operation != kms.OpDecrypt || f.Permission != "kms:Decrypt" || f.Key == "" || f.Confirmed {
		t.Fatalf("%+v", f)
	}
	b.cloud.Deny(other.RoleARN, false, kms.OpDecrypt)
	b.cloud.Deny(other.RoleARN, true, kms.OpAssumeRole) // a cached session would not show it
	if err := b.s.pass(t.Context()); err == nil || b.s.status().Failure.Reason != kms.RoleNotAssumable {
		t.Errorf("%v, %+v", err, b.s.status().Failure)
	}
	b.cloud.Deny(other.RoleARN, false, kms.OpAssumeRole)
	b.at = "verified"
	if err := b.s.pass(t.Context()); !errors.Is(err, errKilled) {
		t.Error(err)
	}
	b.at = ""
	b.restart()
	// The present role is of no use: it is not needed.
	b.cloud.Deny(b.key.RoleARN, true, kms.OpDecrypt, kms.OpEncrypt)
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := b.s.status(); st.Done != 2 || st.Total != 2 || st.Failure != nil {
		t.Errorf("%+v", st)
	}
	for _, r := range b.store.OfProject(b.p.Project) {
		if len(r.Wraps()) != 1 {
			t.Errorf("a change of the role made a wrap: %+v", r)
		}
	}
}

// Rule 24: the new role leads to the old key too.
func TestTheOldKeyIsReachedThroughTheNewRole(t *testing.T) {
	b := newBench(t)
	b.create(b.p)
	other := b.cloud.Project()
	old, candidate := b.key, b.newKey(8)
	candidate.RoleARN, candidate.ExternalID = other.RoleARN, other.ExternalID
	b.cloud.Deny(old.RoleARN, true, kms.OpAssumeRole, kms.OpDecrypt, kms.OpEncrypt)
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := b.s.status(); st.Done != 1 {
		t.Errorf("%+v", st)
	}
	b.cloud.Deny(old.RoleARN, false, kms.OpAssumeRole, kms.OpDecrypt, kms.OpEncrypt)
	b.opens(old, candidate)
}

func TestARefusalIsConfirmedOverTime(t *testing.T) {
	b := newBench(t)
	b.create(b.p)
	candidate := b.newKey(8)
	candidate.Interval, b.key.Interval = agentlink.Duration(time.Second), agentlink.Duration(time.Second)
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	b.cloud.SetState(candidate.KeyARN, "Disabled")
	begun := time.Now()
	eventually(t, "the refusal is confirmed", func() bool {
		_ = b.s.pass(t.Context())
		return b.s.status().Failure.Confirmed
	})
	if time.Since(begun) < time.Second {
		t.Error("confirmed in a burst")
	}
	// One that is only not reached never is.
	b.cloud.SetState(candidate.KeyARN, "Enabled")
	b.cloud.Down(kms.Timeout)
	if err := b.s.pass(t.Context()); err == nil || b.s.status().Failure.Confirmed || b.s.refusals != 0 {
		t.Errorf("%v, %+v", err, b.s.status().Failure)
	}
}

func TestWrapsAreDroppedOnOrderOnly(t *testing.T) {
	b := newBench(t)
	b.create(b.p)
	old, candidate := b.key, b.newKey(8)
	b.tell(func(p *keyPlan) { p.candidate = &agentlink.Candidate{CustomerKey: candidate} })
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	// An order about the key in force, and one about a key that is the only one, are not
	// carried out.
	orders := []agentlink.WrapDrop{{Order: 1, KeyARN: old.KeyARN, To: 9}}
	b.tell(func(p *keyPlan) { p.candidate, p.dropped = nil, orders })
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.opens(old, candidate)
	// The abort.
	orders = append(orders, agentlink.WrapDrop{Order: 2, KeyARN: candidate.KeyARN, From: 8, To: 8})
	b.tell(func(p *keyPlan) { p.dropped = orders })
	if st := b.s.status(); st.Dropped != 1 {
		t.Errorf("%+v", st)
	}
	b.at = "dropped"
	if err := b.s.pass(t.Context()); !errors.Is(err, errKilled) {
		t.Error(err)
	}
	b.at = ""
	b.restart()
	if err := b.s.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := b.s.status(); st.Dropped != 2 || st.Committed != old.Generation {
		t.Errorf("%+v", st)
	}
	for _, r := range b.store.OfProject(b.p.Project) {
		if ws := r.Wraps(); len(ws) != 1 || ws[0].Generation != old.Generation || r.Escrowed != r.Revision || r.Format != 1 {
			t.Errorf("%+v", r)
		}
	}
	b.opens(old)
	if !slices.Contains(b.types(), "KEY_WRAP_DROPPED") {
		t.Errorf("journal %v", b.types())
	}
}

// staging gives a project's progress as the host reported it last.
func (r *rig) staging() agentlink.WrapStatus {
	for _, c := range r.last().Custody {
		if c.Project == r.project && c.Wraps != nil {
			return *c.Wraps
		}
	}
	return agentlink.WrapStatus{}
}

// The agent is ended at each step of a change of the CMK with a running node; then the
// old key is disabled and everything is killed: the node comes back under the new one.
func TestAgentEndedAtEveryStepOfAChangeOfTheKey(t *testing.T) {
	r := newRig(t)
	var at atomic.Value
	reached := make(chan string, 100)
	at.Store("")
	r.cfg.afterStep = func(step string) error {
		if at.Load() != step {
			return nil
		}
		select {
		case reached <- step:
		default:
		}
		return errKilled
	}
	r.start()
	id := r.add(true)
	before := r.await(id, agentlink.PhaseRunning)
	eventually(t, "the key is active in escrow", func() bool { return r.held(before.MasterKey) == keys.StateActive })
	generation := uint64(1)
	for _, step := range []string{"unwrapped", "wrapped", "stored", "escrowed"} {
		generation++
		at.Store(step)
		other := r.cloud.CreateKey()
		probe := kms.Run(t.Context(), r.cloud, kms.RunInput{
			Target:  kms.Target{RoleARN: r.target.RoleARN, ExternalID: r.target.ExternalID, KeyID: other, Region: r.target.Region},
			Context: keys.ProbeContext(r.desired.Deployment, r.project).Map(),
		}).Probe
		var old, candidate agentlink.CustomerKey
		r.change(func(d *agentlink.Desired) {
			old = *d.Projects[0].CustomerKey
			candidate = old
			candidate.Generation, candidate.KeyARN, candidate.Probe, candidate.ProbeSHA256 = generation, other, probe.Ciphertext, probe.Digest
			d.Projects[0].Candidate = &agentlink.Candidate{CustomerKey: candidate}
		})
		if got := <-reached; got != step {
			t.Fatalf("reached %s", got)
		}
		r.end()
		rec, ok := mustOpen(t, r).Get(before.MasterKey)
		if _, under := rec.Under(old.KeyARN); !ok || !under {
			t.Fatalf("%s: %+v", step, rec)
		}
		at.Store("")
		for len(reached) > 0 {
			<-reached
		}
		r.start()
		eventually(t, "the key is staged after "+step, func() bool {
			st := r.staging()
			return st.Staging == generation && st.Done == 1 && st.Total == 1
		})
		r.change(func(d *agentlink.Desired) {
			p := &d.Projects[0]
			p.CustomerKey, p.Candidate, p.Retained = &candidate, nil, append([]agentlink.CustomerKey{old}, p.Retained...)
		})
		eventually(t, "the commit is acknowledged after "+step, func() bool { return r.staging().Committed == generation })
		r.cloud.SetState(old.KeyARN, "Disabled")
		r.end()
		r.kill(id)
		r.start()
		eventually(t, "the node comes back under the new key after "+step, func() bool {
			s := r.node(id)
			return s.Phase == agentlink.PhaseRunning && s.PID != before.PID && s.MasterKey == before.MasterKey
		})
		before = r.node(id)
	}
	if ws := len(r.wraps[before.MasterKey]); ws != 5 {
		t.Errorf("%d wraps in escrow", ws)
	}
	// What is recovered from escrow opens too.
	r.end()
	r.reap()
	if err := os.RemoveAll(layout{r.cfg.DataDir}.keys()); err != nil {
		t.Fatal(err)
	}
	if got, err := Recover(t.Context(), RecoverConfig{DataDir: r.cfg.DataDir, ServerURL: r.http.URL, Logger: discard()}); err != nil || got.Restored != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	r.start()
	eventually(t, "the node runs on recovered keys", func() bool {
		s := r.node(id)
		return s.Phase == agentlink.PhaseRunning && s.PID != before.PID && s.MasterKey == before.MasterKey
	})
	if strings.Contains(strings.Join(r.last().Alarms, " "), "wrap") {
		t.Errorf("alarms %v", r.last().Alarms)
	}
}
