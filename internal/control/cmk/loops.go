package cmk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// tick is how often reports are looked at for silence when nothing else happens, and
// gather is how long changes of the store are gathered before they are looked at.
const (
	tick   = time.Second
	gather = 50 * time.Millisecond
)

// runner is the control plane's custody loop of one project.
type runner struct {
	loop *custody.Loop
	stop context.CancelFunc
	done chan struct{}
	// validate is the counter of asked-for runs that this loop has taken over.
	validate atomic.Uint64
	// echo marks a run that everybody was asked for: it asks nobody again.
	echo atomic.Bool
	// policy, told and crowd are what the loop was given last, repeated is when all
	// were asked to run once more; Run's goroutine owns them.
	policy   custody.Policy
	told     []custody.Evidence
	crowd    bool
	repeated time.Duration
}

func (s *Service) runner(project keys.ProjectID) *runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loops[project]
}

// Run keeps one custody loop per project with key management, and moves changes of
// keys on, until ctx ends; it waits for all of them.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.runChanges(ctx) })
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		changed := s.st.Changed()
		if err := s.tend(ctx, &wg); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "custody loops were not brought up to date", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			select {
			case <-ctx.Done():
			case <-time.After(gather):
			}
		case <-t.C:
		}
	}
}

// wish is what the store says about one project's loop.
type wish struct {
	config   store.KeyConfig
	cadence  custody.Cadence
	stale    bool
	evidence []custody.Evidence
}

// tend starts and stops loops and tells them what changed.
func (s *Service) tend(ctx context.Context, wg *sync.WaitGroup) error {
	wishes := map[keys.ProjectID]wish{}
	var errs []error
	err := s.st.View(ctx, func(tx *store.Tx) error {
		configs, err := tx.EnabledKeyConfigs()
		if err != nil {
			return err
		}
		for _, c := range configs {
			v, validators, err := s.combine(tx, c)
			if err != nil { // what one project has must not hold up the others
				errs = append(errs, fmt.Errorf("project %s: %w", c.Project, err))
				wishes[c.Project] = wish{config: c}
				continue
			}
			old, err := tx.Verdict(c.Project)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			evidence, err := s.Evidence(tx, c, "")
			if err != nil {
				return err
			}
			wishes[c.Project] = wish{config: c, cadence: cadence(validators, c.Generation), stale: v.Kind != old.Kind || v.Reason != old.Reason, evidence: evidence}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for project, r := range s.snapshot() {
		_, wanted := wishes[project]
		select {
		case <-r.done: // ended by itself: without a loop nobody would notice a revocation
			s.drop(project)
			continue
		default:
		}
		if !wanted {
			r.stop()
			<-r.done
			s.drop(project)
			s.unhear(project)
		}
	}
	errs = append(errs, s.lookAround(ctx, wishes))
	for project, w := range wishes {
		errs = append(errs, s.inform(ctx, s.guide(ctx, wg, project, w), w))
		if w.stale {
			errs = append(errs, s.st.Tx(ctx, func(tx *store.Tx) error {
				c, err := tx.KeyConfig(project)
				if err != nil || !c.Enabled {
					return err
				}
				return s.record(tx, c)
			}))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) snapshot() map[keys.ProjectID]*runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[keys.ProjectID]*runner, len(s.loops))
	for k, v := range s.loops {
		out[k] = v
	}
	return out
}

func (s *Service) drop(project keys.ProjectID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.loops, project)
	delete(s.probers, project)
}

// cadence is rule 12a: quiet while all hosts with nodes report VALID, every C/2 while
// one is SUSPECT, each interval otherwise.
func cadence(validators []Validator, generation uint64) custody.Cadence {
	hosts, out := 0, custody.Idle
	for _, v := range validators {
		switch {
		case v.Host == "":
			continue
		case !v.Silent && v.State.Verdict == custody.Suspect:
			return custody.Confirming
		case v.Silent || v.State.Verdict != custody.Valid || v.State.Generation != generation:
			out = custody.Own
		}
		hosts++
	}
	if hosts == 0 {
		return custody.Own
	}
	return out
}

func (s *Service) guide(ctx context.Context, wg *sync.WaitGroup, project keys.ProjectID, w wish) *runner {
	r := s.runner(project)
	if r == nil {
		r = s.start(ctx, wg, w.config)
	}
	r.loop.Commit(w.config.Generation)
	if p := s.Policy(w.config); p != r.policy {
		r.policy = p
		r.loop.SetPolicy(p)
	}
	r.loop.SetCadence(w.cadence)
	if w.config.Validate > r.validate.Load() {
		r.validate.Store(w.config.Validate)
		r.echo.Store(true)
		r.loop.TryNow()
	}
	return r
}

func (s *Service) start(ctx context.Context, wg *sync.WaitGroup, c store.KeyConfig) *runner {
	loopCtx, stop := context.WithCancel(ctx)
	r := &runner{stop: stop, done: make(chan struct{}), policy: s.Policy(c)}
	r.validate.Store(c.Validate)
	project := c.Project
	r.loop = custody.NewLoop(custody.Config{
		Project: project, Prober: s.prober(project), Store: &stateStore{s: s, project: project},
		Policy: s.Policy(c), Generation: c.Generation, Logger: s.log, Now: s.cfg.Clock, Central: true,
		Enact: func(ctx context.Context, e custody.Effect, st custody.State) error {
			return s.enact(ctx, r, project, e, st)
		},
	})
	s.mu.Lock()
	s.loops[project] = r
	s.mu.Unlock()
	wg.Go(func() {
		defer close(r.done)
		defer stop()
		if err := r.loop.Run(loopCtx); err != nil && loopCtx.Err() == nil {
			s.log.ErrorContext(ctx, "custody loop ended; it starts again", "project", project, "error", err)
		}
	})
	return r
}

// enact carries out what the control plane's loop asks for. It stops no processes:
// the hosts do, by their own verdicts.
func (s *Service) enact(ctx context.Context, r *runner, project keys.ProjectID, e custody.Effect, st custody.State) error {
	switch e {
	case custody.Record:
		return s.st.Tx(ctx, func(tx *store.Tx) error {
			c, err := tx.KeyConfig(project)
			if err != nil || !c.Enabled {
				return err
			}
			return s.record(tx, c)
		})
	case custody.AskValidators:
		if r.echo.CompareAndSwap(true, false) {
			return nil
		}
		v, err := s.ask(ctx, project)
		if err == nil {
			r.validate.CompareAndSwap(v-1, v) // this loop has just run
		}
		return err
	case custody.DropSessions:
		s.forget(ctx, project)
	case custody.RaiseAlarm:
		return s.st.Tx(ctx, func(tx *store.Tx) error {
			c, err := tx.KeyConfig(project)
			if err != nil || !c.Enabled {
				return err
			}
			return alarm(tx, c, "", st)
		})
	case custody.BeginDrill, custody.EndDrill, custody.RecordDrill, custody.Persist, custody.Stop, custody.Start:
	}
	return nil
}

// ask raises the counter of asked-for runs and gives it.
func (s *Service) ask(ctx context.Context, project keys.ProjectID) (v uint64, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		if err := raise(tx, project); err != nil {
			return err
		}
		c, err := tx.KeyConfig(project)
		v = c.Validate
		return err
	})
	return v, err
}

