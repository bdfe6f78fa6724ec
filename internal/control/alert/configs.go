package alert

import (
	"context"
	"errors"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// read runs fn in a project that the principal may read, after its default
// configurations are made.
func (s *Service) read(ctx context.Context, p tenant.Principal, project keys.ProjectID, fn func(*store.Tx) error) error {
	wants := false
	run := func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupReadOnly, project)
		if err != nil {
			return err
		}
		if wants, err = lacksDefaults(tx, pr); err != nil || wants {
			return err
		}
		return fn(tx)
	}
	if err := s.st.View(ctx, run); err != nil || !wants {
		return err
	}
	return s.write(ctx, p, tenant.GroupReadOnly, project, func(tx *store.Tx, _ store.Project) error { return fn(tx) })
}

// write runs fn in a project that the principal may change, after its default
// configurations are made.
func (s *Service) write(ctx context.Context, p tenant.Principal, role tenant.Role, project keys.ProjectID, fn func(*store.Tx, store.Project) error) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, role, project)
		if err != nil {
			return err
		}
		if lacks, err := lacksDefaults(tx, pr); err != nil {
			return err
		} else if lacks {
			key, err := tx.KeyConfig(project)
			if err != nil {
				return err
			}
			if err := makeDefaults(tx, Facts{Project: pr, Key: key}); err != nil {
				return err
			}
		}
		return fn(tx, pr)
	})
}

func lacksDefaults(tx *store.Tx, pr store.Project) (bool, error) {
	made, err := tx.DefaultsMade(pr.ID)
	if err != nil {
		return false, err
	}
	key, err := tx.KeyConfig(pr.ID)
	return len(missing(Facts{Project: pr, Key: key}, made[pr.ID])) > 0, err
}

// List lists a project's configurations, oldest first. GROUP_NOT_FOUND.
func (s *Service) List(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out []store.AlertConfig, err error) {
	err = s.read(ctx, p, project, func(tx *store.Tx) error {
		out, err = tx.AlertConfigs(project)
		return err
	})
	return out, err
}

// Get gives a configuration. GROUP_NOT_FOUND, ALERT_CONFIG_NOT_FOUND.
func (s *Service) Get(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string) (out store.AlertConfig, err error) {
	err = s.read(ctx, p, project, func(tx *store.Tx) error {
		out, err = findConfig(tx, project, id)
		return err
	})
	return out, err
}

func findConfig(tx *store.Tx, project keys.ProjectID, id string) (store.AlertConfig, error) {
	c, err := tx.AlertConfig(project, id)
	if errors.Is(err, store.ErrNotFound) {
		err = apierr.NotFound("ALERT_CONFIG_NOT_FOUND", "No alert configuration with ID %s exists in group %s.", clip(id), project).With(clip(id), string(project))
	}
	return c, err
}

// Create makes a configuration. It needs Project Owner. GROUP_NOT_FOUND,
// USER_UNAUTHORIZED, MISSING_ATTRIBUTE, INVALID_ATTRIBUTE, INVALID_ENUM_VALUE,
// MAX_ALERT_CONFIGS_REACHED.
func (s *Service) Create(ctx context.Context, p tenant.Principal, project keys.ProjectID, w Wish) (out store.AlertConfig, err error) {
	err = s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		have, err := tx.AlertConfigs(project)
		if err != nil {
			return err
		}
		if len(have) >= maxConfigs {
			return apierr.Conflict("MAX_ALERT_CONFIGS_REACHED", "The project has %d alert configurations; delete one first.", len(have))
		}
		c, hooks, err := s.check(w, store.AlertConfig{})
		if err != nil {
			return err
		}
		c.Created = tx.Now()
		c.ID, c.Project, c.Updated = keys.NewID(c.Created), project, c.Created
		if err := tx.PutAlertConfig(c); err != nil {
			return err
		}
		out = c
		if err := seal(tx, c, store.AlertConfig{}, hooks); err != nil {
			return err
		}
		return tx.Append(configEvent(p, "ALERT_CONFIG_ADDED_AUDIT", pr, c, "An alert configuration for %s was added."))
	})
	return out, err
}

func configEvent(p tenant.Principal, kind string, pr store.Project, c store.AlertConfig, format string) audit.Event {
	e := tenant.Event(p, kind, pr, format, c.Kind)
	e.Data["alertConfigId"], e.Data["eventTypeName"] = c.ID, c.Kind
	return e
}

// Replace replaces a configuration. Webhooks that the wish names by their notifier's id
// and does not describe anew are kept. It needs Project Owner; refusals as of Create,
// ALERT_CONFIG_NOT_FOUND.
func (s *Service) Replace(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string, w Wish) (out store.AlertConfig, err error) {
	err = s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		old, err := findConfig(tx, project, id)
		if err != nil {
			return err
		}
		c, hooks, err := s.check(w, old)
		if err != nil {
			return err
		}
		if c.Kind != old.Kind {
			if err := s.withdraw(tx, pr, old); err != nil {
				return err
			}
		}
		c.Updated, out = tx.Now(), c
		out.Updated = c.Updated
		if err := tx.PutAlertConfig(c); err != nil {
			return err
		}
		if err := seal(tx, c, old, hooks); err != nil {
			return err
		}
		return tx.Append(configEvent(p, "ALERT_CONFIG_CHANGED_AUDIT", pr, c, "The alert configuration for %s was changed."))
	})
	return out, err
}

// Toggle switches a configuration on or off. It needs Project Owner.
func (s *Service) Toggle(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string, on bool) (out store.AlertConfig, err error) {
	err = s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		if out, err = findConfig(tx, project, id); err != nil || out.Enabled == on {
			return err
		}
		out.Enabled, out.Updated = on, tx.Now()
		if err := tx.PutAlertConfig(out); err != nil {
			return err
		}
		kind, text := "ALERT_CONFIG_ENABLED_AUDIT", "The alert configuration for %s was enabled."
		if !on {
			kind, text = "ALERT_CONFIG_DISABLED_AUDIT", "The alert configuration for %s was disabled: nobody is told of it."
		}
		return tx.Append(configEvent(p, kind, pr, out, text))
	})
	return out, err
}

// Delete removes a configuration and cancels its alerts. It needs Project Owner.
func (s *Service) Delete(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string) error {
	return s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		c, err := findConfig(tx, project, id)
		if err != nil {
			return err
		}
		if err := s.withdraw(tx, pr, c); err != nil {
			return err
		}
		if err := tx.DeleteAlertConfig(project, id); err != nil {
			return err
		}
		return tx.Append(configEvent(p, "ALERT_CONFIG_DELETED_AUDIT", pr, c, "The alert configuration for %s was deleted."))
	})
}

// withdraw cancels the alerts of a configuration that goes, and tells only the log: the
// way to everybody else goes with it.
func (s *Service) withdraw(tx *store.Tx, pr store.Project, c store.AlertConfig) error {
	_, open, err := standing(tx, pr.ID)
	if err != nil {
		return err
	}
	c.Enabled, c.Notifications = false, nil
	return s.enact(tx, pr, c, step(c, pr, nil, open[c.ID], tx.Now(), nil))
}
