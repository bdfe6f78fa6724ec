package api_test

import (
	"strings"
	"testing"
)

// TestAChangeOfTheKeyShowsWhatIsAskedForAndWhatIsInForce: where nodes keep keys, a
// change is prepared first.
func TestAChangeOfTheKeyShowsWhatIsAskedForAndWhatIsInForce(t *testing.T) {
	r := newRig(t)
	_, target := r.enable()
	r.newCluster("c", "AWS", "")
	const own = "/api/keywright/v1/groups/{G}/encryptionAtRest"
	other := r.AWS.CreateKey()
	patch := `{"awsKms":{"customerMasterKeyID":"` + other + `"}}`
	shown := func(a answer) string { return a.body["awsKms"].(map[string]any)["customerMasterKeyID"].(string) }
	if a := r.ok(200, "PATCH", legacy, "/groups/{G}/encryptionAtRest", patch); shown(a) != other {
		t.Errorf("asked for: %s", a.raw)
	}
	if a := r.ok(200, "GET", legacy, "/groups/{G}/encryptionAtRest", ""); shown(a) != other || a.body["awsKms"].(map[string]any)["valid"] != true {
		t.Errorf("shown: %s", a.raw)
	}
	a := r.ok(200, "GET", "", own, "")
	arn := func(name string) any { return a.body[name].(map[string]any)["keyArn"] }
	change := a.body["change"].(map[string]any)
	if arn("requested") != other || arn("effective") != target.KeyID || change["state"] != "STAGING" || change["rewrap"] != true || len(change["hosts"].([]any)) != 1 || a.body["rollbackUntil"] != nil {
		t.Errorf("%s", a.raw)
	}
	r.ok(200, "PATCH", legacy, "/groups/{G}/encryptionAtRest", patch) // the same again
	r.refused(409, "ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS", "PATCH", legacy, "/groups/{G}/encryptionAtRest", `{"awsKms":{"customerMasterKeyID":"`+r.AWS.CreateKey()+`"}}`)
	r.refused(409, "ENCRYPTION_AT_REST_CHANGE_IN_PROGRESS", "POST", "", own+":rollback", "")
	if a = r.ok(200, "POST", "", own+":abortChange", ""); arn("requested") != target.KeyID || a.body["change"].(map[string]any)["state"] != "ABORTED" {
		t.Errorf("%s", a.raw)
	}
	if a := r.ok(200, "GET", legacy, "/groups/{G}/encryptionAtRest", ""); shown(a) != target.KeyID {
		t.Errorf("after the abort: %s", a.raw)
	}
	r.refused(409, "ENCRYPTION_AT_REST_NO_CHANGE", "POST", "", own+":rollback", "")
	if e := r.ok(200, "GET", legacy, "/groups/{G}/events", "").raw; !strings.Contains(e, "ENCRYPTION_AT_REST_CHANGE_STAGED") || !strings.Contains(e, "ENCRYPTION_AT_REST_CHANGE_ABORTED") {
		t.Errorf("no events: %.500s", e)
	}
}
