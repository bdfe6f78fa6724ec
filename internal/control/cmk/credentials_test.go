package cmk_test

import (
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// legacy is a project that is reached with an access key.
func legacy(t *testing.T) (*controltest.World, keys.ProjectID, kms.Target) {
	t.Helper()
	w := controltest.New(t)
	p := w.Project("legacy").ID
	user := w.AWS.User(w.AWS.CreateKey())
	if _, err := w.CMK.ImportCredentials(t.Context(), w.Owner, p, credentialsOf(user)); err != nil {
		t.Fatal(err)
	}
	return w, p, user
}

func credentialsOf(user kms.Target) cmk.Credentials {
	return cmk.Credentials{AccessKeyID: user.AccessKey.ID, SecretAccessKey: user.AccessKey.Secret, KeyID: user.KeyID, Region: "US_EAST_1"}
}

// kept gives the secret that the store has, or "".
func keptSecret(t *testing.T, w *controltest.World, p keys.ProjectID, id string) (out string) {
	t.Helper()
	w.Must(w.Store.View(t.Context(), func(tx *store.Tx) error {
		v, err := tx.AccessKeySecret(p, id)
		if err == nil {
			out = string(v.Reveal())
		} else if err != store.ErrNotFound { //nolint:errorlint // not wrapped here
			return err
		}
		return nil
	}))
	return out
}

// roleOn makes an authorized role that may use the key of a user.
func roleOn(t *testing.T, w *controltest.World, p keys.ProjectID, user kms.Target) (keys.RoleID, kms.Target) {
	t.Helper()
	r, target := w.Role(p)
	target.KeyID = user.KeyID
	return r.ID, target
}

func toRole(id keys.RoleID) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{RoleID: ptr(string(id))}} }

func keysPatch(k kms.AccessKey) cmk.Patch {
	return cmk.Patch{AWS: &cmk.AWSPatch{AccessKeyID: ptr(k.ID), SecretAccessKey: ptr(k.Secret)}}
}

func TestAnImportedAccessKeyIsValidatedSealedAndInForce(t *testing.T) {
	w, p, user := legacy(t)
	v, err := w.CMK.Get(t.Context(), w.Owner, p)
	w.Must(err)
	if !v.Enabled || !v.Valid || v.AccessKeyID != user.AccessKey.ID || v.Role != "" || !v.MigratedFromCredentials {
		t.Fatalf("%+v", v)
	}
	if got := keptSecret(t, w, p, user.AccessKey.ID); got != string(user.AccessKey.Secret.Reveal()) {
		t.Errorf("the store has %q", got)
	}
	for _, e := range w.FullEvents(p) {
		if strings.Contains(e.Message, string(user.AccessKey.Secret.Reveal())) {
			t.Errorf("an event tells the secret: %+v", e)
		}
	}
	if events := w.Events(p); events[len(events)-1] != "ENCRYPTION_AT_REST_CREDENTIALS_IMPORTED" {
		t.Errorf("events %v", events)
	}
	w.Start()
	w.AWS.Deactivate(user.AccessKey.ID, true)
	w.Must(func() error { _, err := w.CMK.TryAgain(t.Context(), w.Owner, p); return err }())
	controltest.Eventually(t, "the revocation is noticed", func() bool {
		v, err := w.CMK.Peek(t.Context(), w.Owner, p)
		w.Must(err)
		return v.Verdict.Reason == string(kms.AccessKeyInvalid)
	})
	w.Verify()
}

func TestAnImportIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *controltest.World, p keys.ProjectID, user *kms.Target)
		who    func(w *controltest.World, p keys.ProjectID) tenant.Principal
		code   string
		says   string
	}{
		"wrong secret": {change: func(_ *controltest.World, _ keys.ProjectID, u *kms.Target) {
			u.AccessKey.Secret = secret.FromString("not-the-secret-of-this-key")
		}, code: "INVALID_AWS_CREDENTIALS", says: "The secret is not that"},
		"deactivated": {change: func(w *controltest.World, _ keys.ProjectID, u *kms.Target) { w.AWS.Deactivate(u.AccessKey.ID, true) },
			code: "INVALID_AWS_CREDENTIALS", says: "does not accept"},
		"missing permission": {change: func(w *controltest.World, _ keys.ProjectID, u *kms.Target) {
			w.AWS.DenyUser(u.AccessKey.ID, true, kms.OpDecrypt)
		}, code: "NO_PERMISSION_TO_ENCRYPT_DECRYPT", says: "lacks kms:Decrypt"},
		"no id": {change: func(_ *controltest.World, _ keys.ProjectID, u *kms.Target) { u.AccessKey.ID = "short" }, code: "INVALID_ATTRIBUTE", says: "accessKeyID"},
		"no secret": {change: func(_ *controltest.World, _ keys.ProjectID, u *kms.Target) { u.AccessKey.Secret = secret.Bytes{} },
			code: "INVALID_ATTRIBUTE", says: "secretAccessKey"},
		"a project with a role": {change: func(w *controltest.World, p keys.ProjectID, _ *kms.Target) { w.Enable(p) },
			code: "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", says: "no way back"},
		"a project that had a role": {change: func(w *controltest.World, p keys.ProjectID, _ *kms.Target) {
			w.Enable(p)
			_, err := w.CMK.Update(w.T.Context(), w.Owner, p, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}})
			w.Must(err)
		}, code: "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", says: "no way back"},
		"a Project Owner": {who: func(w *controltest.World, p keys.ProjectID) tenant.Principal {
			return w.Key([]tenant.Role{tenant.OrgMember}, p, tenant.GroupOwner)
		}, code: "USER_UNAUTHORIZED", says: "ORG_OWNER"},
	} {
		t.Run(name, func(t *testing.T) {
			w := controltest.New(t)
			p := w.Project("legacy").ID
			user := w.AWS.User(w.AWS.CreateKey())
			if c.change != nil {
				c.change(w, p, &user)
			}
			who := w.Owner
			if c.who != nil {
				who = c.who(w, p)
			}
			before := peek(t, w, p)
			_, err := w.CMK.ImportCredentials(t.Context(), who, p, credentialsOf(user))
			if apierr.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %s saying %q, got %v", c.code, c.says, err)
			}
			if !user.AccessKey.Secret.IsEmpty() && strings.Contains(err.Error(), string(user.AccessKey.Secret.Reveal())) {
				t.Errorf("the refusal tells the secret: %v", err)
			}
			if after := peek(t, w, p); after.AccessKeyID != "" || after.Generation != before.Generation {
				t.Errorf("changed: %+v", after)
			}
		})
	}
}

