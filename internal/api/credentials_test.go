package api_test

import (
	"fmt"
	"strings"
	"testing"
)

// A migrated project as clients see it: the id of the access key is shown, its secret is
// never, and after the switch neither.
func TestAMigratedProjectThroughTheAPI(t *testing.T) {
	r := newRig(t)
	const path, own = "/groups/{G}/encryptionAtRest", "/api/keywright/v1/groups/{G}/encryptionAtRest"
	user := r.AWS.User(r.AWS.CreateKey())
	secret := string(user.AccessKey.Secret.Reveal())
	body := func(secret string) string {
		return fmt.Sprintf(`{"accessKeyId":%q,"secretAccessKey":%q,"customerMasterKeyId":%q,"region":"US_EAST_1"}`, user.AccessKey.ID, secret, user.KeyID)
	}
	hidden := func(a answer) answer {
		t.Helper()
		if strings.Contains(a.raw, secret) || strings.Contains(a.raw, "secretAccessKey") {
			t.Errorf("the secret is told: %s", a.raw)
		}
		return a
	}
	r.unchanged("a wrong secret", func() {
		hidden(r.refused(400, "INVALID_AWS_CREDENTIALS", "POST", "", own+":importCredentials", body("not-the-secret-of-this-key")))
	})
	in := hidden(r.ok(200, "POST", "", own+":importCredentials", body(secret)))
	if in.body["accessKeyId"] != user.AccessKey.ID || in.body["migratedFromCredentials"] != true || in.body["verdict"] != "VALID" {
		t.Errorf("imported: %s", in.raw)
	}
	got := hidden(r.ok(200, "GET", legacy, path, ""))
	want := fmt.Sprintf(`{"enabled":true,"valid":true,"customerMasterKeyID":%q,"region":"US_EAST_1","accessKeyID":%q,"requirePrivateNetworking":false}`, user.KeyID, user.AccessKey.ID)
	if !strings.Contains(strings.ReplaceAll(got.raw, " ", ""), want) {
		t.Errorf("GET: %s, want %s", got.raw, want)
	}
	r.unchanged("what was read", func() { hidden(r.ok(200, "PATCH", legacy, path, got.raw)) })
	second := r.AWS.User(user.KeyID)
	hidden(r.ok(200, "PATCH", legacy, path, kmsJSON(map[string]any{"accessKeyID": second.AccessKey.ID, "secretAccessKey": string(second.AccessKey.Secret.Reveal())})))

	role, target := r.Role(r.project)
	r.AWS.Deny(target.RoleARN, true, "Decrypt")
	r.unchanged("a role that lacks Decrypt", func() {
		a := r.refused(400, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", "PATCH", legacy, path, kmsJSON(map[string]any{"roleId": role.ID}))
		if !strings.Contains(a.detail(), "lacks kms:Decrypt") {
			t.Errorf("%s", a.raw)
		}
	})
	r.AWS.Deny(target.RoleARN, false, "Decrypt")
	now := r.ok(200, "PATCH", legacy, path, kmsJSON(map[string]any{"roleId": role.ID}))
	if k := now.body["awsKms"].(map[string]any); k["roleId"] != string(role.ID) || k["accessKeyID"] != nil || k["valid"] != true {
		t.Errorf("switched: %s", now.raw)
	}
	r.unchanged("the way back", func() {
		r.refused(400, "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", "PATCH", legacy, path, kmsJSON(map[string]any{"accessKeyID": user.AccessKey.ID, "secretAccessKey": secret}))
		r.refused(400, "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", "POST", "", own+":importCredentials", body(secret))
	})
	hidden(r.ok(200, "GET", legacy, "/groups/{G}/events?itemsPerPage=500", ""))
}
