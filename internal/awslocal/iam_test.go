package awslocal_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keywright/keywright/internal/awslocal"
)

func statement(effect, action, resource string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":%q,"Action":%q,"Resource":%q}]}`, effect, action, resource)
}

// user makes a user with an access key and gives clients with it.
func (w *world) user(c clients, name string) clients {
	w.t.Helper()
	if _, err := c.iam.CreateUser(w.t.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
		w.t.Fatalf("create user: %v", err)
	}
	return w.as(w.accessKey(c, name))
}

func (w *world) accessKey(c clients, name string) awslocal.Credentials {
	w.t.Helper()
	k, err := c.iam.CreateAccessKey(w.t.Context(), &iam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		w.t.Fatalf("create access key: %v", err)
	}
	return awslocal.Credentials{AccessKeyID: *k.AccessKey.AccessKeyId, SecretAccessKey: *k.AccessKey.SecretAccessKey}
}

func (w *world) policy(c clients, name, text string) string {
	w.t.Helper()
	out, err := c.iam.CreatePolicy(w.t.Context(), &iam.CreatePolicyInput{PolicyName: &name, PolicyDocument: &text})
	if err != nil {
		w.t.Fatalf("create policy: %v", err)
	}
	return *out.Policy.Arn
}

func TestUserWithAccessKeyUsesAKey(t *testing.T) {
	w := start(t)
	admin := w.customer()
	keyARN := w.key(admin, "")
	made, err := admin.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("App"), Path: aws.String("/team/")})
	if err != nil || *made.User.Arn != "arn:aws:iam::111122223333:user/team/App" || !strings.HasPrefix(*made.User.UserId, "AIDA") {
		t.Fatalf("%+v, %v", made, err)
	}
	_, err = admin.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("app")})
	want(t, err, "EntityAlreadyExists")
	first := w.accessKey(admin, "App")
	app := w.as(first)
	who, err := app.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != *made.User.Arn || *who.UserId != *made.User.UserId {
		t.Fatalf("%+v, %v", who, err)
	}
	_, err = app.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "user/team/App", "because no identity-based policy allows the kms:Encrypt action")
	_, err = app.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("other")})
	want(t, err, "AccessDenied", "iam:CreateUser")
	_, err = admin.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("App"), PolicyName: aws.String("use"), PolicyDocument: aws.String(usePolicy(keyARN))})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	ok(t, err)
	_, err = admin.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("App"), PolicyName: aws.String("big"), PolicyDocument: aws.String(usePolicy(strings.Repeat("k", 10) + ":" + keyARN + strings.Repeat("0", 2048)))})
	want(t, err, "LimitExceeded")

	second := w.accessKey(admin, "App")
	_, err = admin.iam.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("App")})
	want(t, err, "LimitExceeded")
	status := func(s iamtypes.StatusType) {
		t.Helper()
		_, err := admin.iam.UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: aws.String("App"), AccessKeyId: &first.AccessKeyID, Status: s})
		ok(t, err)
	}
	status(iamtypes.StatusTypeInactive)
	_, err = app.encrypt(keyARN)
	want(t, err, "UnrecognizedClientException")
	_, err = w.as(second).encrypt(keyARN)
	ok(t, err)
	status(iamtypes.StatusTypeActive)
	w.restart()
	admin = w.customer()
	_, err = w.as(first).encrypt(keyARN)
	ok(t, err)
	keys, err := admin.iam.ListAccessKeys(t.Context(), &iam.ListAccessKeysInput{UserName: aws.String("App")})
	if err != nil || len(keys.AccessKeyMetadata) != 2 || keys.AccessKeyMetadata[0].Status != iamtypes.StatusTypeActive || keys.AccessKeyMetadata[0].CreateDate.IsZero() {
		t.Errorf("%+v, %v", keys, err)
	}
	if calls := w.calls(); strings.Contains(fmt.Sprint(calls), first.SecretAccessKey) {
		t.Error("the call log holds a secret")
	}

	del := func(what string) {
		t.Helper()
		_, err := admin.iam.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: aws.String("App")})
		want(t, err, "DeleteConflict", what)
	}
	del("access keys")
	for _, k := range []awslocal.Credentials{first, second} {
		_, err = admin.iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: aws.String("App"), AccessKeyId: &k.AccessKeyID})
		ok(t, err)
	}
	_, err = w.as(first).sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	want(t, err, "InvalidClientTokenId")
	del("must delete policies first")
	_, err = admin.iam.DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: aws.String("App"), PolicyName: aws.String("use")})
	ok(t, err)
	_, err = admin.iam.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: aws.String("App")})
	ok(t, err)
	_, err = admin.iam.GetUser(t.Context(), &iam.GetUserInput{UserName: aws.String("App")})
	want(t, err, "NoSuchEntity", "App")
}

