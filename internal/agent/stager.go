package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agent/wraps"
	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
)

const (
	// wrapLimit bounds the calls of KMS for one key, escrowEvery is how many new wraps go
	// to escrow at once.
	wrapLimit   = 15 * time.Second
	escrowEvery = 50
	// restageMin and restageMax are the pauses after a pass that did not finish.
	restageMin = time.Second
	restageMax = 30 * time.Second
)

// stager keeps the wraps of one project on this host as the desired state wants them
// (key-plane section 4): each kept key has one under the configuration in force; while
// a candidate is prepared the candidate opens each key, by a new wrap if it is another
// CMK; wraps that were ordered to go are gone. A pass does what is missing, so it can be
// repeated after a crash at any point.
type stager struct {
	c     *custodian
	v     *vault
	told  func()                  // something changed that the control plane waits for
	after func(step string) error // called between the steps: a test fails them there
	log   *slog.Logger
	wake  chan struct{}
	pause time.Duration

	mu      sync.Mutex
	proven  map[keys.KeyID]kms.Target // which candidate opens a key
	failure *agentlink.WrapFailure
	// refusals are the candidate's in a row, since when.
	refusals int
	since    time.Time
}

func newStager(c *custodian, v *vault, told func(), after func(string) error) *stager {
	return &stager{c: c, v: v, told: told, after: after, log: c.log, wake: make(chan struct{}, 1), pause: restageMin, proven: map[keys.KeyID]kms.Target{}}
}

