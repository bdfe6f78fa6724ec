package cmk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// prober makes the control plane's validation runs of one project, one at a time
// (rule 31), and keeps the newest result for readers.
type prober struct {
	s       *Service
	project keys.ProjectID
	// turn is held by whoever runs.
	turn chan struct{}

	mu         sync.Mutex
	generation uint64
	result     kms.Result
	begun      time.Time
}

func (s *Service) prober(project keys.ProjectID) *prober {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.probers[project]
	if p == nil {
		p = &prober{s: s, project: project, turn: make(chan struct{}, 1)}
		s.probers[project] = p
	}
	return p
}

// Probe implements custody.Prober: always a new run.
func (p *prober) Probe(ctx context.Context, generation uint64) kms.Result {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return kms.Failed(ctx.Err(), time.Now(), time.Now())
	}
	return p.run(ctx, generation)
}

// recent gives a result that began at most age before this call, from somebody else's
// run if there is one, else from a run of its own; fresh tells which.
func (p *prober) recent(ctx context.Context, generation uint64, age time.Duration) (r kms.Result, fresh bool) {
	oldest := time.Now().Add(-age)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return kms.Failed(ctx.Err(), time.Now(), time.Now()), false
	}
	p.mu.Lock()
	r, ok := p.result, p.generation == generation && !p.begun.Before(oldest)
	p.mu.Unlock()
	if ok {
		return r, false
	}
	return p.run(ctx, generation), true
}

func (p *prober) run(ctx context.Context, generation uint64) kms.Result {
	begun := time.Now()
	var c store.KeyConfig
	var role store.AccessRole
	var access kms.AccessKey
	err := p.s.st.View(ctx, func(tx *store.Tx) (err error) {
		if c, err = tx.KeyConfig(p.project); err != nil {
			return err
		}
		if !c.Enabled || c.Generation != generation {
			return errMoved
		}
		role, access, err = Reach(tx, c)
		return err
	})
	if errors.Is(err, errMoved) {
		return kms.Result{} // no run was made: no evidence of either kind
	}
	if err != nil {
		// Nothing was asked, so nothing is said about the key.
		return kms.Failed(errors.Join(errors.New("read configuration"), err), begun, time.Now())
	}
	defer access.Secret.Wipe()
	r := kms.Run(ctx, p.s.cfg.Provider, kms.RunInput{
		Target:  p.s.target(c, role, access, c.KeyARN),
		Context: keys.ProbeContext(p.s.st.Deployment(), p.project).Map(),
		Stored:  kms.Probe{Ciphertext: c.Probe, Digest: c.ProbeSHA256},
	})
	p.remember(generation, r, begun)
	return r
}

func (p *prober) remember(generation uint64, r kms.Result, begun time.Time) {
	p.mu.Lock()
	p.generation, p.result, p.begun = generation, r, begun
	p.mu.Unlock()
}