func TestUsersReadBack(t *testing.T) {
	w := start(t)
	admin := w.customer()
	self, err := admin.iam.GetUser(t.Context(), &iam.GetUserInput{})
	if err != nil || *self.User.UserName != "admin" || *self.User.Path != "/" || self.User.CreateDate.IsZero() {
		t.Errorf("%+v, %v", self, err)
	}
	for _, name := range []string{"b", "a", "c"} {
		_, err := admin.iam.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name, Path: aws.String("/x/"), Tags: []iamtypes.Tag{{Key: aws.String("n"), Value: &name}}})
		ok(t, err)
	}
	var names []string
	pages := iam.NewListUsersPaginator(admin.iam, &iam.ListUsersInput{PathPrefix: aws.String("/x/"), MaxItems: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.Users {
			names = append(names, *u.UserName)
		}
	}
	if fmt.Sprint(names) != "[a b c]" {
		t.Errorf("listed %v", names)
	}
	groups, err := admin.iam.ListGroupsForUser(t.Context(), &iam.ListGroupsForUserInput{UserName: aws.String("a")})
	if err != nil || len(groups.Groups) != 0 {
		t.Errorf("%v, %v", groups, err)
	}
	// What the seed file names stays, or the next start would have no credentials.
	_, err = admin.iam.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: aws.String("Admin")})
	want(t, err, "UnmodifiableEntity", "seed file")
	_, err = admin.iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{AccessKeyId: aws.String(w.s.Seed().Customer.AccessKeyID)})
	want(t, err, "UnmodifiableEntity", "seed file")
	spare := w.accessKey(admin, "admin")
	_, err = w.as(spare).iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{AccessKeyId: &spare.AccessKeyID})
	ok(t, err)
}

