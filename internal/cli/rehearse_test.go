package cli_test

import (
	"strings"
	"testing"
)

func rehearseAnswers() map[string]string {
	drill := `"id":"d1","minutes":2,"orderToStoppedSeconds":1.25,"endToWritableSeconds":2.5`
	return map[string]string{
		"GET /api/atlas/v2/groups/byName/Pay": `{"id":"g1","orgId":"o1","name":"Pay"}`,
		"GET /api/keywright/v1/groups/g1/encryptionAtRest:rehearse": `{"enabled":true,"keyArn":"arn:k","verdict":"VALID","policy":{"mode":"STOP","validationInterval":"1m0s"},
			"bounds":{"keyItselfSeconds":72,"roleOrPermissionSeconds":84,"roleOrPermissionUnconfirmedSeconds":970,"killAfterSeconds":1},
			"wouldStop":[{"name":"main","nodes":[{"id":"n1","hostname":"db1","phase":"RUNNING"}]}],"staysReadable":{"clusters":[{"name":"open","stateName":"IDLE"}]},"wrapsWithoutUse":3,
			"hosts":[{"hostname":"db1","verdict":"VALID","lastRun":"2026-01-01T00:00:00Z"}],"controlPlane":{"verdict":"UNKNOWN"},
			"notEnforced":[{"nodeId":"n1","clusterName":"main","hostname":"db1","why":"its host is silent"}]}`,
		"POST /api/keywright/v1/groups/g1/clusters/main:drill":  `{` + drill + `,"state":"ORDERED","orderToStoppedSeconds":null}`,
		"GET /api/keywright/v1/groups/g1/clusters/main/drills":  `{"results":[{"id":"d2","state":"RUNNING"},{` + drill + `,"state":"DONE"}]}`,
		"POST /api/keywright/v1/groups/g1/clusters/late:drill":  `{"id":"d3","state":"ORDERED"}`,
		"GET /api/keywright/v1/groups/g1/clusters/late/drills":  `{"results":[{"id":"d3","state":"DROPPED"}]}`,
		"POST /api/keywright/v1/groups/g1/clusters/other:drill": `{"error":409,"errorCode":"KEY_NOT_VALID","detail":"It is SUSPECT now."}`,
	}
}

func TestRehearse(t *testing.T) {
	away(t)
	t.Setenv("KEYWRIGHT_BOOTSTRAP", bootstrap(t, t.TempDir(), api(t, rehearseAnswers())))
	code, text, errs := run("key", "rehearse", "Pay")
	for _, want := range []string{"arn:k", "main", "n1", "db1", "1m12s", "1m24s", "16m10s", "open", "3 wrapped keys", "control plane", "its host is silent"} {
		if code != 0 || !strings.Contains(text, want) {
			t.Fatalf("code %d, no %q in %s%s", code, want, text, errs)
		}
	}
	if code, text, _ := run("key", "rehearse", "Pay", "-o", "json"); code != 0 || !strings.Contains(text, `"wrapsWithoutUse": 3`) {
		t.Errorf("json: code %d, %s", code, text)
	}
	code, text, errs = run("key", "rehearse", "Pay", "--live", "main", "--minutes", "2")
	if code != 0 || !strings.Contains(text, "1.25s") || !strings.Contains(text, "2.5s") || !strings.Contains(errs, "drill d1 ordered") {
		t.Errorf("live: code %d, %s%s", code, text, errs)
	}
	for want, args := range map[string][]string{
		"DROPPED": {"--live", "late"}, "KEY_NOT_VALID": {"--live", "other"}, "from 1 to 5": {"--live", "main", "--minutes", "6"}, "goes with --live": {"--minutes", "2"},
	} {
		if code, _, errs := run(append([]string{"key", "rehearse", "Pay"}, args...)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}
