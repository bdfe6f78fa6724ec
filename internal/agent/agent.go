package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kmip"
	"github.com/keywright/keywright/internal/pki"
)

// Agent is one host's agent while it runs.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	dir      layout
	id       identity
	link     *agentlink.Client
	linkCert *pki.Keeper
	kmipCert *pki.Keeper
	wishes   *wishes
	recorder *recorder
	vault    *vault
	ports    *ports
	reporter *reporter
	egress   *egress
	kmip     *kmip.Server
	alarms   alarms

	mu         sync.Mutex
	custodes   map[keys.ProjectID]*running[*custodian]
	nodes      map[keys.NodeID]*running[*node]
	background sync.WaitGroup
}

// running is a part with its goroutine.
type running[T any] struct {
	it   T
	stop context.CancelFunc
	done chan struct{}
}

// ReadyFile is what an agent writes when it serves.
type ReadyFile struct {
	KMIPAddress string `json:"kmipAddress"`
	KMIPCAFile  string `json:"kmipCAFile"`
	DatabaseCA  string `json:"tlsCAFile"`
	PID         int    `json:"pid"`
	Host        string `json:"host"`
}

// Run runs an agent until ctx ends. It gives nil after an orderly end.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if cfg.ReadyFile != "" {
		if err := durable.Remove(cfg.ReadyFile); err != nil {
			return err
		}
	}
	cfg.Provider = cfg.Metrics.Meter(cfg.Provider)
	a := &Agent{
		cfg: cfg, log: cfg.Logger, dir: layout{cfg.DataDir}, ports: newPorts(cfg.NodePorts),
		custodes: map[keys.ProjectID]*running[*custodian]{}, nodes: map[keys.NodeID]*running[*node]{},
	}
	if err := a.dir.prepare(); err != nil {
		return err
	}
	unlock, err := lockDir(a.dir.lock())
	if err != nil {
		return err
	}
	defer unlock()
	if a.id, err = loadIdentity(ctx, cfg, a.dir); err != nil {
		return err
	}
	log, err := audit.OpenFile(a.dir.audit())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	a.recorder = &recorder{log: log, host: a.id.Host}
	if err := a.open(ctx); err != nil {
		return err
	}
	return a.serve(ctx)
}

// lockDir takes the lock that keeps a second agent out.
func lockDir(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the agent's own directory
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("data directory is in use by another agent (%s is locked)", path)
	}
	return func() { _ = f.Close() }, nil
}

// open builds the parts that need no goroutine yet.
func (a *Agent) open(ctx context.Context) error {
	var err error
	if a.wishes, err = openWishes(a.dir.desired()); err != nil {
		return err
	}
	store, err := wraps.Open(a.dir.keys())
	if err != nil {
		return err
	}
	if err := a.openLink(ctx); err != nil {
		return err
	}
	a.vault = &vault{
		deployment: a.id.Deployment, store: store, escrow: a.link, recorder: a.recorder,
		custodians: a, provider: a.cfg.Provider, alarms: &a.alarms, log: a.log,
	}
	a.reporter = newReporter(a)
	a.egress = newEgress(a.cfg, func() {
		a.log.Info("addresses from which this host calls AWS", "addresses", a.egress.list())
		a.reporter.poke()
	})
	return nil
}

// openLink opens the way to the control plane.
func (a *Agent) openLink(ctx context.Context) (err error) {
	if a.linkCert, err = pki.OpenKeeper(ctx, pki.KeeperConfig{
		Kind: pki.KindLink, CAs: []byte(a.id.CAs.Link), Use: pki.AsClient, File: a.dir.linkCert(), Logger: a.log,
		Signer: pki.SignerFunc(func(ctx context.Context, csr []byte) ([]byte, error) {
			if a.link == nil { // asked while opening: there is nothing to prove ourselves with
				return nil, fmt.Errorf("%s is missing, damaged or expired: make a token for this host (`keywright host token %s`) and start the agent once with --re-enroll --enroll-token-file FILE; its keys and nodes stay", a.dir.linkCert(), a.id.Hostname)
			}
			cert, err := a.link.Renew(ctx, string(csr))
			return []byte(cert), err
		}),
	}); err != nil {
		return fmt.Errorf("certificate of the agent link: %w", err)
	}
	if a.link, err = agentlink.NewClient(a.cfg.ServerURL, a.id.CAs.Link, func() (*tls.Certificate, error) { return a.linkCert.GetClientCertificate(nil) }); err != nil {
		return err
	}
	return nil
}

