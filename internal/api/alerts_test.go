package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// The description offers a choice of forms that nothing tells apart but the type of the
// event, so alerts and configurations are held against the form that is theirs. Kinds of
// our own differ in their type, and where they have one, in their threshold.
func TestAlertsFollowTheDescription(t *testing.T) {
	doc := description(t)
	r := newRig(t)
	checked := 0
	check := func(name string, v map[string]any) {
		own := doc.Components.Schemas["EncryptionKeyEventTypeViewAlertable"].Value.VisitJSON(v["eventTypeName"]) != nil && v["eventTypeName"] != "ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED"
		checked++
		err := doc.Components.Schemas[name].Value.VisitJSON(plainJSON(t, v), openapi3.MultiErrors())
		if err == nil {
			return
		}
		for _, reason := range reasons(err) {
			if !own || !strings.HasPrefix(reason, "/threshold") {
				t.Errorf("%s %v: %s", name, v["eventTypeName"], reason)
			}
		}
	}
	r.run(func(c touch, a answer) {
		if !strings.Contains(c.path, "/alert") || !strings.HasPrefix(c.path, v2) || a.raw == "" || strings.HasSuffix(c.path, "fieldNames") {
			return
		}
		pattern := strings.TrimPrefix(api.RouteOf(c.method, c.path), c.method+" "+v2)
		op := operation(doc, c.method, pattern)
		status := itoa(a.status)
		if s, ok := liveStatus[c.method+" "+pattern]; ok {
			status = s
		}
		media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
		if op == nil || op.Responses.Value(status) == nil || op.Responses.Value(status).Value.Content[media] == nil {
			t.Errorf("%s %s answers %d %q, which is not described", c.method, pattern, a.status, media)
			return
		}
		all := a.results()
		if len(all) == 0 {
			all = []map[string]any{a.body}
		}
		for _, v := range all {
			switch _, config := v["notifications"]; {
			case v["eventTypeName"] == nil: // an empty list
			case !config:
				check("DefaultAlertViewForNdsGroup", v)
			case strings.HasPrefix(v["eventTypeName"].(string), "AWS_"):
				check("EncryptionKeyAlertConfigViewForNdsGroup", v)
			default:
				check("DefaultAlertConfigViewForNdsGroup", v)
			}
		}
	})
	if checked < 20 {
		t.Errorf("only %d forms were checked", checked)
	}
}

// plainJSON reads a value again with numbers as the validator wants them.
func plainJSON(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return withoutNulls(out)
}

func configJSON(kind, more, notifications string) string {
	return `{"eventTypeName":"` + kind + `","enabled":true,` + more + `"notifications":[` + notifications + `]}`
}

func TestDefaultAlertConfigurations(t *testing.T) {
	r := newRig(t)
	byKind := func() map[string]map[string]any {
		out := map[string]map[string]any{}
		for _, c := range r.ok(200, "GET", legacy, "/groups/{G}/alertConfigs?pageNum=0", "").results() {
			out[c["eventTypeName"].(string)] = c
		}
		return out
	}
	before := byKind()
	for _, kind := range []string{alert.KeyInvalid, alert.NetworkDenied, alert.HostSilent, alert.CertificateExpiring, alert.AuditMismatch} {
		if before[kind]["enabled"] != true {
			t.Errorf("%s: %v", kind, before[kind])
		}
	}
	if _, have := before[alert.KeyNeedsRotation]; have {
		t.Error("a reminder to rotate a key that there is not")
	}
	r.enable()
	limit, _ := byKind()[alert.KeyNeedsRotation]["threshold"].(map[string]any)
	if itoaAny(limit["threshold"]) != "90" || limit["units"] != "DAYS" {
		t.Errorf("%v", limit)
	}
	// What was deleted does not come back.
	r.ok(204, "DELETE", legacy, "/groups/{G}/alertConfigs/"+before[alert.HostSilent]["id"].(string), "")
	r.Must(r.Alert.Reconcile(t.Context()))
	if _, have := byKind()[alert.HostSilent]; have {
		t.Error("a deleted default came back")
	}
	// Who wants none gets none.
	off := false
	p, err := r.Tenant.CreateProject(t.Context(), r.Owner, tenant.NewProject{Org: r.Org, Name: "Quiet", DefaultAlerts: &off})
	r.Must(err)
	if all := r.ok(200, "GET", legacy, "/groups/"+string(p.ID)+"/alertConfigs", "").results(); len(all) != 0 {
		t.Errorf("%v", all)
	}
}

