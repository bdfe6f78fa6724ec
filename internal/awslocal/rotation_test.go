package awslocal_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

const day = 24 * time.Hour

func (w *world) rotationStatus(c clients, key string) *kms.GetKeyRotationStatusOutput {
	w.t.Helper()
	out, err := c.kms.GetKeyRotationStatus(w.t.Context(), &kms.GetKeyRotationStatusInput{KeyId: &key})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) materials(c clients, key string) []types.RotationsListEntry {
	w.t.Helper()
	out, err := c.kms.ListKeyRotations(w.t.Context(), &kms.ListKeyRotationsInput{KeyId: &key, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Rotations
}

func TestRotationOnDemandKeepsOldMaterial(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	before, err := c.encrypt(keyARN)
	ok(t, err)
	rotate := func() error {
		_, err := c.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &keyARN})
		return err
	}
	ok(t, rotate())
	after, err := c.encrypt(keyARN)
	ok(t, err)
	w.restart()
	c = w.customer()
	seen := map[string]bool{}
	for name, blob := range map[string][]byte{"before": before, "after": after} {
		out, err := c.kms.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &keyARN, CiphertextBlob: blob, EncryptionContext: testContext})
		if err != nil || string(out.Plaintext) != "master key" {
			t.Fatalf("the blob of %s: %v", name, err)
		}
		seen[*out.KeyMaterialId] = true
	}
	list := w.materials(c, keyARN)
	if len(seen) != 2 || len(list) != 2 || !seen[*list[0].KeyMaterialId] || !seen[*list[1].KeyMaterialId] ||
		list[0].KeyMaterialState != types.KeyMaterialStateNonCurrent || list[0].RotationDate != nil ||
		list[1].KeyMaterialState != types.KeyMaterialStateCurrent || list[1].RotationType != types.RotationTypeOnDemand {
		t.Errorf("%+v", list)
	}
	described, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	if err != nil || *described.KeyMetadata.CurrentKeyMaterialId != *list[1].KeyMaterialId {
		t.Errorf("%+v, %v", described, err)
	}
	for range 24 {
		ok(t, rotate())
	}
	want(t, rotate(), "LimitExceededException", "on-demand rotations limit")
	if plain, err := c.decrypt(keyARN, before, testContext); err != nil || string(plain) != "master key" {
		t.Errorf("after 25 rotations: %v", err)
	}
	page, err := c.kms.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &keyARN, Limit: aws.Int32(20)})
	if err != nil || len(page.Rotations) != 20 || !page.Truncated {
		t.Fatalf("%+v, %v", page, err)
	}
	page, err = c.kms.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &keyARN, Limit: aws.Int32(20), Marker: page.NextMarker})
	if err != nil || len(page.Rotations) != 5 || page.Truncated {
		t.Errorf("%+v, %v", page, err)
	}
	want(t, func() error {
		_, err := c.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: aws.String("alias/x")})
		return err
	}(), "NotFoundException")
}

func TestAutomaticRotation(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	if s := w.rotationStatus(c, keyARN); s.KeyRotationEnabled || s.NextRotationDate != nil || s.RotationPeriodInDays != nil {
		t.Errorf("%+v", s)
	}
	enable := func(period *int32) error {
		_, err := c.kms.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &keyARN, RotationPeriodInDays: period})
		return err
	}
	want(t, enable(aws.Int32(89)), "ValidationException", "90")
	want(t, enable(aws.Int32(2561)), "ValidationException", "2560")
	ok(t, enable(nil))
	if s := w.rotationStatus(c, keyARN); !s.KeyRotationEnabled || *s.RotationPeriodInDays != 365 {
		t.Errorf("%+v", s)
	}
	ok(t, enable(aws.Int32(90)))
	s := w.rotationStatus(c, keyARN)
	if left := s.NextRotationDate.Sub(w.clock.now()); *s.RotationPeriodInDays != 90 || left > 90*day || left < 90*day-time.Hour {
		t.Errorf("%+v", s)
	}
	before, err := c.encrypt(keyARN)
	ok(t, err)
	later := func(d time.Duration) {
		t.Helper()
		w.clock.move(d)
		c = w.moved(w.s.Seed().Customer.Credentials)
	}
	later(89 * day)
	if n := len(w.materials(c, keyARN)); n != 1 {
		t.Errorf("%d materials before the day", n)
	}
	later(day)
	list := w.materials(c, keyARN)
	if len(list) != 2 || list[1].RotationType != types.RotationTypeAutomatic || !list[1].RotationDate.Equal(*s.NextRotationDate) {
		t.Fatalf("%+v", list)
	}
	if plain, err := c.decrypt(keyARN, before, testContext); err != nil || string(plain) != "master key" {
		t.Errorf("the old blob: %v", err)
	}
	_, err = c.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &keyARN})
	want(t, err, "ConflictException")

	// A disabled key is rotated once it is enabled again; disabling the rotation
	// keeps the period.
	_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	ok(t, err)
	var disabled *types.DisabledException
	if err := enable(nil); !errors.As(err, &disabled) {
		t.Errorf("enable rotation of a disabled key: %v", err)
	}
	other := w.key(c, "") // one that is due makes no disabled key due
	_, err = c.kms.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &other, RotationPeriodInDays: aws.Int32(95)})
	ok(t, err)
	later(100 * day)
	if n := len(w.materials(c, other)); n != 2 {
		t.Errorf("%d materials of the other key", n)
	}
	if n := len(w.materials(c, keyARN)); n != 2 || !w.rotationStatus(c, keyARN).KeyRotationEnabled {
		t.Errorf("%d materials while disabled", n)
	}
	_, err = c.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
	ok(t, err)
	if n := len(w.materials(c, keyARN)); n != 3 {
		t.Errorf("%d materials after enabling", n)
	}
	_, err = c.kms.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &keyARN})
	ok(t, err)
	later(1000 * day)
	if n := len(w.materials(c, keyARN)); n != 3 || w.rotationStatus(c, keyARN).KeyRotationEnabled {
		t.Errorf("%d materials with rotation off", n)
	}
	ok(t, enable(nil))
	if s := w.rotationStatus(c, keyARN); *s.RotationPeriodInDays != 90 {
		t.Errorf("%+v", s)
	}
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN})
	ok(t, err)
	if w.rotationStatus(c, keyARN).KeyRotationEnabled {
		t.Error("rotation of a key pending deletion reads true")
	}
	want(t, enable(nil), "KMSInvalidStateException", "is pending deletion")
	mac, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		t.Fatal(err)
	}
	keyARN = *mac.KeyMetadata.Arn
	want(t, enable(nil), "UnsupportedOperationException")
}

