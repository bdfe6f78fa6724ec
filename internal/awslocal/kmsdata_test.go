package awslocal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keywright/keywright/internal/awslocal"
)

func TestGenerateDataKey(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	seen := map[string]bool{}
	for _, want := range []struct {
		in   kms.GenerateDataKeyInput
		size int
	}{
		{kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes256}, 32},
		{kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes128}, 16},
		{kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1024)}, 1024},
	} {
		in := want.in
		in.KeyId, in.EncryptionContext = &keyARN, testContext
		out, err := c.kms.GenerateDataKey(t.Context(), &in)
		if err != nil || len(out.Plaintext) != want.size || *out.KeyId != keyARN || len(*out.KeyMaterialId) != 64 {
			t.Fatalf("%+v, %v", out, err)
		}
		plain, err := c.decrypt(keyARN, out.CiphertextBlob, testContext)
		if err != nil || !bytes.Equal(plain, out.Plaintext) || seen[string(plain)] {
			t.Errorf("the blob holds another key: %v", err)
		}
		seen[string(plain)] = true
		_, err = c.decrypt(keyARN, out.CiphertextBlob, nil)
		if err == nil {
			t.Error("opened without the context")
		}
	}
	sealed, err := c.kms.GenerateDataKeyWithoutPlaintext(t.Context(), &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &keyARN, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := c.decrypt("", sealed.CiphertextBlob, nil); err != nil || len(plain) != 32 {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	for name, in := range map[string]*kms.GenerateDataKeyInput{
		"neither": {}, "both": {KeySpec: types.DataKeySpecAes256, NumberOfBytes: aws.Int32(32)},
		"too long": {NumberOfBytes: aws.Int32(1025)}, "unknown": {KeySpec: "AES_512"},
	} {
		in.KeyId = &keyARN
		_, err := c.kms.GenerateDataKey(t.Context(), in)
		if err == nil {
			t.Errorf("%s was accepted", name)
		} else {
			want(t, err, "ValidationException")
		}
	}
	_, err = c.kms.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &keyARN, KeySpec: types.DataKeySpecAes256, DryRun: aws.Bool(true)})
	want(t, err, "DryRunOperationException")
	_, err = w.platform().kms.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &keyARN, KeySpec: types.DataKeySpecAes256})
	want(t, err, "AccessDeniedException", "kms:GenerateDataKey")
}

