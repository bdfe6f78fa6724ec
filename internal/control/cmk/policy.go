package cmk

import (
	"context"
	"errors"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Policy is the policy of a configuration.
func (s *Service) Policy(c store.KeyConfig) custody.Policy {
	return custody.Policy{
		Interval: s.policy.Interval, Mode: custody.Mode(c.Mode), Grace: c.Grace, UnreachableLimit: c.UnreachableLimit,
	}.Normal()
}

// PolicyPatch changes what is not nil.
type PolicyPatch struct {
	Mode                    *string
	Grace, UnreachableLimit *time.Duration
}

// KeyPolicy gives a project's policy. GROUP_NOT_FOUND.
func (s *Service) KeyPolicy(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out custody.Policy, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		c, err := tx.KeyConfig(project)
		out = s.Policy(c)
		return err
	})
	return out, err
}

// SetKeyPolicy changes a project's policy. What is laxer in anything is taken only
// while the verdict is VALID, or while there is no customer key. Codes:
// GROUP_NOT_FOUND, USER_UNAUTHORIZED, INVALID_ATTRIBUTE, MISSING_ATTRIBUTE,
// KEY_POLICY_NOT_RELAXABLE.
func (s *Service) SetKeyPolicy(ctx context.Context, p tenant.Principal, project keys.ProjectID, patch PolicyPatch) (out custody.Policy, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		c, err := tx.KeyConfig(project)
		if err != nil {
			return err
		}
		before := s.Policy(c)
		if out, err = patch.apply(before); err != nil || out == before {
			return err
		}
		if err := s.relaxable(tx, c, before, out); err != nil {
			return err
		}
		c.Mode, c.Grace, c.UnreachableLimit, c.Updated = string(out.Mode), out.Grace, out.UnreachableLimit, tx.Now()
		if err := tx.PutKeyConfig(c); err != nil {
			return err
		}
		e := tenant.Event(p, "ENCRYPTION_AT_REST_KEY_POLICY_UPDATED", pr, "A confirmed revocation of the customer key does from now on: %s. Before: %s.", policyText(out), policyText(before))
		e.Data["mode"], e.Data["grace"], e.Data["unreachableLimit"] = string(out.Mode), out.Grace.String(), out.UnreachableLimit.String()
		e.Data["previousMode"], e.Data["previousGrace"], e.Data["previousUnreachableLimit"] = string(before.Mode), before.Grace.String(), before.UnreachableLimit.String()
		return tx.Append(e)
	})
	return out, err
}

// relaxable refuses a laxer policy while it is not certain that the key is the
// project's to use.
func (s *Service) relaxable(tx *store.Tx, c store.KeyConfig, before, after custody.Policy) error {
	if !c.Enabled || !after.LaxerThan(before) {
		return nil
	}
	v, err := tx.Verdict(c.Project)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if custody.Verdict(v.Kind) == custody.Valid {
		return nil
	}
	return apierr.Conflict("KEY_POLICY_NOT_RELAXABLE",
		"The policy can be made stricter at any time, but laxer only while the customer key is VALID; it is %s now.", v.Kind).With(string(c.Project))
}

func (patch PolicyPatch) apply(p custody.Policy) (custody.Policy, error) {
	if patch.Mode != nil {
		switch m := custody.Mode(*patch.Mode); m {
		case custody.ModeStop, custody.ModeGrace, custody.ModeAlert:
			if m != custody.ModeGrace {
				p.Grace = 0
			}
			p.Mode = m
		default:
			return p, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute mode specified: %q is none of STOP, GRACE, ALERT.", *patch.Mode).With("mode")
		}
	}
	if d := patch.Grace; d != nil && (*d != 0 || p.Mode == custody.ModeGrace) {
		if p.Mode != custody.ModeGrace {
			return p, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute gracePeriodMinutes specified: it goes with the mode GRACE only.").With("gracePeriodMinutes")
		}
		if *d < custody.MinGrace || *d > custody.MaxGrace {
			return p, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute gracePeriodMinutes specified: it has to be from 1 to 1440.").With("gracePeriodMinutes")
		}
		p.Grace = *d
	}
	if p.Mode == custody.ModeGrace && p.Grace == 0 {
		return p, apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute gracePeriodMinutes was not specified: the mode GRACE needs it.").With("gracePeriodMinutes")
	}
	if d := patch.UnreachableLimit; d != nil {
		if *d != 0 && (*d < custody.MinUnreachableLimit || *d > custody.MaxInterval) {
			return p, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute unreachableLimitMinutes specified: it has to be 0 (none), or from 60 to 10080.").With("unreachableLimitMinutes")
		}
		p.UnreachableLimit = *d
	}
	return p, nil
}

func policyText(p custody.Policy) string {
	text := map[custody.Mode]string{
		custody.ModeStop: "stop every process of the encrypted clusters at once", custody.ModeAlert: "alert only, nothing is stopped",
	}[p.Mode]
	if p.Mode == custody.ModeGrace {
		text = "stop every process of the encrypted clusters after " + p.Grace.String()
	}
	if p.UnreachableLimit != 0 {
		text += ", and the same for a host that has reached neither AWS nor the control plane for " + p.UnreachableLimit.String()
	}
	return text
}
