package awslocal_test

import (
	"bytes"
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/keywright/keywright/internal/awslocal"
)

func TestStory(t *testing.T) {
	w := start(t)
	customer, platform := w.customer(), w.platform()
	keyARN := w.key(customer, "")
	roleARN := w.role(customer, "keywright", usePolicy(keyARN))

	_, err := platform.sts.AssumeRole(t.Context(), assumeInput(roleARN, "", ""))
	want(t, err, "AccessDenied", "sts:AssumeRole", roleARN, "user/keywright-server", "because no resource-based policy allows the sts:AssumeRole action")
	_, err = platform.sts.AssumeRole(t.Context(), assumeInput(roleARN, "another-id", ""))
	want(t, err, "AccessDenied", "because no resource-based policy allows")
	session := w.assume(platform, assumeInput(roleARN, externalID, usePolicy(keyARN)))

	who, err := session.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != "arn:aws:sts::"+awslocal.CustomerAccount+":assumed-role/keywright/keywright-test" {
		t.Fatalf("identity %v, %v", who, err)
	}
	blob, err := session.encrypt(keyARN)
	ok(t, err)
	plain, err := session.decrypt(keyARN, blob, testContext)
	ok(t, err)
	if string(plain) != "master key" {
		t.Errorf("decrypted %q", plain)
	}
	if bytes.Contains(blob, []byte("master key")) {
		t.Error("the ciphertext holds the plaintext")
	}
	_, err = session.decrypt("", blob, testContext)
	ok(t, err)

	_, err = customer.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	ok(t, err)
	_, err = session.decrypt(keyARN, blob, testContext)
	want(t, err, "DisabledException", keyARN, "is disabled")
	if s := session.state(t, keyARN); s != types.KeyStateDisabled {
		t.Errorf("state %s", s)
	}
	_, err = customer.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
	ok(t, err)
	_, err = session.decrypt(keyARN, blob, testContext)
	ok(t, err)
}

func TestPlatformMayOnlyAssumeRoles(t *testing.T) {
	w := start(t)
	keyARN := w.key(w.customer(), "")
	_, err := w.platform().kms.ListKeys(t.Context(), &kms.ListKeysInput{})
	want(t, err, "AccessDeniedException", "kms:ListKeys", "because no identity-based policy allows the kms:ListKeys action")
	_, err = w.platform().encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because the resource does not exist in this Region, no resource-based policies allow access")
	for _, c := range []awslocal.Credentials{w.s.Seed().Platform.Server, w.s.Seed().Platform.Agent} {
		_, err = w.as(c).sts.AssumeRole(t.Context(), assumeInput(w.s.Seed().CanaryRoleARN, "", ""))
		ok(t, err)
	}
	_, err = w.customer().sts.AssumeRole(t.Context(), assumeInput(w.s.Seed().CanaryRoleARN, "", ""))
	want(t, err, "AccessDenied")
	_, err = w.platform().sts.AssumeRole(t.Context(), assumeInput("arn:aws:iam::111122223333:role/none", externalID, ""))
	want(t, err, "AccessDenied", "because no resource-based policy allows the sts:AssumeRole action")
}

func TestSameAccountTrustThroughAccountLineNeedsTheCallersPolicy(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "outer", usePolicy(keyARN)) // may not assume anything
	trust := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}]}`
	inner, err := c.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("inner"), AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	_, err = session.sts.AssumeRole(t.Context(), assumeInput(*inner.Role.Arn, "", ""))
	want(t, err, "AccessDenied", "because no identity-based policy allows the sts:AssumeRole action", "assumed-role/outer/keywright-test")
	_, err = c.sts.AssumeRole(t.Context(), assumeInput(*inner.Role.Arn, "", ""))
	ok(t, err)
}

func TestSessionPolicyNarrows(t *testing.T) {
	w := start(t)
	customer := w.customer()
	keyARN := w.key(customer, "")
	roleARN := w.role(customer, "keywright", usePolicy(keyARN))
	describe := strings.ReplaceAll(usePolicy(keyARN), `"kms:DescribeKey","kms:Encrypt","kms:Decrypt"`, `"kms:DescribeKey"`)
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, describe))
	session.state(t, keyARN)
	_, err := session.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no session policy allows the kms:Encrypt action")

	deny := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"kms:Encrypt","Resource":"*"}]}`
	_, err = w.assume(w.platform(), assumeInput(roleARN, externalID, deny)).encrypt(keyARN)
	want(t, err, "AccessDeniedException", "with an explicit deny in a session policy")
}