func TestReEncrypt(t *testing.T) {
	w := start(t)
	c := w.customer()
	from, to := w.key(c, ""), w.key(c, "")
	blob, err := c.encrypt(from)
	ok(t, err)
	again := map[string]string{"app": "new"}
	input := func() *kms.ReEncryptInput {
		return &kms.ReEncryptInput{CiphertextBlob: blob, SourceKeyId: &from, SourceEncryptionContext: testContext, DestinationKeyId: &to, DestinationEncryptionContext: again}
	}
	out, err := c.kms.ReEncrypt(t.Context(), input())
	if err != nil || *out.SourceKeyId != from || *out.KeyId != to || *out.SourceKeyMaterialId == *out.DestinationKeyMaterialId {
		t.Fatalf("%+v, %v", out, err)
	}
	if plain, err := c.decrypt(to, out.CiphertextBlob, again); err != nil || string(plain) != "master key" {
		t.Errorf("%q, %v", plain, err)
	}
	wrong := input()
	wrong.SourceEncryptionContext = again
	_, err = c.kms.ReEncrypt(t.Context(), wrong)
	want(t, err, "InvalidCiphertextException")
	other := input()
	other.SourceKeyId = &to
	_, err = c.kms.ReEncrypt(t.Context(), other)
	want(t, err, "IncorrectKeyException")
	dry := input()
	dry.DryRun = aws.Bool(true)
	_, err = c.kms.ReEncrypt(t.Context(), dry)
	want(t, err, "DryRunOperationException")

	// Two permissions, each with its own context.
	app := w.user(c, "app")
	permit := func(statements string) {
		t.Helper()
		_, err := c.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("app"), PolicyName: aws.String("p"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[` + statements + `]}`)})
		ok(t, err)
	}
	fromOnly := fmt.Sprintf(`{"Effect":"Allow","Action":"kms:ReEncryptFrom","Resource":%q,"Condition":{"StringEquals":{"kms:EncryptionContext:purpose":"test"}}}`, from)
	toOnly := fmt.Sprintf(`{"Effect":"Allow","Action":"kms:ReEncryptTo","Resource":%q,"Condition":{"StringEquals":{"kms:EncryptionContext:app":"new"},"Bool":{"kms:ReEncryptOnSameKey":"false"}}}`, to)
	permit(fromOnly)
	_, err = app.kms.ReEncrypt(t.Context(), input())
	want(t, err, "AccessDeniedException", "kms:ReEncryptTo", to)
	permit(toOnly)
	_, err = app.kms.ReEncrypt(t.Context(), input())
	want(t, err, "AccessDeniedException", "kms:ReEncryptFrom", from)
	permit(fromOnly + "," + toOnly)
	_, err = app.kms.ReEncrypt(t.Context(), input())
	ok(t, err)
	changed := input()
	changed.DestinationEncryptionContext = nil
	_, err = app.kms.ReEncrypt(t.Context(), changed)
	want(t, err, "AccessDeniedException", "kms:ReEncryptTo")
	_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &to})
	ok(t, err)
	_, err = c.kms.ReEncrypt(t.Context(), input())
	var disabled *types.DisabledException
	if !errors.As(err, &disabled) {
		t.Errorf("to a disabled key: %v", err)
	}
}

func TestTagsOfKeys(t *testing.T) {
	w := start(t)
	c := w.customer()
	tag := func(k, v string) types.Tag { return types.Tag{TagKey: &k, TagValue: &v} }
	made, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []types.Tag{tag("team", "db"), tag("empty", "")}})
	if err != nil {
		t.Fatal(err)
	}
	keyARN := *made.KeyMetadata.Arn
	list := func() string {
		out, err := c.kms.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: &keyARN})
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, x := range out.Tags {
			s = append(s, *x.TagKey+"="+*x.TagValue)
		}
		return strings.Join(s, " ")
	}
	if got := list(); got != "empty= team=db" {
		t.Errorf("tags %q", got)
	}
	// The tag decides about use.
	app := w.user(c, "app")
	_, err = c.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("app"), PolicyName: aws.String("p"), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/team":"db"}}},
		{"Effect":"Allow","Action":"kms:CreateKey","Resource":"*"}]}`)})
	ok(t, err)
	_, err = app.encrypt(keyARN)
	ok(t, err)
	_, err = app.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
	ok(t, err)
	_, err = app.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []types.Tag{tag("a", "b")}})
	want(t, err, "AccessDeniedException", "kms:TagResource")
	put := func(tags ...types.Tag) error {
		_, err := c.kms.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &keyARN, Tags: tags})
		return err
	}
	ok(t, put(tag("team", "web")))
	_, err = app.encrypt(keyARN)
	want(t, err, "AccessDeniedException")
	want(t, put(tag("aws:x", "")), "TagException", "reserved")
	want(t, put(tag("x", ""), tag("x", "")), "TagException", "Duplicate")
	want(t, put(tag("", "")), "TagException")
	var many []types.Tag
	for i := range 49 {
		many = append(many, tag(fmt.Sprint(i), ""))
	}
	want(t, put(many...), "TagException", "Too many tags")
	w.restart()
	c = w.customer()
	_, err = c.kms.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: &keyARN, TagKeys: []string{"empty"}})
	ok(t, err)
	if got := list(); got != "team=web" {
		t.Errorf("tags %q", got)
	}
	_, err = c.kms.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &keyARN, Description: aws.String("changed")})
	ok(t, err)
	described, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	if err != nil || *described.KeyMetadata.Description != "changed" {
		t.Errorf("%+v, %v", described, err)
	}
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN})
	ok(t, err)
	want(t, put(tag("a", "b")), "KMSInvalidStateException", "is pending deletion")
	_, err = c.kms.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: &keyARN, TagKeys: []string{"team"}})
	want(t, err, "KMSInvalidStateException", "is pending deletion")
	if got := list(); got != "team=web" {
		t.Errorf("tags %q", got)
	}
}

