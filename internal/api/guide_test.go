package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

const ownGroup = "/api/keywright/v1/groups/{G}"

// object and list walk into an answer.
func object(v any, path ...string) map[string]any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	m, _ := v.(map[string]any)
	return m
}

func list(v any) []any { l, _ := v.([]any); return l }

func word(v any) string { s, _ := v.(string); return s }

// threeForms checks that a text can be pasted in all three forms.
func threeForms(t *testing.T, x map[string]any, kind string, says ...string) {
	t.Helper()
	for _, form := range []string{"json", "awsCli", "terraform"} {
		for _, s := range says {
			if !strings.Contains(word(x[form]), s) {
				t.Errorf("%s %s does not say %q: %v", kind, form, s, x[form])
			}
		}
	}
	if x["kind"] != kind || word(x["where"]) == "" {
		t.Errorf("%v", x)
	}
}

func TestPoliciesBeforeSave(t *testing.T) {
	r := newRig(t)
	const guidance = ownGroup + "/encryptionAtRest:guidance"
	if a := r.ok(200, "GET", "", guidance, ""); a.body["crossAccount"] != nil || len(list(a.body["placeholders"])) != 5 || len(list(a.body["policies"])) != 2 {
		t.Errorf("nothing configured: %s", a.raw)
	}
	reg := r.ok(200, "POST", legacy, "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`)
	role, external := word(reg.body["roleId"]), word(reg.body["atlasAssumedRoleExternalId"])
	a := r.ok(200, "GET", "", ownGroup+"/cloudProviderAccess/"+role+":trustPolicy", "")
	threeForms(t, object(a.body, "trustPolicy"), "trust", external, "sts:AssumeRole")
	threeForms(t, object(a.body, "createRole"), "createRole", external)
	r.refused(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "GET", "", ownGroup+"/cloudProviderAccess/"+strings.Repeat("0", 24)+":trustPolicy", "")
	reader := r.newKey(tenant.OrgMember, tenant.GroupReadOnly)
	if a := r.call(reader, "GET", "", guidance, ""); a.status != 200 {
		t.Errorf("a reader: %s", a.raw)
	}
	if a := r.call(reader, "POST", "", ownGroup+"/encryptionAtRest:check", `{}`); a.code() != "USER_UNAUTHORIZED" {
		t.Errorf("a reader checks: %s", a.raw)
	}

	_, target := r.enable()
	const key = "arn:aws:kms:eu-west-1:333333333333:key/12345678-1234-1234-1234-123456781234"
	a = r.ok(200, "GET", "", guidance+"?limitToProject=true&region=EU_WEST_1&customerMasterKeyID="+key, "")
	all := list(a.body["policies"])
	if a.body["crossAccount"] != true || a.body["roleArn"] != target.RoleARN || a.body["keyArn"] != key || len(all) != 3 {
		t.Fatalf("another account: %s", a.raw)
	}
	project := string(r.project)
	threeForms(t, object(all[0]), "trust")
	threeForms(t, object(all[1]), "identity", key, project)
	threeForms(t, object(all[2]), "key", target.RoleARN, project)
	for _, q := range []string{"?limitToProject=maybe", "?customerMasterKeyID=alias/x"} {
		r.refused(400, "INVALID_ATTRIBUTE", "GET", "", guidance+q, "")
	}
}

func TestACheckNamesWhatIsMissing(t *testing.T) {
	r := newRig(t)
	_, target := r.enable()
	const check = ownGroup + "/encryptionAtRest:check"
	r.unchanged("checks", func() {
		if a := r.ok(200, "POST", "", check, `{}`); a.body["outcome"] != "OK" || len(list(a.body["permissions"])) != 4 || a.body["keyArn"] != target.KeyID {
			t.Errorf("%s", a.raw)
		}
		r.AWS.Deny(target.RoleARN, true, kms.OpDecrypt)
		a := r.ok(200, "POST", "", check, `{}`)
		p := list(a.body["permissions"])
		if a.body["outcome"] != "REVOKED" || a.body["errorCode"] != "NO_PERMISSION_TO_ENCRYPT_DECRYPT" || object(p[0])["result"] != "OK" || object(p[2])["result"] != "OK" || object(p[3])["result"] != "REFUSED" {
			t.Fatalf("%s", a.raw)
		}
		threeForms(t, object(p[3], "remedyStatement"), "identity", target.KeyID, "kms:Decrypt")
		r.AWS.Deny(target.RoleARN, false, kms.OpDecrypt)
		r.refused(404, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", "POST", "", check, `{"roleId":"`+strings.Repeat("0", 24)+`"}`)
	})
}

// After a failure the project's state has the exact statement, and events say it briefly.
func TestTheStateHasTheStatementThatIsMissing(t *testing.T) {
	r := newRig(t)
	_, target := r.enable()
	r.report(custody.State{
		Verdict: custody.Invalid, Reason: kms.KeyAccessDenied, Generation: 1,
		Refused: []kms.Finding{{Permission: "kms:Encrypt", Policy: kms.KeyPolicy, Explicit: true}, {Permission: "kms:Decrypt", Policy: kms.IdentityPolicy}},
	})
	a := r.ok(200, "GET", "", ownGroup+"/encryptionAtRest", "")
	first := object(a.body, "remedyStatement")
	if a.body["verdict"] != "INVALID" || first["kind"] != "key" || first["deny"] != true || !strings.Contains(word(first["awsCli"]), "get-key-policy") || !strings.Contains(word(a.body["remedy"]), "Effect Deny") {
		t.Errorf("%s", a.raw)
	}
	further := list(a.body["furtherStatements"])
	if len(further) != 1 {
		t.Fatalf("%s", a.raw)
	}
	threeForms(t, object(further[0]), "identity", target.KeyID)
	events := r.ok(200, "GET", legacy, "/groups/{G}/events?eventType=AWS_ENCRYPTION_KEY_INVALID", "").raw
	if strings.Contains(events, "sts:AssumeRole") || strings.Contains(events, `\"Effect\"`) {
		t.Errorf("events hold statements: %s", events)
	}
	found := false
	for _, e := range r.FullEvents(r.project) {
		if e.Type == "AWS_ENCRYPTION_KEY_INVALID" {
			found = strings.Contains(e.Message, "a statement of the key policy denies kms:Encrypt") && strings.Contains(e.Message, "no identity-based policy allows kms:Decrypt") && !strings.Contains(e.Message, "Effect")
		}
	}
	if !found {
		t.Errorf("%+v", r.FullEvents(r.project))
	}
}

// report makes an encrypted cluster and lets its host say what it found.
func (r *rig) report(st custody.State) {
	r.T.Helper()
	r.ok(201, "POST", "2024-10-23", "/groups/{G}/clusters", clusterJSON("c", "AWS", "M10", ""))
	whole := custody.NewState(custody.Policy{}, st.Generation, custody.Instant{Wall: time.Now()})
	whole.Verdict, whole.Reason, whole.Refused = st.Verdict, st.Reason, st.Refused
	r.Must(r.Store.Tx(r.T.Context(), func(tx *store.Tx) error {
		nodes, err := tx.NodesOfProject(r.project)
		if err != nil {
			return err
		}
		return r.CMK.Report(tx, nodes[0].Host, []agentlink.CustodyStatus{{Project: r.project, State: whole}})
	}))
}
