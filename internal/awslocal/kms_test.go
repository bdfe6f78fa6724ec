package awslocal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keywright/keywright/internal/awslocal"
)

// keyPolicy delegates to the account and adds statements.
func keyPolicy(account, more string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":"Account","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}%s]}`, account, more)
}

func TestKeyAcrossAccountsNeedsBothHalves(t *testing.T) {
	w := start(t)
	customer, second := w.customer(), w.second()
	roleARN := w.role(customer, "keywright", "")
	keyARN := w.key(second, "")
	session := func() clients { return w.assume(w.platform(), assumeInput(roleARN, externalID, "")) }
	notTold := "because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"

	_, err := session().encrypt(keyARN) // neither half
	want(t, err, "AccessDeniedException", notTold, keyARN, "kms:Encrypt")
	w.putRolePolicy(customer, "keywright", usePolicy(keyARN))
	_, err = session().encrypt(keyARN) // the key's half is missing
	want(t, err, "AccessDeniedException", notTold)
	both := keyPolicy(awslocal.SecondAccount, fmt.Sprintf(`,{"Sid":"KeywrightRole","Effect":"Allow","Principal":{"AWS":%q},"Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"*"}`, roleARN))
	_, err = second.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &keyARN, Policy: &both})
	ok(t, err)
	blob, err := session().encrypt(keyARN)
	ok(t, err)
	plain, err := session().decrypt(keyARN, blob, testContext)
	if err != nil || string(plain) != "master key" {
		t.Errorf("decrypt across accounts: %q, %v", plain, err)
	}
	if s := session().state(t, keyARN); s != types.KeyStateEnabled {
		t.Errorf("state %s", s)
	}
	_, err = session().encrypt(keyARN[strings.LastIndex(keyARN, "/")+1:]) // an id is looked up in the role's account
	want(t, err, "NotFoundException", "arn:aws:kms:us-east-1:"+awslocal.CustomerAccount)
	w.putRolePolicy(customer, "keywright", usePolicy(keyARN+"0"))
	_, err = session().encrypt(keyARN) // the role's half is missing
	want(t, err, "AccessDeniedException", "because no identity-based policy allows the kms:Encrypt action")
	// A management operation never crosses accounts, whatever the policies say.
	_, err = second.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &keyARN, Policy: aws.String(keyPolicy(awslocal.SecondAccount, `,{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`))})
	ok(t, err)
	_, err = customer.encrypt(keyARN)
	ok(t, err)
	_, err = customer.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	want(t, err, "AccessDeniedException", "kms:DisableKey")
	_, err = customer.encrypt(keyARN + "0")
	want(t, err, "AccessDeniedException", notTold) // a missing key of another account sounds the same
}

func TestKeyPolicyDecides(t *testing.T) {
	w := start(t)
	c := w.customer()
	roleARN := w.role(c, "keywright", "")
	keyARN := w.key(c, "")
	put := func(text string) error {
		_, err := c.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &keyARN, Policy: &text})
		return err
	}
	session := func() clients { return w.assume(w.platform(), assumeInput(roleARN, externalID, "")) }
	_, err := session().encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no identity-based policy allows")
	w.putRolePolicy(c, "keywright", usePolicy(keyARN))
	_, err = session().encrypt(keyARN)
	ok(t, err)

	ok(t, put(keyPolicy(awslocal.CustomerAccount, fmt.Sprintf(`,{"Sid":"No","Effect":"Deny","Principal":{"AWS":%q},"Action":"kms:Encrypt","Resource":"*"}`, roleARN))))
	_, err = session().encrypt(keyARN)
	want(t, err, "AccessDeniedException", "with an explicit deny in a resource-based policy", "kms:Encrypt", keyARN)
	if e := w.lastCall(); e.Outcome != "AccessDeniedException" || len(e.DecidedBy) != 1 || e.DecidedBy[0] != `key policy default, statement "No"` {
		t.Errorf("call log: %+v", e)
	}

	// Without the account line an identity policy opens nothing.
	ok(t, put(fmt.Sprintf(`{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:user/admin"},"Action":"kms:*","Resource":"*"}}`, awslocal.CustomerAccount)))
	_, err = session().encrypt(keyARN)
	want(t, err, "AccessDeniedException", "because no resource-based policy allows the kms:Encrypt action")

	// Conditions on the encryption context.
	ok(t, put(keyPolicy(awslocal.CustomerAccount, `,{"Effect":"Deny","Principal":"*","Action":["kms:Encrypt","kms:Decrypt"],"Resource":"*","Condition":{"StringNotEquals":{"kms:EncryptionContext:keywright:project":"p1"}}}`)))
	_, err = session().encrypt(keyARN)
	ok(t, err)
	_, err = session().kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keyARN, Plaintext: []byte("x"), EncryptionContext: map[string]string{"keywright:project": "p2"}})
	want(t, err, "AccessDeniedException", "with an explicit deny in a resource-based policy")

	want(t, put(fmt.Sprintf(`{"Statement":[{"Effect":"Allow","Principal":{"AWS":%q},"Action":"kms:*","Resource":"*"}]}`, roleARN)),
		"MalformedPolicyDocumentException", "The new key policy will not allow you to update the key policy in the future.")
	want(t, put(keyPolicy(awslocal.CustomerAccount, `,{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/none"},"Action":"kms:*","Resource":"*"}`)), "MalformedPolicyDocumentException", "role/none")
	want(t, put(keyPolicy(awslocal.CustomerAccount, `,{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringAlmost":{"aws:SourceIp":"x"}}}`)), "MalformedPolicyDocumentException", "StringAlmost")
	got, err := c.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &keyARN})
	if err != nil || !strings.Contains(*got.Policy, "StringNotEquals") {
		t.Errorf("refused policies changed something: %v, %v", got, err)
	}
}

