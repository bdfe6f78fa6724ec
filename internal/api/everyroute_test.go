package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/store"
)

// touch is one call of the tour below.
type touch struct {
	method, version, path, body string
	status                      int
}

// tour calls every line of the table once at least, in an order in which it works.
// {R} is the project's role, {E} an event of it, {OE} one of the organization.
func tour(r *rig) []touch {
	org := `"orgId":"` + string(r.Org) + `"`
	out := []touch{
		{"GET", legacy, v2, "", 200},
		{"GET", "2023-11-15", v2 + "/unauth/controlPlaneIPAddresses", "", 200},
		{"GET", legacy, "/orgs", "", 200}, {"GET", legacy, "/orgs/{O}", "", 200}, {"GET", legacy, "/orgs/{O}/groups", "", 200},
		{"GET", legacy, "/orgs/{O}/events", "", 200}, {"GET", legacy, "/orgs/{O}/events/{OE}", "", 200},
		{"POST", legacy, "/orgs/{O}/apiKeys", `{"desc":"k","roles":["ORG_MEMBER"]}`, 200}, {"GET", legacy, "/orgs/{O}/apiKeys", "", 200},
		{"GET", legacy, "/orgs/{O}/apiKeys/{K}", "", 200}, {"POST", legacy, "/groups/{G}/apiKeys", `{"desc":"k","roles":["GROUP_READ_ONLY"]}`, 200},
		{"PATCH", legacy, "/groups/{G}/apiKeys/{K}", `{"roles":["GROUP_READ_ONLY"]}`, 200}, {"DELETE", legacy, "/orgs/{O}/apiKeys/{K}", "", 204},
		{"GET", "", "/api/keywright/v1/orgs/{O}/audit:verify", "", 200}, {"GET", "", "/api/keywright/v1/orgs/{O}/audit:head", "", 200}, {"POST", "", "/api/keywright/v1/orgs/{O}/keys:export", "", 200},
		{"GET", "", "/api/keywright/v1/orgs/{O}/keys", "", 200}, {"GET", "", "/api/keywright/v1/orgs/{O}/keys/arn:aws:kms:us-east-1:111122223333:key%2F1", "", 200},
		{"POST", legacy, "/groups", `{"name":"Toured",` + org + `}`, 201}, {"GET", legacy, "/groups", "", 200}, {"GET", legacy, "/groups/byName/Project", "", 200},
		{"GET", legacy, "/groups/{G}", "", 200}, {"PATCH", legacy, "/groups/{G}", `{"tags":[]}`, 200},
		{"GET", legacy, "/groups/{G}/events", "", 200}, {"GET", legacy, "/groups/{G}/events/{E}", "", 200},
		{"GET", legacy, "/groups/{G}/settings", "", 200}, {"PATCH", legacy, "/groups/{G}/settings", `{"isDataExplorerEnabled":false}`, 200},
		{"GET", legacy, "/groups/{G}/limits", "", 200}, {"GET", legacy, "/groups/{G}/teams", "", 200}, {"GET", "2025-02-19", "/groups/{G}/users", "", 200},
		{"GET", legacy, "/groups/{G}/managedSlowMs", "", 200}, {"POST", legacy, "/groups/{G}/managedSlowMs/enable", "", 204}, {"DELETE", legacy, "/groups/{G}/managedSlowMs/disable", "", 204},
		{"PATCH", legacy, "/groups/{G}/maintenanceWindow", `{"dayOfWeek":1,"hourOfDay":3,"protectedHours":{"startHourOfDay":9,"endHourOfDay":17}}`, 200}, {"GET", legacy, "/groups/{G}/maintenanceWindow", "", 200},
		{"POST", legacy, "/groups/{G}/maintenanceWindow/defer", "", 200}, {"POST", legacy, "/groups/{G}/maintenanceWindow/autoDefer", "", 200}, {"DELETE", legacy, "/groups/{G}/maintenanceWindow", "", 204},
		{"POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`, 200}, {"GET", legacy, "/groups/{G}/cloudProviderAccess", "", 200},
		{"GET", legacy, "/groups/{G}/cloudProviderAccess/{R}", "", 200},
		{"PATCH", legacy, "/groups/{G}/cloudProviderAccess/{R}", `{"providerName":"AWS","iamAssumedRoleArn":"{ARN}"}`, 200},
		{"GET", legacy, "/alertConfigs/matchers/fieldNames", "", 200}, {"GET", legacy, "/groups/{G}/alertConfigs", "", 200},
		{"POST", legacy, "/groups/{G}/alertConfigs", `{"eventTypeName":"AWS_ENCRYPTION_KEY_NEEDS_ROTATION","enabled":true,"threshold":{"operator":"GREATER_THAN","threshold":30,"units":"DAYS"},"notifications":[` + groupNotification + `]}`, 201},
		{"GET", legacy, "/groups/{G}/alertConfigs/{AC}", "", 200}, {"PUT", legacy, "/groups/{G}/alertConfigs/{AC}", `{"eventTypeName":"ENCRYPTION_AT_REST_KMS_NETWORK_ACCESS_DENIED","enabled":true,"notifications":[` + groupNotification + `]}`, 200},
		{"PATCH", legacy, "/groups/{G}/alertConfigs/{AC}", `{"enabled":true}`, 200}, {"GET", legacy, "/groups/{G}/alertConfigs/{AC}/alerts", "", 200},
		{"POST", "", "/api/keywright/v1/groups/{G}/alertConfigs/{AC}:test", "", 200}, {"GET", "", "/api/keywright/v1/groups/{G}/alertDeliveries", "", 200},
		{"GET", legacy, "/groups/{G}/alerts?status=OPEN", "", 200}, {"GET", legacy, "/groups/{G}/alerts/{A}", "", 200}, {"GET", legacy, "/groups/{G}/alerts/{A}/alertConfigs", "", 200},
		{"PATCH", legacy, "/groups/{G}/alerts/{A}", `{"acknowledgedUntil":"2099-01-01T00:00:00Z"}`, 200}, {"PATCH", "2024-05-30", "/groups/{G}/alerts/{A}", `{"unacknowledgeAlert":true}`, 200},
		{"DELETE", legacy, "/groups/{G}/alertConfigs/{AC}", "", 204},
		{"GET", legacy, "/groups/{G}/encryptionAtRest", "", 200}, {"PATCH", legacy, "/groups/{G}/encryptionAtRest", `{}`, 200},
		{"GET", "", "/api/keywright/v1/groups/{G}/encryptionAtRest", "", 200}, {"POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:tryAgain", "", 200},
		{"POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:importCredentials", `{"accessKeyId":"AKIAEXAMPLEEXAMPLE","secretAccessKey":"example-secret-of-an-access-key","customerMasterKeyId":"x","region":"US_EAST_1"}`, 400},
		{"POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:abortChange", "", 409}, {"POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:rollback", "", 409},
		{"POST", "", "/api/keywright/v1/hosts/host-1:forget", `{"hostname":"host-1"}`, 404},
		{"GET", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:guidance", "", 200}, {"POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:check", "{}", 200},
		{"GET", "", "/api/keywright/v1/groups/{G}/cloudProviderAccess/{R}:trustPolicy", "", 200},
		{"GET", "", "/api/keywright/v1/groups/{G}/keyPolicy", "", 200}, {"PATCH", "", "/api/keywright/v1/groups/{G}/keyPolicy", `{"mode":"STOP"}`, 200},
		{"GET", "", "/api/keywright/v1/groups/{G}/networkAccess", "", 200}, {"POST", "", "/api/keywright/v1/groups/{G}/networkAccess:acknowledge", "", 200},
		{"GET", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:rehearse", "", 200},
		{"GET", "", "/api/keywright/v1/hosts", "", 200}, {"GET", "", "/api/keywright/v1/hosts/host-1/awsPolicy", "", 200}, {"POST", "", "/api/keywright/v1/hosts/enrolmentTokens", `{"hostname":"host-2"}`, 201},
		{"POST", "", "/api/keywright/v1/hosts/host-1:unfreeze", `{"confirm":"host-1"}`, 409},
		{"POST", legacy, "/groups/{G}/databaseUsers", appUser, 201}, {"GET", legacy, "/groups/{G}/databaseUsers", "", 200},
		{"GET", legacy, "/groups/{G}/databaseUsers/admin/app", "", 200}, {"PATCH", legacy, "/groups/{G}/databaseUsers/admin/app", `{"description":"x"}`, 200},
		{"DELETE", legacy, "/groups/{G}/databaseUsers/admin/app", "", 204},
		{"POST", legacy, "/groups/{G}/accessList", `[{"ipAddress":"203.0.113.7"}]`, 201}, {"GET", legacy, "/groups/{G}/accessList", "", 200},
		{"GET", legacy, "/groups/{G}/accessList/203.0.113.7", "", 200}, {"GET", legacy, "/groups/{G}/accessList/203.0.113.7/status", "", 200},
		{"DELETE", legacy, "/groups/{G}/accessList/203.0.113.7", "", 204},
		{"POST", "2024-11-13", "/groups/{G}/flexClusters", `{}`, 400}, {"POST", legacy, "/groups/{G}/serverless", `{}`, 400},
	}
	for i, f := range []struct{ version, path, body string }{
		{"2024-10-23", v2, clusterJSON("c0", "NONE", "M10", "")},
		{"", "/api/atlas/v1.5", strings.Replace(clusterJSON("c1", "AWS", "M10", ""), `{"zoneName"`, `{"numShards":1,"zoneName"`, 1)},
		{"", "/api/atlas/v1.0", `{"name":"c2","providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"}}`},
	} {
		one := f.path + "/groups/{G}/clusters/c" + itoa(i)
		out = append(out,
			touch{"POST", f.version, f.path + "/groups/{G}/clusters", f.body, 201}, touch{"GET", f.version, f.path + "/groups/{G}/clusters", "", 200},
			touch{"GET", f.version, one, "", 200}, touch{"PATCH", f.version, one, `{"backupEnabled":false}`, 200})
	}
	out = append(out, touch{"GET", "", "/api/keywright/v1/groups/{G}/clusters/c0/drills", "", 200}, touch{"POST", "", "/api/keywright/v1/groups/{G}/clusters/c1:drill", `{"minutes":1}`, 409},
		touch{"GET", "", "/api/keywright/v1/groups/{G}/clusters/c0", "", 200}, touch{"POST", "", "/api/keywright/v1/groups/{G}/clusters/c1:rotateMasterKey", "", 202},
		touch{"POST", "", "/api/keywright/v1/groups/{G}/clusters/c1:rotateDatabaseKeys", `{"compact":true}`, 202},
		touch{"POST", "", "/api/keywright/v1/groups/{G}:rotateMasterKeys", "", 202})
	const c = "/groups/{G}/clusters/c0"
	for _, version := range []string{advanced, legacy} {
		out = append(out, touch{"GET", version, "/groups/{G}/clusters", "", 200}, touch{"GET", version, c, "", 200}, touch{"PATCH", version, c, `{"tags":[{"key":"a","value":"b"}]}`, 200})
	}
	out = append(out,
		touch{"POST", legacy, "/groups/{G}/clusters", `{"name":"c3","providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"}}`, 201},
		touch{"GET", legacy, c + "/processArgs", "", 200}, touch{"PATCH", legacy, c + "/processArgs", `{"failIndexKeyTooLong":true}`, 200},
		touch{"GET", legacy, c + "/status", "", 200}, touch{"GET", current, c + "/processArgs", "", 200}, touch{"PATCH", current, c + "/processArgs", `{"noTableScan":true}`, 200},
		touch{"GET", current, c + "/autoScalingConfiguration", "", 200}, touch{"GET", legacy, "/groups/{G}/containers?providerName=AWS", "", 200}, touch{"GET", legacy, "/groups/{G}/containers/all", "", 200},
		touch{"GET", legacy, "/groups/{G}/ipAddresses", "", 200}, touch{"GET", "2024-11-13", "/groups/{G}/flexClusters", "", 200})
	for _, path := range []string{"", "/backup/snapshots", "/backup/snapshots/65a0f0c2e4b0a1b2c3d4e5f6", "/backup/restoreJobs", "/backup/restoreJobs/65a0f0c2e4b0a1b2c3d4e5f6"} {
		out = append(out, touch{"GET", "2024-11-13", "/groups/{G}/flexClusters/c0" + path, "", 400})
	}
	return append(out,
		touch{"DELETE", current, v2 + c, "", 202}, touch{"DELETE", "", "/api/atlas/v1.5/groups/{G}/clusters/c1", "", 202}, touch{"DELETE", "", "/api/atlas/v1.0/groups/{G}/clusters/c2", "", 202},
		touch{"DELETE", legacy, "/groups/{G}", "", 409},
		touch{"DELETE", legacy, "/groups/{G}/cloudProviderAccess/AWS/{R}", "", 400})
}

// run walks the tour and gives every answer to see.
func (r *rig) run(see func(touch, answer)) {
	r.T.Helper()
	role, target := r.enable()
	events := r.ok(200, "GET", legacy, "/groups/{G}/events", "").results()
	orgEvents := r.ok(200, "GET", legacy, "/orgs/{O}/events", "").results()
	spare := r.ok(200, "POST", legacy, "/orgs/{O}/apiKeys", `{"desc":"spare","roles":["ORG_MEMBER"]}`).body["id"].(string)
	config := r.alertConfig("HOST_SILENT") // not that of the alert: it is changed on the way
	alert := r.raise()
	fill := strings.NewReplacer("{A}", alert, "{AC}", config, "{R}", role, "{K}", spare, "{ARN}", target.RoleARN, "{E}", events[0]["id"].(string), "{OE}", orgEvents[0]["id"].(string), "{G}", string(r.project), "{O}", string(r.Org))
	for _, c := range tour(r) {
		c.path, c.body = fill.Replace(c.path), fill.Replace(c.body)
		if !strings.HasPrefix(c.path, "/api") {
			c.path = v2 + c.path
		}
		see(c, r.ok(c.status, c.method, c.version, c.path, c.body))
	}
}

const groupNotification = `{"typeName":"GROUP","intervalMin":60,"delayMin":0,"emailEnabled":true,"smsEnabled":false,"roles":["GROUP_OWNER"]}`

// alertConfig gives the id of the project's configuration of a kind.
func (r *rig) alertConfig(kind string) string {
	r.T.Helper()
	for _, c := range r.ok(200, "GET", legacy, "/groups/{G}/alertConfigs", "").results() {
		if c["eventTypeName"] == kind {
			return c["id"].(string)
		}
	}
	r.T.Fatalf("no alert configuration of %s", kind)
	return ""
}

// raise makes an alert of the project and gives its id.
func (r *rig) raise() string {
	r.T.Helper()
	r.Must(r.Store.Tx(r.T.Context(), func(tx *store.Tx) error {
		return tx.Raise(store.Finding{Project: r.project, Kind: "AWS_ENCRYPTION_KEY_INVALID", Summary: "s", Remedy: "r"})
	}))
	r.Must(r.Alert.Reconcile(r.T.Context()))
	return r.ok(200, "GET", legacy, "/groups/{G}/alerts", "").results()[0]["id"].(string)
}

func TestEveryRouteIsTouched(t *testing.T) {
	r := newRig(t)
	untouched := map[string]bool{}
	for _, name := range api.RouteNames() {
		untouched[name] = true
	}
	r.run(func(c touch, _ answer) {
		name := api.RouteOf(c.method, c.path)
		if name == "" {
			t.Errorf("%s %s is no route", c.method, c.path)
		}
		delete(untouched, name)
		// One line serves v2 and v1.0.
		delete(untouched, strings.Replace(name, "/api/atlas/v2", "/api/atlas/v1.0", 1))
	})
	var left []string
	for name := range untouched {
		left = append(left, name)
	}
	slices.Sort(left)
	if len(left) > 0 {
		t.Errorf("%d routes are not touched:\n%s", len(left), strings.Join(left, "\n"))
	}
}

// Every line that is served as v1.0 too answers there.
func TestTheLegacyPrefixAnswers(t *testing.T) {
	r := newRig(t)
	r.Project("Other")
	for _, path := range []string{"", "/orgs", "/groups", "/groups/{G}", "/groups/{G}/events", "/groups/{G}/encryptionAtRest", "/groups/{G}/cloudProviderAccess", "/groups/{G}/databaseUsers", "/groups/{G}/accessList", "/groups/{G}/settings", "/groups/{G}/clusters"} {
		a := r.ok(200, "GET", "", "/api/atlas/v1.0"+path, "")
		if a.header.Get("Content-Type") != "application/json" || strings.Contains(a.raw, "/api/atlas/v2") {
			t.Errorf("%s: %q %s", path, a.header.Get("Content-Type"), a.raw)
		}
	}
	if a := r.ok(200, "GET", "", "/api/atlas/v1.0/groups?itemsPerPage=1", ""); !strings.Contains(a.link("next"), "/api/atlas/v1.0/groups?") {
		t.Errorf("%s", a.raw)
	}
}
