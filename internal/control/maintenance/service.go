package maintenance

import (
	"context"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// maxProtected is the longest time of the day that may be protected, in hours.
const maxProtected = 18

// Service reads and changes maintenance windows. It is safe for concurrent use.
type Service struct{ st *store.Store }

// New makes the service.
func New(st *store.Store) *Service { return &Service{st: st} }

// Patch changes what is not nil.
type Patch struct {
	Day, Hour *int // 1 is Sunday; 0 to 23
	AutoDefer *bool
	Protected *store.ProtectedHours
	// StartASAP lets maintenance that is due begin at once.
	StartASAP bool
}

// Get gives a project's window, nil without one: GROUP_NOT_FOUND.
func (s *Service) Get(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out *store.MaintenanceWindow, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupReadOnly, project)
		out = pr.Maintenance
		return err
	})
	return out, err
}

// Set changes a project's window, or gives it one; a new one needs a day. A changed day
// or hour drops deferrals. It needs Project Owner. GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// MISSING_ATTRIBUTE, INVALID_ATTRIBUTE.
func (s *Service) Set(ctx context.Context, p tenant.Principal, project keys.ProjectID, in Patch) error {
	return s.change(ctx, p, project, func(w *store.MaintenanceWindow, now time.Time) (*store.MaintenanceWindow, string, error) {
		kind := "ATLAS_MAINTENANCE_WINDOW_MODIFIED"
		if w == nil {
			if in.Day == nil {
				return nil, "", apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute dayOfWeek was not specified.").With("dayOfWeek")
			}
			w, kind = &store.MaintenanceWindow{}, "ATLAS_MAINTENANCE_WINDOW_ADDED"
		}
		next := *w
		set(&next.Day, in.Day)
		set(&next.Hour, in.Hour)
		set(&next.AutoDefer, in.AutoDefer)
		if in.Protected != nil {
			next.Protected = in.Protected
		}
		if next.Day != w.Day || next.Hour != w.Hour {
			next.Deferrals, next.DeferredUntil, next.StartASAP = 0, time.Time{}, time.Time{}
		}
		if in.StartASAP {
			next.StartASAP, kind = now, "ATLAS_MAINTENANCE_START_ASAP"
		}
		return &next, kind, check(next)
	})
}

func check(w store.MaintenanceWindow) error {
	invalid := func(name, text string) error {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %s.", name, text).With(name)
	}
	inDay := func(h int) bool { return 0 <= h && h <= 23 }
	switch p := w.Protected; {
	case w.Day < 1 || w.Day > 7:
		return invalid("dayOfWeek", "a number from 1 (Sunday) to 7 is expected")
	case !inDay(w.Hour):
		return invalid("hourOfDay", "an hour from 0 to 23 is expected")
	case p == nil:
	case !inDay(p.Start) || !inDay(p.End):
		return invalid("protectedHours", "hours from 0 to 23 are expected")
	case p.Start == p.End:
		return invalid("protectedHours", "they must end at another hour than they begin")
	case (p.End-p.Start+24)%24 > maxProtected:
		return invalid("protectedHours", "they may last 18 hours at most")
	case protected(p, w.Hour):
		return invalid("protectedHours", "the maintenance window begins in them, so it would never open")
	}
	return nil
}

// Reset takes a project's window away. None is no error. It needs Project Owner.
func (s *Service) Reset(ctx context.Context, p tenant.Principal, project keys.ProjectID) error {
	return s.change(ctx, p, project, func(*store.MaintenanceWindow, time.Time) (*store.MaintenanceWindow, string, error) {
		return nil, "ATLAS_MAINTENANCE_WINDOW_REMOVED", nil
	})
}

// Defer puts maintenance off by one week: the opening that holds now, or the next one,
// does not come. It needs Project Owner. MAINTENANCE_WINDOW_NOT_SET.
func (s *Service) Defer(ctx context.Context, p tenant.Principal, project keys.ProjectID) error {
	return s.change(ctx, p, project, func(w *store.MaintenanceWindow, now time.Time) (*store.MaintenanceWindow, string, error) {
		if w == nil {
			return nil, "", notSet()
		}
		next := Window{MaintenanceWindow: *w, Zone: time.UTC}
		next.Defer(now)
		return &next.MaintenanceWindow, "ATLAS_MAINTENANCE_DEFERRED", nil
	})
}

// ToggleAutoDefer switches on or off that every maintenance is put off by one week once.
// It needs Project Owner. MAINTENANCE_WINDOW_NOT_SET.
func (s *Service) ToggleAutoDefer(ctx context.Context, p tenant.Principal, project keys.ProjectID) error {
	return s.change(ctx, p, project, func(w *store.MaintenanceWindow, _ time.Time) (*store.MaintenanceWindow, string, error) {
		if w == nil {
			return nil, "", notSet()
		}
		next := *w
		next.AutoDefer = !w.AutoDefer
		return &next, "ATLAS_MAINTENANCE_WINDOW_MODIFIED", nil
	})
}

func notSet() error {
	return apierr.BadRequest("MAINTENANCE_WINDOW_NOT_SET", "The project has no maintenance window: set one first.")
}

// change replaces a project's window, with an event if it is another one then.
func (s *Service) change(ctx context.Context, p tenant.Principal, project keys.ProjectID, f func(*store.MaintenanceWindow, time.Time) (*store.MaintenanceWindow, string, error)) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupOwner, project)
		if err != nil {
			return err
		}
		next, kind, err := f(pr.Maintenance, tx.Now())
		if err != nil || next == pr.Maintenance {
			return err
		}
		pr.Maintenance = next
		if err := tx.UpdateProject(pr); err != nil {
			return err
		}
		return tx.Append(tenant.Event(p, kind, pr, "The maintenance window of project %s was changed.", pr.Name))
	})
}

func set[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}