func TestEncryptionContextIsAuthenticated(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN, other := w.key(c, ""), w.key(c, "")
	blob, err := c.encrypt(keyARN)
	ok(t, err)
	for name, ctx := range map[string]map[string]string{
		"missing": nil, "fewer": {"purpose": "test"},
		"more":  {"keywright:project": "p1", "purpose": "test", "x": "y"},
		"other": {"keywright:project": "p2", "purpose": "test"},
		"case":  {"Keywright:project": "p1", "purpose": "test"},
		"moved": {"keywright:project": "p1p", "urpose": "test"},
	} {
		_, err := c.decrypt(keyARN, blob, ctx)
		var mismatch *types.InvalidCiphertextException
		if !errors.As(err, &mismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = c.decrypt(other, blob, testContext)
	want(t, err, "IncorrectKeyException")
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if plain, err := c.decrypt(keyARN, bad, testContext); err == nil {
			t.Fatalf("byte %d altered: decrypted %q", i, plain)
		}
	}
	_, err = c.decrypt(keyARN, []byte("rubbish"), testContext)
	want(t, err, "InvalidCiphertextException")
	_, err = c.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keyARN, Plaintext: make([]byte, 4097)})
	want(t, err, "ValidationException", "4096")
	_, err = c.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keyARN, Plaintext: []byte("x"), DryRun: aws.Bool(true)})
	want(t, err, "DryRunOperationException")
}

func TestKeyStates(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	blob, err := c.encrypt(keyARN)
	ok(t, err)
	_, err = c.kms.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &keyARN})
	want(t, err, "KMSInvalidStateException", "is not pending deletion")
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN, PendingWindowInDays: aws.Int32(3)})
	want(t, err, "ValidationException")
	out, err := c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN, PendingWindowInDays: aws.Int32(7)})
	if err != nil || out.KeyState != types.KeyStatePendingDeletion || *out.KeyId != keyARN || *out.PendingWindowInDays != 7 {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = c.decrypt(keyARN, blob, testContext)
	want(t, err, "KMSInvalidStateException", keyARN, "is pending deletion")
	_, err = c.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
	want(t, err, "KMSInvalidStateException", "is pending deletion")
	described, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	if err != nil || described.KeyMetadata.Enabled || !described.KeyMetadata.DeletionDate.Equal(*out.DeletionDate) {
		t.Errorf("%+v, %v", described, err)
	}
	_, err = c.kms.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &keyARN})
	ok(t, err)
	if s := c.state(t, keyARN); s != types.KeyStateDisabled {
		t.Errorf("after cancel %s", s)
	}
	_, err = c.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
	ok(t, err)
	_, err = c.decrypt(keyARN, blob, testContext)
	ok(t, err)
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN, PendingWindowInDays: aws.Int32(7)})
	ok(t, err)
	// Clients correct their clocks after the first refusal; a new one is right at once.
	_, err = w.second().kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	want(t, err, "AccessDeniedException")
}