func TestTheSwitchToARoleIsOneWay(t *testing.T) {
	w, p, user := legacy(t)
	role, target := roleOn(t, w, p, user)

	w.AWS.Deny(target.RoleARN, true, kms.OpDecrypt)
	before := peek(t, w, p)
	_, err := w.CMK.Update(t.Context(), w.Owner, p, toRole(role))
	if apierr.Code(err) != "NO_PERMISSION_TO_ENCRYPT_DECRYPT" || !strings.Contains(err.Error(), "lacks kms:Decrypt") || !strings.Contains(err.Error(), `"Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"]`) {
		t.Errorf("a role that lacks Decrypt: %v", err)
	}
	if after := peek(t, w, p); after.Generation != before.Generation || after.AccessKeyID != user.AccessKey.ID || keptSecret(t, w, p, user.AccessKey.ID) == "" {
		t.Errorf("the refusal changed something: %+v", after)
	}

	w.AWS.Deny(target.RoleARN, false, kms.OpDecrypt)
	v, err := w.CMK.Update(t.Context(), w.Owner, p, toRole(role))
	w.Must(err)
	if v.Role != role || v.AccessKeyID != "" || !v.Valid || !v.SwitchedToRole {
		t.Errorf("%+v", v.KeyConfig)
	}
	if keptSecret(t, w, p, user.AccessKey.ID) != "" {
		t.Error("the secret is still in the store")
	}
	if events := w.Events(p); events[len(events)-1] != "ENCRYPTION_AT_REST_SWITCHED_TO_ROLE" {
		t.Errorf("events %v", events)
	}
	back := func(when string) {
		t.Helper()
		for name, try := range map[string]func() error{
			"PATCH": func() error { _, err := w.CMK.Update(t.Context(), w.Owner, p, keysPatch(user.AccessKey)); return err },
			"import": func() error {
				_, err := w.CMK.ImportCredentials(t.Context(), w.Owner, p, credentialsOf(user))
				return err
			},
		} {
			if err := try(); apierr.Code(err) != "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED" {
				t.Errorf("%s, %s: %v", when, name, err)
			}
		}
	}
	back("switched")
	if _, err := w.CMK.Update(t.Context(), w.Owner, p, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}}); err != nil {
		t.Fatal(err)
	}
	back("switched, and off")
	if _, err := w.CMK.Rollback(t.Context(), w.Owner, p); apierr.Code(err) != "ENCRYPTION_AT_REST_NO_CHANGE" {
		t.Errorf("rollback: %v", err)
	}
	w.Verify()
}

func TestTheAccessKeyOfALegacyProjectCanBeReplaced(t *testing.T) {
	w, p, user := legacy(t)
	second := w.AWS.User(user.KeyID)
	if _, err := w.CMK.Update(t.Context(), w.Owner, p, cmk.Patch{AWS: &cmk.AWSPatch{AccessKeyID: ptr(second.AccessKey.ID)}}); apierr.Code(err) != "MISSING_ATTRIBUTE" {
		t.Errorf("an id without a secret: %v", err)
	}
	// What was read may be sent back.
	v, err := w.CMK.Update(t.Context(), w.Owner, p, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(true), AccessKeyID: ptr(user.AccessKey.ID), CustomerMasterKeyID: ptr(user.KeyID)}})
	w.Must(err)
	if v.Generation != 1 {
		t.Errorf("what was read changed something: %+v", v)
	}
	wrong := second.AccessKey
	wrong.Secret = secret.FromString("not-the-secret-of-this-key")
	if _, err := w.CMK.Update(t.Context(), w.Owner, p, keysPatch(wrong)); apierr.Code(err) != "INVALID_AWS_CREDENTIALS" {
		t.Errorf("a wrong secret: %v", err)
	}
	v, err = w.CMK.Update(t.Context(), w.Owner, p, keysPatch(second.AccessKey))
	w.Must(err)
	if v.AccessKeyID != second.AccessKey.ID || v.Generation != 2 || !v.Valid || keptSecret(t, w, p, second.AccessKey.ID) == "" {
		t.Errorf("%+v", v)
	}
	role, _ := roleOn(t, w, p, user)
	both := keysPatch(user.AccessKey)
	both.AWS.RoleID = ptr(string(role))
	if _, err := w.CMK.Update(t.Context(), w.Owner, p, both); apierr.Code(err) != "INVALID_ATTRIBUTE" {
		t.Errorf("a role and an access key: %v", err)
	}
	// Switched off, it comes back by an import only.
	_, err = w.CMK.Update(t.Context(), w.Owner, p, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}})
	w.Must(err)
	if keptSecret(t, w, p, second.AccessKey.ID) != "" {
		t.Error("the secret is still in the store")
	}
	if _, err := w.CMK.Update(t.Context(), w.Owner, p, keysPatch(second.AccessKey)); apierr.Code(err) != "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED" {
		t.Errorf("a PATCH on a project that is off: %v", err)
	}
	_, err = w.CMK.ImportCredentials(t.Context(), w.Owner, p, credentialsOf(user))
	w.Must(err)
}
