package cli_test

import (
	"strings"
	"testing"
)

func guideAnswers() map[string]string {
	const text = `{"kind":"trust","where":"The trust policy.","json":"{\n  \"Version\": \"2012-10-17\"\n}","awsCli":"aws iam update-assume-role-policy\n","terraform":"resource \"aws_iam_role\" \"keywright\" {\n}\n"}`
	return map[string]string{
		"GET /api/atlas/v2/groups/byName/Shop":                               `{"id":"g1","name":"Shop"}`,
		"GET /api/keywright/v1/groups/g1/encryptionAtRest:guidance":          `{"crossAccount":true,"placeholders":["KEY_ID"],"policies":[` + text + `],"createKey":{"kind":"createKey","where":"A new key.","awsCli":"aws kms create-key\n"}}`,
		"GET /api/keywright/v1/groups/g1/cloudProviderAccess/r1:trustPolicy": `{"trustPolicy":` + text + `,"createRole":{"kind":"createRole","where":"A new role.","awsCli":"aws iam create-role\n"}}`,
		"POST /api/keywright/v1/groups/g1/encryptionAtRest:check":            `{"outcome":"REVOKED","reason":"KEY_ACCESS_DENIED","detail":"It lacks kms:Encrypt.","keyArn":"arn:k","roleArn":"arn:r","permissions":[{"action":"sts:AssumeRole","result":"OK"},{"action":"kms:Encrypt","result":"REFUSED","remedyStatement":` + text + `},{"action":"kms:Decrypt","result":"NOT_TRIED"}]}`,
		"GET /api/atlas/v2/groups/byName/Well":                               `{"id":"g2","name":"Well"}`,
		"POST /api/keywright/v1/groups/g2/encryptionAtRest:check":            `{"outcome":"OK","permissions":[{"action":"kms:Encrypt","result":"OK"}]}`,
	}
}

func TestPoliciesArePrintedToBePasted(t *testing.T) {
	away(t)
	t.Setenv("KEYWRIGHT_BOOTSTRAP", bootstrap(t, t.TempDir(), api(t, guideAnswers())))
	for _, x := range []struct {
		args []string
		code int
		says []string
		not  string
	}{
		{[]string{"key", "guide", "Shop"}, 0, []string{"different accounts", "Replace KEY_ID", "{\n  \"Version\": \"2012-10-17\"\n}\n", "aws kms create-key\n"}, "terraform"},
		{[]string{"key", "guide", "Shop", "--form", "aws-cli", "--key", "x", "--region", "EU_WEST_1"}, 0, []string{"\naws iam update-assume-role-policy\n"}, "Version"},
		{[]string{"key", "guide", "Shop", "--form", "terraform"}, 0, []string{"resource \"aws_iam_role\" \"keywright\" {\n}\n"}, "Version"},
		{[]string{"key", "guide", "Shop", "-o", "json"}, 0, []string{`"crossAccount": true`}, "Replace"},
		{[]string{"key", "guide", "Shop", "--form", "yaml"}, 2, []string{"json, aws-cli or terraform"}, ""},
		{[]string{"key", "check", "Shop"}, 3, []string{"kms:Encrypt     REFUSED", "kms:Decrypt     NOT_TRIED", "It lacks kms:Encrypt.", "2012-10-17"}, ""},
		{[]string{"key", "check", "Well"}, 0, []string{"kms:Encrypt  OK"}, "2012"},
		{[]string{"role", "trust-policy", "Shop", "r1"}, 0, []string{"2012-10-17"}, "create-role"},
		{[]string{"role", "trust-policy", "Shop", "r1", "--create", "--form", "aws-cli"}, 0, []string{"aws iam create-role\n"}, "2012-10-17"},
		{[]string{"role", "trust-policy", "Shop"}, 2, []string{"accepts 2 arg"}, ""},
		{[]string{"key", "check", "Gone"}, 1, []string{"GROUP_NOT_FOUND"}, ""},
	} {
		code, out, errs := run(x.args...)
		if code != x.code {
			t.Errorf("%v: code %d, %s", x.args, code, errs)
		}
		for _, s := range x.says {
			if !strings.Contains(out+errs, s) {
				t.Errorf("%v does not say %q:\n%s%s", x.args, s, out, errs)
			}
		}
		if x.not != "" && strings.Contains(out, x.not) {
			t.Errorf("%v says %q:\n%s", x.args, x.not, out)
		}
	}
}

func TestEndpointFlagsAreChecked(t *testing.T) {
	for flag, says := range map[string]string{
		"--kms-endpoint=eu-west-1=http://kms.example.net": "https", "--sts-endpoint=EU_WEST_1=https://a.example": "us-east-1", "--kms-endpoint=nothing": "not an address",
	} {
		if code, _, errs := run("server", "--data-dir", t.TempDir(), flag); code != 2 || !strings.Contains(errs, says) {
			t.Errorf("%s: code %d, %s", flag, code, errs)
		}
	}
}