func TestRoleDeletedAndMadeAnew(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", usePolicy(keyARN))
	named := strings.ReplaceAll(keyPolicy(awslocal.CustomerAccount, `,{"Sid":"Role","Effect":"Allow","Principal":{"AWS":"ROLE"},"Action":"kms:Encrypt","Resource":"*"}`), "ROLE", roleARN)
	_, err := c.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &keyARN, Policy: &named})
	ok(t, err)
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	_, err = c.iam.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("keywright")})
	want(t, err, "DeleteConflict")
	_, err = c.iam.DeleteRolePolicy(t.Context(), &iam.DeleteRolePolicyInput{RoleName: aws.String("keywright"), PolicyName: aws.String("keywright")})
	ok(t, err)
	_, err = session.encrypt(keyARN) // the key policy names the role: enough alone
	ok(t, err)
	_, err = c.iam.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("keywright")})
	ok(t, err)
	_, err = session.encrypt(keyARN)
	want(t, err, "UnrecognizedClientException")
	w.role(c, "keywright", "")
	_, err = session.encrypt(keyARN)
	want(t, err, "UnrecognizedClientException")
	_, err = w.assume(w.platform(), assumeInput(roleARN, externalID, "")).encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no identity-based policy allows")
	got, err := c.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &keyARN})
	if err != nil || strings.Contains(*got.Policy, roleARN) || !strings.Contains(*got.Policy, `"AROA`) {
		t.Errorf("policy of a deleted principal reads %v, %v", got, err)
	}
}

func TestTrustWithdrawnLeavesRunningSession(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	nobody := `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"sts:AssumeRole"}]}`
	_, err := c.iam.UpdateAssumeRolePolicy(t.Context(), &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String("keywright"), PolicyDocument: &nobody})
	ok(t, err)
	_, err = w.platform().sts.AssumeRole(t.Context(), assumeInput(roleARN, externalID, ""))
	want(t, err, "AccessDenied", "because no resource-based policy allows the sts:AssumeRole action")
	_, err = session.encrypt(keyARN)
	ok(t, err)
	w.putRolePolicy(c, "keywright", usePolicy(strings.Replace(keyARN, "us-east-1", "eu-west-1", 1)))
	_, err = session.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no identity-based policy allows the kms:Encrypt action", "assumed-role/keywright/keywright-test", keyARN)
}

func TestSessionExpires(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	in := assumeInput(w.role(c, "keywright", usePolicy(keyARN)), externalID, "")
	in.DurationSeconds = aws.Int32(899)
	_, err := w.platform().sts.AssumeRole(t.Context(), in)
	want(t, err, "ValidationError", "900")
	in.DurationSeconds = aws.Int32(3601)
	_, err = w.platform().sts.AssumeRole(t.Context(), in)
	want(t, err, "ValidationError", "MaxSessionDuration")
	in.DurationSeconds = aws.Int32(900)
	session := w.assume(w.platform(), in)
	w.clock.move(14 * time.Minute)
	_, err = session.encrypt(keyARN)
	ok(t, err)
	w.clock.move(61 * time.Second)
	_, err = session.encrypt(keyARN)
	want(t, err, "ExpiredTokenException")
	_, err = session.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	want(t, err, "ExpiredToken")
}

