package awslocal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keywright/keywright/internal/awslocal"
)

func TestRestartFindsEverything(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", usePolicy(keyARN))
	out, err := w.platform().sts.AssumeRole(t.Context(), assumeInput(roleARN, externalID, usePolicy(keyARN)))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := w.with(provider(out), region).encrypt(keyARN)
	ok(t, err)
	disabled := w.key(c, "")
	_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &disabled})
	ok(t, err)
	seed := w.s.Seed()

	w.restart()
	if got := w.s.Seed(); !reflect.DeepEqual(got, seed) {
		t.Error("the seeded access keys changed")
	}
	file, err := awslocal.ReadSeed(w.dir)
	if err != nil || !reflect.DeepEqual(file, seed) {
		t.Errorf("seed file: %v", err)
	}
	plain, err := w.with(provider(out), region).decrypt(keyARN, blob, testContext) // the session lives on
	if err != nil || string(plain) != "master key" {
		t.Errorf("%q, %v", plain, err)
	}
	_, err = w.customer().encrypt(disabled)
	want(t, err, "DisabledException")
	_, err = w.platform().sts.AssumeRole(t.Context(), assumeInput(roleARN, "", ""))
	want(t, err, "AccessDenied")
	w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
}

func TestOneServerPerDataDirectory(t *testing.T) {
	w := start(t)
	_, err := awslocal.Open(awslocal.Config{DataDir: w.dir, Listen: "127.0.0.1:0"})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second server: %v", err)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:0", "[::]:0", ""} {
		s, err := awslocal.Open(awslocal.Config{DataDir: t.TempDir(), Listen: listen})
		if err == nil {
			t.Errorf("%q was accepted", listen)
			_ = s.Close()
		}
	}
	for _, listen := range []string{"127.0.0.2:0", "localhost:0"} {
		s, err := awslocal.Open(awslocal.Config{DataDir: t.TempDir(), Listen: listen})
		if err != nil {
			t.Errorf("%q: %v", listen, err)
			continue
		}
		_ = s.Close()
	}
}

func TestNewerOrDamagedStateIsRefused(t *testing.T) {
	w := start(t)
	w.stop()
	path := filepath.Join(w.dir, "state.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"newer":   bytes.Replace(good, []byte(`"version": 2`), []byte(`"version": 3`), 1),
		"cut off": good[:len(good)/2],
		"empty":   {},
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := awslocal.Open(awslocal.Config{DataDir: w.dir, Listen: "127.0.0.1:0"})
		if err == nil {
			t.Errorf("%s state was accepted", name)
			_ = s.Close()
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, content) {
			t.Errorf("%s state was overwritten", name)
		}
	}
	// What a crash before the rename leaves behind is ignored.
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", good[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.key(w.customer(), "")
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	w := start(t)
	w.key(w.customer(), "")
	files, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

// The seed file's fields are a promise to `keywright up`.
func TestSeedFile(t *testing.T) {
	w := start(t)
	raw, err := os.ReadFile(filepath.Join(w.dir, awslocal.SeedFile))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Version  int
		Region   string
		Platform struct {
			AccountID     string `json:"accountId"`
			Server, Agent map[string]string
		}
		CanaryRoleArn    string
		Customer, Second map[string]string
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	if f.Version != 1 || f.Region != "us-east-1" || f.Platform.AccountID != "999900001111" ||
		f.CanaryRoleArn != "arn:aws:iam::999900001111:role/keywright-canary" ||
		f.Customer["accountId"] != "111122223333" || f.Second["accountId"] != "444455556666" {
		t.Errorf("seed file %s", raw)
	}
	for _, k := range []map[string]string{f.Platform.Server, f.Platform.Agent, f.Customer, f.Second} {
		if !strings.HasPrefix(k["accessKeyId"], "AKIA") || len(k["accessKeyId"]) != 20 || len(k["secretAccessKey"]) != 40 {
			t.Errorf("access key %v", k["accessKeyId"])
		}
	}
	if s := w.s.Seed(); strings.Contains(s.Customer.String(), s.Customer.SecretAccessKey) {
		t.Error("a printed seed shows a secret")
	}
}

func TestCallLog(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	blob, err := session.encrypt(keyARN)
	ok(t, err)
	e := w.lastCall()
	if e.Version != 1 || e.Time.IsZero() || time.Since(e.Time) > time.Minute || e.RequestID == "" || e.Account != awslocal.CustomerAccount ||
		e.Principal != "arn:aws:sts::111122223333:assumed-role/keywright/keywright-test" || e.Service != "kms" || e.Operation != "Encrypt" ||
		e.Region != region || e.KeyARN != keyARN || !reflect.DeepEqual(e.EncryptionContext, testContext) || e.SourceIP != "127.0.0.1" || e.Outcome != "ok" {
		t.Errorf("%+v", e)
	}
	if want := []string{`key policy default, statement "Enable IAM User Permissions"`, `identity policy keywright, statement "Use"`}; !reflect.DeepEqual(e.DecidedBy, want) {
		t.Errorf("decided by %q, want %q", e.DecidedBy, want)
	}
	_, err = session.decrypt(keyARN, blob, testContext)
	ok(t, err)
	raw, err := os.ReadFile(filepath.Join(w.dir, "calls.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"master key", "bWFzdGVyIGtleQ", w.s.Seed().Customer.SecretAccessKey, w.s.Seed().Platform.Server.SecretAccessKey} {
		if bytes.Contains(raw, []byte(leak)) {
			t.Errorf("the call log holds %q", leak)
		}
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.dir, "calls.jsonl"), append(raw, `{"cut`...), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.key(w.customer(), "")
	after, err := os.ReadFile(filepath.Join(w.dir, "calls.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(after, raw) || !bytes.Contains(after, []byte("{\"cut\n{\"version\":1")) {
		t.Error("the line after one that was cut off does not stand alone")
	}
}

// A change that cannot be made durable is refused and undone.
func TestDiskFailureUndoesTheChange(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	away := w.dir + ".away"
	if err := os.Rename(w.dir, away); err != nil {
		t.Fatal(err)
	}
	_, err := c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	want(t, err, "KMSInternalException")
	_, err = c.encrypt(keyARN)
	ok(t, err)
	if err := os.Rename(away, w.dir); err != nil {
		t.Fatal(err)
	}
	_, err = c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	ok(t, err)
	w.restart()
	_, err = w.customer().encrypt(keyARN)
	want(t, err, "DisabledException")
}

func TestConcurrentCalls(t *testing.T) {
	w := start(t)
	c := w.customer()
	keyARN := w.key(c, "")
	done := make(chan error)
	const workers, rounds = 8, 10
	for range workers {
		go func() {
			for range rounds {
				blob, err := c.encrypt(keyARN)
				if err == nil {
					_, err = c.decrypt(keyARN, blob, testContext)
				}
				if err == nil {
					_, err = c.kms.CreateKey(context.Background(), &kms.CreateKeyInput{})
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range workers {
		ok(t, <-done)
	}
	w.restart()
	list, err := w.customer().kms.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(1000)})
	if err != nil || len(list.Keys) != workers*rounds+1 {
		t.Errorf("%d keys after a restart, %v", len(list.Keys), err)
	}
	if n := len(w.calls()); n != 1+3*workers*rounds+1 {
		t.Errorf("%d calls in the log", n)
	}
}
