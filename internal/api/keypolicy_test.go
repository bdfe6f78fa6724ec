package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/store"
)

// TestKeyPolicy: what a confirmed revocation does is the project's choice, and is made
// laxer only while the key is VALID.
func TestKeyPolicy(t *testing.T) {
	r := newRig(t)
	r.enable()
	const path = "/api/keywright/v1/groups/{G}/keyPolicy"
	policy := func(method, body, mode string, grace, limit string) {
		t.Helper()
		a := r.ok(200, method, "", path, body)
		if a.body["mode"] != mode || fmt.Sprint(a.body["gracePeriodMinutes"]) != grace || fmt.Sprint(a.body["unreachableLimitMinutes"]) != limit {
			t.Errorf("%s %s: %s", method, body, a.raw)
		}
	}
	policy("GET", "", "STOP", "0", "0")
	policy("PATCH", `{"mode":"GRACE","gracePeriodMinutes":30}`, "GRACE", "30", "0")
	policy("PATCH", `{"gracePeriodMinutes":1440,"unreachableLimitMinutes":60}`, "GRACE", "1440", "60")
	policy("GET", "", "GRACE", "1440", "60")
	policy("PATCH", `{}`, "GRACE", "1440", "60")
	policy("PATCH", `{"mode":"ALERT"}`, "ALERT", "0", "60")
	policy("PATCH", `{"unreachableLimitMinutes":0}`, "ALERT", "0", "0")
	for body, code := range map[string]string{
		`{"mode":"NONE"}`:                            "INVALID_ATTRIBUTE",
		`{"mode":"GRACE"}`:                           "MISSING_ATTRIBUTE",
		`{"mode":"GRACE","gracePeriodMinutes":0}`:    "INVALID_ATTRIBUTE",
		`{"mode":"GRACE","gracePeriodMinutes":1441}`: "INVALID_ATTRIBUTE",
		`{"mode":"STOP","gracePeriodMinutes":5}`:     "INVALID_ATTRIBUTE",
		`{"unreachableLimitMinutes":59}`:             "INVALID_ATTRIBUTE",
		`{"unreachableLimitMinutes":-1}`:             "INVALID_ATTRIBUTE",
		`{"gracePeriodMinutes":9007199254740993}`:    "INVALID_ATTRIBUTE",
	} {
		r.refused(400, code, "PATCH", "", path, body)
	}
	policy("GET", "", "ALERT", "0", "0")
	verdict := func(kind string) {
		t.Helper()
		r.Must(r.Store.Tx(t.Context(), func(tx *store.Tx) error {
			return tx.PutVerdict(store.Verdict{Project: r.project, Kind: kind, NoticedBy: "control plane"})
		}))
	}
	for _, kind := range []string{"SUSPECT", "UNREACHABLE", "GRACE", "INVALID"} {
		verdict("VALID")
		policy("PATCH", `{"mode":"GRACE","gracePeriodMinutes":60}`, "GRACE", "60", "0")
		verdict(kind)
		r.refused(409, "KEY_POLICY_NOT_RELAXABLE", "PATCH", "", path, `{"mode":"ALERT"}`)
		r.refused(409, "KEY_POLICY_NOT_RELAXABLE", "PATCH", "", path, `{"gracePeriodMinutes":61}`)
		policy("PATCH", `{"gracePeriodMinutes":30}`, "GRACE", "30", "0")
		policy("PATCH", `{"mode":"STOP"}`, "STOP", "0", "0")
		r.refused(409, "KEY_POLICY_NOT_RELAXABLE", "PATCH", "", path, `{"mode":"GRACE","gracePeriodMinutes":30}`)
	}
	events := r.ok(200, "GET", legacy, "/groups/{G}/events", "").raw
	if !strings.Contains(events, "ENCRYPTION_AT_REST_KEY_POLICY_UPDATED") {
		t.Errorf("no event: %.300s", events)
	}
	if a := r.ok(200, "GET", "", "/api/keywright/v1/groups/{G}/encryptionAtRest", ""); a.body["policy"] != "STOP" {
		t.Errorf("%s", a.raw)
	}
}
