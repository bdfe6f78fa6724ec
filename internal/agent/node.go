package agent

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

const (
	// stopGrace is how long a node may take to stop when nobody is in a hurry.
	stopGrace = 15 * time.Second
	// prepareLimit bounds a start until the node serves as primary, adoptLimit the
	// wait for a found process to answer.
	prepareLimit = time.Minute
	adoptLimit   = 20 * time.Second
	backoffMin   = time.Second // key-plane rule 18
	backoffMax   = 30 * time.Second
	// steady is how long a process has to live for its end not to count as a failed start.
	steady = 10 * time.Second
)

// node supervises one database node. run owns its state and alone changes the
// record; the fields behind mu are shared with custody's stop and with reports, and
// mu is never held while anything waits for a disk.
type node struct {
	a   *Agent
	id  keys.NodeID
	log *slog.Logger
	drv driver.Driver

	wake    chan struct{}
	keepers map[pki.Kind]*pki.Keeper
	wg      sync.WaitGroup

	mu      sync.Mutex
	loaded  bool // the record was read, or there is none
	rec     record
	exists  bool
	proc    *driver.Process
	born    time.Time       // when proc was started or adopted
	helper  *driver.Process // a rewrite that runs, which works with a customer key
	phase   agentlink.Phase
	message string
	since   time.Time
	// rotationFailure is why the newest attempt at a rotation failed, "" after a good one.
	rotationFailure string
	// keysetFailure is the same for the database keysets; they are looked at again at
	// keysetNext, unless more than the compaction keysetFor is wanted.
	keysetFailure string
	keysetNext    time.Time
	keysetFor     uint64
}

func newNode(a *Agent, id keys.NodeID) *node {
	n := &node{
		a: a, id: id, log: a.log.With(slog.String("node", string(id))), drv: driver.Bundled{Executable: a.cfg.Executable},
		wake: make(chan struct{}, 1), keepers: map[pki.Kind]*pki.Keeper{}, since: time.Now(),
	}
	if err := n.load(); err != nil {
		n.log.Error("record of node cannot be read, nothing is done to the node", "error", err)
	}
	return n
}

// load reads the record. A damaged one leaves the node alone until a person acts.
func (n *node) load() error {
	rec, exists, err := loadRecord(n.a.dir, n.id)
	if err != nil {
		return err
	}
	if exists {
		n.a.ports.keep(rec.Port)
	}
	n.mu.Lock()
	n.rec, n.exists, n.loaded = rec, exists, true
	n.mu.Unlock()
	return nil
}

// poke makes the state machine look again.
func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// doSettle is what comes before every action: to know what is.
const doSettle action = "settle"

// retry spaces the attempts of an action that fails. In another situation it is tried
// at once.
type retry struct {
	backoff time.Duration
	at      time.Time
	act     action
	in      situation
}

func (r *retry) failed(act action, s situation) time.Duration {
	r.backoff = min(max(2*r.backoff, backoffMin), backoffMax)
	r.at, r.act, r.in = time.Now().Add(r.backoff), act, s
	return r.backoff
}

// left is how long an action is not to be tried.
func (r *retry) left(act action, s situation) time.Duration {
	if r.act != doSettle && r.act != act || !reflect.DeepEqual(r.in, s) {
		return 0
	}
	return max(0, time.Until(r.at))
}

// run drives the node until ctx ends.
func (n *node) run(ctx context.Context) {
	defer n.wg.Wait()
	var r retry
	for ctx.Err() == nil {
		s := n.look()
		act, _, _ := decide(s)
		if d := r.left(act, s); d > 0 {
			n.sleep(ctx, d, &r)
			continue
		}
		act = doSettle
		err := n.settle(ctx)
		if err == nil {
			var phase agentlink.Phase
			var message string
			act, phase, message = decide(n.look())
			n.enter(phase, message)
			err = n.perform(ctx, act)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s := n.look()
			n.enter(n.failurePhase(act, s, err), err.Error())
			n.log.Warn("node is not as it should be", "action", act, "error", err, "retry_in", r.failed(act, s).String())
		case act == doNothing:
			n.sleep(ctx, time.Hour, &r)
		case act != doStart: // a start has to last first
			r = retry{}
		}
	}
}

// sleep waits for news, but not longer than d.
func (n *node) sleep(ctx context.Context, d time.Duration, r *retry) {
	t := time.NewTimer(d)
	defer t.Stop()
	n.mu.Lock()
	var ended <-chan struct{}
	if n.proc != nil {
		ended = n.proc.Done()
	}
	born := n.born
	n.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-n.wake:
	case <-t.C:
	case <-ended:
		n.processEnded()
		if time.Since(born) < steady {
			r.failed(doStart, n.look())
		} else {
			*r = retry{}
		}
	}
}

// failurePhase is the phase after an action failed. A failed start of an
// encrypted node is most often the key's; the verdict says so soon.
func (n *node) failurePhase(act action, s situation, err error) agentlink.Phase {
	switch {
	case s.running:
		return agentlink.PhaseRunning
	case s.encrypted && s.mustBeDown:
		return agentlink.PhaseStoppedByCustody
	case errors.As(err, new(keylessError)):
		return agentlink.PhaseWaitingForKey
	case act == doStart || act == doRewrite:
		return agentlink.PhaseStarting
	}
	return agentlink.PhaseFailed
}

func (n *node) processEnded() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil && !n.proc.Running() {
		n.log.Info("node's process ended", "pid", n.proc.PID, "exit_code", n.proc.ExitCode())
		n.proc = nil
	}
}

