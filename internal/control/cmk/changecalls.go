package cmk

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// viewChanges adds what is requested, prepared and kept to a view.
func (s *Service) viewChanges(tx *store.Tx, out *View) error {
	changes, err := tx.KeyChanges(out.Project)
	if err != nil || len(changes) == 0 {
		return err
	}
	newest := changes[len(changes)-1]
	out.Change = &newest
	if c, ok := stagedIn(changes); ok {
		out.Requested = carry(c.Candidate, out.KeyConfig)
	}
	if c, ok := retainedIn(changes); ok {
		out.Retained = &c
	}
	out.Hosts, err = s.hostProgress(tx, out.Project)
	return err
}

// AbortChange ends the change that is being prepared; the configuration in force stays.
// GROUP_NOT_FOUND, USER_UNAUTHORIZED, ENCRYPTION_AT_REST_NO_CHANGE.
func (s *Service) AbortChange(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out View, err error) {
	lock := s.changeLock(project)
	lock.Lock()
	defer lock.Unlock()
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tenant.RequireKeyOwner(tx, p, project); err != nil {
			return err
		}
		changes, err := tx.KeyChanges(project)
		if err != nil {
			return err
		}
		c, ok := stagedIn(changes)
		if !ok {
			return noChange(project, "no change of the customer key is being prepared; a change that is in force is taken back by :rollback")
		}
		f, err := s.facts(tx, c)
		if err != nil {
			return err
		}
		if err := s.settle(tx, p, c, aborted(c, f, "ABORTED_ON_REQUEST", "Somebody asked for it.")); err != nil {
			return err
		}
		out, err = s.view(tx, project)
		return err
	})
	return out, err
}

func noChange(project keys.ProjectID, what string) error {
	return apierr.Conflict("ENCRYPTION_AT_REST_NO_CHANGE", "Group %s: %s.", project, what).With(string(project))
}

// Rollback asks for the configuration before the last change again, within Retention.
// It is prepared on the hosts like any change; wraps that are kept are proven, not made
// anew. Codes: those of Update, ENCRYPTION_AT_REST_NO_CHANGE.
func (s *Service) Rollback(ctx context.Context, p tenant.Principal, project keys.ProjectID) (View, error) {
	lock := s.changeLock(project)
	lock.Lock()
	defer lock.Unlock()
	var old, next store.KeyConfig
	var role store.AccessRole
	var access kms.AccessKey
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err = tenant.RequireKeyOwner(tx, p, project); err != nil {
			return err
		}
		if old, err = tx.KeyConfig(project); err != nil {
			return err
		}
		changes, err := tx.KeyChanges(project)
		if err != nil {
			return err
		}
		if c, ok := stagedIn(changes); ok {
			return changeInProgress(c)
		}
		c, ok := retainedIn(changes)
		if !ok || !old.Enabled {
			return noChange(project, "no configuration from before is kept that could be rolled back to")
		}
		if !tx.Now().Before(c.Retires) {
			return noChange(project, "the configuration before was kept until "+c.Retires.Format(time.RFC3339))
		}
		if c.Previous.AccessKeyID != old.AccessKeyID {
			return noChange(project, "there is no way back from a role to access keys, and none to an access key that was replaced")
		}
		next = carry(c.Previous, old)
		role, access, err = reachCandidate(tx, next, Patch{})
		return err
	}); err != nil {
		return View{}, err
	}
	defer access.Secret.Wipe()
	r := kms.Run(ctx, s.cfg.Provider, kms.RunInput{
		Target: s.target(next, role, access, next.KeyARN), Context: keys.ProbeContext(s.st.Deployment(), project).Map(),
		Stored: kms.Probe{Ciphertext: next.Probe, Digest: next.ProbeSHA256},
	})
	if r.Outcome != kms.OK {
		return View{}, s.refuse(ctx, p, project, old, refusal(next, role, r))
	}
	err := s.stageOrCommit(ctx, p, candidate{config: next, role: role, access: access, result: r, rollback: true}, old)
	if errors.Is(err, errMoved) {
		err = apierr.Conflict("CONFLICT", "The configuration of group %s was changed meanwhile; nothing was changed. Look at it and try again.", project)
	}
	if err != nil {
		return View{}, err
	}
	return s.Peek(ctx, p, project)
}
