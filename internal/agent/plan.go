package agent

import (
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/kms"
)

// keyPlan is what the control plane last said about a project's key: the configuration
// in force, the one that is prepared, those that are kept for a rollback, and the wraps
// that are to go.
type keyPlan struct {
	current   agentlink.CustomerKey
	candidate *agentlink.Candidate
	retained  []agentlink.CustomerKey
	dropped   []agentlink.WrapDrop
}

func planOf(p agentlink.Project) keyPlan {
	return keyPlan{current: *p.CustomerKey, candidate: p.Candidate, retained: p.Retained, dropped: p.Dropped}
}

// staging gives the candidate, if keys are to be proven for it now.
func (p keyPlan) staging() (agentlink.CustomerKey, bool) {
	if p.candidate == nil || p.candidate.Paused {
		return agentlink.CustomerKey{}, false
	}
	return p.candidate.CustomerKey, true
}

// sources are the ways to what a wrap under the configuration k holds: its own, and
// that of the candidate's role (key-plane rule 24).
func (p keyPlan) sources(k agentlink.CustomerKey) []kms.Target {
	out := []kms.Target{target(k)}
	if p.candidate != nil {
		through := p.candidate.CustomerKey
		through.KeyARN, through.Region = k.KeyARN, k.Region
		if t := target(through); !t.Equal(out[0]) {
			out = append(out, t)
		}
	}
	return out
}