// look gathers the situation.
func (n *node) look() situation {
	d, _ := n.a.wishes.get()
	n.processEnded()
	n.mu.Lock()
	rec := n.rec
	s := situation{exists: n.exists, encrypted: n.exists && rec.Encrypted, generation: rec.Generation, running: n.proc != nil}
	n.mu.Unlock()
	project, cluster := rec.Project, rec.Cluster
	for _, w := range d.Nodes {
		if w.ID == n.id {
			s.wanted = &w
			if !s.exists {
				project, cluster = w.Project, w.Cluster
			}
		}
	}
	for _, t := range d.Tombstones {
		if t.Node == n.id && s.wanted == nil && (!s.exists || t.Generation > rec.Generation && t.Project == rec.Project) {
			s.tombstone = true
		}
	}
	if c, ok := n.a.custodian(project); ok {
		s.mayStart, s.mustBeDown, s.why = c.mayStart(cluster), c.mustBeDown(cluster), c.waiting(cluster)
		s.drill = s.mustBeDown && !c.loop.State().MustBeDown()
		s.confirmed = c.loop.State().Verdict == custody.Valid
	}
	if s.running {
		s.untended, _ = n.chores()
		s.untended = s.untended || s.mayStart && (n.rotationDue(rec) || n.keysetsDue(rec))
	}
	return s
}

func (n *node) perform(ctx context.Context, act action) error {
	switch act {
	case doStart:
		return n.start(ctx)
	case doStop:
		return n.stop(ctx, stopGrace)
	case doRewrite:
		return n.rewrite(ctx)
	case doTend:
		return n.tend(ctx)
	case doRemove:
		return n.remove(ctx)
	case doAcknowledge:
		return n.acknowledge()
	case doNothing:
	}
	return nil
}

func (n *node) enter(p agentlink.Phase, message string) {
	n.mu.Lock()
	changed := n.phase != p || n.message != message
	if n.phase != p {
		n.since = time.Now()
	}
	n.phase, n.message = p, message
	n.mu.Unlock()
	if changed {
		n.a.reporter.poke()
	}
}

// update changes the record durably. Only run calls it.
func (n *node) update(change func(*record)) error {
	n.mu.Lock()
	r := n.rec
	n.mu.Unlock()
	change(&r)
	if err := r.save(n.a.dir); err != nil {
		return err
	}
	n.mu.Lock()
	n.rec = r
	n.mu.Unlock()
	return nil
}

// acknowledge notes the wanted generation where the files already are as wanted.
func (n *node) acknowledge() error {
	w, ok := n.a.wishes.node(n.id)
	if !ok {
		return nil
	}
	err := n.update(func(r *record) {
		if w.Encrypted == r.Encrypted {
			r.Generation = max(r.Generation, w.Generation)
		}
	})
	n.a.reporter.poke()
	return err
}

// project is the node's, by its record before what is wanted.
func (n *node) project() keys.ProjectID {
	n.mu.Lock()
	exists, p := n.exists, n.rec.Project
	n.mu.Unlock()
	if !exists {
		w, _ := n.a.wishes.node(n.id)
		p = w.Project
	}
	return p
}

// cluster is the node's, as project is.
func (n *node) cluster() keys.ClusterID {
	n.mu.Lock()
	exists, c := n.exists, n.rec.Cluster
	n.mu.Unlock()
	if !exists {
		w, _ := n.a.wishes.node(n.id)
		c = w.Cluster
	}
	return c
}

// keyed tells whether the node has files under the project's customer key, or may
// have: a record that cannot be read counts.
func (n *node) keyed(p keys.ProjectID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.loaded || n.exists && n.rec.Project == p && (n.rec.Encrypted || n.helper != nil || len(n.rec.Stale) > 0)
}

// takeAway is custody's stop: at once, past the state machine, on whatever of
// this node works with a customer key. The custody loop calls it.
func (n *node) takeAway() {
	n.mu.Lock()
	var victims []*driver.Process
	if n.proc != nil && n.rec.Encrypted {
		victims = append(victims, n.proc)
	}
	if n.helper != nil {
		victims = append(victims, n.helper)
	}
	n.mu.Unlock()
	for _, p := range victims {
		// The agent waits for these after the loops that call here have ended.
		n.a.background.Go(func() {
			if err := p.Stop(context.Background(), n.drv.Grace()); err != nil {
				n.log.Error("process does not stop although its key was taken away", "pid", p.PID, "error", err)
			}
			n.poke()
		})
	}
}

// status is the node's part of the host's report.
func (n *node) status() (agentlink.NodeStatus, bool) {
	_, users := n.chores()
	n.mu.Lock()
	rec, exists := n.rec, n.exists
	s := agentlink.NodeStatus{
		Node: n.id, Phase: n.phase, Message: n.message, Port: rec.Port, Encrypted: rec.Encrypted,
		Generation: rec.Generation, Since: n.since, UsersRevision: users, Rotation: rec.Rotation, RotationFailure: n.rotationFailure,
	}
	if k := rec.Keysets; k != nil && rec.Encrypted {
		out := *k
		out.Failure = n.keysetFailure
		s.Keysets = &out
	}
	if n.proc != nil {
		s.PID, s.Primary = n.proc.PID, n.phase == agentlink.PhaseRunning
	}
	n.mu.Unlock()
	if exists && rec.Encrypted {
		s.MasterKey, _ = n.drv.MasterKey(n.a.dir.node(n.id, rec.dirName())) // none yet before the first start
	}
	return s, exists || s.Phase != ""
}
