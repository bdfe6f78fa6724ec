package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestKeyRotate(t *testing.T) {
	away(t)
	const own = "/api/keywright/v1/groups/g1"
	one := `{"name":"one","masterKeyRotation":{"state":"DONE","nodes":[{"nodeId":"n1","state":"DONE","toKeyId":"k2"}]}}`
	two := `{"name":"two","masterKeyRotation":{"state":"RUNNING","nodes":[{"nodeId":"n2","state":"RUNNING","failure":"KMS is slow"}]}}`
	answers := rehearseAnswers() // for the project's name
	answers["POST "+own+":rotateMasterKeys"] = `{"results":[` + one + `,` + two + `]}`
	answers["POST "+own+"/clusters/one:rotateMasterKey"] = one
	answers["GET "+own+"/clusters/one"], answers["GET "+own+"/clusters/two"] = one, two
	t.Setenv("KEYWRIGHT_BOOTSTRAP", bootstrap(t, t.TempDir(), api(t, answers)))
	code, text, errs := run("key", "rotate", "Pay")
	if code != 0 || !strings.Contains(text, "one: DONE, 1 of 1 nodes") || !strings.Contains(text, "two: RUNNING, 0 of 1 nodes") || !strings.Contains(text, "KMS is slow") || errs != "" {
		t.Errorf("code %d, %q, %q", code, text, errs)
	}
	if code, text, _ = run("key", "rotate", "Pay", "--cluster", "one", "--wait"); code != 0 || strings.Count(text, "one: DONE") != 1 || strings.Contains(text, "two") {
		t.Errorf("code %d, %q", code, text)
	}
	if code, text, _ = run("key", "rotate", "Pay", "--cluster", "one", "-o", "json"); code != 0 || !json.Valid([]byte(text)) {
		t.Errorf("code %d, %q", code, text)
	}
}

func TestKeyRotateDatabases(t *testing.T) {
	away(t)
	const own = "/api/keywright/v1/groups/g1"
	one := `{"name":"one","databaseKeyRotation":{"state":"DONE","compact":true,"nodes":[{"state":"DONE"}]},"nodes":[{"databaseKeys":{"bytes":200,"bytesUnderNewest":150,"oldKeys":2}}]}`
	answers := rehearseAnswers()
	answers["GET /api/atlas/v2/groups/g1/clusters?itemsPerPage=500"] = `{"results":[{"name":"one","encryptionAtRestProvider":"AWS"},{"name":"two","encryptionAtRestProvider":"NONE"}]}`
	answers["GET /api/atlas/v2/groups/g1/clusters"] = answers["GET /api/atlas/v2/groups/g1/clusters?itemsPerPage=500"]
	answers["POST "+own+"/clusters/one:rotateDatabaseKeys"], answers["GET "+own+"/clusters/one"] = one, one
	t.Setenv("KEYWRIGHT_BOOTSTRAP", bootstrap(t, t.TempDir(), api(t, answers)))
	code, text, errs := run("key", "rotate", "Pay", "--databases", "--compact", "--wait")
	if code != 0 || !strings.Contains(text, "one: DONE, 1 of 1 nodes, 75.0 % of the bytes under the newest keys, 2 old keys left") || errs != "" {
		t.Errorf("code %d, %q, %q", code, text, errs)
	}
	if code, _, errs := run("key", "rotate", "Pay", "--compact"); code == 0 || !strings.Contains(errs, "--databases") {
		t.Errorf("code %d, %q", code, errs)
	}
}
