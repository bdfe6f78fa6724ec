package api

import (
	"encoding/json"
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/store"
)

type maintenanceBody struct {
	Day       int                 `json:"dayOfWeek"`
	Hour      int                 `json:"hourOfDay"`
	ASAP      bool                `json:"startASAP"`
	Deferrals int                 `json:"numberOfDeferrals"`
	AutoDefer bool                `json:"autoDeferOnceEnabled"`
	Protected *protectedHoursBody `json:"protectedHours,omitempty"`
	Zone      string              `json:"timeZoneId,omitempty"`
}

type protectedHoursBody struct {
	Start *int `json:"startHourOfDay"`
	End   *int `json:"endHourOfDay"`
}

type maintenanceRequest struct {
	Day       *int                `json:"dayOfWeek"`
	Hour      *int                `json:"hourOfDay"`
	ASAP      bool                `json:"startASAP"`
	AutoDefer *bool               `json:"autoDeferOnceEnabled"`
	Protected *protectedHoursBody `json:"protectedHours"`
	Deferrals json.RawMessage     `json:"numberOfDeferrals"`
	Zone      json.RawMessage     `json:"timeZoneId"`
}

// getMaintenance answers zeros for a project without a window, as Atlas does.
func getMaintenance(c *call) (int, any, error) {
	w, err := c.cfg.Maintenance.Get(c.ctx(), c.who, c.project())
	if err != nil || w == nil {
		return http.StatusOK, maintenanceBody{}, err
	}
	out := maintenanceBody{Day: w.Day, Hour: w.Hour, Deferrals: w.Deferrals, AutoDefer: w.AutoDefer, Zone: "UTC"}
	now := c.now()
	out.ASAP = !w.StartASAP.IsZero() && now.Before(w.StartASAP.Add(maintenance.Length))
	if p := w.Protected; p != nil {
		out.Protected = &protectedHoursBody{Start: &p.Start, End: &p.End}
	}
	return http.StatusOK, out, nil
}

func updateMaintenance(c *call) (int, any, error) {
	var in maintenanceRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	patch := maintenance.Patch{Day: in.Day, Hour: in.Hour, AutoDefer: in.AutoDefer, StartASAP: in.ASAP}
	if p := in.Protected; p != nil {
		if p.Start == nil || p.End == nil {
			return 0, nil, apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute protectedHours.startHourOfDay or protectedHours.endHourOfDay was not specified.").With("protectedHours")
		}
		patch.Protected = &store.ProtectedHours{Start: *p.Start, End: *p.End}
	}
	return http.StatusOK, nil, c.cfg.Maintenance.Set(c.ctx(), c.who, c.project(), patch)
}

func resetMaintenance(c *call) (int, any, error) {
	return noContent(c.cfg.Maintenance.Reset(c.ctx(), c.who, c.project()))
}

func deferMaintenance(c *call) (int, any, error) {
	return http.StatusOK, nil, c.cfg.Maintenance.Defer(c.ctx(), c.who, c.project())
}

func autoDeferMaintenance(c *call) (int, any, error) {
	return http.StatusOK, nil, c.cfg.Maintenance.ToggleAutoDefer(c.ctx(), c.who, c.project())
}
