package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/keywright/keywright/internal/agent/driver"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/pki"
)

// engineBundled is the engine that this agent has a driver for.
const engineBundled = "bundled"

// settle makes sure of what is before anything is done to it: the record, and a
// process that holds the files' lock, from an earlier agent or unknown to this one.
func (n *node) settle(ctx context.Context) error {
	n.mu.Lock()
	loaded := n.loaded
	n.mu.Unlock()
	if !loaded {
		if err := n.load(); err != nil {
			return err
		}
	}
	n.mu.Lock()
	idle, rec := n.exists && n.proc == nil, n.rec
	n.mu.Unlock()
	if !idle {
		return nil
	}
	p, err := driver.Adopt(n.a.dir.node(n.id, rec.dirName()))
	if err != nil || p == nil {
		return err
	}
	return n.adopt(ctx, p, rec)
}

// adopt takes over a process that an earlier agent left running. Whether it is
// really ours an authenticated call decides; anything else on our files is stopped:
// a rewrite that nobody waits for, or a node that does not answer.
func (n *node) adopt(ctx context.Context, p *driver.Process, rec record) error {
	if !n.drv.Serves(p.Args, n.a.dir.node(n.id, rec.dirName())) {
		n.log.Warn("a process that is no serving node holds the node's files, stopping it", "pid", p.PID)
		return p.Stop(ctx, n.drv.Grace())
	}
	n.mu.Lock()
	n.proc, n.born = p, time.Now()
	n.mu.Unlock()
	n.enter(agentlink.PhaseStarting, "a running process is taken over")
	if s := n.look(); s.encrypted && s.mustBeDown {
		return nil // the state machine stops it; asking it first would only take time
	}
	err := n.prepare(ctx, p, rec, adoptLimit)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		n.log.Info("running node adopted", "pid", p.PID)
		return nil
	}
	n.log.Warn("process on the node's files does not answer as ours, stopping it", "pid", p.PID, "error", err)
	return n.stop(ctx, stopGrace)
}

// admin speaks to the node as its administrator.
func (n *node) admin(r record) (*driver.Admin, error) {
	pw, err := password(n.a.dir, n.id, r.Prepared)
	if err != nil {
		return nil, err
	}
	return driver.NewAdmin(r.Port, n.a.dir.databaseCA(), pw), nil
}

// create makes the node's record: its directory and its port.
func (n *node) create(w agentlink.Node) (record, error) {
	n.mu.Lock()
	exists, r := n.exists, n.rec
	n.mu.Unlock()
	if exists {
		return r, nil
	}
	if err := os.MkdirAll(n.a.dir.node(n.id), 0o700); err != nil {
		return record{}, fmt.Errorf("make node directory: %w", err)
	}
	if err := durable.SyncDir(n.a.dir.nodes()); err != nil {
		return record{}, err
	}
	if n.a.vault.removed(n.id) {
		return record{}, errors.New("this node was removed from this host, with its keys, by an order that the control plane does not remember: its store was restored. It is not made anew, empty; delete its cluster")
	}
	port, err := n.a.ports.take()
	if err != nil {
		return record{}, err
	}
	r = record{
		Node: w.ID, Project: w.Project, Cluster: w.Cluster, Port: port, Dir: 1,
		Encrypted: w.Encrypted, ReplSet: w.ReplicaSet, Generation: w.Generation,
	}
	if err := r.save(n.a.dir); err != nil {
		n.a.ports.drop(port)
		return record{}, err
	}
	n.mu.Lock()
	n.rec, n.exists = r, true
	n.mu.Unlock()
	return r, nil
}

// start brings the node up and waits until it serves.
func (n *node) start(ctx context.Context) error {
	w, ok := n.a.wishes.node(n.id)
	if !ok {
		return errors.New("the node is not wanted any more")
	}
	if w.Engine != engineBundled {
		return fmt.Errorf("engine %q is not known to this agent: update it", w.Engine)
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
	// The engine answers for what is in the directory; its name is ours.
	if err := durable.SyncDir(n.a.dir.node(n.id)); err != nil {
		return err
	}
	if r.Encrypted && !n.look().mayStart {
		return nil // the verdict has turned meanwhile: decide again
	}
	p, err := driver.Start(n.drv.Start(spec), n.a.dir.node(n.id, "output.log"))
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.proc, n.born = p, time.Now()
	n.mu.Unlock()
	// Custody's stop finds the process from here on; one that came just before did not.
	if s := n.look(); s.encrypted && s.mustBeDown {
		return n.stop(ctx, n.drv.Grace())
	}
	n.log.Info("node started", "pid", p.PID, "port", r.Port)
	if err := n.prepare(ctx, p, r, prepareLimit); err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // the agent ends; its successor adopts the node
		}
		// A node that runs but does not serve is taken down: the next try starts clean.
		return errors.Join(err, n.stop(ctx, stopGrace))
	}
	if err := n.acknowledge(); err != nil {
		return err
	}
	return n.tend(ctx)
}

