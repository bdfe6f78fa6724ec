package alert

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Alerts lists a project's alerts, newest first, and their number; statuses empty means
// all, config "" those of every configuration. GROUP_NOT_FOUND, ALERT_CONFIG_NOT_FOUND,
// INVALID_ENUM_VALUE.
func (s *Service) Alerts(ctx context.Context, p tenant.Principal, project keys.ProjectID, f store.AlertFilter) (out []store.Alert, total int, err error) {
	for _, st := range f.Statuses {
		if all := []string{Open, Tracking, Closed, Cancelled}; !slices.Contains(all, st) {
			return nil, 0, noSuchValue("status", st, all...)
		}
	}
	f.Project = project
	err = s.read(ctx, p, project, func(tx *store.Tx) error {
		if f.Config != "" {
			if _, err := findConfig(tx, project, f.Config); err != nil {
				return err
			}
		}
		out, total, err = tx.Alerts(f)
		return err
	})
	return out, total, err
}

// Alert gives an alert. GROUP_NOT_FOUND, ALERT_NOT_FOUND.
func (s *Service) Alert(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string) (out store.Alert, err error) {
	err = s.read(ctx, p, project, func(tx *store.Tx) error {
		out, err = findAlert(tx, project, id)
		return err
	})
	return out, err
}

func findAlert(tx *store.Tx, project keys.ProjectID, id string) (store.Alert, error) {
	a, err := tx.Alert(project, id)
	if errors.Is(err, store.ErrNotFound) {
		err = apierr.NotFound("ALERT_NOT_FOUND", "No alert with ID %s exists in group %s.", clip(id), project).With(clip(id), string(project))
	}
	return a, err
}

// Acknowledgement is somebody's word that an alert is seen to.
type Acknowledgement struct {
	// Until zero takes an acknowledgement back.
	Until   time.Time
	Comment string
}

// maxComment is the longest comment, in bytes; Atlas has the same.
const maxComment = 200

// Acknowledge keeps an alert's messages back until a time, or takes that back. It needs
// Project Owner. ALERT_NOT_FOUND, ALERT_ALREADY_RESOLVED, INVALID_ATTRIBUTE.
func (s *Service) Acknowledge(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string, ack Acknowledgement) (out store.Alert, err error) {
	if len(ack.Comment) > maxComment {
		return out, invalid("acknowledgementComment", "at most %d characters are possible.", maxComment)
	}
	err = s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		if out, err = findAlert(tx, project, id); err != nil {
			return err
		}
		if out.Status != Open && out.Status != Tracking {
			return apierr.Conflict("ALERT_ALREADY_RESOLVED", "The alert is %s: there is nothing to acknowledge.", out.Status).With(id)
		}
		kind, text := "ALERT_ACKNOWLEDGED_AUDIT", "An alert was acknowledged: "+out.Summary
		switch {
		case ack.Until.IsZero():
			if out.AcknowledgedUntil.IsZero() {
				return nil
			}
			kind, text = "ALERT_UNACKNOWLEDGED_AUDIT", "The acknowledgement of an alert was taken back: "+out.Summary
			out.AcknowledgedUntil, out.AcknowledgedBy, out.Comment = time.Time{}, "", ""
		case !ack.Until.After(tx.Now()):
			return invalid("acknowledgedUntil", "a time in the future is expected, or unacknowledgeAlert.")
		default:
			out.AcknowledgedUntil, out.AcknowledgedBy, out.Comment = ack.Until.UTC(), p.Name, ack.Comment
		}
		out.Updated = tx.Now()
		if err := tx.PutAlert(out); err != nil {
			return err
		}
		e := eventOf(p, kind, pr, out, text)
		if ack.Comment != "" {
			e.Data["comment"] = ack.Comment
		}
		return tx.Append(e)
	})
	return out, err
}

// Deliveries lists a project's newest messages and what became of them, and their
// number. Addresses of the operator's people are masked. GROUP_NOT_FOUND.
func (s *Service) Deliveries(ctx context.Context, p tenant.Principal, project keys.ProjectID, limit, offset int) (out []store.AlertDelivery, total int, err error) {
	err = s.read(ctx, p, project, func(tx *store.Tx) error {
		out, total, err = tx.Deliveries(project, limit, offset)
		for i := range out {
			out[i] = masked(out[i])
		}
		return err
	})
	return out, total, err
}

// test bounds.
const (
	testPause = 5 * time.Second
	testTime  = 45 * time.Second
)

// TestConfig sends a test message to every notification of a configuration at once and
// gives what came of each, without retries. It needs Project Owner. RATE_LIMITED.
func (s *Service) TestConfig(ctx context.Context, p tenant.Principal, project keys.ProjectID, id string) ([]store.AlertDelivery, error) {
	var due []store.AlertDelivery
	err := s.write(ctx, p, tenant.GroupOwner, project, func(tx *store.Tx, pr store.Project) error {
		c, err := findConfig(tx, project, id)
		if err != nil {
			return err
		}
		if !s.mayTest(project) {
			return apierr.New(429, "RATE_LIMITED", "A test of this project was sent a moment ago; wait %s.", testPause)
		}
		now := tx.Now()
		a := store.Alert{
			ID: keys.NewID(now), Config: c.ID, Project: project, Org: pr.Org, Kind: c.Kind, Status: Open, Since: now,
			Summary: "This is a test. Nothing has happened.", Remedy: "Nothing is to be done.",
		}
		for _, n := range append([]store.AlertNotification{{}}, c.Notifications...) {
			made, err := s.deliveries(pr, c, message{alert: a, notifier: n.ID, kind: Test}, now)
			if err != nil {
				return err
			}
			for _, d := range made {
				// Should this process end now, the queue sends it.
				if d.State == pending {
					d.Due = now.Add(testTime + time.Minute)
				}
				if err := tx.PutDelivery(d); err != nil {
					return err
				}
				due = append(due, d)
			}
		}
		e := configEvent(p, "ALERT_CONFIG_TESTED_AUDIT", pr, c, "A test message of the alert configuration for %s was sent.")
		return tx.Append(e)
	})
	if err != nil {
		return nil, err
	}
	return s.sendNow(ctx, due)
}

// mayTest bounds how often a project's tests are sent: they tell what is reachable.
func (s *Service) mayTest(project keys.ProjectID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.st.Now()
	for id, at := range s.tested {
		if now.Sub(at) >= testPause {
			delete(s.tested, id)
		}
	}
	if _, soon := s.tested[project]; soon {
		return false
	}
	s.tested[project] = now
	return true
}

func (s *Service) sendNow(ctx context.Context, due []store.AlertDelivery) ([]store.AlertDelivery, error) {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	done := make([]store.AlertDelivery, len(due))
	s.each(len(due), func(i int) {
		d := due[i]
		if d.State == pending {
			status, err := s.send(ctx, d)
			if d = record(d, s.st.Now(), status, err); err != nil {
				d.State = failed
			}
		}
		done[i] = d
	})
	err := s.st.Tx(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		for _, d := range done {
			if err := tx.PutDelivery(d); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range done {
		done[i] = masked(done[i])
	}
	return done, err
}