func itoaAny(v any) string { b, _ := json.Marshal(v); return string(b) }

func TestAlertConfigurationsThatAreRefused(t *testing.T) {
	r := newRig(t)
	r.ok(200, "GET", legacy, "/groups/{G}/alertConfigs", "")
	for name, c := range map[string]struct{ code, body string }{
		"no kind":           {"MISSING_ATTRIBUTE", `{"notifications":[` + groupNotification + `]}`},
		"unknown kind":      {"INVALID_ENUM_VALUE", configJSON("OUTSIDE_METRIC_THRESHOLD", "", groupNotification)},
		"no notification":   {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", "")},
		"slack":             {"INVALID_ENUM_VALUE", configJSON(alert.KeyInvalid, "", `{"typeName":"SLACK","apiToken":"t","channelName":"c"}`)},
		"text message":      {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"GROUP","smsEnabled":true}`)},
		"too often":         {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"GROUP","intervalMin":4}`)},
		"no address":        {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"EMAIL"}`)},
		"two addresses":     {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"EMAIL","emailAddress":"a@b.example\r\nBcc: c@d.example"}`)},
		"threshold":         {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, `"threshold":{"operator":"GREATER_THAN","threshold":1,"units":"DAYS"},`, groupNotification)},
		"other operator":    {"INVALID_ENUM_VALUE", configJSON(alert.KeyNeedsRotation, `"threshold":{"operator":"LESS_THAN","threshold":1,"units":"DAYS"},`, groupNotification)},
		"half a day":        {"INVALID_ATTRIBUTE", configJSON(alert.KeyNeedsRotation, `"threshold":{"operator":"GREATER_THAN","threshold":0.5,"units":"DAYS"},`, groupNotification)},
		"metric":            {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, `"metricThreshold":{"metricName":"x"},`, groupNotification)},
		"matcher":           {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, `"matchers":[{"fieldName":"HOSTNAME","operator":"EQUALS","value":"x"}],`, groupNotification)},
		"matcher's field":   {"INVALID_ENUM_VALUE", configJSON(alert.HostSilent, `"matchers":[{"fieldName":"CLUSTER_NAME","operator":"EQUALS","value":"x"}],`, groupNotification)},
		"matcher's pattern": {"INVALID_ENUM_VALUE", configJSON(alert.HostSilent, `"matchers":[{"fieldName":"HOSTNAME","operator":"REGEX","value":"x"}],`, groupNotification)},
		"plain http":        {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"WEBHOOK","webhookUrl":"http://example.com/x"}`)},
		"credentials":       {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"WEBHOOK","webhookUrl":"https://u:p@example.com/x"}`)},
		"template":          {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, "", `{"typeName":"WEBHOOK","webhookUrl":"https://example.com/x","webhookBodyTemplate":"t"}`)},
		"no field":          {"INVALID_ATTRIBUTE", configJSON(alert.KeyInvalid, `"nonsense":1,`, groupNotification)},
	} {
		r.unchanged(name, func() { r.refused(400, c.code, "POST", legacy, "/groups/{G}/alertConfigs", c.body) })
	}
	for _, path := range []string{"/groups/{G}/alertConfigs/65a0f0c2e4b0a1b2c3d4e5f6", "/groups/{G}/alertConfigs/65a0f0c2e4b0a1b2c3d4e5f6/alerts"} {
		r.refused(404, "ALERT_CONFIG_NOT_FOUND", "GET", legacy, path, "")
	}
	r.refused(404, "ALERT_NOT_FOUND", "GET", legacy, "/groups/{G}/alerts/65a0f0c2e4b0a1b2c3d4e5f6", "")
	r.refused(400, "INVALID_ENUM_VALUE", "GET", legacy, "/groups/{G}/alerts?status=BROKEN", "")
	reader := r.newKey(tenant.OrgMember, tenant.GroupReadOnly)
	id := r.ok(200, "GET", legacy, "/groups/{G}/alertConfigs", "").results()[0]["id"].(string)
	for _, c := range [][2]string{{"POST", "/groups/{G}/alertConfigs"}, {"PUT", "/groups/{G}/alertConfigs/" + id}, {"DELETE", "/groups/{G}/alertConfigs/" + id}, {"PATCH", "/groups/{G}/alerts/" + id}} {
		if a := r.call(reader, c[0], legacy, c[1], configJSON(alert.KeyInvalid, "", groupNotification)); c[0] != "PATCH" && a.code() != "USER_UNAUTHORIZED" {
			t.Errorf("%s: %s", c[1], a.raw)
		}
	}
	if a := r.call(reader, "POST", "", "/api/keywright/v1/groups/{G}/alertConfigs/"+id+":test", ""); a.code() != "USER_UNAUTHORIZED" {
		t.Error(a.raw)
	}
}