// keylessError is the end of a node that could not get its key.
type keylessError struct{ why string }

// Error implements error.
func (e keylessError) Error() string { return "waiting for its key: " + e.why }

// endedEarly says why a node's process ended before it served.
func (n *node) endedEarly(p *driver.Process) error {
	if p.ExitCode() == driver.ExitKey {
		if why := n.a.vault.trouble(n.id); why != "" {
			return keylessError{why}
		}
	}
	return fmt.Errorf("node ended with code %d before it served, see %s", p.ExitCode(), n.a.dir.node(n.id, "mongod.log"))
}

// prepare waits until the node serves as primary, giving up when its process ends.
func (n *node) prepare(ctx context.Context, p *driver.Process, r record, patience time.Duration) error {
	admin, err := n.admin(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n.wg.Go(func() {
		select {
		case <-p.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		err := admin.Prepare(ctx, r.ReplSet, fmt.Sprintf("127.0.0.1:%d", r.Port))
		if err == nil {
			break
		}
		if errors.Is(err, driver.ErrPassword) {
			return err
		}
		select {
		case <-p.Done():
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			continue
		}
		select { // the end of the process ends ctx too: the process says more
		case <-p.Done():
			return n.endedEarly(p)
		default:
			return fmt.Errorf("node does not serve: %w", errors.Join(ctx.Err(), err))
		}
	}
	if r.Prepared {
		return nil
	}
	return n.update(func(r *record) { r.Prepared = true })
}

// stop takes the process down.
func (n *node) stop(ctx context.Context, grace time.Duration) error {
	n.mu.Lock()
	p := n.proc
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	if s := n.look(); s.encrypted && s.mustBeDown {
		grace = min(grace, n.drv.Grace())
	}
	if err := p.Stop(ctx, grace); err != nil {
		return err
	}
	n.processEnded()
	return nil
}

// remove carries out a tombstone: process, keys, files, in this order.
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
	port := n.rec.Port
	n.exists, n.rec = false, record{}
	n.mu.Unlock()
	n.a.ports.drop(port)
	n.a.forget(n.id)
	return nil
}

// spec describes the node's process; it has the certificates made that it needs.
func (n *node) spec(ctx context.Context, w agentlink.Node, r record, key bool) (driver.Spec, error) {
	s := driver.Spec{
		Node: n.id, DBPath: n.a.dir.node(n.id, r.dirName()), Port: r.Port, ReplicaSet: r.ReplSet,
		LogPath: n.a.dir.node(n.id, "mongod.log"), TLSFile: n.a.dir.node(n.id, "database.pem"), TLSCAFile: n.a.dir.databaseCA(),
	}
	if _, err := n.keep(ctx, pki.KindDatabase, s.TLSFile, n.a.id.CAs.Database, agentlink.SignDatabase, nil); err != nil {
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
	k, err := n.keep(ctx, pki.KindKMIPClient, s.KMIP.ClientFile, n.a.id.CAs.KMIPClient, agentlink.SignKMIPClient, n.admitted)
	if err != nil {
		return s, err
	}
	if _, ok := n.a.wishes.Admit(pki.Fingerprint(k.Leaf().Raw)); !ok {
		// Its admission was withdrawn, or never became known: another one is needed.
		if err := k.Renew(ctx); err != nil {
			return s, fmt.Errorf("certificate of node: %w", err)
		}
	}
	return s, nil
}

// keep opens (once) the keeper of one of the node's certificates.
func (n *node) keep(ctx context.Context, kind pki.Kind, file, ca, sign string, before func(context.Context, string) error) (*pki.Keeper, error) {
	if k := n.keepers[kind]; k != nil {
		return k, nil
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
		return nil, fmt.Errorf("certificate of node: %w", err)
	}
	n.keepers[kind] = k
	n.wg.Go(func() { _ = k.Run(ctx) })
	return k, nil
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