func TestIAMRoles(t *testing.T) {
	w := start(t)
	c := w.customer()
	roleARN := w.role(c, "Keywright", "")
	_, err := c.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("keywright"), AssumeRolePolicyDocument: aws.String(platformTrust())})
	want(t, err, "EntityAlreadyExists")
	got, err := c.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("Keywright")})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := url.PathUnescape(*got.Role.AssumeRolePolicyDocument)
	if err != nil || doc != platformTrust() || *got.Role.Arn != roleARN || !strings.HasPrefix(*got.Role.RoleId, "AROA") || len(*got.Role.RoleId) != 21 {
		t.Errorf("role %+v", got.Role)
	}
	w.putRolePolicy(c, "Keywright", usePolicy("arn:aws:kms:us-east-1:111122223333:key/x"))
	names, err := c.iam.ListRolePolicies(t.Context(), &iam.ListRolePoliciesInput{RoleName: aws.String("Keywright")})
	if err != nil || len(names.PolicyNames) != 1 || names.PolicyNames[0] != "keywright" {
		t.Errorf("policies %v, %v", names, err)
	}
	inline, err := c.iam.GetRolePolicy(t.Context(), &iam.GetRolePolicyInput{RoleName: aws.String("Keywright"), PolicyName: aws.String("keywright")})
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := url.PathUnescape(*inline.PolicyDocument); text != usePolicy("arn:aws:kms:us-east-1:111122223333:key/x") {
		t.Errorf("policy %s", text)
	}
	for _, name := range []string{"a", "b"} {
		w.role(c, name, "")
	}
	var seen []string
	pages := iam.NewListRolesPaginator(c.iam, &iam.ListRolesInput{MaxItems: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Roles {
			seen = append(seen, *r.RoleName)
		}
	}
	if strings.Join(seen, " ") != "a b Keywright" {
		t.Errorf("listed %v", seen)
	}
	attached, err := c.iam.ListAttachedRolePolicies(t.Context(), &iam.ListAttachedRolePoliciesInput{RoleName: aws.String("a")})
	if err != nil || len(attached.AttachedPolicies) != 0 {
		t.Errorf("attached %v, %v", attached, err)
	}
	profiles, err := c.iam.ListInstanceProfilesForRole(t.Context(), &iam.ListInstanceProfilesForRoleInput{RoleName: aws.String("a")})
	if err != nil || len(profiles.InstanceProfiles) != 0 {
		t.Errorf("profiles %v, %v", profiles, err)
	}
	_, err = c.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("none")})
	want(t, err, "NoSuchEntity", "none")
	_, err = w.platform().iam.ListRoles(t.Context(), &iam.ListRolesInput{})
	want(t, err, "AccessDenied", "iam:ListRoles", "because no identity-based policy allows")
	_, err = c.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("x"), AssumeRolePolicyDocument: aws.String(strings.Replace(platformTrust(), awslocal.PlatformAccount+":root", awslocal.PlatformAccount+":user/none", 1))})
	want(t, err, "MalformedPolicyDocument", "Invalid principal in policy")
	_, err = c.iam.ListGroups(t.Context(), &iam.ListGroupsInput{})
	want(t, err, "InvalidAction", "does not implement iam:ListGroups")
	_, err = c.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("x"), AssumeRolePolicyDocument: aws.String(platformTrust()), PermissionsBoundary: aws.String("arn:aws:iam::aws:policy/ReadOnlyAccess")})
	want(t, err, "NoSuchEntity", "ReadOnlyAccess")
	_, err = c.iam.ListPolicies(t.Context(), &iam.ListPoliciesInput{PolicyUsageFilter: iamtypes.PolicyUsageTypePermissionsBoundary})
	want(t, err, "ValidationError", "does not support the parameter PolicyUsageFilter")
}