// A webhook gets signed messages, its secret is shown nowhere, and it survives being sent
// back as it is shown.
func TestTheTestButtonAndAWebhook(t *testing.T) {
	r := newRig(t)
	const hookSecret = "a-secret-of-the-hook"
	var mu sync.Mutex
	var got []*http.Request
	var bodies []string
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b := new(strings.Builder)
		_, _ = copyTo(b, q)
		mu.Lock()
		got, bodies = append(got, q), append(bodies, b.String())
		mu.Unlock()
		if strings.HasSuffix(q.URL.Path, "/moved") {
			http.Redirect(w, q, "/elsewhere", http.StatusFound)
		}
	}))
	t.Cleanup(hook.Close)
	url := hook.URL + "/path-that-is-secret"
	a := r.ok(201, "POST", legacy, "/groups/{G}/alertConfigs", configJSON(alert.KeyInvalid, "", `{"typeName":"WEBHOOK","webhookUrl":"`+url+`","webhookSecret":"`+hookSecret+`"},`+groupNotification))
	id, _ := a.body["id"].(string)
	if strings.Contains(a.raw, hookSecret) || strings.Contains(a.raw, "path-that-is-secret") {
		t.Errorf("shown: %s", a.raw)
	}
	back, err := json.Marshal(map[string]any{"eventTypeName": alert.KeyInvalid, "enabled": true, "notifications": a.body["notifications"]})
	r.Must(err)
	r.ok(200, "PUT", legacy, "/groups/{G}/alertConfigs/"+id, string(back))
	test := r.ok(200, "POST", "", "/api/keywright/v1/groups/{G}/alertConfigs/"+id+":test", "")
	results := test.results()
	if len(results) != 3 || results[0]["state"] != "SENT" || results[1]["state"] != "SENT" || results[2]["state"] != "SKIPPED" {
		t.Fatal(test.raw)
	}
	mu.Lock()
	if len(got) != 1 || got[0].URL.Path != "/path-that-is-secret" || got[0].Header.Get(alert.DeliveryHeader) != results[1]["id"] {
		t.Fatalf("%v", got)
	}
	key := secret.FromString(hookSecret)
	signature := got[0].Header.Get(alert.SignatureHeader)
	if err := alert.CheckSignature(key, signature, []byte(bodies[0]), time.Now(), 5*time.Minute); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another body":   alert.CheckSignature(key, signature, []byte(bodies[0]+" "), time.Now(), 5*time.Minute),
		"another secret": alert.CheckSignature(secret.FromString("another"), signature, []byte(bodies[0]), time.Now(), 5*time.Minute),
		"a replay":       alert.CheckSignature(key, signature, []byte(bodies[0]), time.Now().Add(time.Hour), 5*time.Minute),
		"another time":   alert.CheckSignature(key, strings.Replace(signature, "t=1", "t=2", 1), []byte(bodies[0]), time.Now(), 5*time.Minute),
	} {
		if err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	mu.Unlock()
	r.refused(429, "RATE_LIMITED", "POST", "", "/api/keywright/v1/groups/{G}/alertConfigs/"+id+":test", "")
	events := r.Events(r.project)
	for _, kind := range []string{"ALERT_CONFIG_ADDED_AUDIT", "ALERT_CONFIG_CHANGED_AUDIT", "ALERT_CONFIG_TESTED_AUDIT"} {
		if !strings.Contains(strings.Join(events, " "), kind) {
			t.Errorf("no event %s", kind)
		}
	}
}

