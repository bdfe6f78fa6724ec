package cmk

import (
	"fmt"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// begin writes a change down that has to be prepared on the hosts. The configuration in
// force stays.
func (s *Service) begin(tx *store.Tx, p tenant.Principal, pr store.Project, old store.KeyConfig, c store.KeyChange) (store.KeyChange, error) {
	next, err := nextGeneration(tx, old)
	if err != nil {
		return c, err
	}
	c.Project, c.Generation, c.State, c.Requested, c.Since, c.By = old.Project, next, store.ChangeStaging, tx.Now(), tx.Now(), p.Name
	c.Candidate.Generation, c.Candidate.Updated = next, tx.Now()
	// Until the commit Previous is only what to show; the commit reads it anew.
	c.Previous = old
	c.Rewrap = !keys.SameKey(old.KeyARN, c.Candidate.KeyARN)
	if err := tx.PutKeyChange(c); err != nil {
		return c, err
	}
	what := "Every kept key is opened with the new role before it is in force."
	switch {
	case c.Rollback:
		what = "The configuration before is to be in force again: every kept key is opened with it first."
	case c.Rewrap:
		what = "Every kept key is wrapped anew with it before it is in force."
	}
	e := tenant.Event(p, "ENCRYPTION_AT_REST_CHANGE_STAGED", pr, "A change to the key %s in %s is prepared on the hosts. %s", c.Candidate.KeyARN, c.Candidate.Region, what)
	describe(&e, c)
	return c, tx.Append(e)
}

// describe adds what a change is about to an event.
func describe(e *audit.Event, c store.KeyChange) {
	e.Data["generation"], e.Data["state"] = fmt.Sprint(c.Generation), c.State
	e.Data["keyArn"], e.Data["previousKeyArn"] = c.Candidate.KeyARN, c.Previous.KeyARN
	e.Data["roleId"], e.Data["previousRoleId"] = string(c.Candidate.Role), string(c.Previous.Role)
	if c.Code != "" {
		e.Data["errorCode"] = c.Code
	}
}

// carry is a candidate as it is committed: with the settings that may have changed
// while it was prepared.
func carry(candidate, now store.KeyConfig) store.KeyConfig {
	candidate.SearchNodes, candidate.Mode, candidate.Grace, candidate.UnreachableLimit = now.SearchNodes, now.Mode, now.Grace, now.UnreachableLimit
	candidate.Validate = now.Validate
	return candidate
}

// settle writes down the step from old to next, with all that belongs to it, in one
// transaction.
func (s *Service) settle(tx *store.Tx, p tenant.Principal, old, next store.KeyChange) error {
	pr, err := tx.Project(next.Project)
	if err != nil {
		return err
	}
	now, err := tx.KeyConfig(next.Project)
	if err != nil {
		return err
	}
	if old.Staged() && next.State == store.ChangeCommitted {
		next.Previous = now
		in := carry(next.Candidate, now)
		in.Updated = tx.Now()
		if err := tx.PutKeyConfig(in); err != nil {
			return err
		}
		now = in
	}
	if next.Drop != nil && old.Drop == nil {
		if err := dropEscrow(tx, next.Project, *next.Drop, now.KeyARN); err != nil {
			return err
		}
	}
	if err := tx.PutKeyChange(next); err != nil {
		return err
	}
	for _, e := range s.stepEvents(tx, p, pr, old, next) {
		describe(&e, next)
		if err := tx.Append(e); err != nil {
			return err
		}
	}
	return nil
}

// stepEvents tells of a step.
func (s *Service) stepEvents(tx *store.Tx, p tenant.Principal, pr store.Project, old, next store.KeyChange) (out []audit.Event) {
	event := func(kind, format string, args ...any) {
		out = append(out, tenant.Event(p, kind, pr, format, args...))
	}
	if next.State != old.State {
		switch next.State {
		case store.ChangePaused:
			event("ENCRYPTION_AT_REST_CHANGE_PAUSED", "The change of the customer key is paused. %s", next.Why)
		case store.ChangeStaging:
			event("ENCRYPTION_AT_REST_CHANGE_RESUMED", "The change of the customer key goes on.")
		case store.ChangeAborted:
			event("ENCRYPTION_AT_REST_CHANGE_ABORTED", "The change of the customer key was aborted; the key %s stays in force and nothing was changed. %s", next.Previous.KeyARN, next.Why)
		case store.ChangeCommitted:
			out = append(out, committedEvent(tx, p, pr, next))
		case store.ChangeRetired:
			event("ENCRYPTION_AT_REST_CHANGE_RETIRED", "The configuration before (key %s) is not kept any more: no rollback to it is possible.", next.Previous.KeyARN)
		}
	}
	if old.Safe.IsZero() && !next.Safe.IsZero() {
		what := "the role before"
		if next.Rewrap {
			what = "the key before, " + next.Previous.KeyARN
		}
		if Switches(next.Previous, next.Candidate) {
			event("ENCRYPTION_AT_REST_PREVIOUS_NOT_NEEDED", "Every host acts on the new configuration: nothing needs the access key %s any more. Delete it in IAM.", next.Previous.AccessKeyID)
			return out
		}
		event("ENCRYPTION_AT_REST_PREVIOUS_NOT_NEEDED", "Every host acts on the new configuration: nothing needs %s any more, but a rollback, which is possible until %s.", what, next.Retires.Format("2006-01-02 15:04 MST"))
	}
	return out
}

// committedEvent tells that what was prepared is in force.
func committedEvent(tx *store.Tx, p tenant.Principal, pr store.Project, c store.KeyChange) audit.Event {
	role, err := tx.Role(c.Project, c.Candidate.Role)
	if err != nil {
		role = store.AccessRole{ID: c.Candidate.Role, ARN: string(c.Candidate.Role)}
	}
	e := reachEvent(p, pr, c.Previous, c.Candidate, role)
	if !Switches(c.Previous, c.Candidate) {
		e.Message += fmt.Sprintf(" The configuration before can be rolled back to until %s; leave its key %s enabled until it is told that nothing needs it.", c.Retires.Format("2006-01-02 15:04 MST"), c.Previous.KeyARN)
	}
	return e
}

// endAll ends every change of a project whose key management is switched off: no key is
// left that one of them could be about.
func endAll(tx *store.Tx, project keys.ProjectID) error {
	changes, err := tx.KeyChanges(project)
	if err != nil {
		return err
	}
	for _, c := range changes {
		switch {
		case c.Staged():
			c.State, c.Why = store.ChangeAborted, "Encryption at rest was switched off."
		case c.State == store.ChangeCommitted:
			c.State = store.ChangeRetired
		case !c.Open():
			continue
		}
		c.Since = tx.Now()
		if c.Drop != nil {
			c.Dropped = tx.Now()
		}
		if err := tx.PutKeyChange(c); err != nil {
			return err
		}
	}
	return nil
}