func (s *Service) forget(ctx context.Context, project keys.ProjectID) {
	var t kms.Target
	err := s.st.View(ctx, func(tx *store.Tx) error {
		c, err := tx.KeyConfig(project)
		if err != nil || !c.Enabled {
			return err
		}
		role, access, err := Reach(tx, c)
		access.Secret.Wipe()
		t = s.target(c, role, access, c.KeyARN)
		return err
	})
	if err == nil && (t.RoleARN != "" || !t.AccessKey.IsZero()) {
		s.cfg.Provider.Forget(t)
	}
}

// stateStore keeps the control plane's own custody state.
type stateStore struct {
	s       *Service
	project keys.ProjectID
}

// Load implements custody.Store.
func (x *stateStore) Load(ctx context.Context) (st custody.State, err error) {
	err = x.s.st.View(ctx, func(tx *store.Tx) error {
		r, err := tx.CustodyOf(x.project, "")
		if errors.Is(err, store.ErrNotFound) {
			return custody.ErrNoState
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(r.State, &st); err != nil {
			return fmt.Errorf("read custody state: %w", err)
		}
		return nil
	})
	return st, err
}

// Save implements custody.Store.
func (x *stateStore) Save(ctx context.Context, st custody.State) error {
	b, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode custody state: %w", err)
	}
	return x.s.st.Tx(ctx, func(tx *store.Tx) error {
		c, err := tx.KeyConfig(x.project)
		if err != nil || !c.Enabled {
			return err // switched off meanwhile: the state is of no use any more
		}
		return tx.PutCustody(store.CustodyReport{Project: x.project, Generation: st.Generation, Validate: c.Validate, State: b, Reported: tx.Now()})
	})
}