// poke asks for a pass soon.
func (s *stager) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run makes passes when something changed, and again after one that did not finish,
// until ctx ends.
func (s *stager) run(ctx context.Context) {
	for {
		again := s.attempt(ctx)
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// attempt makes one pass and gives the time until the next.
func (s *stager) attempt(ctx context.Context) time.Duration {
	err := s.pass(ctx)
	s.told()
	switch {
	case ctx.Err() != nil:
		return time.Hour
	case err == nil:
		s.pause = restageMin
		return time.Hour
	}
	s.log.Warn("wraps of the project are not as they are wanted yet", "error", err)
	var f *kms.Failure
	if errors.As(err, &f) && f.Outcome == kms.Revoked {
		return policy(s.c.plan().current).C() / 2
	}
	defer func() { s.pause = min(2*s.pause, restageMax) }()
	return s.pause
}

// pass does what is missing.
func (s *stager) pass(ctx context.Context) error {
	if s.c.isWithdrawn() {
		return nil
	}
	plan := s.c.plan()
	// A key that is just being made by an older plan is in the store before its wraps are
	// looked at.
	s.v.gate.Lock()
	s.v.gate.Unlock() //nolint:staticcheck // a barrier
	records := slices.DeleteFunc(s.v.store.OfProject(s.c.project), func(r wraps.Record) bool { return !r.State.Readable() })
	err := s.heal(ctx, plan, records)
	if err == nil {
		err = s.stage(ctx, plan, records)
	}
	return errors.Join(err, s.drop(ctx, plan), s.escrow(ctx))
}

// heal wraps keys anew that have no wrap under the configuration in force: their
// making and its commit overlapped, or they were put back from an older copy.
func (s *stager) heal(ctx context.Context, plan keyPlan, records []wraps.Record) error {
	for _, r := range records {
		if _, ok := r.Under(plan.current.KeyARN); ok || !s.under(r, plan.retained) {
			continue
		}
		session, err := s.v.provider.Session(ctx, target(plan.current))
		if err == nil {
			err = s.rewrap(ctx, r, plan, plan.retained, plan.current, session)
		}
		if err != nil {
			return fmt.Errorf("wrap key %s under the configuration in force: %w", r.Key, err)
		}
	}
	return nil
}

func (s *stager) under(r wraps.Record, configs []agentlink.CustomerKey) bool {
	return slices.ContainsFunc(configs, func(k agentlink.CustomerKey) bool { _, ok := r.Under(k.KeyARN); return ok })
}

// stage proves that the candidate opens each key.
func (s *stager) stage(ctx context.Context, plan keyPlan, records []wraps.Record) error {
	candidate, ok := plan.staging()
	if !ok {
		return s.settle(nil, plan)
	}
	open := slices.DeleteFunc(slices.Clone(records), func(r wraps.Record) bool { return s.isProven(r, candidate) })
	if len(open) == 0 {
		return s.settle(nil, plan)
	}
	// A fresh session: a cached one is no evidence that this host may assume the role.
	session, err := s.v.provider.Assume(ctx, target(candidate))
	if err != nil {
		return s.settle(&stageError{candidate: true, err: err}, plan)
	}
	defer func() { _ = session.Close() }()
	var first *stageError
	for i, r := range open {
		if err := s.prove(ctx, r, plan, candidate, session); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if first == nil {
				first = err
			}
			// A damaged wrap says nothing about the others.
			if kms.AsFailure(err).Reason != kms.CiphertextMismatch {
				break
			}
			continue
		}
		if i%escrowEvery == escrowEvery-1 {
			if err := s.escrow(ctx); err != nil {
				return err
			}
			s.told()
		}
	}
	return s.settle(first, plan)
}

// stageError is why a key is not proven, and whose doing that is.
type stageError struct {
	key       keys.KeyID
	candidate bool
	err       error
}

// Error implements error.
func (e *stageError) Error() string {
	who := "the configuration in force"
	if e.candidate {
		who = "the new configuration"
	}
	if e.key == "" {
		return fmt.Sprintf("%s: %v", who, e.err)
	}
	return fmt.Sprintf("key %s, %s: %v", e.key, who, e.err)
}

// Unwrap gives the cause.
func (e *stageError) Unwrap() error { return e.err }

// settle notes how staging stands, and gives the failure as an error.
func (s *stager) settle(e *stageError, plan keyPlan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == nil {
		s.failure, s.refusals = nil, 0
		return nil
	}
	f := kms.AsFailure(e.err)
	s.failure = &agentlink.WrapFailure{Key: e.key, Candidate: e.candidate, Detail: e.err.Error()}
	var known *kms.Failure
	if errors.As(e.err, &known) {
		s.failure.Outcome, s.failure.Reason, s.failure.Operation = f.Outcome, f.Reason, f.Operation
		s.failure.Permission, s.failure.Detail, s.failure.Remedy = f.MissingPermission, f.Detail(), f.Remedy
	}
	if !e.candidate || known == nil || f.Outcome != kms.Revoked {
		s.refusals = 0
		return e
	}
	if s.refusals == 0 {
		s.since = time.Now()
	}
	s.refusals++
	s.failure.Confirmed = s.refusals >= 3 && time.Since(s.since) >= policy(plan.current).C()
	return e
}

func (s *stager) isProven(r wraps.Record, candidate agentlink.CustomerKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proven[r.Key].Equal(target(candidate))
}

// prove makes sure that the candidate opens a key: by the wrap that there is, or by a
// new one.
func (s *stager) prove(ctx context.Context, r wraps.Record, plan keyPlan, candidate agentlink.CustomerKey, session kms.Session) *stageError {
	ctx, cancel := context.WithTimeout(ctx, wrapLimit)
	defer cancel()
	if w, ok := r.Under(candidate.KeyARN); ok {
		if err := s.verify(ctx, r, w, session); err != nil {
			return &stageError{key: r.Key, candidate: true, err: err}
		}
	} else if err := s.rewrap(ctx, r, plan, append([]agentlink.CustomerKey{plan.current}, plan.retained...), candidate, session); err != nil {
		var refused *stageError
		if errors.As(err, &refused) {
			return refused
		}
		return &stageError{key: r.Key, err: err}
	}
	s.mu.Lock()
	s.proven[r.Key] = target(candidate)
	s.mu.Unlock()
	return nil
}

// verify opens a wrap. That it holds the right key KMS itself proves, by the context.
func (s *stager) verify(ctx context.Context, r wraps.Record, w wraps.Wrap, session kms.Session) error {
	if err := s.record(ctx, r, "KEY_WRAP_VERIFIED", "A wrap of a key is opened to prove a new configuration of the customer key."); err != nil {
		return err
	}
	e, err := w.Open()
	if err != nil {
		return err
	}
	material, err := envelope.Unwrap(ctx, session, r.Context(s.v.deployment), e)
	if err != nil {
		return err
	}
	material.Wipe()
	return s.after("verified")
}

// rewrap opens a key through one of the configurations from and wraps it for another
// one, whose session is given. The new wrap is opened again and compared before it is
// stored beside the old ones.
func (s *stager) rewrap(ctx context.Context, r wraps.Record, plan keyPlan, from []agentlink.CustomerKey, to agentlink.CustomerKey, session kms.Session) error {
	if err := s.record(ctx, r, "KEY_REWRAPPED", "A key is wrapped anew for another configuration of the customer key."); err != nil {
		return err
	}
	material, err := s.open(ctx, r, plan, from)
	if err != nil {
		return err
	}
	defer material.Wipe()
	if err := s.after("unwrapped"); err != nil {
		return err
	}
	e, err := envelope.Wrap(ctx, session, r.Context(s.v.deployment), material)
	if err != nil {
		return &stageError{key: r.Key, candidate: true, err: err}
	}
	b, err := e.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode wrapped key: %w", err)
	}
	if err := s.after("wrapped"); err != nil {
		return err
	}
	_, err = s.v.store.Change(r.Key, func(now wraps.Record) (wraps.Record, bool) {
		if _, ok := now.Under(to.KeyARN); ok || !now.State.Readable() {
			return now, false
		}
		return now.With(to.Generation, b), true
	})
	if err != nil {
		return err
	}
	return s.after("stored")
}