func multiRegion(t *testing.T, c clients) string {
	t.Helper()
	out, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{MultiRegion: aws.Bool(true), Description: aws.String("first")})
	if err != nil {
		t.Fatal(err)
	}
	m := out.KeyMetadata
	if !*m.MultiRegion || !strings.HasPrefix(*m.KeyId, "mrk-") || m.MultiRegionConfiguration.MultiRegionKeyType != types.MultiRegionKeyTypePrimary || *m.MultiRegionConfiguration.PrimaryKey.Arn != *m.Arn {
		t.Errorf("%+v", m)
	}
	return *m.Arn
}

const elsewhere = "eu-west-1"

func TestReplicaOpensCiphertext(t *testing.T) {
	w := start(t)
	c := w.customer()
	there := w.with(c.kms.Options().Credentials, elsewhere)
	primary := multiRegion(t, c)
	before, err := c.encrypt(primary)
	ok(t, err)
	_, err = c.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &primary})
	ok(t, err)
	replicate := func(to string) (*kms.ReplicateKeyOutput, error) {
		return c.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: &to, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})
	}
	out, err := replicate(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	replica := *out.ReplicaKeyMetadata.Arn
	if replica != strings.Replace(primary, region, elsewhere, 1) || len(out.ReplicaTags) != 1 || !strings.Contains(*out.ReplicaPolicy, "Enable IAM User Permissions") {
		t.Errorf("%+v", out)
	}
	_, err = replicate(elsewhere)
	want(t, err, "AlreadyExistsException")
	_, err = replicate("Ireland")
	want(t, err, "ValidationException", "replicaRegion")
	_, err = there.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &replica, ReplicaRegion: aws.String("us-west-2")})
	want(t, err, "UnsupportedOperationException", "is not a multi-region primary key")
	single := w.key(c, "")
	_, err = c.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &single, ReplicaRegion: aws.String(elsewhere)})
	want(t, err, "UnsupportedOperationException", "is not a multi-region primary key")

	same, err := there.encrypt(replica)
	ok(t, err)
	if plain, err := c.decrypt(primary, same, testContext); err != nil || string(plain) != "master key" {
		t.Errorf("the replica has other material: %v", err)
	}
	// The replica's Region needs the permission to make a key.
	app := w.user(c, "app")
	_, err = c.iam.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("app"), PolicyName: aws.String("p"), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:ReplicateKey","Resource":"*","Condition":{"StringLike":{"kms:ReplicaRegion":"us-*"}}},
		{"Effect":"Allow","Action":"kms:CreateKey","Resource":"*","Condition":{"StringEquals":{"aws:RequestedRegion":"us-west-1","kms:MultiRegionKeyType":"REPLICA"}}}]}`)})
	ok(t, err)
	for to, missing := range map[string]string{"eu-north-1": "kms:ReplicateKey", "us-west-2": "kms:CreateKey"} {
		_, err = app.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: &to})
		want(t, err, "AccessDeniedException", missing)
	}
	_, err = app.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: aws.String("us-west-1"), BypassPolicyLockoutSafetyCheck: true})
	ok(t, err)

	// Old and new material, both ways, rotated before and after the replica was made.
	_, err = there.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &replica})
	want(t, err, "UnsupportedOperationException", "replica")
	_, err = c.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &primary})
	ok(t, err)
	w.restart()
	c, there = w.customer(), w.with(w.customer().kms.Options().Credentials, elsewhere)
	now, err := there.encrypt(replica)
	ok(t, err)
	for _, blob := range [][]byte{before, now} {
		for _, side := range []struct {
			c   clients
			arn string
		}{{c, primary}, {there, replica}} {
			if plain, err := side.c.decrypt(side.arn, blob, testContext); err != nil || string(plain) != "master key" {
				t.Errorf("%s: %q, %v", side.arn, plain, err)
			}
			_, err = side.c.decrypt(side.arn, blob, map[string]string{"x": "y"})
			want(t, err, "InvalidCiphertextException")
		}
	}
	other := multiRegion(t, c)
	_, err = c.decrypt(other, before, testContext)
	want(t, err, "IncorrectKeyException")
	_, err = c.decrypt(single, before, testContext)
	want(t, err, "IncorrectKeyException")
	_, err = there.decrypt(primary, before, testContext)
	want(t, err, "NotFoundException", "Invalid arn")

	// Each Region has its own state and policy.
	_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &primary})
	ok(t, err)
	_, err = there.decrypt(replica, before, testContext)
	ok(t, err)
	_, err = c.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &primary})
	ok(t, err)
	_, err = c.kms.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &primary, RotationPeriodInDays: aws.Int32(100)})
	ok(t, err)
	if s := w.rotationStatus(there, replica); !s.KeyRotationEnabled || *s.RotationPeriodInDays != 100 {
		t.Errorf("the replica's rotation: %+v", s)
	}
	_, err = c.kms.UpdatePrimaryRegion(t.Context(), &kms.UpdatePrimaryRegionInput{KeyId: &primary, PrimaryRegion: aws.String(elsewhere)})
	ok(t, err)
	described, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &primary})
	if err != nil {
		t.Fatal(err)
	}
	if m := described.KeyMetadata.MultiRegionConfiguration; m.MultiRegionKeyType != types.MultiRegionKeyTypeReplica || *m.PrimaryKey.Arn != replica || len(m.ReplicaKeys) != 2 || *m.ReplicaKeys[0].Arn != primary {
		t.Errorf("%+v", m)
	}
	_, err = there.kms.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &replica})
	ok(t, err)
	if s := w.rotationStatus(c, primary); !s.KeyRotationEnabled || *s.RotationPeriodInDays != 100 {
		t.Errorf("the rotation after the move: %+v", s)
	}
}

func TestPrimaryWaitsForItsReplicas(t *testing.T) {
	w := start(t)
	c := w.customer()
	primary := multiRegion(t, c)
	_, err := c.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: aws.String(elsewhere)})
	ok(t, err)
	replica := strings.Replace(primary, region, elsewhere, 1)
	out, err := c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &primary, PendingWindowInDays: aws.Int32(10)})
	if err != nil || out.KeyState != types.KeyStatePendingReplicaDeletion || out.DeletionDate != nil || *out.PendingWindowInDays != 10 {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = c.encrypt(primary)
	want(t, err, "KMSInvalidStateException", "is pending replica deletion")
	described := func() *types.KeyMetadata {
		out, err := c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &primary})
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyMetadata
	}
	if m := described(); *m.PendingDeletionWindowInDays != 10 {
		t.Errorf("%+v", m)
	}
	_, err = c.kms.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: &primary})
	ok(t, err)
	if m := described(); m.KeyState != types.KeyStateDisabled || m.PendingDeletionWindowInDays != nil {
		t.Errorf("%+v", m)
	}
	_, err = c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &primary, PendingWindowInDays: aws.Int32(10)})
	ok(t, err)
	later := func(d time.Duration) {
		w.clock.move(d)
		c = w.moved(w.s.Seed().Customer.Credentials)
	}
	later(365 * day)
	if s := c.state(t, primary); s != types.KeyStatePendingReplicaDeletion {
		t.Errorf("state %s", s)
	}
	there := w.movedTo(w.s.Seed().Customer.Credentials, elsewhere)
	_, err = there.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &replica, PendingWindowInDays: aws.Int32(7)})
	ok(t, err)
	later(6 * day)
	if s := c.state(t, primary); s != types.KeyStatePendingReplicaDeletion {
		t.Errorf("state %s", s)
	}
	later(day + time.Minute)
	if s := c.state(t, primary); s != types.KeyStatePendingDeletion {
		t.Errorf("state %s after the replica is gone", s)
	}
	later(9 * day)
	if s := c.state(t, primary); s != types.KeyStatePendingDeletion {
		t.Errorf("state %s", s)
	}
	later(day)
	_, err = c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &primary})
	want(t, err, "NotFoundException")
}