func copyTo(b *strings.Builder, q *http.Request) (int64, error) {
	defer func() { _ = q.Body.Close() }()
	var n int64
	buf := make([]byte, 4096)
	for {
		k, err := q.Body.Read(buf)
		b.Write(buf[:k])
		if n += int64(k); err != nil {
			return n, err
		}
	}
}

func TestAlertsOpenAreAcknowledgedAndClose(t *testing.T) {
	r := newRig(t)
	id := r.raise()
	open := r.ok(200, "GET", legacy, "/groups/{G}/alerts?status=OPEN", "").results()
	if len(open) != 1 || open[0]["eventTypeName"] != alert.KeyInvalid || open[0]["remedy"] != "r" {
		t.Fatalf("%v", open)
	}
	a := r.ok(200, "PATCH", legacy, "/groups/{G}/alerts/"+id, `{"acknowledgedUntil":"2099-01-01T00:00:00Z","acknowledgementComment":"seen"}`)
	if a.body["acknowledgingUsername"] != "apikey:"+ownerKey || a.body["acknowledgementComment"] != "seen" {
		t.Error(a.raw)
	}
	r.refused(400, "INVALID_ATTRIBUTE", "PATCH", "2024-05-30", "/groups/{G}/alerts/"+id, `{"acknowledgedUntil":"2000-01-01T00:00:00Z"}`)
	r.refused(400, "MISSING_ATTRIBUTE", "PATCH", "2024-05-30", "/groups/{G}/alerts/"+id, `{}`)
	a = r.ok(200, "PATCH", legacy, "/groups/{G}/alerts/"+id, `{"acknowledgedUntil":"2000-01-01T00:00:00Z"}`)
	if _, still := a.body["acknowledgedUntil"]; still {
		t.Error(a.raw)
	}
	r.Must(r.Store.Tx(t.Context(), func(tx *store.Tx) error { return tx.Clear(r.project, alert.KeyInvalid, "") }))
	r.Must(r.Alert.Reconcile(t.Context()))
	if a = r.ok(200, "GET", legacy, "/groups/{G}/alerts/"+id, ""); a.body["status"] != "CLOSED" || a.body["resolved"] == nil {
		t.Error(a.raw)
	}
	r.refused(409, "ALERT_ALREADY_RESOLVED", "PATCH", legacy, "/groups/{G}/alerts/"+id, `{"acknowledgedUntil":"2099-01-01T00:00:00Z"}`)
	events := strings.Join(r.Events(r.project), " ")
	for _, kind := range []string{"ALERT_OPENED", "ALERT_ACKNOWLEDGED_AUDIT", "ALERT_UNACKNOWLEDGED_AUDIT", "ALERT_CLOSED"} {
		if !strings.Contains(events, kind) {
			t.Errorf("no event %s in %s", kind, events)
		}
	}
	r.Verify()
}
