package api

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var variable = regexp.MustCompile(`\{[a-zA-Z]+\}`)

// Every line can be reached: the path that it describes is answered by it, not by
// a line before.
func TestNoRouteIsShadowed(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range routes() {
		if len(r.family.prefixes) == 0 || r.handle == nil {
			t.Fatalf("%s %s is incomplete", r.method, r.pattern)
		}
		if r.family.versioned == (len(r.versions) == 0) || !slices.IsSorted(r.versions) {
			t.Errorf("%s %s has versions %v", r.method, r.pattern, r.versions)
		}
		for _, p := range r.family.prefixes {
			name := r.method + " " + p + r.pattern
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			path := variable.ReplaceAllString(r.pattern, "65a0f0c2e4b0a1b2c3d4e5f6")
			got, ok := match(routes(), p+path)[r.method]
			if !ok || got.prefix != p || got.pattern != r.pattern {
				t.Errorf("%s is answered by %s%s", name, got.prefix, got.pattern)
			}
			if got.vars == nil || len(got.vars) != len(variable.FindAllString(r.pattern, -1)) {
				t.Errorf("%s has %v", name, got.vars)
			}
		}
	}
}

func TestOnlyAddressesAreOpen(t *testing.T) {
	for _, r := range routes() {
		if r.open && r.pattern != "/unauth/controlPlaneIPAddresses" {
			t.Errorf("%s %s needs no authentication", r.method, r.pattern)
		}
	}
}

func TestSegmentsAreUnescapedAfterMatching(t *testing.T) {
	const v2 = "/api/atlas/v2"
	for path, want := range map[string]map[string]string{
		v2 + "/groups/g/accessList/198.51.100.0%2F24":                             {"groupId": "g", "entryValue": "198.51.100.0/24"},
		v2 + "/groups/g/accessList/198.51.100.0%2F24/status":                      {"groupId": "g", "entryValue": "198.51.100.0/24"},
		v2 + "/groups/g/databaseUsers/$external/arn:aws:iam::1:role%2Fodd%20name": {"groupId": "g", "databaseName": "$external", "username": "arn:aws:iam::1:role/odd name"},
		v2 + "/groups/g/clusters/a%252Fb":                                         {"groupId": "g", "clusterName": "a%2Fb"},
		v2 + "/groups/g/":                                                         {"groupId": "g"},
		// The name of one line is a variable of another: each method has its own.
		v2 + "/groups/byName/clusters":         {"groupName": "clusters"},
		v2 + "/groups/byName/accessList":       {"groupName": "accessList"},
		v2 + "/groups/byName/encryptionAtRest": {"groupName": "encryptionAtRest"},
	} {
		got, ok := match(routes(), path)[http.MethodGet]
		if !ok || !maps.Equal(got.vars, want) {
			t.Errorf("%s: %v, want %v", path, got.vars, want)
		}
	}
	for _, path := range []string{
		"", "/", "/api", "/api/atlas/v2x", "/api/atlas/v3", v2 + "/groups/g/accessList/198.51.100.0/24", v2 + "/groups//clusters", v2 + "/groups/g/nothing",
		v2 + "/GROUPS", "/api/atlas/v1.5/groups", v2 + "//groups", v2 + "/groups/%zz",
	} {
		if got := match(routes(), path); len(got) != 0 {
			t.Errorf("%q is answered by %v", path, got)
		}
	}
}

func TestVersionsAreChosenByDate(t *testing.T) {
	have := []string{"2023-01-01", "2023-02-01", "2024-08-05"}
	for date, want := range map[string]string{
		"2022-12-31": "", "2023-01-01": "2023-01-01", "2023-01-31": "2023-01-01", "2023-02-01": "2023-02-01", "2024-08-04": "2023-02-01",
		"2024-08-05": "2024-08-05", "2025-03-12": "2024-08-05",
	} {
		got, err := pick(date, have)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v", date, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "INVALID_VERSION_DATE") {
			t.Error(err)
		}
	}
}

// A handler that fails in an unforeseen way tells a reference and nothing else.
func TestFailuresTellAReferenceOnly(t *testing.T) {
	var log strings.Builder
	h := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for name, handle := range map[string]handler{
		"panic": func(*call) (int, any, error) { panic("secret place") },
		"error": func(*call) (int, any, error) { return 0, nil, errors.New("secret place") },
		"body":  func(*call) (int, any, error) { return 200, map[string]any{"secret place": func() {}}, nil },
	} {
		h.routes = []route{{method: http.MethodGet, pattern: "/x", family: own, open: true, handle: handle}}
		w := httptest.NewRecorder()
		log.Reset()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/keywright/v1/x", nil))
		if w.Code != 500 || strings.Contains(w.Body.String(), "secret place") || log.Len() == 0 {
			t.Errorf("%s: %d %s; log: %s", name, w.Code, w.Body, log.String())
		}
		if !strings.Contains(w.Body.String(), `"errorCode":"UNEXPECTED_ERROR"`) {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
}
