package maintenance

import (
	"time"

	"github.com/keywright/keywright/internal/store"
)

// Length is how long a window is open. What has begun by its end is finished; what
// has not waits for the next one.
const Length = 4 * time.Hour

// step divides Length, protected hours, and every shift of a time zone.
const step = 15 * time.Minute

// Window is a project's maintenance window in its time zone.
type Window struct {
	store.MaintenanceWindow
	Zone *time.Location
}

// Of gives a project's window; ok is false if it has none. Projects have no time zone
// of their own: their windows are in UTC.
func Of(p store.Project) (w Window, ok bool) {
	if p.Maintenance == nil {
		return Window{}, false
	}
	return Window{MaintenanceWindow: *p.Maintenance, Zone: time.UTC}, true
}

// Next gives the opening that holds now, or the next one after it: it is open when
// start is not after now. An opening ends early where protected hours begin, and one
// that was deferred does not come. "Start as soon as possible" is an opening of its
// own, whatever the hour and the deferrals.
func (w Window) Next(now time.Time) (start, end time.Time) {
	if !w.StartASAP.IsZero() && !now.Before(w.StartASAP) && now.Before(w.StartASAP.Add(Length)) {
		return w.StartASAP, w.StartASAP.Add(Length)
	}
	from := now
	if w.DeferredUntil.After(now) {
		from = w.DeferredUntil
	}
	y, m, d := from.In(w.Zone).Date()
	// An opening of the day before may last into this one. Within two weeks there is one
	// that opens.
	for day := d - 1; day <= d+14; day++ {
		start = time.Date(y, m, day, w.Hour, 0, 0, 0, w.Zone)
		if int(time.Date(y, m, day, 12, 0, 0, 0, w.Zone).Weekday())+1 != w.Day || start.Before(w.DeferredUntil) {
			continue
		}
		if end = w.end(start); end.After(now) {
			return start, end
		}
	}
	return from.AddDate(0, 0, 14), from.AddDate(0, 0, 14) // no window that Set accepts
}

// Open tells whether maintenance may begin at now.
func (w Window) Open(now time.Time) bool {
	start, end := w.Next(now)
	return !start.After(now) && now.Before(end)
}

// end cuts an opening where protected hours begin.
func (w Window) end(start time.Time) time.Time {
	end := start
	for end.Before(start.Add(Length)) && !protected(w.Protected, end.In(w.Zone).Hour()) {
		end = end.Add(step)
	}
	return end
}

// protected tells whether an hour of the day lies in protected hours, which may reach
// over midnight.
func protected(p *store.ProtectedHours, hour int) bool {
	switch {
	case p == nil:
		return false
	case p.Start <= p.End:
		return p.Start <= hour && hour < p.End
	}
	return hour >= p.Start || hour < p.End
}

// Defer skips the opening that holds now, or else the next one.
func (w *Window) Defer(now time.Time) {
	w.StartASAP = time.Time{}
	_, w.DeferredUntil = w.Next(now)
	w.Deferrals++
}
