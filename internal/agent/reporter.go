package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
)

// maxAlarms bounds what a misbehaving node can make the host tell.
const maxAlarms = 16

// alarms are conditions that need a person. Each is told while it lasts: who finds it
// over clears it. It is safe for concurrent use.
type alarms struct {
	mu  sync.Mutex
	all []alarmed
}

// alarmed is one condition; about names what it is about, so that it can be cleared.
type alarmed struct{ about, text string }

// raise tells of a condition, or replaces what was told about the same thing.
func (a *alarms) raise(about, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.IndexFunc(a.all, func(x alarmed) bool { return x.about == about }); i >= 0 {
		a.all[i].text = text
	} else if len(a.all) < maxAlarms {
		a.all = append(a.all, alarmed{about, text})
	}
}

// clear tells that the condition is over.
func (a *alarms) clear(about string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = slices.DeleteFunc(a.all, func(x alarmed) bool { return x.about == about })
}

func (a *alarms) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, x := range a.all {
		if !slices.Contains(out, x.text) {
			out = append(out, x.text)
		}
	}
	return out
}

// What alarms are about.
const aboutEscrow = "escrow"

// aboutUnknown is that a node asks for a key that the host does not know; aboutBroken
// that a key of it does not open.
func aboutUnknown(n keys.NodeID) string { return "unknown key of " + string(n) }
func aboutBroken(n keys.NodeID) string  { return "broken key of " + string(n) }

// reportEvery is the longest time between two reports.
const reportEvery = 10 * time.Second

// reporter tells the control plane how the host is: on change, and regularly.
type reporter struct {
	a    *Agent
	wake chan struct{}

	// escrowAt is when the escrow is tried again after a refusal. run owns it.
	escrowAt time.Time
	// anchors is what the control plane has asked of the audit chain. run owns it.
	anchors []agentlink.AuditAnchor
	// resyncAt is when the wraps are compared with escrow again, thawed the number of
	// freezes that were over when they last were. run owns both.
	resyncAt time.Time
	thawed   uint64

	mu   sync.Mutex
	link bool
}

// refusedPause is the time between attempts at an escrow that refuses: each of them
// is an alarm there.
const refusedPause = time.Minute

func newReporter(a *Agent) *reporter { return &reporter{a: a, wake: make(chan struct{}, 1)} }

// poke asks for a report soon.
func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// linked tells whether this process has had a desired state from the control
// plane, as opposed to one from its disk.
func (r *reporter) linked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link
}

func (r *reporter) setLinked(v bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = v
}

func (r *reporter) run(ctx context.Context) error {
	failed := false
	for {
		wait := reportEvery
		if err := r.report(ctx); err != nil && ctx.Err() == nil {
			if !failed {
				r.a.log.Warn("the control plane is not up to date", "error", err)
			}
			failed, wait = true, time.Second
		} else {
			failed = false
		}
		t := time.NewTimer(wait)
		wake := r.wake
		if failed {
			wake = nil // a storm of changes must not become a storm of calls
		}
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// report tells the host's state, and then sends what is not in escrow yet: which of
// a node's keys may go from there the control plane judges by the state.
func (r *reporter) report(ctx context.Context) error {
	open := r.a.vault.store.Unescrowed()
	st := r.a.status()
	st.AuditAnchors = r.anchors
	ack, err := r.a.link.Report(ctx, r.a.signHead(st))
	if err != nil {
		return err
	}
	if r.anchors = nil; len(ack.AuditAnchors) > 0 {
		r.anchors = r.a.anchorsAt(ack.AuditAnchors)
		r.poke()
	}
	r.resync(ctx)
	if len(open) == 0 {
		r.a.alarms.clear(aboutEscrow)
		return nil
	}
	if time.Now().Before(r.escrowAt) {
		return nil
	}
	err = r.a.vault.syncEscrow(ctx, open)
	var refused *agentlink.Error
	if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
		r.escrowAt = time.Now().Add(refusedPause)
		r.a.alarms.raise(aboutEscrow, fmt.Sprintf("the control plane refuses a wrapped key of this host: %v", err))
		r.a.log.Error("wrapped keys are not in escrow", "error", err)
		return nil
	}
	if err == nil {
		r.a.alarms.clear(aboutEscrow)
	}
	return err
}

// status gathers the report.
func (a *Agent) status() agentlink.Status {
	d, _ := a.wishes.get()
	head := a.recorder.head()
	s := agentlink.Status{
		Revision: d.Revision, KMIPAddress: a.kmip.Addr().String(), EgressAddresses: a.egress.list(), AuditSeq: head.Seq, AuditHead: head.Hash.String(),
		CertificateEnds: a.certificateEnds(),
		Nodes:           []agentlink.NodeStatus{}, Custody: []agentlink.CustodyStatus{}, Holdings: a.vault.store.Holdings(),
	}
	a.mu.Lock()
	nodes := make([]*node, 0, len(a.nodes))
	for _, r := range a.nodes {
		nodes = append(nodes, r.it)
	}
	custodes := make([]*custodian, 0, len(a.custodes))
	for _, r := range a.custodes {
		custodes = append(custodes, r.it)
	}
	a.mu.Unlock()
	for _, n := range nodes {
		if ns, ok := n.status(); ok {
			s.Nodes = append(s.Nodes, ns)
		}
	}
	for _, c := range custodes {
		s.Custody = append(s.Custody, c.status())
		if alarm := c.alarm(); alarm != "" {
			s.Alarms = append(s.Alarms, alarm)
		}
	}
	s.Buried = a.buried(d)
	s.Alarms = append(s.Alarms, a.alarms.list()...)
	if alarm := a.wishes.alarm(); alarm != "" {
		s.Alarms = append(s.Alarms, alarm)
	}
	return s
}

// buried lists the tombstones that are carried out: the files are gone, and the
// keys are recorded as destroyed if that was ordered too.
func (a *Agent) buried(d agentlink.Desired) []keys.NodeID {
	var out []keys.NodeID
	for _, t := range d.Tombstones {
		a.mu.Lock()
		_, supervised := a.nodes[t.Node]
		a.mu.Unlock()
		_, err := os.Stat(a.dir.node(t.Node))
		if !supervised && os.IsNotExist(err) && (!t.DestroyKeys || !a.vault.holds(t.Node)) {
			out = append(out, t.Node)
		}
	}
	return out
}
