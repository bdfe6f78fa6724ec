package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// custodian keeps this host's verdict on one project's key and enforces it.
type custodian struct {
	project    keys.ProjectID
	deployment keys.DeploymentID
	provider   kms.Provider
	loop       *custody.Loop
	recorder   journal
	log        *slog.Logger
	enforce    func(custody.State)  // stops the project's encrypted nodes; returns at once
	release    func()               // tells nodes that they may start
	addresses  func() []string      // from where this host calls AWS
	rehearse   func(keys.ClusterID) // makes the encrypted nodes of a cluster look at a drill
	// processes tells whether a cluster's encrypted nodes all serve, or are all gone.
	processes func(keys.ClusterID) (served, gone bool)
	drilled   chan struct{} // a drill has begun or ended

	wraps *stager // keeps the project's wraps as they are wanted

	mu       sync.Mutex
	key      agentlink.CustomerKey
	plans    keyPlan
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
		key: *p.CustomerKey, plans: planOf(p), asked: p.Validate, drilled: make(chan struct{}, 1),
	}
	c.log = a.log.With(slog.String("project", string(p.ID)))
	c.addresses = a.egress.list
	c.wraps = newStager(c, a.vault, a.reporter.poke, a.step)
	c.enforce = func(custody.State) { a.stopEncrypted(p.ID) }
	c.release = func() { a.wakeProject(p.ID) }
	c.rehearse = func(cluster keys.ClusterID) { a.rehearse(p.ID, cluster) }
	c.processes = func(cluster keys.ClusterID) (bool, bool) { return a.serving(p.ID, cluster) }
	c.loop = custody.NewLoop(custody.Config{
		Project: p.ID, Prober: c, Store: custodyFile(a.dir.custody(p.ID)),
		Policy: policy(c.key), Generation: c.key.Generation,
		Enact: c.enact,
		OnChange: func(old, now custody.State) {
			a.reporter.poke()
			if len(now.Drills) > 0 {
				c.lookAtDrill()
			}
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
	c.key, c.plans, c.asked, c.withdrawn = key, planOf(p), max(c.asked, p.Validate), false
	c.mu.Unlock()
	c.wraps.poke()
	if !target(key).Equal(target(old)) {
		c.provider.Forget(target(old))
	}
	if key.Generation != old.Generation {
		c.loop.Commit(key.Generation)
	}
	if policy(key) != policy(old) {
		c.loop.SetPolicy(policy(key))
	}
	if again {
		c.loop.TryNow()
	}
}

// policy is the project's, as the control plane tells it.
func policy(k agentlink.CustomerKey) custody.Policy {
	return custody.Policy{
		Interval: time.Duration(k.Interval), Mode: k.Policy.Mode, Grace: time.Duration(k.Policy.Grace),
		UnreachableLimit: time.Duration(k.Policy.UnreachableLimit),
	}
}

// hear hands on what the other validators say.
func (c *custodian) hear(all []agentlink.ValidatorEvidence) {
	crowd := false
	for _, e := range all {
		crowd = crowd || e.Validator == "" && e.Crowd
	}
	c.loop.SetEvidence(all, crowd)
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

// errDrill means that a drill denies the cluster its key (key-plane rule 28).
var errDrill = errors.New("a drill of a revocation is under way for this cluster")

var errWithdrawn = errors.New("the project has no customer key any more")

// releasable implements access.
func (c *custodian) releasable(cluster keys.ClusterID) error {
	if c.isWithdrawn() {
		return errWithdrawn
	}
	if c.loop.State().Drilled(cluster) {
		return errDrill
	}
	return c.loop.Releasable()
}

// refused implements access.
func (c *custodian) refused() { c.loop.GetRefused() }

// mustBeDown implements access.
func (c *custodian) mustBeDown(cluster keys.ClusterID) bool {
	s := c.loop.State()
	return s.MustBeDown() || s.Drilled(cluster)
}

// mayStart tells whether a node of the cluster may be started now. It is asked before
// each process.
func (c *custodian) mayStart(cluster keys.ClusterID) bool {
	return !c.isWithdrawn() && c.loop.MayStart() && !c.loop.State().Drilled(cluster)
}

// run keeps the verdict until ctx ends.
func (c *custodian) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { c.measure(ctx) })
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
	if text := c.loop.State().Alarm; text != "" {
		return fmt.Sprintf("project %s: %s", c.project, text)
	}
	return ""
}

// waiting says why nodes do not start; empty while they may.
func (c *custodian) waiting(cluster keys.ClusterID) string {
	s := c.loop.State()
	switch {
	case c.mayStart(cluster):
		return ""
	case s.Drilled(cluster):
		return agentlink.DrillText + " under way: the customer key is treated as taken away"
	case s.Verdict == custody.Valid:
		return "a run with the key is awaited"
	case s.Reason == "":
		return string(s.Verdict)
	case s.Verdict == custody.NAD:
		return fmt.Sprintf("%s (%s): AWS refuses this host, not others; allow its address %s in the policies of the role and the key", s.Verdict, s.Reason, c.from())
	case !s.DeadlineWall.IsZero():
		return fmt.Sprintf("%s (%s), running nodes stop at %s", s.Verdict, s.Reason, s.DeadlineWall.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s (%s)", s.Verdict, s.Reason)
}

// from names the addresses from which this host calls AWS.
func (c *custodian) from() string {
	if all := c.addresses(); len(all) > 0 {
		return strings.Join(all, ", ")
	}
	return "(not known, name it with --egress-address)"
}

func target(k agentlink.CustomerKey) kms.Target {
	return kms.Target{
		RoleARN: k.RoleARN, ExternalID: k.ExternalID, KeyID: k.KeyARN, Region: k.Region,
		KMSEndpoint: k.KMSEndpoint, STSEndpoint: k.STSEndpoint, FIPS: k.FIPS,
		AccessKey: kms.AccessKey{ID: k.AccessKeyID, Secret: secret.FromString(k.SecretAccessKey)},
	}
}

// config gives the current key and the way to it.
func (c *custodian) config() (agentlink.CustomerKey, kms.Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, target(c.key)
}

// plan implements access.
func (c *custodian) plan() keyPlan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plans
}

// made implements access.
func (c *custodian) made() { c.wraps.poke() }

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
	case custody.BeginDrill, custody.EndDrill:
		c.rehearse(s.Drills[len(s.Drills)-1].Cluster)
		c.lookAtDrill()
	case custody.RecordDrill:
		return c.recordDrill(ctx, s.Drills[len(s.Drills)-1])
	case custody.RaiseAlarm:
		c.log.WarnContext(ctx, "custody needs a person", "alarm", s.Alarm)
		return c.recorder.record(ctx, audit.Event{
			Type: "KEY_VALIDATION_ALARM", Project: string(c.project), Message: s.Alarm,
			Data: map[string]string{"alarm": "true", "verdict": string(s.Verdict), "reason": string(s.Reason)},
		})
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
	return agentlink.CustodyStatus{Project: c.project, State: c.loop.Report(), Validate: finished, Wraps: c.wraps.status()}
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
