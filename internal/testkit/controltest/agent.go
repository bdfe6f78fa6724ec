package controltest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

// Agent does on a host what it is told, at once and in memory.
type Agent struct {
	Host     keys.HostID
	Revision uint64
	Nodes    map[keys.NodeID]agentlink.NodeStatus
	Buried   map[keys.NodeID]bool
	// Verdict is what it says about every project's key.
	Verdict custody.Verdict
	Reason  kms.Reason
	// Stuck keeps nodes in the phase that is given here.
	Stuck agentlink.Phase
	Last  agentlink.Desired
	// Holdings are the customer keys that it says its wraps are under.
	Holdings []agentlink.KeyHolding
	// Egress are the addresses from which it calls AWS.
	Egress []string
	// Kept are the keys that Key made. An agent without any says nothing about wraps.
	Kept  []*Kept
	ports int
}

// NewAgent makes an agent of a host.
func NewAgent(host keys.HostID) *Agent {
	return &Agent{Host: host, Nodes: map[keys.NodeID]agentlink.NodeStatus{}, Buried: map[keys.NodeID]bool{}, Holdings: []agentlink.KeyHolding{}, Verdict: custody.Valid, Egress: []string{"192.0.2.7"}, ports: 27100}
}

// Take takes a desired state over.
func (a *Agent) Take(d agentlink.Desired) {
	a.Last, a.Revision = d, d.Revision
	for _, n := range d.Nodes {
		st, ok := a.Nodes[n.ID]
		if !ok {
			st = agentlink.NodeStatus{Node: n.ID, Port: a.ports, PID: a.ports}
			a.ports++
		}
		st.Encrypted, st.Generation, st.Primary, st.Phase = n.Encrypted, n.Generation, true, agentlink.PhaseRunning
		switch {
		case a.Stuck != "":
			st.Phase, st.Primary = a.Stuck, false
		case !n.Run:
			st.Phase, st.Primary = agentlink.PhaseStopped, false
		case n.Encrypted && a.Verdict == custody.Invalid:
			st.Phase, st.Primary, st.Message = agentlink.PhaseStoppedByCustody, false, string(a.Reason)
		}
		a.Nodes[n.ID] = st
	}
	a.Buried = map[keys.NodeID]bool{}
	for _, t := range d.Tombstones {
		delete(a.Nodes, t.Node)
		a.Buried[t.Node] = true
	}
}

// Status is what it reports.
func (a *Agent) Status() agentlink.Status {
	s := agentlink.Status{Version: agentlink.Version, Revision: a.Revision, KMIPAddress: "127.0.0.1:5696", EgressAddresses: a.Egress, Holdings: a.Holdings}
	for _, id := range slices.Sorted(maps.Keys(a.Nodes)) {
		s.Nodes = append(s.Nodes, a.Nodes[id])
	}
	s.Buried = slices.Sorted(maps.Keys(a.Buried))
	for _, p := range a.Last.Projects {
		if p.CustomerKey == nil {
			continue
		}
		st := custody.NewState(custody.Policy{Interval: time.Duration(p.CustomerKey.Interval)}, p.CustomerKey.Generation, custody.Instant{Wall: time.Now()})
		st.Verdict, st.Reason = a.Verdict, a.Reason
		st.LastRun, st.LastOutcome = time.Now(), kms.Revoked
		if a.Verdict == custody.Valid {
			st.LastOutcome = kms.OK
		}
		s.Custody = append(s.Custody, agentlink.CustodyStatus{Project: p.ID, State: st, Validate: p.Validate})
	}
	return s
}

// Step fetches, enacts and reports once.
func (a *Agent) Step(w *World) error {
	d, err := w.Cluster.Desired(context.Background(), a.Host, 0)
	if err != nil {
		return err
	}
	a.Take(d)
	st := a.Status()
	for i, c := range st.Custody {
		if len(a.Kept) > 0 {
			st.Custody[i].Wraps = a.Stage(w, a.project(c.Project))
		}
	}
	return w.Cluster.Status(context.Background(), a.Host, st)
}
