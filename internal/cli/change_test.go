package cli_test

import (
	"strings"
	"testing"
)

const changedProject = "65a0f0c2e4b0a1b2c3d4e5f6"

func changeAnswers(state string) map[string]string {
	const own = "/api/keywright/v1/groups/" + changedProject + "/encryptionAtRest"
	status := `{"enabled":true,"verdict":"VALID","requested":{"keyArn":"arn:new","region":"US_EAST_1","roleId":"r"},"effective":{"keyArn":"arn:old","region":"US_EAST_1","roleId":"r"},
		"change":{"generation":2,"state":"` + state + `","since":"2026-01-02T03:04:05Z","why":"because","hosts":[{"hostname":"db1","done":3,"total":7,"ready":true},{"hostname":"db2","silent":true}]},
		"rollbackTo":{"keyArn":"arn:before","region":"US_EAST_1","roleId":"r"},"rollbackUntil":"2026-02-01T00:00:00Z"}`
	return map[string]string{
		"GET /api/atlas/v2/groups/byName/Shop":                               `{"id":"` + changedProject + `","name":"Shop"}`,
		"PATCH /api/atlas/v2/groups/" + changedProject + "/encryptionAtRest": `{}`,
		"GET " + own: status, "POST " + own + ":abortChange": status, "POST " + own + ":rollback": status,
	}
}

func TestChangesOfTheKeyAreAskedForAndShown(t *testing.T) {
	away(t)
	staging := bootstrap(t, t.TempDir(), api(t, changeAnswers("STAGING")))
	aborted := bootstrap(t, t.TempDir(), api(t, changeAnswers("ABORTED")))
	for _, tc := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"key", "status", "Shop", "--bootstrap", staging}, 0, []string{"arn:old", "arn:new", "STAGING", "db1", "3/7", "SILENT", "host forget", "arn:before", "2026-02-01"}},
		{[]string{"key", "change", "Shop", "--key", "arn:new", "--bootstrap", staging}, 0, []string{"STAGING"}},
		{[]string{"key", "change", "Shop", "--bootstrap", staging}, 2, []string{"--key, --role-id, --region"}},
		{[]string{"key", "change", "Shop", "--role-id", "r", "--wait", "--bootstrap", aborted}, 1, []string{"was aborted: because"}},
		{[]string{"key", "abort", "Shop", "--bootstrap", aborted}, 0, []string{"ABORTED"}},
		{[]string{"key", "rollback", "Shop", "--bootstrap", staging}, 0, []string{"STAGING"}},
		{[]string{"key", "status", "Shop", "-o", "json", "--bootstrap", staging}, 0, []string{`"state": "STAGING"`}},
		{[]string{"key", "status", "Other", "--bootstrap", staging}, 1, []string{"GROUP_NOT_FOUND"}},
	} {
		code, out, errs := run(tc.args...)
		if code != tc.code {
			t.Errorf("%v: code %d, %q, %q", tc.args, code, out, errs)
		}
		for _, s := range tc.says {
			if !strings.Contains(out+errs, s) {
				t.Errorf("%v: %q, %q do not say %q", tc.args, out, errs, s)
			}
		}
	}
}

func TestAHostIsForgottenByItsNameOnly(t *testing.T) {
	away(t)
	answers := map[string]string{
		"GET /api/keywright/v1/hosts":            `{"results":[{"id":"h1","hostname":"db1","lastSeenAt":"2026-01-02T03:04:05Z"}]}`,
		"POST /api/keywright/v1/hosts/h1:forget": `{"hostname":"db1","clusters":["c"],"nodes":["n"],"wrappedKeys":4}`,
	}
	path := bootstrap(t, t.TempDir(), api(t, answers))
	if code, out, errs := run("host", "list", "--bootstrap", path); code != 0 || !strings.Contains(out, "db1") {
		t.Errorf("list: %d %q %q", code, out, errs)
	}
	if code, out, errs := run("host", "forget", "db1", "--confirm", "db1", "--bootstrap", path); code != 0 || !strings.Contains(out, "4 wrapped keys") {
		t.Errorf("forget: %d %q %q", code, out, errs)
	}
	if code, _, errs := run("host", "forget", "db9", "--bootstrap", path); code != 1 || !strings.Contains(errs, "host list") {
		t.Errorf("unknown: %d %q", code, errs)
	}
}
