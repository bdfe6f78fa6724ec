package maintenance_test

import (
	"testing"
	"time"
	_ "time/tzdata" // CI machines may have none

	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/store"
)

func TestWhenAWindowIsOpen(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.Parse("2006-01-02T15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	sunday3 := store.MaintenanceWindow{Day: 1, Hour: 3}
	saturday23 := store.MaintenanceWindow{Day: 7, Hour: 23}
	with := func(w store.MaintenanceWindow, f func(*store.MaintenanceWindow)) store.MaintenanceWindow {
		f(&w)
		return w
	}
	// 2026-11-22 is a Sunday. 2026-03-29 and 2026-10-25 are the days on which clocks in
	// Berlin change, at 01:00 UTC.
	for name, c := range map[string]struct {
		w               store.MaintenanceWindow
		zone            *time.Location
		now, start, end string
		open            bool
	}{
		"a minute before":      {sunday3, time.UTC, "2026-11-22T02:59", "2026-11-22T03:00", "2026-11-22T07:00", false},
		"its first moment":     {sunday3, time.UTC, "2026-11-22T03:00", "2026-11-22T03:00", "2026-11-22T07:00", true},
		"its last minute":      {sunday3, time.UTC, "2026-11-22T06:59", "2026-11-22T03:00", "2026-11-22T07:00", true},
		"its end":              {sunday3, time.UTC, "2026-11-22T07:00", "2026-11-29T03:00", "2026-11-29T07:00", false},
		"in the week":          {sunday3, time.UTC, "2026-11-25T04:00", "2026-11-29T03:00", "2026-11-29T07:00", false},
		"over midnight":        {saturday23, time.UTC, "2026-11-22T02:00", "2026-11-21T23:00", "2026-11-22T03:00", true},
		"over the year's end":  {store.MaintenanceWindow{Day: 5, Hour: 23}, time.UTC, "2027-01-01T01:00", "2026-12-31T23:00", "2027-01-01T03:00", true},
		"winter in Berlin":     {sunday3, berlin, "2026-11-22T02:00", "2026-11-22T02:00", "2026-11-22T06:00", true},
		"summer in Berlin":     {sunday3, berlin, "2026-07-05T01:00", "2026-07-05T01:00", "2026-07-05T05:00", true},
		"clocks go forward":    {store.MaintenanceWindow{Day: 1, Hour: 2}, berlin, "2026-03-28T12:00", "2026-03-29T01:00", "2026-03-29T05:00", false},
		"clocks go back":       {sunday3, berlin, "2026-10-25T01:30", "2026-10-25T02:00", "2026-10-25T06:00", false},
		"protected hours cut":  {with(sunday3, func(w *store.MaintenanceWindow) { w.Protected = &store.ProtectedHours{Start: 5, End: 22} }), time.UTC, "2026-11-22T05:00", "2026-11-29T03:00", "2026-11-29T05:00", false},
		"protected over night": {with(saturday23, func(w *store.MaintenanceWindow) { w.Protected = &store.ProtectedHours{Start: 0, End: 8} }), time.UTC, "2026-11-21T23:30", "2026-11-21T23:00", "2026-11-22T00:00", true},
		"deferred":             {with(sunday3, func(w *store.MaintenanceWindow) { w.DeferredUntil = at("2026-11-22T07:00") }), time.UTC, "2026-11-22T04:00", "2026-11-29T03:00", "2026-11-29T07:00", false},
		"deferred very far":    {with(sunday3, func(w *store.MaintenanceWindow) { w.DeferredUntil = at("2027-03-07T07:00") }), time.UTC, "2026-11-22T04:00", "2027-03-14T03:00", "2027-03-14T07:00", false},
		"deferral over":        {with(sunday3, func(w *store.MaintenanceWindow) { w.DeferredUntil = at("2026-11-15T07:00") }), time.UTC, "2026-11-22T04:00", "2026-11-22T03:00", "2026-11-22T07:00", true},
		"as soon as possible":  {with(sunday3, func(w *store.MaintenanceWindow) { w.StartASAP = at("2026-11-24T10:10") }), time.UTC, "2026-11-24T10:10", "2026-11-24T10:10", "2026-11-24T14:10", true},
		"soon, though deferred": {with(sunday3, func(w *store.MaintenanceWindow) {
			w.StartASAP, w.DeferredUntil = at("2026-11-24T10:10"), at("2026-12-24T10:10")
		}), time.UTC, "2026-11-24T11:00", "2026-11-24T10:10", "2026-11-24T14:10", true},
		"soon is over": {with(sunday3, func(w *store.MaintenanceWindow) { w.StartASAP = at("2026-11-24T10:10") }), time.UTC, "2026-11-24T14:10", "2026-11-29T03:00", "2026-11-29T07:00", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := maintenance.Window{MaintenanceWindow: c.w, Zone: c.zone}
			start, end := w.Next(at(c.now))
			if !start.Equal(at(c.start)) || !end.Equal(at(c.end)) {
				t.Errorf("%v to %v", start.UTC(), end.UTC())
			}
			if open := w.Open(at(c.now)); open != c.open {
				t.Errorf("open is %t", open)
			}
		})
	}
}

func TestDeferringSkipsOneOpening(t *testing.T) {
	w := maintenance.Window{MaintenanceWindow: store.MaintenanceWindow{Day: 1, Hour: 3}, Zone: time.UTC}
	for _, now := range []time.Time{time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 29, 4, 0, 0, 0, time.UTC)} {
		before, _ := w.Next(now)
		w.Defer(now)
		after, _ := w.Next(now)
		if after.Sub(before) != 7*24*time.Hour {
			t.Errorf("deferred from %v to %v", before, after)
		}
	}
	if w.Deferrals != 2 {
		t.Errorf("%d deferrals", w.Deferrals)
	}
}
