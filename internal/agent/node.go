package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agent/durable"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
)

const (
	// stopGrace is how long a node may take to stop when nobody is in a hurry.
	stopGrace = 15 * time.Second
	// prepareLimit bounds a start until the node serves as primary.
	prepareLimit = time.Minute
	backoffMin   = 500 * time.Millisecond
	backoffMax   = 30 * time.Second
)

// node supervises one database node. run owns its state; the fields behind mu
// are shared with custody's stop and with reports.
type node struct {
	a   *Agent
	id  keys.NodeID
	log *slog.Logger
	drv driver.Driver

	wake    chan struct{}
	keepers map[pki.Kind]*pki.Keeper
	wg      sync.WaitGroup

	mu      sync.Mutex
	rec     record
	exists  bool
	proc    *driver.Process
	helper  *driver.Process // a rewrite that runs, and whether a key is involved
	phase   agentlink.Phase
	message string
	since   time.Time
}

func newNode(a *Agent, id keys.NodeID) (*node, error) {
	n := &node{
		a: a, id: id, log: a.log.With(slog.String("node", string(id))), drv: driver.Bundled{Executable: a.cfg.Executable},
		wake: make(chan struct{}, 1), keepers: map[pki.Kind]*pki.Keeper{}, since: time.Now(),
	}
	var err error
	if n.rec, n.exists, err = loadRecord(a.dir, id); err != nil {
		return nil, err
	}
	if n.exists {
		a.ports.keep(n.rec.Port)
	}
	return n, nil
}

// poke makes the state machine look again.
func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run drives the node until ctx ends.
func (n *node) run(ctx context.Context) {
	defer n.wg.Wait()
	n.adopt(ctx)
	backoff := backoffMin
	for ctx.Err() == nil {
		act, phase, message := decide(n.look())
		n.enter(phase, message)
		err := n.perform(ctx, act)
		var retry <-chan time.Time
		switch {
		case err != nil && ctx.Err() == nil:
			n.log.Warn("node is not as it should be", "action", act, "error", err, "retry_in", backoff.String())
			n.enter(n.failurePhase(act), err.Error())
			retry, backoff = time.After(backoff), min(2*backoff, backoffMax)
		case act != doNothing:
			backoff = backoffMin
			continue
		}
		select {
		case <-ctx.Done():
		case <-n.wake:
			backoff = backoffMin
		case <-n.ended():
			n.processEnded()
		case <-retry:
		}
	}
}

// failurePhase is the phase after an action failed. A failed start of an
// encrypted node is most often the key's; the verdict says so soon.
func (n *node) failurePhase(act action) agentlink.Phase {
	s := n.look()
	switch {
	case s.running:
		return agentlink.PhaseRunning
	case s.encrypted && s.mustBeDown:
		return agentlink.PhaseStoppedByCustody
	case act == doStart || act == doRewrite:
		return agentlink.PhaseStarting
	}
	return agentlink.PhaseFailed
}

