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
	recorder   *recorder
	enforce    func(custody.State) // stops the project's encrypted nodes; returns at once
	release    func()              // tells nodes that they may start

	mu       sync.Mutex
	key      agentlink.CustomerKey
	asked    uint64 // newest counter of validations asked for
	finished uint64 // newest counter for which a run began and has finished
}

// newCustodian makes a custodian; its loop has to be run.
func newCustodian(a *Agent, p agentlink.Project) *custodian {
	c := &custodian{
		project: p.ID, deployment: a.id.Deployment, provider: a.cfg.Provider, recorder: a.recorder,
		key: *p.CustomerKey, asked: p.Validate,
	}
	c.enforce = func(custody.State) { a.stopEncrypted(p.ID) }
	c.release = func() { a.wakeProject(p.ID) }
	c.loop = custody.NewLoop(custody.Config{
		Project: p.ID, Prober: c, Store: custodyFile(a.dir.custody(p.ID)),
		Policy: custody.Policy{Interval: time.Duration(c.key.Interval)}, Generation: c.key.Generation,
		Enact:    c.enact,
		OnChange: func(_, _ custody.State) { a.reporter.poke(); c.release() },
		// Jitter spreads hosts and only ever shortens a wait (key-plane rule 4).
		Jitter: func(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/10+1)) }, //nolint:gosec // no secret
		Logger: a.log.With(slog.String("project", string(p.ID))),
	})
	return c
}

// update takes over a newer configuration.
func (c *custodian) update(p agentlink.Project) {
	c.mu.Lock()
	old := c.key
	c.key = *p.CustomerKey
	again := p.Validate > c.asked
	c.asked = max(c.asked, p.Validate)
	c.mu.Unlock()
	if c.key.Generation != old.Generation {
		c.provider.Forget(target(old))
		c.loop.Commit(c.key.Generation)
	}
	if c.key.Interval != old.Interval {
		c.loop.SetPolicy(custody.Policy{Interval: time.Duration(c.key.Interval)})
	}
	if again {
		c.loop.TryNow()
	}
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
		now := time.Now()
		return kms.Failed(fmt.Errorf("configuration %d is not the current one", generation), now, now)
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
