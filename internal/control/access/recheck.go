package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/store"
)

// How often trust policies are proven again (key-plane rule 5.2), and how often it is
// looked whether one is due.
const (
	proofLife = 24 * time.Hour
	lookAgain = 10 * time.Minute
)

// Run proves the authorized roles again every day, until ctx ends. A proof that fails
// is an event with an alarm; it stops nothing.
func (s *Service) Run(ctx context.Context, log *slog.Logger) error {
	for {
		if err := s.proveDue(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "trust policies were not proven again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAgain):
		}
	}
}

func (s *Service) proveDue(ctx context.Context) error {
	var all []store.AccessRole
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.AllRoles()
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		if r.Authorized.IsZero() || s.st.Now().Sub(r.Proven) < proofLife {
			continue
		}
		refusal := s.prove(ctx, r, r.ARN)
		if refusal != nil && refusal.Status == http.StatusServiceUnavailable {
			continue // AWS said nothing; the next look tries again
		}
		doubt := ""
		if refusal != nil {
			doubt = refusal.Code
		}
		errs = append(errs, s.st.Tx(ctx, func(tx *store.Tx) error { return s.proven(tx, r, doubt) }))
	}
	return errors.Join(errs...)
}

// proven records the outcome of a repeated proof, with an event when it is another
// than before.
func (s *Service) proven(tx *store.Tx, tried store.AccessRole, doubt string) error {
	r, err := tx.Role(tried.Project, tried.ID)
	if errors.Is(err, store.ErrNotFound) || (err == nil && r.ARN != tried.ARN) {
		return nil // removed or authorized anew meanwhile
	}
	if err != nil {
		return err
	}
	before := r.Doubt
	r.Proven, r.Doubt = tx.Now(), doubt
	if err := tx.PutRole(r); err != nil || before == doubt {
		return err
	}
	pr, err := tx.Project(r.Project)
	if err != nil {
		return err
	}
	e := tenant.Event(tenant.System(), "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_PROVEN", pr, "The trust policy of AWS IAM role %s is as it must be again.", r.ARN)
	if doubt != "" {
		e.Type = "CLOUD_PROVIDER_ACCESS_AWS_IAM_ROLE_IN_DOUBT"
		e.Message = "The daily proof of AWS IAM role " + r.ARN + " failed: " + doubt + ". Correct its trust policy; nothing was stopped because of this."
		e.Data["alarm"], e.Data["errorCode"] = "true", doubt
	}
	e.Data["roleId"], e.Data["roleArn"] = string(r.ID), r.ARN
	return tx.Append(e)
}