// serve runs all parts and waits for them.
func (a *Agent) serve(ctx context.Context) error {
	keeper, err := a.kmipCertificate(ctx)
	if err != nil {
		return err
	}
	a.kmipCert = keeper
	listener, err := a.kmipListen()
	if err != nil {
		return err
	}
	a.kmip, err = kmip.NewServer(kmip.Config{
		Listener: listener, Keeper: keeper, ClientCAs: []byte(a.id.CAs.KMIPClient),
		Admission: a.wishes, Keys: a.vault, Logger: a.log, Observe: a.cfg.Metrics.KMIP,
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	a.cfg.Metrics.Add(a.samples)
	// KMIP and custody outlive the nodes at the end: a node that stops in order
	// may still need them.
	ctx, end := context.WithCancel(ctx)
	defer end()
	tail, endTail := context.WithCancel(context.WithoutCancel(ctx))
	defer endTail()
	var parts errgroup.Group
	for name, run := range map[string]func(context.Context) error{
		"KMIP server": a.kmip.Serve, "KMIP certificate": keeper.Run, "link certificate": a.linkCert.Run, "reporter": a.reporter.run, "metrics": a.serveMetrics,
		"addresses": a.egress.run,
	} {
		parts.Go(func() error {
			err := run(tail)
			if tail.Err() != nil {
				return nil
			}
			end() // without one of its parts an agent is none
			return fmt.Errorf("%s ended: %w", name, err)
		})
	}
	err = a.reconcile(tail)
	if err == nil {
		err = a.announce()
	}
	if err == nil {
		a.follow(ctx, tail)
	}
	a.dismiss()
	endTail()
	err = errors.Join(err, parts.Wait())
	a.link.Close()
	if a.cfg.ReadyFile != "" {
		err = errors.Join(err, durable.Remove(a.cfg.ReadyFile))
	}
	return err
}

// kmipCertificate opens the KMIP server's certificate; the first one needs the
// control plane, which is asked until it answers.
func (a *Agent) kmipCertificate(ctx context.Context) (*pki.Keeper, error) {
	host, _, err := net.SplitHostPort(a.cfg.KMIPListen)
	if err != nil {
		return nil, fmt.Errorf("KMIP address %q: %w", a.cfg.KMIPListen, err)
	}
	var names []string
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() || ip == nil && host != "" {
		names = []string{host} // the loopback addresses are always in
	}
	for {
		k, err := pki.OpenKeeper(ctx, pki.KeeperConfig{
			Kind: pki.KindKMIPServer, CAs: []byte(a.id.CAs.KMIPServer), Use: pki.AsServer, File: a.dir.kmipCert(), Logger: a.log,
			Signer: pki.SignerFunc(func(ctx context.Context, csr []byte) ([]byte, error) {
				cert, err := a.link.Sign(ctx, agentlink.SignRequest{Kind: agentlink.SignKMIPServer, CSR: string(csr), Addresses: names})
				return []byte(cert), err
			}),
		})
		var refused *agentlink.Error
		if err == nil || errors.As(err, &refused) && refused.Status < 500 || ctx.Err() != nil {
			return k, err
		}
		a.log.Warn("certificate of the KMIP server could not be had, trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// kmipListen listens at the configured address. A port that was chosen freely
// is kept over restarts: running nodes go on asking there.
func (a *Agent) kmipListen() (net.Listener, error) {
	host, port, err := net.SplitHostPort(a.cfg.KMIPListen)
	if err != nil {
		return nil, fmt.Errorf("KMIP address %q: %w", a.cfg.KMIPListen, err)
	}
	memory := a.dir.path("kmip.port")
	if port == "0" {
		if kept, err := os.ReadFile(memory); err == nil { //nolint:gosec // the agent's own directory
			if l, err := net.Listen("tcp", net.JoinHostPort(host, strings.TrimSpace(string(kept)))); err == nil {
				return l, nil
			}
		}
	}
	l, err := net.Listen("tcp", a.cfg.KMIPListen)
	if err != nil {
		return nil, fmt.Errorf("listen for KMIP: %w", err)
	}
	chosen := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if err := durable.WriteFile(memory, []byte(chosen+"\n"), 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// kmipHost is where the host's own nodes reach the KMIP server.
func (a *Agent) kmipHost() string {
	if ip := a.kmip.Addr().(*net.TCPAddr).IP; !ip.IsUnspecified() {
		return ip.String()
	}
	return "127.0.0.1"
}

func (a *Agent) kmipPort() int { return a.kmip.Addr().(*net.TCPAddr).Port }

func (a *Agent) announce() error {
	if a.cfg.ReadyFile == "" {
		return nil
	}
	return durable.WriteJSON(a.cfg.ReadyFile, ReadyFile{
		KMIPAddress: a.kmip.Addr().String(), KMIPCAFile: a.dir.kmipServerCA(), DatabaseCA: a.dir.databaseCA(),
		PID: os.Getpid(), Host: string(a.id.Host),
	}, 0o600)
}

// codeFrozen is the control plane's refusal to a host that knows more than its store.
const codeFrozen = "HOST_FROZEN"

// follow asks for the desired state and takes it up, until ctx ends. parts is
// the life of what it starts.
func (a *Agent) follow(ctx, parts context.Context) {
	backoff := 200 * time.Millisecond
	for ctx.Err() == nil {
		have, _ := a.wishes.get()
		revision := have.Revision
		if !a.reporter.linked() {
			revision = 0 // passwords are not on disk: ask for everything once
		}
		d, err := a.link.Desired(ctx, revision, have.Revision)
		if err == nil {
			err = a.takeUp(parts, d)
		}
		if err == nil {
			backoff = 200 * time.Millisecond
			a.reporter.setLinked(true)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		var refused *agentlink.Error
		if errors.As(err, &refused) && refused.Code == codeFrozen {
			a.wishes.freeze(refused.Detail)
		}
		a.log.Warn("desired state could not be had, the last one stays in force", "error", err, "retry_in", backoff.String())
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, 5*time.Second)
	}
}

func (a *Agent) takeUp(parts context.Context, d agentlink.Desired) error {
	if d.Host != a.id.Host || d.Deployment != a.id.Deployment {
		return fmt.Errorf("the control plane speaks of host %s of deployment %s, this is host %s of %s", d.Host, d.Deployment, a.id.Host, a.id.Deployment)
	}
	if err := check(d); err != nil {
		return fmt.Errorf("the control plane's desired state is refused: %w", err)
	}
	if have, _ := a.wishes.get(); d.Revision >= have.Revision {
		a.relay(d) // a disk that fails must not keep evidence back
	}
	if err := a.wishes.take(d); err != nil {
		return err
	}
	if err := a.reconcile(parts); err != nil {
		return err
	}
	a.relay(d) // to those who have just begun
	a.reporter.poke()
	return nil
}

// relay hands the other validators' words, and orders of drills, to the custodians.
func (a *Agent) relay(d agentlink.Desired) {
	for _, p := range d.Projects {
		if c, ok := a.custodian(p.ID); ok && p.CustomerKey != nil {
			c.hear(p.Validators)
			c.order(p.Drills)
		}
	}
}

// access implements custodians.
func (a *Agent) access(p keys.ProjectID) (access, bool) {
	c, ok := a.custodian(p)
	return c, ok
}

// custodian finds a project's custodian.
func (a *Agent) custodian(p keys.ProjectID) (*custodian, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.custodes[p]
	if !ok {
		return nil, false
	}
	return r.it, true
}

// nodesOf lists the nodes of a project on this host.
func (a *Agent) nodesOf(p keys.ProjectID) []*node {
	a.mu.Lock()
	all := make([]*node, 0, len(a.nodes))
	for _, r := range a.nodes {
		all = append(all, r.it)
	}
	a.mu.Unlock()
	var out []*node
	for _, n := range all {
		if n.project() == p {
			out = append(out, n)
		}
	}
	return out
}

// stopEncrypted enforces INVALID. It returns at once; the processes are gone
// within the driver's grace.
func (a *Agent) stopEncrypted(p keys.ProjectID) {
	for _, n := range a.nodesOf(p) {
		n.takeAway()
		n.poke()
	}
}

// rehearse makes the nodes of one cluster follow a drill: its denial stops them, its
// end wakes them.
func (a *Agent) rehearse(p keys.ProjectID, cluster keys.ClusterID) {
	for _, n := range a.nodesOf(p) {
		if n.cluster() != cluster {
			continue
		}
		if c, ok := a.custodian(p); ok && c.mustBeDown(cluster) {
			n.takeAway()
		}
		n.poke()
	}
}

// wakeProject makes a project's nodes look at the verdict again.
func (a *Agent) wakeProject(p keys.ProjectID) {
	for _, n := range a.nodesOf(p) {
		n.poke()
	}
}

// forget drops a removed node. It is called by the node itself.
func (a *Agent) forget(id keys.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.nodes[id]; ok {
		r.stop()
		delete(a.nodes, id)
	}
	a.alarms.clear(aboutUnknown(id))
	a.alarms.clear(aboutBroken(id))
}

// dismiss ends supervision, and the nodes themselves if so configured.
func (a *Agent) dismiss() {
	a.mu.Lock()
	nodes := make([]*running[*node], 0, len(a.nodes))
	for _, r := range a.nodes {
		nodes = append(nodes, r)
	}
	custodes := make([]*running[*custodian], 0, len(a.custodes))
	for _, r := range a.custodes {
		custodes = append(custodes, r)
	}
	a.mu.Unlock()
	for _, r := range nodes {
		r.stop()
	}
	var wg sync.WaitGroup
	for _, r := range nodes {
		wg.Go(func() {
			<-r.done
			if !a.cfg.StopNodesOnExit {
				return
			}
			if err := r.it.stop(context.Background(), stopGrace); err != nil {
				a.log.Error("node does not stop", "node", r.it.id, "error", err)
			}
		})
	}
	wg.Wait()
	for _, r := range custodes {
		r.stop()
	}
	a.background.Wait()
}