func TestManagedPolicies(t *testing.T) {
	w := start(t)
	admin := w.customer()
	keyARN := w.key(admin, "")
	app := w.user(admin, "app")
	arn := w.policy(admin, "Use-Key", usePolicy(keyARN))
	roleARN := w.role(admin, "keywright", "")
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	for _, c := range []clients{app, session} {
		_, err := c.encrypt(keyARN)
		want(t, err, "AccessDeniedException", "because no identity-based policy allows")
	}
	_, err := admin.iam.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &arn})
	ok(t, err)
	_, err = admin.iam.AttachRolePolicy(t.Context(), &iam.AttachRolePolicyInput{RoleName: aws.String("keywright"), PolicyArn: &arn})
	ok(t, err)
	w.restart()
	app, session, admin = w.with(app.iam.Options().Credentials, region), w.with(session.iam.Options().Credentials, region), w.customer()
	for _, c := range []clients{app, session} {
		_, err := c.encrypt(keyARN)
		ok(t, err)
		if by := w.lastCall().DecidedBy; len(by) != 2 || by[1] != "identity policy "+arn+`, statement "Use"` {
			t.Errorf("decided by %q", by)
		}
	}
	attached, err := admin.iam.ListAttachedRolePolicies(t.Context(), &iam.ListAttachedRolePoliciesInput{RoleName: aws.String("keywright")})
	if err != nil || len(attached.AttachedPolicies) != 1 || *attached.AttachedPolicies[0].PolicyArn != arn || *attached.AttachedPolicies[0].PolicyName != "Use-Key" {
		t.Errorf("%+v, %v", attached, err)
	}
	got, err := admin.iam.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: &arn})
	if err != nil || *got.Policy.AttachmentCount != 2 || *got.Policy.DefaultVersionId != "v1" || !strings.HasPrefix(*got.Policy.PolicyId, "ANPA") {
		t.Errorf("%+v, %v", got, err)
	}

	// A new version takes effect only as the default one.
	deny := statement("Deny", "kms:Encrypt", "*")
	v2, err := admin.iam.CreatePolicyVersion(t.Context(), &iam.CreatePolicyVersionInput{PolicyArn: &arn, PolicyDocument: &deny})
	if err != nil || *v2.PolicyVersion.VersionId != "v2" || v2.PolicyVersion.IsDefaultVersion {
		t.Fatalf("%+v, %v", v2, err)
	}
	_, err = app.encrypt(keyARN)
	ok(t, err)
	_, err = admin.iam.SetDefaultPolicyVersion(t.Context(), &iam.SetDefaultPolicyVersionInput{PolicyArn: &arn, VersionId: aws.String("v2")})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "with an explicit deny in an identity-based policy")
	read, err := admin.iam.GetPolicyVersion(t.Context(), &iam.GetPolicyVersionInput{PolicyArn: &arn, VersionId: aws.String("v2")})
	if err != nil || !read.PolicyVersion.IsDefaultVersion || !strings.Contains(*read.PolicyVersion.Document, "Deny") {
		t.Errorf("%+v, %v", read, err)
	}
	_, err = admin.iam.DeletePolicyVersion(t.Context(), &iam.DeletePolicyVersionInput{PolicyArn: &arn, VersionId: aws.String("v2")})
	want(t, err, "DeleteConflict", "default version")

	_, err = admin.iam.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &arn})
	want(t, err, "DeleteConflict", "attached")
	_, err = admin.iam.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("keywright")})
	want(t, err, "DeleteConflict", "detach")
	_, err = admin.iam.DetachRolePolicy(t.Context(), &iam.DetachRolePolicyInput{RoleName: aws.String("keywright"), PolicyArn: &arn})
	ok(t, err)
	_, err = admin.iam.DetachUserPolicy(t.Context(), &iam.DetachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &arn})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no identity-based policy allows")
	_, err = admin.iam.DetachUserPolicy(t.Context(), &iam.DetachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &arn})
	want(t, err, "NoSuchEntity")
	_, err = admin.iam.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &arn})
	want(t, err, "DeleteConflict", "more than one version")
	_, err = admin.iam.DeletePolicyVersion(t.Context(), &iam.DeletePolicyVersionInput{PolicyArn: &arn, VersionId: aws.String("v1")})
	ok(t, err)
	_, err = admin.iam.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &arn})
	ok(t, err)
	_, err = admin.iam.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &arn})
	want(t, err, "NoSuchEntity")
}