func TestUpdateAlias(t *testing.T) {
	w := start(t)
	c := w.customer()
	first, second := w.key(c, ""), w.key(c, "")
	name := "alias/keywright"
	_, err := c.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &first})
	ok(t, err)
	update := func(c clients, key string) error {
		_, err := c.kms.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: &key})
		return err
	}
	target := func() string {
		out, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &name})
		if err != nil {
			t.Fatal(err)
		}
		return *out.KeyMetadata.Arn
	}
	app := w.user(c, "app")
	permit := func(resources ...string) {
		t.Helper()
		_, err := c.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("app"), PolicyName: aws.String("p"),
			PolicyDocument: aws.String(`{"Statement":{"Effect":"Allow","Action":"kms:UpdateAlias","Resource":["` + strings.Join(resources, `","`) + `"]}}`)})
		ok(t, err)
	}
	alias := "arn:aws:kms:us-east-1:111122223333:alias/keywright"
	for _, missing := range [][]string{{first, second}, {alias, second}, {alias, first}} {
		permit(missing...)
		want(t, update(app, second), "AccessDeniedException", "kms:UpdateAlias")
	}
	if target() != first {
		t.Error("a refused call moved the alias")
	}
	permit(alias, first, second)
	ok(t, update(app, second))
	w.restart()
	c = w.customer()
	if target() != second {
		t.Error("the alias did not move")
	}
	blob, err := c.encrypt(name)
	ok(t, err)
	_, err = c.decrypt(first, blob, testContext)
	want(t, err, "IncorrectKeyException")
	mac, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		t.Fatal(err)
	}
	want(t, update(c, *mac.KeyMetadata.Arn), "ValidationException", "same type and usage")
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &first})
	ok(t, err)
	want(t, update(c, first), "KMSInvalidStateException", "is pending deletion")
	name = "alias/none"
	want(t, update(c, second), "NotFoundException", "is not found")
}

// from makes the clients call from another loopback address.
func (w *world) from(c clients, ip string) clients {
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext}
	w.t.Cleanup(transport.CloseIdleConnections)
	o := c.kms.Options()
	o.HTTPClient = &http.Client{Transport: transport}
	return clients{kms: kms.New(o), sts: c.sts, iam: c.iam}
}

func TestConditionsOfARoleAreMet(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", "")
	w.role(c, "other", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	other := w.assume(w.platform(), assumeInput(strings.Replace(roleARN, "keywright", "other", 1), externalID, ""))
	near, far := w.from(session, "127.0.0.1"), w.from(session, "127.0.0.9")
	allow := func(condition string) {
		t.Helper()
		w.putRolePolicy(c, "keywright", fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"Use","Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":%q,"Condition":{%s}}]}`, keyARN, condition))
	}
	refused := func(c clients) {
		t.Helper()
		_, err := c.encrypt(keyARN)
		want(t, err, "AccessDeniedException", "because no identity-based policy allows")
	}
	allowed := func(c clients) {
		t.Helper()
		_, err := c.encrypt(keyARN)
		ok(t, err)
	}
	allow(`"IpAddress":{"aws:SourceIp":["127.0.0.1/32","10.0.0.0/8"]}`)
	allowed(near)
	refused(far)
	if e := w.lastCall(); e.SourceIP != "127.0.0.9" {
		t.Errorf("the call log says %s", e.SourceIP)
	}
	allow(`"StringEquals":{"kms:EncryptionContext:keywright:project":"p1"},"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["keywright:project","purpose"]}`)
	allowed(session)
	_, err := session.kms.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &keyARN, Plaintext: []byte("x"), EncryptionContext: map[string]string{"keywright:project": "p1", "more": "x"}})
	want(t, err, "AccessDeniedException")
	_, err = session.kms.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &keyARN}) // has no encryption context
	want(t, err, "AccessDeniedException")
	allow(`"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}`)
	refused(session)
	allow(`"Null":{"kms:ViaService":"true"}`)
	allowed(session)

	_, err = c.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &keyARN, Policy: aws.String(keyPolicy(awslocal.CustomerAccount,
		`,{"Sid":"Only","Effect":"Deny","Principal":"*","Action":"kms:Encrypt","Resource":"*","Condition":{"ArnNotLike":{"aws:PrincipalArn":"`+roleARN+`"}}}`))})
	ok(t, err)
	allowed(session)
	_, err = other.encrypt(keyARN)
	want(t, err, "AccessDeniedException", "with an explicit deny in a resource-based policy")
}
