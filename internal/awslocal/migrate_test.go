package awslocal_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keywright/keywright/internal/awslocal"
)

// testdata/state-v1.json was written by a program that knew version 1 only; the
// blob beside it was encrypted then.
func TestStateOfVersion1IsRead(t *testing.T) {
	raw, err := os.ReadFile("testdata/state-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/state-v1.blob")
	if err != nil {
		t.Fatal(err)
	}
	blob, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), clock: &clock{}}
	if err := os.WriteFile(filepath.Join(w.dir, "state.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	w.run()
	t.Cleanup(func() { w.stop() })
	check := func() {
		t.Helper()
		c := w.customer()
		plain, err := c.decrypt("alias/keywright", blob, testContext)
		if err != nil || string(plain) != "master key" {
			t.Fatalf("decrypted %q, %v", plain, err)
		}
		session := w.assume(w.platform(), assumeInput("arn:aws:iam::"+awslocal.CustomerAccount+":role/keywright", externalID, ""))
		plain, err = session.decrypt("arn:aws:kms:us-east-1:111122223333:"+keyIDOf(t, c, "alias/keywright"), blob, testContext)
		if err != nil || string(plain) != "master key" {
			t.Fatalf("decrypted by the role: %q, %v", plain, err)
		}
		self, err := c.iam.GetUser(t.Context(), &iam.GetUserInput{})
		if err != nil || *self.User.Path != "/" || self.User.CreateDate.Year() < 2026 {
			t.Errorf("%+v, %v", self, err)
		}
	}
	check()
	// What it writes is of the new version, and holds what only that can hold.
	fresh := w.user(w.customer(), "fresh")
	if raw, err := os.ReadFile(filepath.Join(w.dir, "state.json")); err != nil || !bytes.Contains(raw, []byte(`"version": 2`)) {
		t.Errorf("version 2 was not written: %v", err)
	}
	w.restart()
	check()
	_, err = w.with(fresh.iam.Options().Credentials, region).iam.GetUser(t.Context(), &iam.GetUserInput{UserName: aws.String("fresh")})
	want(t, err, "AccessDenied", "user/fresh")
	states := map[types.KeyState]int{}
	for _, c := range []clients{w.customer(), w.second()} {
		for _, id := range keyIDs(t, c) {
			states[c.state(t, id)]++
		}
	}
	if states[types.KeyStateEnabled] != 1 || states[types.KeyStateDisabled] != 1 || states[types.KeyStatePendingDeletion] != 1 {
		t.Errorf("key states %v", states)
	}
}
