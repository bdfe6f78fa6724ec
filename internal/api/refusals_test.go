package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
)

func keyOnly(arn string) string {
	a, _ := keys.ParseARN(arn)
	return strings.TrimPrefix(a.Resource, "key/")
}

func kmsJSON(fields map[string]any) string {
	b, _ := json.Marshal(map[string]any{"awsKms": fields})
	return string(b)
}

// enable switches the project's key management on, as Terraform does.
func (r *rig) enable() (role string, target kms.Target) {
	r.T.Helper()
	a := r.ok(200, "POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`)
	if a.body["authorizedDate"] != nil || a.body["iamAssumedRoleArn"] != nil || !strings.HasPrefix(a.body["atlasAWSAccountArn"].(string), "arn:aws:iam::") || strings.TrimSpace(a.raw[strings.Index(a.raw, `"featureUsages":`)+16:][:2]) != "[]" {
		r.T.Errorf("registered: %s", a.raw)
	}
	role, _ = a.body["roleId"].(string)
	target = r.AWS.Project()
	r.AWS.Trust(target, a.body["atlasAssumedRoleExternalId"].(string))
	b := r.ok(200, "PATCH", legacy, "/groups/{G}/cloudProviderAccess/"+role, `{"providerName":"AWS","iamAssumedRoleArn":"`+target.RoleARN+`","roleId":"`+role+`"}`)
	if b.body["authorizedDate"] == nil || b.body["iamAssumedRoleArn"] != target.RoleARN || b.body["atlasAssumedRoleExternalId"] != a.body["atlasAssumedRoleExternalId"] {
		r.T.Errorf("authorized: %s", b.raw)
	}
	r.ok(200, "PATCH", legacy, "/groups/{G}/encryptionAtRest", kmsJSON(map[string]any{
		"enabled": true, "customerMasterKeyID": target.KeyID, "region": "US_EAST_1", "roleId": role, "requirePrivateNetworking": false,
	}))
	return role, target
}

func TestKeyManagementAsTerraformLivesIt(t *testing.T) {
	r := newRig(t)
	off := r.ok(200, "GET", legacy, "/groups/{G}/encryptionAtRest", "")
	if k := off.body["awsKms"].(map[string]any); k["enabled"] != false || k["valid"] != false || k["customerMasterKeyID"] != nil {
		t.Errorf("%s", off.raw)
	}
	role, target := r.enable()
	on := r.ok(200, "GET", legacy, "/groups/{G}/encryptionAtRest", "")
	k := on.body["awsKms"].(map[string]any)
	if k["enabled"] != true || k["valid"] != true || k["customerMasterKeyID"] != target.KeyID || k["region"] != "US_EAST_1" || k["roleId"] != role || k["secretAccessKey"] != nil || on.body["azureKeyVault"].(map[string]any)["enabled"] != false {
		t.Errorf("%s", on.raw)
	}
	for _, body := range []string{on.raw, `{}`, `{"awsKms":{},"azureKeyVault":{},"googleCloudKms":{}}`, `{"azureKeyVault":{"enabled":false},"googleCloudKms":{"enabled":false},"awsKms":null}`} {
		r.unchanged("what was read, or nothing", func() { r.ok(200, "PATCH", legacy, "/groups/{G}/encryptionAtRest", body) })
	}
	got := r.ok(200, "GET", legacy, "/groups/{G}/cloudProviderAccess/"+role, "")
	if u, _ := got.body["featureUsages"].([]any); len(u) != 1 || u[0].(map[string]any)["featureType"] != "ENCRYPTION_AT_REST" {
		t.Errorf("%s", got.raw)
	}
	list := r.ok(200, "GET", legacy, "/groups/{G}/cloudProviderAccess", "")
	if len(list.body["awsIamRoles"].([]any)) != 1 || len(list.body["azureServicePrincipals"].([]any)) != 0 || list.body["gcpServiceAccounts"] == nil {
		t.Errorf("%s", list.raw)
	}
	again := r.ok(200, "POST", "", "/api/keywright/v1/groups/{G}/encryptionAtRest:tryAgain", "")
	if again.body["verdict"] != "VALID" && again.body["verdict"] != "" || again.body["keyArn"] != target.KeyID {
		t.Errorf("%s", again.raw)
	}
	r.ok(200, "PATCH", "", "/api/atlas/v1.0/groups/{G}/encryptionAtRest", `{"awsKms":{"enabled":false},"azureKeyVault":{"enabled":false},"googleCloudKms":{"enabled":false}}`)
	if off := r.ok(200, "GET", legacy, "/groups/{G}/encryptionAtRest", ""); strings.Contains(off.raw, target.KeyID) || strings.Contains(off.raw, role) {
		t.Errorf("the old key is still shown: %s", off.raw)
	}
	r.ok(204, "DELETE", legacy, "/groups/{G}/cloudProviderAccess/AWS/"+role, "")
	r.refused(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "GET", legacy, "/groups/{G}/cloudProviderAccess/"+role, "")
}

// Every refusal of key management has its code through the API too, and a GET
// afterwards is equal.
func TestRefusedKeyManagementChangesNothing(t *testing.T) {
	r := newRig(t)
	role, target := r.enable()
	r.newCluster("main", "AWS", "")
	second := r.ok(200, "POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`)
	pending, external := second.body["roleId"].(string), second.body["atlasAssumedRoleExternalId"].(string)
	newKey := func(change func(arn string)) string {
		arn := r.AWS.CreateKey()
		if change != nil {
			change(arn)
		}
		return kmsJSON(map[string]any{"customerMasterKeyID": arn})
	}
	const path = "/groups/{G}/encryptionAtRest"
	patch := func(status int, code, body string, says ...string) {
		t.Helper()
		r.unchanged(code, func() {
			a := r.refused(status, code, "PATCH", legacy, path, body)
			for _, s := range says {
				if !strings.Contains(a.detail(), s) {
					t.Errorf("%s does not say %q: %s", code, s, a.detail())
				}
			}
		})
	}
	patch(400, "AWS_KMS_CUSTOMER_MASTER_KEY_WRONG_TYPE", newKey(func(k string) { r.AWS.SetSpec(k, "RSA_2048", "ENCRYPT_DECRYPT") }), "symmetric")
	patch(400, "AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED", newKey(func(k string) { r.AWS.SetState(k, "Disabled") }), "Enable")
	patch(404, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", kmsJSON(map[string]any{"customerMasterKeyID": "12345678-1234-1234-1234-123456781234"}), "full ARN")
	patch(404, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", kmsJSON(map[string]any{"customerMasterKeyID": keyOnly(target.KeyID), "region": "EU_WEST_2"}), "EU_WEST_2")
	patch(400, "AWS_KMS_REGION_NOT_SUPPORTED", kmsJSON(map[string]any{"region": "MIDDLE_EARTH"}))
	patch(400, "INVALID_ATTRIBUTE", kmsJSON(map[string]any{"customerMasterKeyID": "alias/mine"}), "alias")
	r.AWS.Deny(target.RoleARN, true, kms.OpEncrypt)
	denied := newKey(nil)
	r.refused(400, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", "PATCH", legacy, path, denied)
	if a := r.call(owner, "PATCH", legacy, path, denied); !strings.Contains(a.detail(), "kms:Encrypt") || !strings.Contains(a.detail(), `"Effect":"Allow"`) {
		t.Errorf("%s", a.raw)
	}
	r.AWS.Deny(target.RoleARN, false, kms.OpEncrypt)
	patch(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", kmsJSON(map[string]any{"roleId": strings.Repeat("0", 24)}))
	patch(400, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_AUTHORIZED", kmsJSON(map[string]any{"roleId": pending}))
	patch(400, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", `{"azureKeyVault":{"enabled":true}}`)
	patch(400, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", `{"googleCloudKms":{"enabled":true}}`)
	patch(400, "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", kmsJSON(map[string]any{"accessKeyID": "AKIAEXAMPLEEXAMPLE", "secretAccessKey": "x"}))
	patch(400, "INVALID_ATTRIBUTE", `{"awsKms":{"customerMasterKeyId":"x"}}`, "awsKms.customerMasterKeyId", "upper and lower case")
	patch(400, "INVALID_ATTRIBUTE", `{"awsKms":{"enabled":"yes"}}`, "awsKms.enabled")
	patch(400, "MALFORMED_JSON", `{"awsKms":`)
	patch(400, "MALFORMED_JSON", `{"awsKms":{"enabled":false}} {}`)
	patch(400, "MALFORMED_JSON", `{"awsKms":{"enabled":false}}}`)
	patch(409, "CANNOT_DISABLE_ENCRYPTION_AT_REST", `{"awsKms":{"enabled":false}}`)
	r.unchanged("a role that is in use", func() {
		r.refused(400, "AWS_IAM_ROLE_IN_USE", "DELETE", legacy, "/groups/{G}/cloudProviderAccess/AWS/"+role, "")
		r.refused(409, "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS", "DELETE", legacy, "/groups/{G}", "")
	})
	authorize := func(status int, code, arn string) {
		t.Helper()
		r.unchanged(code, func() {
			r.refused(status, code, "PATCH", legacy, "/groups/{G}/cloudProviderAccess/"+pending, `{"providerName":"AWS","iamAssumedRoleArn":"`+arn+`"}`)
		})
	}
	other := r.AWS.Project()
	authorize(400, "CANNOT_ASSUME_ROLE", other.RoleARN)
	r.AWS.Trust(other, external)
	r.AWS.TrustAnyone(other.RoleARN, true)
	authorize(400, "ROLE_ASSUMABLE_WITHOUT_EXTERNAL_ID", other.RoleARN)
	authorize(400, "INVALID_ATTRIBUTE", "arn:aws:iam::222222222222:user/x")
	r.unchanged("other providers", func() {
		r.refused(400, "INVALID_ENUM_VALUE", "POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AZURE"}`)
		r.refused(400, "INVALID_ENUM_VALUE", "DELETE", legacy, "/groups/{G}/cloudProviderAccess/GCP/"+pending, "")
	})
	r.AWS.Down(kms.Timeout)
	if a := r.call(owner, "PATCH", legacy, path, newKey(nil)); a.status != 503 || a.code() != "SERVICE_UNAVAILABLE" {
		t.Errorf("AWS is down: %d %s", a.status, a.raw)
	}
	r.Verify()
}

// A key in another account than the role: by id it is not found, by ARN it works.
func TestAKeyOfAnotherAccount(t *testing.T) {
	r := newRig(t)
	a := r.ok(200, "POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`)
	role, target := a.body["roleId"].(string), r.AWS.Project()
	const arn = "arn:aws:iam::333333333333:role/elsewhere"
	r.AWS.TrustAs(arn, target, a.body["atlasAssumedRoleExternalId"].(string))
	r.ok(200, "PATCH", legacy, "/groups/{G}/cloudProviderAccess/"+role, `{"providerName":"AWS","iamAssumedRoleArn":"`+arn+`"}`)
	fields := map[string]any{"enabled": true, "region": "US_EAST_1", "roleId": role, "customerMasterKeyID": keyOnly(target.KeyID)}
	r.unchanged("an id of another account", func() {
		r.refused(404, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", "PATCH", legacy, "/groups/{G}/encryptionAtRest", kmsJSON(fields))
	})
	fields["customerMasterKeyID"] = target.KeyID
	got := r.ok(200, "PATCH", legacy, "/groups/{G}/encryptionAtRest", kmsJSON(fields))
	if k := got.body["awsKms"].(map[string]any); k["valid"] != true || k["customerMasterKeyID"] != target.KeyID {
		t.Errorf("%s", got.raw)
	}
}

func TestRefusedClustersChangeNothing(t *testing.T) {
	r := newRig(t)
	post := func(status int, code, version, body string, says ...string) {
		t.Helper()
		r.unchanged(code, func() {
			a := r.refused(status, code, "POST", version, "/groups/{G}/clusters", body)
			for _, s := range says {
				if !strings.Contains(a.detail(), s) {
					t.Errorf("%s does not say %q: %s", code, s, a.detail())
				}
			}
		})
	}
	post(400, "ENCRYPTION_AT_REST_NOT_ENABLED", current, clusterJSON("early", "AWS", "M10", ""), "encryptionAtRest")
	r.enable()
	for _, size := range []string{"M0", "M2", "M5", "FLEX", "SERVERLESS"} {
		post(400, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", current, clusterJSON("small", "AWS", size, ""), size, "M10")
		post(400, "INSUFFICIENT_INSTANCE_SIZE", current, clusterJSON("small", "NONE", size, ""), size, "M10")
		post(400, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", legacy, `{"name":"small","encryptionAtRestProvider":"AWS","providerSettings":{"providerName":"AWS","instanceSizeName":"`+size+`","regionName":"US_EAST_1"}}`, size)
	}
	for _, provider := range []string{"TENANT", "FLEX", "SERVERLESS"} {
		post(400, "CANNOT_USE_ENCRYPTION_AT_REST_TENANT", current, strings.Replace(clusterJSON("small", "AWS", "M10", ""), `"providerName":"AWS"`, `"providerName":"`+provider+`"`, 1), provider)
	}
	r.refused(400, "FEATURE_UNSUPPORTED", "POST", "2024-11-13", "/groups/{G}/flexClusters", `{}`)
	r.refused(400, "FEATURE_UNSUPPORTED", "POST", legacy, "/groups/{G}/serverless", `{}`)
	post(400, "INVALID_ENUM_VALUE", current, clusterJSON("x", "NONE", "M11", ""))
	post(400, "INVALID_ENUM_VALUE", current, clusterJSON("x", "MINE", "M10", ""))
	post(400, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", current, clusterJSON("x", "GCP", "M10", ""))
	post(400, "CLUSTER_NAME_INVALID", current, clusterJSON("-x", "NONE", "M10", ""))
	post(400, "MISSING_ATTRIBUTE", current, `{}`, "name")
	post(400, "MISSING_ATTRIBUTE", current, `{"name":"x"}`, "replicationSpecs")
	post(400, "MISSING_ATTRIBUTE", legacy, `{"name":"x"}`)
	post(400, "INVALID_ATTRIBUTE", current, strings.Replace(clusterJSON("x", "NONE", "M10", ""), `"nodeCount":3`, `"nodeCount":2`, 1), "nodeCount")
	post(400, "INVALID_ATTRIBUTE", current, strings.Replace(clusterJSON("x", "NONE", "M10", ""), "US_EAST_1", "NOWHERE", 1), "regionName")
	post(400, "INVALID_ATTRIBUTE", current, clusterJSON("x", "NONE", "M10", `"diskSizeGB":10,`), "diskSizeGB", "2023-02-01")
	post(400, "INVALID_ATTRIBUTE", current, strings.Replace(clusterJSON("x", "NONE", "M10", ""), `"zoneName"`, `"numShards":1,"zoneName"`, 1), "numShards")
	post(400, "INVALID_ATTRIBUTE", advanced, `{"name":"x","providerSettings":{}}`, "providerSettings")
	post(400, "INVALID_ATTRIBUTE", current, clusterJSON("x", "NONE", "M10", `"anything":1,`), "anything")
	post(400, "INVALID_ATTRIBUTE", current, strings.Replace(clusterJSON("x", "NONE", "M10", ""), `"instanceSize"`, `"InstanceSize"`, 1), "replicationSpecs.regionConfigs.electableSpecs.InstanceSize")
	post(400, "INVALID_ENUM_VALUE", current, clusterJSON("x", "NONE", "M10", `"versionReleaseSystem":"NIGHTLY",`))
	post(400, "INVALID_ENUM_VALUE", current, clusterJSON("x", "NONE", "M10", `"advancedConfiguration":{"minimumEnabledTlsProtocol":"SSL"},`))
	post(400, "FEATURE_UNSUPPORTED", current, strings.Replace(clusterJSON("x", "NONE", "M10", ""), "REPLICASET", "SHARDED", 1))
	post(400, "FEATURE_UNSUPPORTED", legacy, `{"name":"x","backupEnabled":true,"providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"}}`, "providerBackupEnabled")
	post(400, "FEATURE_UNSUPPORTED", legacy, `{"name":"x","numShards":2,"providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"}}`)
	post(400, "FEATURE_UNSUPPORTED", legacy, `{"name":"x","replicationSpecs":[{},{}],"providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"}}`)
	post(400, "MALFORMED_JSON", current, clusterJSON("x", "NONE", "M10", "")+"x")
	post(400, "INVALID_JSON", current, `[]`)
	post(413, "REQUEST_TOO_LARGE", current, `{"name":"`+strings.Repeat("x", 1<<20)+`"}`)

	r.newCluster("main", "AWS", "")
	post(400, "DUPLICATE_CLUSTER_NAME", current, clusterJSON("main", "NONE", "M10", ""))
	patch := func(status int, code, body string) {
		t.Helper()
		r.unchanged(code, func() { r.refused(status, code, "PATCH", current, "/groups/{G}/clusters/main", body) })
	}
	scale := func(size string) string {
		return `{"replicationSpecs":[{"regionConfigs":[{"providerName":"AWS","regionName":"US_EAST_1","priority":7,"electableSpecs":{"instanceSize":"` + size + `","nodeCount":3}}]}]}`
	}
	patch(400, "INSUFFICIENT_INSTANCE_SIZE", scale("M5"))
	patch(400, "INVALID_ATTRIBUTE", `{"name":"other"}`)
	patch(400, "INVALID_ATTRIBUTE", `{"Paused":true}`)
	patch(400, "INVALID_ATTRIBUTE", `{"paused":1}`)
	patch(400, "MISSING_ATTRIBUTE", `{"replicationSpecs":[]}`)
	r.ok(200, "PATCH", current, "/groups/{G}/clusters/main", `{"terminationProtectionEnabled":true}`)
	r.refused(400, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", "DELETE", current, "/groups/{G}/clusters/main", "")
	r.ok(200, "PATCH", current, "/groups/{G}/clusters/main", `{"paused":true}`)
	patch(409, "CANNOT_UPDATE_PAUSED_CLUSTER", `{"backupEnabled":true}`)
	patch(409, "CANNOT_UPDATE_PAUSED_CLUSTER", `{"paused":false,"backupEnabled":true}`)
	// Other edits are for Cluster Managers, the provider of encryption is not.
	manager := r.newKey(tenant.OrgMember, tenant.GroupClusterManager)
	if a := r.call(manager, "PATCH", current, "/groups/{G}/clusters/main", `{"paused":false}`); a.status != 200 {
		t.Errorf("%s", a.raw)
	}
	if a := r.call(manager, "PATCH", current, "/groups/{G}/clusters/main", `{"encryptionAtRestProvider":"NONE"}`); a.code() != "USER_UNAUTHORIZED" {
		t.Errorf("%s", a.raw)
	}
}

func TestDatabaseUsersAndAccessEntries(t *testing.T) {
	r := newRig(t)
	odd := strings.Replace(appUser, `"app"`, `"arn:aws:iam::123456789012:role/odd name"`, 1)
	a := r.ok(201, "POST", legacy, "/groups/{G}/databaseUsers", odd)
	for name, want := range map[string]any{"groupId": string(r.project), "awsIAMType": "NONE", "x509Type": "NONE", "ldapAuthType": "NONE", "oidcAuthType": "NONE", "password": nil, "description": nil} {
		if a.body[name] != want {
			t.Errorf("%s is %v", name, a.body[name])
		}
	}
	const path = "/groups/{G}/databaseUsers/admin/arn:aws:iam::123456789012:role%2Fodd%20name"
	if b := r.ok(200, "GET", legacy, path, ""); b.raw != a.raw {
		t.Errorf("%s", b.raw)
	}
	u := strings.TrimPrefix(a.link("self"), r.srv.URL)
	if b := r.ok(200, "GET", legacy, u, ""); b.raw != a.raw {
		t.Errorf("%s is not the user: %s", u, b.raw)
	}
	back := r.ok(200, "PATCH", legacy, path, `{"databaseName":"admin","username":"arn:aws:iam::123456789012:role/odd name","groupId":"`+string(r.project)+`","scopes":null,"description":"now","labels":[{"key":"a","value":"b"}]}`)
	if back.body["description"] != "now" || len(back.body["roles"].([]any)) != 1 {
		t.Errorf("%s", back.raw)
	}
	r.unchanged("refused users", func() {
		r.refused(409, "USER_ALREADY_EXISTS", "POST", legacy, "/groups/{G}/databaseUsers", odd)
		r.refused(400, "FEATURE_UNSUPPORTED", "POST", legacy, "/groups/{G}/databaseUsers", strings.Replace(appUser, `{"username"`, `{"awsIAMType":"ROLE","username"`, 1))
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/databaseUsers", strings.Replace(appUser, `{"username"`, `{"groupId":"000000000000000000000000","username"`, 1))
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/databaseUsers", strings.Replace(appUser, "roleName", "rolename", 1))
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/databaseUsers", strings.Replace(appUser, "a-long-password", "short", 1))
		r.refused(404, "USERNAME_NOT_FOUND", "GET", legacy, "/groups/{G}/databaseUsers/$external/arn:aws:iam::123456789012:role%2Fodd%20name", "")
		r.refused(404, "RESOURCE_NOT_FOUND", "GET", legacy, "/groups/{G}/databaseUsers/admin/role/odd", "")
	})
	r.ok(204, "DELETE", legacy, path, "")
	r.refused(404, "USERNAME_NOT_FOUND", "GET", legacy, path, "")

	list := r.ok(201, "POST", legacy, "/groups/{G}/accessList?includeCount=true&itemsPerPage=100&pageNum=1", `[{"cidrBlock":"198.51.100.0/24","comment":"net"},{"ipAddress":"203.0.113.7","groupId":"x"}]`)
	if len(list.results()) != 2 || list.body["totalCount"] != json.Number("2") {
		t.Errorf("%s", list.raw)
	}
	for _, entry := range []string{"203.0.113.7", "203.0.113.7%2F32"} {
		if e := r.ok(200, "GET", legacy, "/groups/{G}/accessList/"+entry, ""); e.body["ipAddress"] != "203.0.113.7" || e.body["cidrBlock"] != "203.0.113.7/32" || e.body["groupId"] != string(r.project) {
			t.Errorf("%s", e.raw)
		}
	}
	net := r.ok(200, "GET", legacy, "/groups/{G}/accessList/198.51.100.0%2F24", "")
	if net.body["comment"] != "net" || net.body["ipAddress"] != nil {
		t.Errorf("%s", net.raw)
	}
	if again := r.ok(200, "GET", legacy, strings.TrimPrefix(net.link("self"), r.srv.URL), ""); again.raw != net.raw {
		t.Errorf("%s", again.raw)
	}
	if s := r.ok(200, "GET", legacy, "/groups/{G}/accessList/198.51.100.0%2F24/status", ""); s.body["STATUS"] != "PENDING" {
		t.Errorf("nodes do not enforce it yet: %s", s.raw)
	}
	r.unchanged("refused entries", func() {
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/accessList", `[{"ipAddress":"203.0.113.9"},{"cidrBlock":"x"}]`)
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/accessList", `[null]`)
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups/{G}/accessList", `[{"ipAddress":"203.0.113.9","deleteAfterDate":"soon"}]`)
		r.refused(400, "INVALID_JSON", "POST", legacy, "/groups/{G}/accessList", `{"ipAddress":"203.0.113.9"}`)
	})
	r.ok(204, "DELETE", legacy, "/groups/{G}/accessList/203.0.113.7%2F32", "")
	r.refused(404, "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND", "GET", legacy, "/groups/{G}/accessList/203.0.113.7", "")
}

func TestProjects(t *testing.T) {
	r := newRig(t)
	a := r.ok(201, "POST", legacy, "/groups", `{"name":"New","orgId":"`+string(r.Org)+`","tags":[{"key":"k","value":"v"}],"withDefaultAlertsSettings":false}`)
	id, _ := a.body["id"].(string)
	if a.body["withDefaultAlertsSettings"] != false || a.body["clusterCount"] != json.Number("0") || a.body["created"] == nil || len(a.body["tags"].([]any)) != 1 {
		t.Errorf("%s", a.raw)
	}
	if b := r.ok(200, "GET", legacy, strings.TrimPrefix(a.link("self"), r.srv.URL), ""); b.raw != a.raw {
		t.Errorf("%s", b.raw)
	}
	if b := r.ok(200, "PATCH", legacy, "/groups/"+id, `{"tags":[]}`); len(b.body["tags"].([]any)) != 0 || b.body["name"] != "New" {
		t.Errorf("%s", b.raw)
	}
	r.unchanged("refused projects", func() {
		r.refused(409, "GROUP_ALREADY_EXISTS", "POST", legacy, "/groups", `{"name":"New","orgId":"`+string(r.Org)+`"}`)
		r.refused(409, "GROUP_ALREADY_EXISTS", "PATCH", legacy, "/groups/{G}", `{"name":"New"}`)
		r.refused(404, "ORG_NOT_FOUND", "POST", legacy, "/groups", `{"name":"X","orgId":"000000000000000000000000"}`)
		r.refused(400, "MISSING_ATTRIBUTE", "POST", legacy, "/groups", `{"name":"X"}`)
		r.refused(400, "MISSING_ATTRIBUTE", "POST", legacy, "/groups", `{"orgId":"`+string(r.Org)+`"}`)
		r.refused(400, "INVALID_ATTRIBUTE", "POST", legacy, "/groups", `{"name":"<x>","orgId":"`+string(r.Org)+`"}`)
		r.refused(400, "INVALID_ATTRIBUTE", "PATCH", legacy, "/groups/{G}", `{"Name":"X"}`)
	})
	r.ok(202, "DELETE", legacy, "/groups/"+id, "")
	r.refused(404, "GROUP_NOT_FOUND", "GET", legacy, "/groups/"+id, "")
	root := r.ok(200, "GET", legacy, v2, "")
	if root.body["apiKey"].(map[string]any)["publicKey"] != ownerKey || root.body["throttling"] != false || root.body["appName"] == nil || root.body["build"] != "test" {
		t.Errorf("%s", root.raw)
	}
}
