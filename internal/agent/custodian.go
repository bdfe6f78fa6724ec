package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agent/durable"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// custodian keeps this host's verdict on one project's key and enforces it.
type custodian struct {
	project    keys.ProjectID
	deployment keys.DeploymentID
	provider   kms.Provider
	loop       *custody.Loop
	recorder   journal
	log        *slog.Logger
	enforce    func(custody.State) // stops the project's encrypted nodes; returns at once
	release    func()              // tells nodes that they may start

	mu       sync.Mutex
	key      agentlink.CustomerKey
	asked    uint64 // newest counter of validations asked for
	finished uint64 // newest counter for which a run began and has finished
	// withdrawn: the control plane names no key any more although nodes are under it.
	withdrawn bool
	broken    error // why the loop has ended by itself
}

// newCustodian makes a custodian; its loop has to be run.
func newCustodian(a *Agent, p agentlink.Project) *custodian {
	c := &custodian{
		project: p.ID, deployment: a.id.Deployment, provider: a.cfg.Provider, recorder: a.recorder,
		key: *p.CustomerKey, asked: p.Validate,
	}
	c.log = a.log.With(slog.String("project", string(p.ID)))
	c.enforce = func(custody.State) { a.stopEncrypted(p.ID) }
	c.release = func() { a.wakeProject(p.ID) }
	c.loop = custody.NewLoop(custody.Config{
		Project: p.ID, Prober: c, Store: custodyFile(a.dir.custody(p.ID)),
		Policy: custody.Policy{Interval: time.Duration(c.key.Interval)}, Generation: c.key.Generation,
		Enact: c.enact,
		OnChange: func(old, now custody.State) {
			a.reporter.poke()
			if old.Verdict != now.Verdict || old.AwaitOK != now.AwaitOK {
				c.release()
			}
		},
		// Jitter spreads hosts and only ever shortens a wait (key-plane rule 4).
		Jitter: func(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/10+1)) }, //nolint:gosec // no secret
		Logger: c.log,
	})
	return c
}

// update takes over a newer configuration.
func (c *custodian) update(p agentlink.Project) {
	c.mu.Lock()
	old, key := c.key, *p.CustomerKey
	again := p.Validate > c.asked
	c.key, c.asked, c.withdrawn = key, max(c.asked, p.Validate), false
	c.mu.Unlock()
	if target(key) != target(old) {
		c.provider.Forget(target(old))
	}
	if key.Generation != old.Generation {
		c.loop.Commit(key.Generation)
	}
	if key.Interval != old.Interval {
		c.loop.SetPolicy(custody.Policy{Interval: time.Duration(key.Interval)})
	}
	if again {
		c.loop.TryNow()
	}
}

// withdraw keeps the watch over nodes that are still under a key which the control
// plane does not name any more: they are stopped if it is taken away, and nothing
// is released or started.
func (c *custodian) withdraw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.withdrawn = true
}

func (c *custodian) isWithdrawn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.withdrawn
}

var errWithdrawn = errors.New("the project has no customer key any more")

// releasable implements access.
func (c *custodian) releasable() error {
	if c.isWithdrawn() {
		return errWithdrawn
	}
	return c.loop.Releasable()
}

// refused implements access.
func (c *custodian) refused() { c.loop.GetRefused() }

// mustBeDown implements access.
func (c *custodian) mustBeDown() bool { return c.loop.State().MustBeDown() }

// mayStart tells whether a node may be started now. It is asked before each process.
func (c *custodian) mayStart() bool { return !c.isWithdrawn() && c.loop.MayStart() }

// run keeps the verdict until ctx ends.
func (c *custodian) run(ctx context.Context) {
	err := c.loop.Run(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	// Nothing is released or started from now on; what runs goes on.
	c.log.Error("custody of the customer key ended, nothing starts", "error", err)
	c.mu.Lock()
	c.broken = err
	c.mu.Unlock()
}

// alarm is a condition that needs a person; empty if there is none.
func (c *custodian) alarm() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.broken != nil:
		return fmt.Sprintf("custody of project %s does not work: %v", c.project, c.broken)
	case c.withdrawn:
		return fmt.Sprintf("project %s has no customer key any more, but nodes on this host are encrypted under it", c.project)
	}
	return ""
}

func target(k agentlink.CustomerKey) kms.Target {
	return kms.Target{
		RoleARN: k.RoleARN, ExternalID: k.ExternalID, KeyID: k.KeyARN, Region: k.Region,
		KMSEndpoint: k.KMSEndpoint, STSEndpoint: k.STSEndpoint,
	}
}

// config gives the current key and the way to it.
func (c *custodian) config() (agentlink.CustomerKey, kms.Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, target(c.key)
}

// Probe implements custody.Prober.
func (c *custodian) Probe(ctx context.Context, generation uint64) kms.Result {
	c.mu.Lock()
	key, asked := c.key, c.asked
	c.mu.Unlock()
	if key.Generation != generation {
		return kms.Result{} // no run: it says nothing about the key, and is asked for again
	}
	r := kms.Run(ctx, c.provider, kms.RunInput{
		Target: target(key), Context: keys.ProbeContext(c.deployment, c.project).Map(),
		Stored: kms.Probe{Ciphertext: key.Probe, Digest: key.ProbeSHA256},
	})
	c.mu.Lock()
	c.finished = max(c.finished, asked)
	c.mu.Unlock()
	return r
}

// enact carries out the loop's effects. Stop delays for nothing.
func (c *custodian) enact(ctx context.Context, e custody.Effect, s custody.State) error {
	switch e {
	case custody.Stop:
		c.enforce(s)
	case custody.DropSessions:
		_, t := c.config()
		c.provider.Forget(t)
	case custody.Record:
		return c.recorder.record(ctx, audit.Event{
			Type: "KEY_VERDICT_" + string(s.Verdict), Project: string(c.project),
			Message: fmt.Sprintf("This host's verdict on the customer key is %s.", s.Verdict),
			Data:    map[string]string{"reason": string(s.Reason), "detail": s.Detail},
		})
	case custody.Start:
		c.release()
	case custody.Persist, custody.AskValidators:
		// The loop persists by itself; other validators are asked by the control
		// plane, which learns of the change from the next status.
	}
	return nil
}

// status is the custodian's part of the host's report.
func (c *custodian) status() agentlink.CustodyStatus {
	c.mu.Lock()
	finished := c.finished
	c.mu.Unlock()
	return agentlink.CustodyStatus{Project: c.project, State: c.loop.State(), Validate: finished}
}

// custodyFile keeps a custody state in a file.
type custodyFile string

// Load implements custody.Store.
func (f custodyFile) Load(context.Context) (custody.State, error) {
	var s custody.State
	err := durable.ReadJSON(string(f), &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = custody.ErrNoState
	}
	return s, err
}

// Save implements custody.Store.
func (f custodyFile) Save(_ context.Context, s custody.State) error {
	return durable.WriteJSON(string(f), s, 0o600)
}
