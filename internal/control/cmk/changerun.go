package cmk

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// confirmations is how many runs have to refuse a candidate before it is given up.
const confirmations = 3

// trial is what the control plane's own runs with a candidate say. It is not stored: a
// new process makes runs of its own.
type trial struct {
	generation uint64
	busy       bool
	proven     bool
	next       time.Duration // boot-time clock
	// count and since are of the refusals in a row.
	count       int
	since, last time.Duration
	why, code   string
}

// refused gives why the candidate is refused, once that is confirmed.
func (t trial) refused(span time.Duration) (why, code string) {
	if t.count < confirmations || t.last-t.since < span {
		return "", ""
	}
	return t.why, t.code
}

func (s *Service) trialOf(c store.KeyChange) trial {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trials[c.Project]; t.generation == c.Generation {
		return t
	}
	return trial{generation: c.Generation}
}

func (s *Service) setTrial(project keys.ProjectID, t trial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trials[project].generation <= t.generation {
		s.trials[project] = t
	}
}

// runChanges moves changes on whenever the store changes, until ctx ends.
func (s *Service) runChanges(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		changed := s.st.Changed()
		if err := s.StepChanges(ctx, func(fn func()) { wg.Go(fn) }); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "changes of customer keys were not followed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			select {
			case <-ctx.Done():
			case <-time.After(gather):
			}
		case <-t.C:
		}
	}
}

// StepChanges moves every open change on by what is known now. Runs with candidates go
// through background, which may run them later or at once.
func (s *Service) StepChanges(ctx context.Context, background func(func())) error {
	var open []store.KeyChange
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		open, err = tx.OpenKeyChanges()
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for _, c := range open {
		if c.Staged() {
			s.try(ctx, c, background)
		}
		errs = append(errs, s.stepChange(ctx, c))
	}
	return errors.Join(errs...)
}

// stepChange takes one step, if there is one to take.
func (s *Service) stepChange(ctx context.Context, c store.KeyChange) error {
	look := func(tx *store.Tx) (now, next store.KeyChange, err error) {
		changes, err := tx.KeyChanges(c.Project)
		if err != nil {
			return now, next, err
		}
		for _, x := range changes {
			if x.Generation == c.Generation {
				now = x
			}
		}
		if now.Generation == 0 || !now.Open() {
			return now, now, nil
		}
		f, err := s.facts(tx, now)
		if err != nil {
			return now, next, err
		}
		t := s.trialOf(now)
		f.proven = t.proven
		f.refused, f.refusedCode = t.refused(s.Policy(now.Candidate).C())
		return now, decide(now, f), nil
	}
	var now, next store.KeyChange
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		now, next, err = look(tx)
		return err
	}); err != nil || reflect.DeepEqual(now, next) {
		return err
	}
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		now, next, err := look(tx)
		if err != nil || reflect.DeepEqual(now, next) {
			return err
		}
		return s.settle(tx, tenant.System(), now, next)
	})
}

// try makes a run with the candidate if one is due: each C, twice as often while it is
// refused.
func (s *Service) try(ctx context.Context, c store.KeyChange, background func(func())) {
	t := s.trialOf(c)
	if t.busy || s.clock() < t.next {
		return
	}
	t.busy = true
	s.setTrial(c.Project, t)
	background(func() {
		t.busy = false
		t = s.tried(ctx, c, t)
		s.setTrial(c.Project, t)
	})
}

func (s *Service) tried(ctx context.Context, c store.KeyChange, t trial) trial {
	span := s.Policy(c.Candidate).C()
	var role store.AccessRole
	var access kms.AccessKey
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		role, access, err = Reach(tx, c.Candidate)
		return err
	})
	defer access.Secret.Wipe()
	if err != nil {
		t.next = s.clock() + time.Second
		return t
	}
	at := s.clock()
	r := kms.Run(ctx, s.cfg.Provider, kms.RunInput{
		Target: s.target(c.Candidate, role, access, c.Candidate.KeyARN), Context: keys.ProbeContext(s.st.Deployment(), c.Project).Map(),
		Stored: kms.Probe{Ciphertext: c.Candidate.Probe, Digest: c.Candidate.ProbeSHA256},
	})
	switch r.Outcome {
	case kms.OK:
		return trial{generation: t.generation, proven: true, next: at + span}
	case kms.Revoked:
		if t.count == 0 {
			t.since = at
		}
		e := refusal(c.Candidate, role, r)
		t.count, t.last, t.proven, t.next, t.why, t.code = t.count+1, at, false, at+span/2, e.Detail, e.Code
	default:
		t.proven, t.next = false, at+span/2
	}
	return t
}