// ended is closed when the process ends; nil (blocks for ever) without one.
func (n *node) ended() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return nil
	}
	return n.proc.Done()
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
	s := situation{
		exists: n.exists, encrypted: n.exists && n.rec.Encrypted, generation: n.rec.Generation, running: n.proc != nil,
	}
	project := n.rec.Project
	n.mu.Unlock()
	for _, w := range d.Nodes {
		if w.ID == n.id {
			s.wanted, project = &w, w.Project
		}
	}
	for _, t := range d.Tombstones {
		s.tombstone = s.tombstone || t.Node == n.id
	}
	if c, ok := n.a.custodian(project); ok {
		st := c.loop.State()
		s.mayStart, s.mustBeDown = st.MayStart(), st.MustBeDown()
	}
	if s.running {
		tend, _ := n.chores()
		s.untended = tend
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

// adopt takes over a process that an earlier agent left running. Whether it is
// really ours an authenticated call decides; a stranger on our files is stopped.
func (n *node) adopt(ctx context.Context) {
	n.mu.Lock()
	exists, rec := n.exists, n.rec
	n.mu.Unlock()
	if !exists {
		return
	}
	p, err := driver.Adopt(n.a.dir.node(n.id, rec.dirName()))
	if err != nil || p == nil {
		if err != nil {
			n.log.Error("running process could not be adopted", "error", err)
		}
		return
	}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	if n.look().mustBeDown {
		return // the state machine stops it; asking it first would only take time
	}
	admin, err := n.admin(rec)
	if err == nil {
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = admin.Ping(limit)
	}
	if err != nil {
		n.log.Warn("process on the node's files does not answer as ours, stopping it", "pid", p.PID, "error", err)
		if err := p.Stop(ctx, stopGrace); err != nil {
			n.log.Error("process on the node's files does not stop", "error", err)
		}
		return
	}
	n.log.Info("running node adopted", "pid", p.PID)
}

// admin speaks to the node as its administrator.
func (n *node) admin(r record) (*driver.Admin, error) {
	pw, err := password(n.a.dir, n.id)
	if err != nil {
		return nil, err
	}
	return driver.NewAdmin(r.Port, n.a.dir.databaseCA(), pw), nil
}

// create makes the node's record: its directory and its port.
func (n *node) create(w agentlink.Node) (record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.exists {
		return n.rec, nil
	}
	if err := os.MkdirAll(n.a.dir.node(n.id), 0o700); err != nil {
		return record{}, fmt.Errorf("make node directory: %w", err)
	}
	if err := durable.SyncDir(n.a.dir.nodes()); err != nil {
		return record{}, err
	}
	port, err := n.a.ports.take()
	if err != nil {
		return record{}, err
	}
	r := record{
		Node: w.ID, Project: w.Project, Cluster: w.Cluster, Port: port, Dir: 1,
		Encrypted: w.Encrypted, ReplSet: w.ReplicaSet, Generation: w.Generation,
	}
	if err := r.save(n.a.dir); err != nil {
		n.a.ports.drop(port)
		return record{}, err
	}
	n.rec, n.exists = r, true
	return r, nil
}

// start brings the node up and waits until it serves.
func (n *node) start(ctx context.Context) error {
	w, ok := n.a.wishes.node(n.id)
	if !ok {
		return errors.New("the node is not wanted any more")
	}
	r, err := n.create(w)
	if err != nil {
		return err
	}
	spec, err := n.spec(ctx, w, r, r.Encrypted)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(spec.DBPath, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	p, err := driver.Start(n.drv.Start(spec), n.a.dir.node(n.id, "output.log"))
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	// The verdict may have turned between looking and starting.
	if s := n.look(); s.encrypted && s.mustBeDown {
		return p.Stop(ctx, n.drv.Grace())
	}
	n.log.Info("node started", "pid", p.PID, "port", r.Port)
	if err := n.prepare(ctx, p, r); err != nil {
		// A node that runs but does not serve is taken down: the next try starts clean.
		return errors.Join(err, p.Stop(ctx, stopGrace))
	}
	if w.Generation > r.Generation && w.Encrypted == r.Encrypted {
		if err := n.update(func(r *record) { r.Generation = w.Generation }); err != nil {
			return err
		}
	}
	return n.tend(ctx)
}

// prepare waits until the node serves as primary, giving up when its process ends.
func (n *node) prepare(ctx context.Context, p *driver.Process, r record) error {
	admin, err := n.admin(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	for {
		err := admin.Prepare(ctx, r.ReplSet, fmt.Sprintf("127.0.0.1:%d", r.Port))
		if err == nil {
			break
		}
		select {
		case <-p.Done():
			return fmt.Errorf("node ended with code %d before it served, see %s", p.ExitCode(), n.a.dir.node(n.id, "mongod.log"))
		case <-ctx.Done():
			return fmt.Errorf("node does not serve: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if r.Prepared {
		return nil
	}
	return n.update(func(r *record) { r.Prepared = true })
}

// update changes the record durably.
func (n *node) update(change func(*record)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.rec
	change(&r)
	if err := r.save(n.a.dir); err != nil {
		return err
	}
	n.rec = r
	return nil
}

// stop takes the process down.
func (n *node) stop(ctx context.Context, grace time.Duration) error {
	n.mu.Lock()
	p := n.proc
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	if n.look().mustBeDown {
		grace = min(grace, n.drv.Grace())
	}
	if err := p.Stop(ctx, grace); err != nil {
		return err
	}
	n.processEnded()
	return nil
}

// takeAway is custody's stop: at once, past the state machine, on whatever of
// this node works with a customer key.
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
		n.wg.Go(func() {
			if err := p.Stop(context.Background(), n.drv.Grace()); err != nil {
				n.log.Error("process does not stop although its key was taken away", "pid", p.PID, "error", err)
			}
			n.poke()
		})
	}
}

// remove carries out a tombstone.
func (n *node) remove(ctx context.Context) error {
	if err := n.stop(ctx, stopGrace); err != nil {
		return err
	}
	d, _ := n.a.wishes.get()
	for _, t := range d.Tombstones {
		if t.Node == n.id && t.DestroyKeys {
			if err := n.a.vault.destroy(ctx, fmt.Sprintf("tombstone of generation %d", t.Generation), n.id); err != nil {
				return err
			}
		}
	}
	if err := durable.RemoveAll(n.a.dir.node(n.id)); err != nil {
		return err
	}
	n.mu.Lock()
	n.a.ports.drop(n.rec.Port)
	n.exists, n.rec = false, record{}
	n.mu.Unlock()
	n.a.forget(n.id)
	return nil
}

// spec describes the node's process; it has the certificates made that it needs.
func (n *node) spec(ctx context.Context, w agentlink.Node, r record, key bool) (driver.Spec, error) {
	s := driver.Spec{
		Node: n.id, DBPath: n.a.dir.node(n.id, r.dirName()), Port: r.Port, ReplicaSet: r.ReplSet,
		LogPath: n.a.dir.node(n.id, "mongod.log"), TLSFile: n.a.dir.node(n.id, "database.pem"), TLSCAFile: n.a.dir.databaseCA(),
	}
	if err := n.keep(ctx, pki.KindDatabase, s.TLSFile, n.a.id.CAs.Database, agentlink.SignDatabase, nil); err != nil {
		return s, err
	}
	if !key {
		return s, nil
	}
	polling := time.Minute
	if c, ok := n.a.custodian(w.Project); ok {
		k, _ := c.config()
		polling = min(polling, time.Duration(k.Interval))
	}
	s.KMIP = &driver.KMIP{
		Host: n.a.kmipHost(), Port: n.a.kmipPort(), ClientFile: n.a.dir.node(n.id, "kmip.pem"),
		ServerCAFile: n.a.dir.kmipServerCA(), StatePolling: polling,
	}
	return s, n.keep(ctx, pki.KindKMIPClient, s.KMIP.ClientFile, n.a.id.CAs.KMIPClient, agentlink.SignKMIPClient, n.admitted)
}

// keep opens (once) the keeper of one of the node's certificates.
func (n *node) keep(ctx context.Context, kind pki.Kind, file, ca, sign string, before func(context.Context, string) error) error {
	if n.keepers[kind] != nil {
		return nil
	}
	use := pki.AsServer
	if kind == pki.KindKMIPClient {
		use = pki.AsClient
	}
	k, err := pki.OpenKeeper(ctx, pki.KeeperConfig{
		Kind: kind, CAs: []byte(ca), Use: use, File: file, Logger: n.log,
		Signer: pki.SignerFunc(func(ctx context.Context, csr []byte) ([]byte, error) {
			cert, err := n.a.link.Sign(ctx, agentlink.SignRequest{Kind: sign, Node: n.id, CSR: string(csr)})
			return []byte(cert), err
		}),
		BeforeInstall: beforeInstall(before),
	})
	if err != nil {
		return fmt.Errorf("certificate of node: %w", err)
	}
	n.keepers[kind] = k
	n.wg.Go(func() { _ = k.Run(ctx) })
	return nil
}

// admitted waits until the desired state names a new KMIP certificate: before
// that the KMIP server would refuse it.
func (n *node) admitted(ctx context.Context, fingerprint string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		_, changed := n.a.wishes.get()
		if _, ok := n.a.wishes.Admit(fingerprint); ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until the desired state names the new certificate: %w", ctx.Err())
		}
	}
}

var _ kmip.Admission = (*wishes)(nil)

// status is the node's part of the host's report.
func (n *node) status() (agentlink.NodeStatus, bool) {
	_, users := n.chores()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.exists && n.phase == "" {
		return agentlink.NodeStatus{}, false
	}
	s := agentlink.NodeStatus{
		Node: n.id, Phase: n.phase, Message: n.message, Port: n.rec.Port, Encrypted: n.rec.Encrypted,
		Generation: n.rec.Generation, Since: n.since, UsersRevision: users,
	}
	if n.proc != nil {
		s.PID, s.Primary = n.proc.PID, n.phase == agentlink.PhaseRunning
	}
	if n.exists && n.rec.Encrypted {
		s.MasterKey, _ = n.drv.MasterKey(n.a.dir.node(n.id, n.rec.dirName()))
	}
	return s, true
}
