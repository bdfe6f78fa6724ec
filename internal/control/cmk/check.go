package cmk

import (
	"context"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// How many checks of candidates a project may make: each costs calls in the customer's
// account and in the platform's quota.
const (
	maxChecks   = 10
	checkWindow = time.Minute
)

// Candidate is a key and the way to it that somebody thinks about. What is empty is
// what the project uses now.
type Candidate struct{ KeyID, Region, RoleID string }

// Check is what a dry run of a candidate found.
type Check struct {
	kms.Result
	Access policydoc.Access
	// Permissions are sts:AssumeRole and the three of the key, in this order.
	Permissions []Permission
	// Refusal is what a change to the candidate would be answered with; nil if the run
	// was OK.
	Refusal *apierr.Error
}

// Permission is one permission of a Check.
type Permission struct {
	Action string
	// Tried is false when the run did not come so far.
	Tried, OK bool
	// Advice says how to give it, if it was refused.
	Advice policydoc.Advice
}

// Check makes a validation run with a candidate and changes nothing; it takes at most
// kms.RunTimeout. GROUP_NOT_FOUND, USER_UNAUTHORIZED, the codes of Update about a wrong
// request and about the role, RATE_LIMITED.
func (s *Service) Check(ctx context.Context, p tenant.Principal, project keys.ProjectID, cand Candidate) (Check, error) {
	enabled := true
	patch := Patch{AWS: &AWSPatch{Enabled: &enabled, CustomerMasterKeyID: given(cand.KeyID), Region: given(cand.Region), RoleID: given(cand.RoleID)}}
	var old, next store.KeyConfig
	var role store.AccessRole
	var access kms.AccessKey
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.RequireKeyOwner(tx, p, project); err != nil {
			return err
		}
		if err := patch.check(); err != nil {
			return err
		}
		if old, err = tx.KeyConfig(project); err != nil {
			return err
		}
		if next, _, err = patch.apply(old); err != nil {
			return err
		}
		if role, access, err = reachCandidate(tx, next, patch); err == nil && next.AccessKeyID == "" {
			err = samePartition(next, role)
		}
		return err
	})
	if err != nil {
		return Check{}, err
	}
	defer access.Secret.Wipe()
	done, err := s.gate(project).enter(s.clock())
	if err != nil {
		return Check{}, err
	}
	defer done()
	next.KeyARN = ""
	in := kms.RunInput{Target: s.target(next, role, access, next.KeyID), Context: keys.ProbeContext(s.st.Deployment(), project).Map()}
	if old.Enabled && keys.SameKey(old.KeyARN, accessOf(next, role).KeyARN) {
		in.Stored = kms.Probe{Ciphertext: old.Probe, Digest: old.ProbeSHA256}
	}
	out := Check{Result: kms.Run(ctx, s.cfg.Provider, in)}
	if next.KeyARN = out.Key.ARN; out.Outcome != kms.OK {
		out.Refusal = refusal(next, role, out.Result)
	}
	out.Access = accessOf(next, role)
	for _, op := range []kms.Operation{kms.OpAssumeRole, kms.OpDescribeKey, kms.OpEncrypt, kms.OpDecrypt} {
		x := Permission{Action: op.Permission(), OK: slices.Contains(out.Done, op)}
		x.Tried = x.OK
		if i := slices.IndexFunc(out.Refused, func(f kms.Finding) bool { return f.Permission == x.Action }); i >= 0 {
			x.OK, x.Tried, x.Advice = false, true, out.Access.Remedy(out.Refused[i:i+1])
			if next.AccessKeyID != "" && out.Refusal != nil { // it is the user's policy, not a role's
				x.Advice = policydoc.Advice{Sentence: out.Refusal.Detail}
			}
		}
		out.Permissions = append(out.Permissions, x)
	}
	return out, nil
}

func given(v string) *string {
	if v == "" {
		return nil
	}
	return &v
}

// gate bounds the checks of one project: one at a time, and few in a minute. Its times
// are on the boot-time clock.
type gate struct {
	busy  bool
	since time.Duration
	count int
}

// projectGate is a gate with the lock of its service.
type projectGate struct {
	s *Service
	g *gate
}

func (s *Service) gate(project keys.ProjectID) projectGate {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[project]
	if g == nil {
		g = &gate{}
		s.gates[project] = g
	}
	return projectGate{s, g}
}

// enter admits a check or refuses it with RATE_LIMITED; done ends it.
func (x projectGate) enter(now time.Duration) (done func(), err error) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if x.g.count > 0 && now-x.g.since >= checkWindow {
		x.g.count = 0
	}
	if x.g.busy || x.g.count >= maxChecks {
		return nil, apierr.New(429, "RATE_LIMITED", "A project may make one check at a time and %d in a minute; nothing was tried. Wait a little and send it again.", maxChecks)
	}
	if x.g.count == 0 {
		x.g.since = now
	}
	x.g.busy, x.g.count = true, x.g.count+1
	return func() {
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
		x.g.busy = false
	}, nil
}