func TestDeletedKeyIsGone(t *testing.T) {
	w := start(t)
	keyARN := w.key(w.customer(), "")
	blob, err := w.customer().encrypt(keyARN)
	ok(t, err)
	_, err = w.customer().kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN, PendingWindowInDays: aws.Int32(7)})
	ok(t, err)
	w.clock.move(7*24*time.Hour + time.Minute)
	c := w.customer()
	_, err = c.encrypt(keyARN)
	want(t, err, "InvalidSignatureException", "Signature expired") // teaches the client the time
	_, err = c.encrypt(keyARN)
	want(t, err, "NotFoundException", "Key '"+keyARN+"' does not exist")
	_, err = c.decrypt("", blob, testContext)
	want(t, err, "AccessDeniedException", "The ciphertext refers to a customer master key that does not exist")
	list, err := c.kms.ListKeys(t.Context(), &kms.ListKeysInput{})
	if err != nil || len(list.Keys) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestNamingAKey(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	id := keyARN[strings.LastIndex(keyARN, "/")+1:]
	out, err := c.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
	if err != nil || *out.KeyId != keyARN {
		t.Errorf("by id: %v, %v", out, err)
	}
	seed := w.s.Seed().Customer
	elsewhere := w.with(credentials.NewStaticCredentialsProvider(seed.AccessKeyID, seed.SecretAccessKey, ""), "eu-west-1")
	_, err = elsewhere.encrypt(keyARN)
	want(t, err, "NotFoundException", "Invalid arn us-east-1")
	_, err = elsewhere.encrypt(id)
	want(t, err, "NotFoundException", "arn:aws:kms:eu-west-1")
	_, err = elsewhere.decrypt("", out.CiphertextBlob, nil)
	want(t, err, "AccessDeniedException", "does not exist in this region")
	_, err = c.encrypt("no-key")
	want(t, err, "NotFoundException", "Invalid keyId")
	_, err = c.encrypt("alias/none")
	want(t, err, "NotFoundException", "is not found")
	_, err = c.encrypt("arn:aws:kms:us-east-1:1:key/x")
	want(t, err, "InvalidArnException")
	for range 3 {
		w.key(c, "")
	}
	n := 0
	pages := kms.NewListKeysPaginator(c.kms, &kms.ListKeysInput{Limit: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.Keys)
	}
	if n != 4 {
		t.Errorf("listed %d keys", n)
	}
}

func TestKeysOfAnotherType(t *testing.T) {
	w := start(t)
	c := w.customer()
	for _, k := range []struct {
		spec  types.KeySpec
		usage types.KeyUsageType
		says  string
	}{
		{types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt, "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048"},
		{types.KeySpecRsa2048, types.KeyUsageTypeSignVerify, "key usage is SIGN_VERIFY which is not valid for Encrypt"},
		{types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify, "key usage is SIGN_VERIFY which is not valid for Encrypt"},
		{types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac, "key usage is GENERATE_VERIFY_MAC which is not valid for Encrypt"},
	} {
		out, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: k.spec, KeyUsage: k.usage})
		if err != nil {
			t.Fatal(err)
		}
		m := out.KeyMetadata
		if m.KeySpec != k.spec || m.KeyUsage != k.usage || m.KeyState != types.KeyStateEnabled ||
			len(m.EncryptionAlgorithms)+len(m.SigningAlgorithms)+len(m.MacAlgorithms) == 0 {
			t.Errorf("%+v", m)
		}
		_, err = c.encrypt(*m.Arn)
		want(t, err, "InvalidKeyUsageException", k.says)
	}
	_, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048})
	want(t, err, "ValidationException", "You must specify a KeyUsage value")
	_, err = c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	want(t, err, "ValidationException", "not compatible")
	_, err = c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	want(t, err, "UnsupportedOperationException", "EXTERNAL")
	_, err = c.kms.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: aws.String("x"), Message: []byte("x"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	want(t, err, "UnsupportedOperationException", "does not implement kms:GenerateMac")
}

func TestAliases(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	create := func(c clients, name, key string) error {
		_, err := c.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key})
		return err
	}
	ok(t, create(c, "alias/keywright", keyARN))
	want(t, create(c, "alias/keywright", keyARN), "AlreadyExistsException")
	want(t, create(c, "keywright", keyARN), "ValidationException", `Alias must start with the prefix "alias/"`)
	want(t, create(c, "alias/aws/x", keyARN), "InvalidAliasNameException")
	want(t, create(c, "alias/other", "alias/keywright"), "NotFoundException")
	want(t, create(w.platform(), "alias/x", keyARN), "AccessDeniedException", "kms:CreateAlias")
	w.restart()
	c = w.customer()
	aliasARN := strings.Replace(keyARN, keyARN[strings.LastIndex(keyARN, "key/"):], "alias/keywright", 1)
	for _, name := range []string{"alias/keywright", aliasARN} {
		out, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &name})
		if err != nil || *out.KeyMetadata.Arn != keyARN {
			t.Errorf("%s: %v, %v", name, out, err)
		}
		blob, err := c.encrypt(name)
		ok(t, err)
		_, err = c.decrypt(name, blob, testContext)
		ok(t, err)
		_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &name})
		if err == nil {
			t.Errorf("%s disabled a key", name)
		}
	}
	_, err := w.second().encrypt(aliasARN)
	want(t, err, "AccessDeniedException", "because the resource does not exist in this Region")
	_, err = w.second().encrypt(aliasARN + "-none")
	want(t, err, "AccessDeniedException", "because the resource does not exist in this Region")
	list, err := c.kms.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: &keyARN})
	if err != nil || len(list.Aliases) != 1 || *list.Aliases[0].AliasName != "alias/keywright" || *list.Aliases[0].AliasArn != aliasARN {
		t.Errorf("%v, %v", list, err)
	}
	_, err = c.kms.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: aws.String("alias/keywright")})
	ok(t, err)
	_, err = c.encrypt("alias/keywright")
	want(t, err, "NotFoundException", "is not found")
}
