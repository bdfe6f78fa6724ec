package controltest

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

// Kept is a key that an agent keeps, by the generation of each of its wraps.
type Kept struct {
	Key   keys.KeyID
	Node  agentlink.Node
	Wraps map[uint64]envelope.Wrapped
	// Revision is that of the record.
	Revision uint64
}

// Key makes a key of a node as an agent does, and escrows it: under the configuration
// in force and under the candidate of the desired state that the agent has taken.
func (a *Agent) Key(w *World, node keys.NodeID) *Kept {
	w.T.Helper()
	for _, n := range a.Last.Nodes {
		if n.ID != node {
			continue
		}
		k := &Kept{Key: keys.NewKeyID(), Node: n, Wraps: map[uint64]envelope.Wrapped{}, Revision: 1}
		p := a.project(n.Project)
		material := secret.Random(32)
		w.Must(k.wrap(w, *p.CustomerKey, material))
		if p.Candidate != nil && !p.Candidate.Paused {
			w.Must(k.wrap(w, p.Candidate.CustomerKey, material))
		}
		a.Kept = append(a.Kept, k)
		w.Must(a.escrow(w, k))
		return k
	}
	w.T.Fatalf("no node %s on this host", node)
	return nil
}

func (a *Agent) project(id keys.ProjectID) agentlink.Project {
	for _, p := range a.Last.Projects {
		if p.ID == id {
			return p
		}
	}
	return agentlink.Project{}
}

func target(k agentlink.CustomerKey) kms.Target {
	return kms.Target{RoleARN: k.RoleARN, ExternalID: k.ExternalID, KeyID: k.KeyARN, Region: k.Region}
}

func (k *Kept) context(w *World) keys.Context {
	return keys.Context{Deployment: w.Store.Deployment(), Project: k.Node.Project, Cluster: k.Node.Cluster, Node: k.Node.ID, Purpose: keys.PurposeMasterKey, Key: k.Key}
}

func (k *Kept) wrap(w *World, c agentlink.CustomerKey, material secret.Bytes) error {
	s, err := w.AWS.Session(context.Background(), target(c))
	if err != nil {
		return err
	}
	e, err := envelope.Wrap(context.Background(), s, k.context(w), material)
	if err == nil {
		k.Wraps[c.Generation] = e
	}
	return err
}

// Opens gives the key with a configuration, by the wrap that its CMK made.
func (k *Kept) Opens(w *World, c agentlink.CustomerKey) (secret.Bytes, error) {
	s, err := w.AWS.Session(context.Background(), target(c))
	if err != nil {
		return secret.Bytes{}, err
	}
	for _, e := range k.Wraps {
		if keys.SameKey(e.KeyARN, c.KeyARN) {
			return envelope.Unwrap(context.Background(), s, k.context(w), e)
		}
	}
	return secret.Bytes{}, errNoWrap
}

var errNoWrap = errors.New("the key has no wrap under this CMK")

func (a *Agent) escrow(w *World, k *Kept) error {
	var out []agentlink.EscrowedWrap
	for g, e := range k.Wraps {
		b, err := e.MarshalBinary()
		if err != nil {
			return err
		}
		out = append(out, agentlink.EscrowedWrap{
			Node: k.Node.ID, Project: k.Node.Project, Cluster: k.Node.Cluster, Key: k.Key, Purpose: keys.PurposeMasterKey,
			State: keys.StateActive, Generation: g, Revision: k.Revision, Wrapped: b, Created: time.Now().UTC(),
		})
	}
	return w.Cluster.Escrow(context.Background(), a.Host, out)
}

// Resend escrows every key as the agent has it.
func (a *Agent) Resend(w *World) {
	w.T.Helper()
	for _, k := range a.Kept {
		w.Must(a.escrow(w, k))
	}
}

// Stage carries out what the desired state says about wraps, and gives what to report
// of a project.
func (a *Agent) Stage(w *World, p agentlink.Project) *agentlink.WrapStatus {
	out := &agentlink.WrapStatus{Committed: p.CustomerKey.Generation}
	for _, d := range p.Dropped {
		out.Dropped = max(out.Dropped, d.Order)
		for _, k := range a.Kept {
			for g, e := range k.Wraps {
				if k.Node.Project == p.ID && g >= d.From && g <= d.To && keys.SameKey(e.KeyARN, d.KeyARN) {
					delete(k.Wraps, g)
					k.Revision++
				}
			}
			if err := a.escrow(w, k); err != nil {
				out.Dropped = 0
			}
		}
	}
	if p.Candidate == nil {
		return out
	}
	out.Staging = p.Candidate.Generation
	for _, k := range a.Kept {
		if k.Node.Project != p.ID {
			continue
		}
		out.Total++
		if p.Candidate.Paused {
			continue
		}
		if err := a.prove(w, p, k); err != nil {
			f := kms.AsFailure(err)
			out.Failure = &agentlink.WrapFailure{
				Key: k.Key, Candidate: a.blames(w, p, k), Outcome: f.Outcome, Reason: f.Reason, Operation: f.Operation,
				Permission: f.MissingPermission, Confirmed: true,
			}
			continue
		}
		out.Done++
	}
	return out
}

// blames tells whether the candidate refuses, not the configuration in force.
func (a *Agent) blames(w *World, p agentlink.Project, k *Kept) bool {
	_, err := k.Opens(w, *p.CustomerKey)
	return err == nil
}

func (a *Agent) prove(w *World, p agentlink.Project, k *Kept) error {
	_, err := k.Opens(w, p.Candidate.CustomerKey)
	if !errors.Is(err, errNoWrap) {
		return err
	}
	material, err := k.Opens(w, *p.CustomerKey)
	if err != nil {
		through := p.Candidate.CustomerKey
		through.KeyARN, through.Region = p.CustomerKey.KeyARN, p.CustomerKey.Region
		if material, err = k.Opens(w, through); err != nil {
			return err
		}
	}
	if err := k.wrap(w, p.Candidate.CustomerKey, material); err != nil {
		return err
	}
	k.Revision++
	return a.escrow(w, k)
}