func TestListPolicies(t *testing.T) {
	w := start(t)
	admin := w.customer()
	foreign := w.policy(w.second(), "foreign", statement("Allow", "kms:*", "*"))
	own := w.policy(admin, "own", statement("Allow", "kms:*", "*"))
	list := func(in *iam.ListPoliciesInput) string {
		out, err := admin.iam.ListPolicies(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		var arns []string
		for _, p := range out.Policies {
			arns = append(arns, *p.Arn)
		}
		return strings.Join(arns, " ")
	}
	const administrator = "arn:aws:iam::aws:policy/AdministratorAccess"
	if got := list(&iam.ListPoliciesInput{}); got != own+" "+administrator {
		t.Errorf("all: %s", got)
	}
	if got := list(&iam.ListPoliciesInput{Scope: iamtypes.PolicyScopeTypeLocal}); got != own {
		t.Errorf("local: %s", got)
	}
	app := w.user(admin, "app")
	_, err := admin.iam.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: aws.String("app"), PolicyArn: aws.String(administrator)})
	ok(t, err)
	if got := list(&iam.ListPoliciesInput{OnlyAttached: true}); got != administrator {
		t.Errorf("attached: %s", got)
	}
	w.key(app, "")
	_, err = admin.iam.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &foreign})
	want(t, err, "NoSuchEntity")
	_, err = admin.iam.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: &foreign})
	want(t, err, "NoSuchEntity")
	_, err = admin.iam.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: aws.String(administrator)})
	want(t, err, "AccessDenied", "outside your own account")
	_, err = admin.iam.GetPolicy(t.Context(), &iam.GetPolicyInput{PolicyArn: aws.String("arn:aws:iam::111122223333:role/x")})
	want(t, err, "InvalidInput")
}

func TestPermissionsBoundaryNarrowsUsersAndRoles(t *testing.T) {
	w := start(t)
	admin := w.customer()
	keyARN := w.key(admin, "")
	decryptOnly := w.policy(admin, "decrypt-only", statement("Allow", "kms:Decrypt", "*"))
	everything := w.policy(admin, "everything", statement("Allow", "*", "*"))
	use := w.policy(admin, "use", usePolicy(keyARN))

	app := w.user(admin, "app")
	_, err := admin.iam.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: aws.String("app"), PolicyArn: &use})
	ok(t, err)
	blob, err := app.encrypt(keyARN)
	ok(t, err)
	_, err = admin.iam.PutUserPermissionsBoundary(t.Context(), &iam.PutUserPermissionsBoundaryInput{UserName: aws.String("app"), PermissionsBoundary: &decryptOnly})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no permissions boundary allows the kms:Encrypt action")
	_, err = app.decrypt(keyARN, blob, testContext)
	ok(t, err)
	if by := w.lastCall().DecidedBy; len(by) != 3 || by[2] != "permissions boundary "+decryptOnly+", statement #1" {
		t.Errorf("decided by %q", by)
	}
	_, err = admin.iam.PutUserPermissionsBoundary(t.Context(), &iam.PutUserPermissionsBoundaryInput{UserName: aws.String("app"), PermissionsBoundary: &everything})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	ok(t, err)
	// A boundary in use cannot be deleted, and it is no permission by itself.
	_, err = admin.iam.DeletePolicy(t.Context(), &iam.DeletePolicyInput{PolicyArn: &everything})
	want(t, err, "DeleteConflict")
	_, err = app.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	want(t, err, "AccessDeniedException", "because no identity-based policy allows")

	out, err := admin.iam.CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName: aws.String("keywright"), AssumeRolePolicyDocument: aws.String(platformTrust()), PermissionsBoundary: &decryptOnly,
		Tags: []iamtypes.Tag{{Key: aws.String("team"), Value: aws.String("db")}},
	})
	if err != nil || *out.Role.PermissionsBoundary.PermissionsBoundaryArn != decryptOnly {
		t.Fatalf("%+v, %v", out, err)
	}
	w.putRolePolicy(admin, "keywright", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(*out.Role.Arn, externalID, ""))
	_, err = session.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no permissions boundary allows the kms:Encrypt action")
	w.restart()
	admin, session = w.customer(), w.with(session.iam.Options().Credentials, region)
	_, err = session.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no permissions boundary allows")
	_, err = admin.iam.DeleteRolePermissionsBoundary(t.Context(), &iam.DeleteRolePermissionsBoundaryInput{RoleName: aws.String("keywright")})
	ok(t, err)
	_, err = session.encrypt(keyARN)
	ok(t, err)
	read, err := admin.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("keywright")})
	if err != nil || read.Role.PermissionsBoundary != nil || len(read.Role.Tags) != 1 || *read.Role.Tags[0].Value != "db" {
		t.Errorf("%+v, %v", read.Role, err)
	}
	// The boundary of whoever assumes a role counts too.
	_, err = admin.iam.PutUserPermissionsBoundary(t.Context(), &iam.PutUserPermissionsBoundaryInput{UserName: aws.String("admin"), PermissionsBoundary: &decryptOnly})
	ok(t, err)
	_, err = admin.iam.GetUser(t.Context(), &iam.GetUserInput{})
	want(t, err, "AccessDenied", "because no permissions boundary allows the iam:GetUser action")
}