// open gives the key's material by the first wrap and way that open it.
func (s *stager) open(ctx context.Context, r wraps.Record, plan keyPlan, from []agentlink.CustomerKey) (secret.Bytes, error) {
	var errs []error
	for _, k := range from {
		w, ok := r.Under(k.KeyARN)
		if !ok {
			continue
		}
		e, err := w.Open()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, t := range plan.sources(k) {
			session, err := s.v.provider.Session(ctx, t)
			if err == nil {
				var material secret.Bytes
				if material, err = envelope.Unwrap(ctx, session, r.Context(s.v.deployment), e); err == nil {
					return material, nil
				}
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return secret.Bytes{}, errors.New("no configuration that is known here opens any wrap of this key")
	}
	return secret.Bytes{}, errs[0] // of the configuration in force, through its own role
}

// drop carries out the orders to drop wraps. One whose key has no wrap under the
// configuration in force stays.
func (s *stager) drop(ctx context.Context, plan keyPlan) error {
	for _, d := range plan.dropped {
		for _, r := range s.v.store.OfProject(s.c.project) {
			if _, covered := r.Without(plan.current.KeyARN, covers(d)); !covered {
				continue
			}
			if err := s.record(ctx, r, "KEY_WRAP_DROPPED", "A wrap of a key under a customer key that is not in force any more is dropped on an explicit order."); err != nil {
				return err
			}
			if _, err := s.v.store.Change(r.Key, func(now wraps.Record) (wraps.Record, bool) {
				return now.Without(plan.current.KeyARN, covers(d))
			}); err != nil {
				return err
			}
			if err := s.after("dropped"); err != nil {
				return err
			}
		}
	}
	return nil
}

func covers(d agentlink.WrapDrop) func(string, uint64) bool {
	return func(keyARN string, generation uint64) bool {
		return generation >= d.From && generation <= d.To && keys.SameKey(keyARN, d.KeyARN)
	}
}

// escrow sends what the control plane has not confirmed.
func (s *stager) escrow(ctx context.Context) error {
	open := slices.DeleteFunc(s.v.store.Unescrowed(), func(r wraps.Record) bool { return r.Project != s.c.project || !r.State.Readable() })
	if len(open) == 0 {
		return nil
	}
	if err := s.v.syncEscrow(ctx, open); err != nil {
		return err
	}
	return s.after("escrowed")
}

func (s *stager) record(ctx context.Context, r wraps.Record, kind, text string) error {
	return s.v.recorder.record(ctx, audit.Event{
		Type: kind, Project: string(r.Project), Cluster: string(r.Cluster), Node: string(r.Node), Message: text, Data: map[string]string{"key": string(r.Key)},
	})
}

// status is what the host reports. Nil while it does not know a key in force.
func (s *stager) status() *agentlink.WrapStatus {
	if s.c.isWithdrawn() {
		return nil
	}
	plan := s.c.plan()
	records := slices.DeleteFunc(s.v.store.OfProject(s.c.project), func(r wraps.Record) bool { return !r.State.Readable() })
	out := &agentlink.WrapStatus{Committed: plan.current.Generation, Dropped: s.dropped(plan, records)}
	for _, r := range records {
		if w, ok := r.Under(plan.current.KeyARN); !ok || !r.Confirmed(w) {
			out.Committed = 0
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.proven, func(id keys.KeyID, _ kms.Target) bool {
		return !slices.ContainsFunc(records, func(r wraps.Record) bool { return r.Key == id })
	})
	if plan.candidate == nil {
		return out
	}
	out.Staging, out.Total = plan.candidate.Generation, len(records)
	for _, r := range records {
		w, ok := r.Under(plan.candidate.KeyARN)
		if ok && r.Confirmed(w) && s.proven[r.Key].Equal(target(plan.candidate.CustomerKey)) {
			out.Done++
		}
	}
	if !plan.candidate.Paused && s.failure != nil {
		f := *s.failure
		out.Failure = &f
	}
	return out
}

// dropped is the newest order that is carried out, with all before it.
func (s *stager) dropped(plan keyPlan, records []wraps.Record) (out uint64) {
	orders := slices.SortedFunc(slices.Values(plan.dropped), func(a, b agentlink.WrapDrop) int { return int(a.Order) - int(b.Order) }) //nolint:gosec // small counters
	for _, d := range orders {
		for _, r := range records {
			if has(r, plan.current.KeyARN, covers(d)) {
				return out
			}
		}
		out = d.Order
	}
	return out
}

// has tells whether a record has a wrap that is to go and is not under the CMK in force.
func has(r wraps.Record, inForce string, gone func(string, uint64) bool) bool {
	for _, w := range r.Wraps() {
		e, err := w.Open()
		if err == nil && !keys.SameKey(e.KeyARN, inForce) && gone(e.KeyARN, w.Generation) {
			return true
		}
	}
	return false
}
