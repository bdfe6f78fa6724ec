package api_test

import (
	"encoding/json"
	"testing"
)

func TestMaintenanceWindow(t *testing.T) {
	r := newRig(t)
	const path = "/groups/{G}/maintenanceWindow"
	get := func() map[string]any { return r.ok(200, "GET", legacy, path, "").body }
	is := func(name string, want any) {
		t.Helper()
		got, _ := json.Marshal(get()[name])
		if w, _ := json.Marshal(want); string(got) != string(w) {
			t.Errorf("%s is %s instead of %s", name, got, w)
		}
	}
	is("dayOfWeek", 0)
	r.unchanged("refusals", func() {
		for body, code := range map[string]string{
			`{}`: "MISSING_ATTRIBUTE", `{"hourOfDay":3}`: "MISSING_ATTRIBUTE", `{"dayOfWeek":0}`: "INVALID_ATTRIBUTE", `{"dayOfWeek":8}`: "INVALID_ATTRIBUTE",
			`{"dayOfWeek":1,"hourOfDay":24}`: "INVALID_ATTRIBUTE", `{"dayOfWeek":1,"hourOfDay":-1}`: "INVALID_ATTRIBUTE", `{"dayOfWeek":"MONDAY"}`: "INVALID_ATTRIBUTE",
			`{"dayOfWeek":1,"protectedHours":{"startHourOfDay":1}}`:                                  "MISSING_ATTRIBUTE",
			`{"dayOfWeek":1,"protectedHours":{"startHourOfDay":1,"endHourOfDay":20}}`:                "INVALID_ATTRIBUTE",
			`{"dayOfWeek":1,"protectedHours":{"startHourOfDay":5,"endHourOfDay":5}}`:                 "INVALID_ATTRIBUTE",
			`{"dayOfWeek":1,"hourOfDay":1,"protectedHours":{"startHourOfDay":22,"endHourOfDay":4}}`:  "INVALID_ATTRIBUTE",
			`{"dayOfWeek":1,"hourOfDay":12,"protectedHours":{"startHourOfDay":4,"endHourOfDay":24}}`: "INVALID_ATTRIBUTE",
		} {
			r.refused(400, code, "PATCH", legacy, path, body)
		}
		r.refused(400, "MAINTENANCE_WINDOW_NOT_SET", "POST", legacy, path+"/defer", "")
		r.refused(400, "MAINTENANCE_WINDOW_NOT_SET", "POST", legacy, path+"/autoDefer", "")
	})
	a := r.ok(200, "PATCH", legacy, path, `{"dayOfWeek":1,"hourOfDay":3,"protectedHours":{"startHourOfDay":16,"endHourOfDay":2},"timeZoneId":"America/New_York","numberOfDeferrals":9}`)
	if a.raw != "" || a.header.Get("Content-Type") != "" {
		t.Errorf("a body %q of type %q", a.raw, a.header.Get("Content-Type"))
	}
	is("dayOfWeek", 1)
	is("numberOfDeferrals", 0) // read only, as is the zone
	is("timeZoneId", "UTC")
	is("protectedHours", map[string]any{"startHourOfDay": 16, "endHourOfDay": 2})
	r.ok(200, "POST", legacy, path+"/defer", "")
	r.ok(200, "POST", legacy, path+"/autoDefer", "")
	is("numberOfDeferrals", 1)
	is("autoDeferOnceEnabled", true)
	r.ok(200, "POST", legacy, path+"/autoDefer", "")
	is("autoDeferOnceEnabled", false)
	r.ok(200, "PATCH", legacy, path, `{"hourOfDay":4}`)
	is("numberOfDeferrals", 0)
	is("dayOfWeek", 1)
	r.ok(200, "PATCH", legacy, path, `{"startASAP":true}`)
	is("startASAP", true)
	r.ok(204, "DELETE", legacy, path, "")
	r.ok(204, "DELETE", legacy, path, "")
	is("dayOfWeek", 0)
}