func TestTagsOfRolesDecide(t *testing.T) {
	w := start(t)
	admin := w.customer()
	app := w.user(admin, "app")
	w.role(admin, "db", "")
	w.role(admin, "web", "")
	tagRole := func(c clients, role, team string) error {
		_, err := c.iam.TagRole(t.Context(), &iam.TagRoleInput{RoleName: &role, Tags: []iamtypes.Tag{{Key: aws.String("team"), Value: &team}}})
		return err
	}
	ok(t, tagRole(admin, "db", "db"))
	_, err := admin.iam.TagUser(t.Context(), &iam.TagUserInput{UserName: aws.String("app"), Tags: []iamtypes.Tag{{Key: aws.String("team"), Value: aws.String("db")}}})
	ok(t, err)
	_, err = admin.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("app"), PolicyName: aws.String("abac"), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"iam:GetRole","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}},
			{"Effect":"Allow","Action":"iam:TagRole","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/team":"web"},"ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}}]}`)})
	ok(t, err)
	_, err = app.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("db")})
	ok(t, err)
	_, err = app.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("web")})
	want(t, err, "AccessDenied", "iam:GetRole")
	ok(t, tagRole(app, "web", "web"))
	want(t, tagRole(app, "web", "db"), "AccessDenied", "iam:TagRole")
	_, err = admin.iam.TagRole(t.Context(), &iam.TagRoleInput{RoleName: aws.String("db"), Tags: []iamtypes.Tag{{Key: aws.String("aws:x"), Value: aws.String("")}}})
	want(t, err, "InvalidInput", "reserved")
	_, err = admin.iam.UntagRole(t.Context(), &iam.UntagRoleInput{RoleName: aws.String("db"), TagKeys: []string{"team", "none"}})
	ok(t, err)
	tags, err := admin.iam.ListRoleTags(t.Context(), &iam.ListRoleTagsInput{RoleName: aws.String("db")})
	if err != nil || len(tags.Tags) != 0 {
		t.Errorf("%v, %v", tags, err)
	}
	_, err = app.iam.GetRole(t.Context(), &iam.GetRoleInput{RoleName: aws.String("db")})
	want(t, err, "AccessDenied")
}

func TestUserMadeAnewIsAnother(t *testing.T) {
	w := start(t)
	admin := w.customer()
	app := w.user(admin, "app")
	keyARN := w.key(admin, keyPolicy(awslocal.CustomerAccount, `,{"Sid":"App","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/app"},"Action":"kms:Encrypt","Resource":"*"}`))
	_, err := app.encrypt(keyARN)
	ok(t, err)
	user, err := admin.iam.GetUser(t.Context(), &iam.GetUserInput{UserName: aws.String("app")})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := app.iam.Options().Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.iam.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: aws.String("app"), AccessKeyId: &creds.AccessKeyID})
	ok(t, err)
	_, err = admin.iam.DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: aws.String("app")})
	ok(t, err)
	again := w.user(admin, "app")
	_, err = again.encrypt(keyARN)
	want(t, err, "AccessDeniedException")
	read, err := admin.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &keyARN})
	if err != nil || !strings.Contains(*read.Policy, *user.User.UserId) || strings.Contains(*read.Policy, "user/app") {
		t.Errorf("%+v, %v", read, err)
	}
}