// A refused change changes nothing, not even on disk.
func TestMalformedPoliciesChangeNothing(t *testing.T) {
	w := start(t)
	c := w.customer()
	w.role(c, "keywright", "")
	for name, text := range map[string]string{
		"json":      `{`,
		"operator":  `{"Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"StringAlmost":{"aws:SourceIp":"1"}}}]}`,
		"key":       `{"Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:ResourceAliases":"1"}}}]}`,
		"principal": `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}`,
	} {
		_, err := c.iam.PutRolePolicy(context.Background(), &iam.PutRolePolicyInput{RoleName: aws.String("keywright"), PolicyName: aws.String("p"), PolicyDocument: &text})
		want(t, err, "MalformedPolicyDocument")
		out, err := c.iam.ListRolePolicies(t.Context(), &iam.ListRolePoliciesInput{RoleName: aws.String("keywright")})
		if err != nil || len(out.PolicyNames) != 0 {
			t.Errorf("%s: %v, %v", name, out.PolicyNames, err)
		}
	}
}

func TestRoleChainingLastsOneHourAtMost(t *testing.T) {
	w := start(t)
	c := w.customer()
	outer := w.role(c, "outer", `{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"arn:aws:iam::444455556666:role/long"}}`)
	trust := strings.ReplaceAll(`{"Statement":{"Effect":"Allow","Principal":{"AWS":"ROLE"},"Action":"sts:AssumeRole"}}`, "ROLE", outer)
	long, err := w.second().iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("long"), AssumeRolePolicyDocument: &trust, MaxSessionDuration: aws.Int32(7200)})
	if err != nil {
		t.Fatal(err)
	}
	session := w.assume(w.platform(), assumeInput(outer, externalID, ""))
	in := assumeInput(*long.Role.Arn, "", "")
	in.DurationSeconds = aws.Int32(3601)
	_, err = session.sts.AssumeRole(t.Context(), in)
	want(t, err, "ValidationError", "1 hour session limit for roles assumed by role chaining")
	in.DurationSeconds = aws.Int32(3600)
	out, err := session.sts.AssumeRole(t.Context(), in)
	if err != nil || *out.AssumedRoleUser.Arn != "arn:aws:sts::444455556666:assumed-role/long/keywright-test" {
		t.Errorf("%+v, %v", out, err)
	}
	in.DurationSeconds = aws.Int32(7200) // the administrator's own key is no session
	_, err = w.customer().sts.AssumeRole(t.Context(), in)
	want(t, err, "AccessDenied")
}

func TestAssumeRoleRefusesWhatItDoesNotKnow(t *testing.T) {
	w := start(t)
	roleARN := w.role(w.customer(), "keywright", "")
	for name, change := range map[string]func(*sts.AssumeRoleInput){
		"PolicyArns": func(in *sts.AssumeRoleInput) {
			in.PolicyArns = []ststypes.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::aws:policy/ReadOnlyAccess")}}
		},
		"Tags": func(in *sts.AssumeRoleInput) {
			in.Tags = []ststypes.Tag{{Key: aws.String("a"), Value: aws.String("b")}}
		},
		"SourceIdentity":  func(in *sts.AssumeRoleInput) { in.SourceIdentity = aws.String("me") },
		"is invalid":      func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String("arn:aws:iam::111122223333:user/admin") },
		"externalId":      func(in *sts.AssumeRoleInput) { in.ExternalId = aws.String("a b") },
		"roleSessionName": func(in *sts.AssumeRoleInput) { in.RoleSessionName = aws.String("a/b") },
	} {
		in := assumeInput(roleARN, externalID, "")
		change(in)
		_, err := w.platform().sts.AssumeRole(t.Context(), in)
		want(t, err, "ValidationError", name)
	}
	in := assumeInput(roleARN, externalID, `{"Statement":`)
	_, err := w.platform().sts.AssumeRole(t.Context(), in)
	want(t, err, "MalformedPolicyDocument")
}
