package tenant

import (
	"context"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// ProjectEvents lists a project's events, newest first, with their total number.
// filter's Org, Project and OwnOnly are set here. GROUP_NOT_FOUND.
func (s *Service) ProjectEvents(ctx context.Context, p Principal, id keys.ProjectID, filter store.EventFilter) (out []audit.Event, total int, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		filter.Org, filter.Project, filter.OwnOnly = "", id, false
		out, total, err = tx.Events(filter)
		return err
	})
	return out, total, err
}

// OrgEvents lists the events of an organization itself, newest first. ORG_NOT_FOUND.
func (s *Service) OrgEvents(ctx context.Context, p Principal, id keys.OrgID, filter store.EventFilter) (out []audit.Event, total int, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgMember, id); err != nil {
			return err
		}
		filter.Org, filter.Project, filter.OwnOnly = id, "", true
		out, total, err = tx.Events(filter)
		return err
	})
	return out, total, err
}

// ProjectEvent gives one event of a project: EVENT_NOT_FOUND.
func (s *Service) ProjectEvent(ctx context.Context, p Principal, id keys.ProjectID, eventID string) (out audit.Event, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := Require(tx, p, GroupReadOnly, id); err != nil {
			return err
		}
		out, err = findEvent(tx, eventID, func(e audit.Event) bool { return e.Project == string(id) })
		return err
	})
	return out, err
}

// OrgEvent gives one event of an organization itself: EVENT_NOT_FOUND.
func (s *Service) OrgEvent(ctx context.Context, p Principal, id keys.OrgID, eventID string) (out audit.Event, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgMember, id); err != nil {
			return err
		}
		out, err = findEvent(tx, eventID, func(e audit.Event) bool { return e.Org == string(id) && e.Project == "" })
		return err
	})
	return out, err
}

func findEvent(tx *store.Tx, id string, ok func(audit.Event) bool) (audit.Event, error) {
	e, err := tx.Event(id)
	if isNotFound(err) || (err == nil && !ok(e)) {
		return audit.Event{}, apierr.NotFound("EVENT_NOT_FOUND", "No event with ID %s exists.", id).With(id)
	}
	return e, err
}
