package cmk_test

import (
	"reflect"
	"strings"
	"sync"
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

func ptr[T any](v T) *T { return &v }

func keyOnly(arn string) string {
	a, _ := keys.ParseARN(arn)
	return strings.TrimPrefix(a.Resource, "key/")
}

func TestAProjectIsEnabledChangedAndDisabledByPartialPatches(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, err := w.CMK.Get(t.Context(), w.Owner, p.ID)
	if err != nil || v.Enabled || v.Valid {
		t.Fatalf("fresh project: %+v %v", v, err)
	}
	r, target := w.Role(p.ID)
	id := keyOnly(target.KeyID)
	v, err = w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, id, "us-east-1"))
	if err != nil || !v.Enabled || !v.Valid || v.KeyID != id || v.KeyARN != target.KeyID || v.Region != "US_EAST_1" || v.Generation != 1 {
		t.Fatalf("enabled: %+v %v", v, err)
	}
	// The verdict of the run that was just made is there at once.
	if v.Verdict.Kind != "VALID" {
		t.Errorf("verdict %+v", v.Verdict)
	}
	for name, patch := range map[string]cmk.Patch{
		"nothing": {}, "empty object": {AWS: &cmk.AWSPatch{}},
		"others off":   {Azure: &cmk.OtherPatch{Enabled: ptr(false)}, Google: &cmk.OtherPatch{}},
		"what we gave": {AWS: &cmk.AWSPatch{Enabled: ptr(true), CustomerMasterKeyID: ptr(id), Region: ptr("US_EAST_1"), RoleID: ptr(string(r.ID)), RequirePrivateNetworking: ptr(false)}},
	} {
		if got, err := w.CMK.Update(t.Context(), w.Owner, p.ID, patch); err != nil || got.Generation != 1 {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	// The full ARN in place of the id alone: the other fields stay.
	v, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr(target.KeyID)}})
	if err != nil || v.KeyID != target.KeyID || v.Role != r.ID || v.Generation != 2 {
		t.Fatalf("partial patch: %+v %v", v, err)
	}
	w.Reopen()
	v, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}, Azure: &cmk.OtherPatch{Enabled: ptr(false)}, Google: &cmk.OtherPatch{Enabled: ptr(false)}})
	if err != nil || v.Enabled || v.KeyID != "" || v.Role != "" || v.Valid || v.Generation != 3 {
		t.Fatalf("disabled: %+v %v", v, err)
	}
	if err := w.Access.Deauthorize(t.Context(), w.Owner, p.ID, r.ID); err != nil {
		t.Fatal(err)
	}
	w.Verify()
}

// Every refusal has its code and leaves everything as it was.
func TestRefusalsChangeNothing(t *testing.T) {
	type env struct {
		w      *controltest.World
		p      keys.ProjectID
		role   keys.RoleID
		target kms.Target
	}
	newKey := func(e env, change func(arn string)) cmk.Patch {
		arn := e.w.AWS.CreateKey()
		change(arn)
		return cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: &arn}}
	}
	cases := map[string]struct {
		patch func(env) cmk.Patch
		code  string
		says  []string
	}{
		"asymmetric": {func(e env) cmk.Patch {
			return newKey(e, func(a string) { e.w.AWS.SetSpec(a, "RSA_2048", "ENCRYPT_DECRYPT") })
		}, "AWS_KMS_CUSTOMER_MASTER_KEY_WRONG_TYPE", []string{"symmetric"}},
		"disabled": {func(e env) cmk.Patch { return newKey(e, func(a string) { e.w.AWS.SetState(a, "Disabled") }) },
			"AWS_KMS_CUSTOMER_MASTER_KEY_NOT_ENABLED", []string{"Enable the key"}},
		"pending deletion": {func(e env) cmk.Patch { return newKey(e, func(a string) { e.w.AWS.SetState(a, "PendingDeletion") }) },
			"AWS_KMS_CUSTOMER_MASTER_KEY_PENDING_DELETION", []string{"Cancel"}},
		"pending import": {func(e env) cmk.Patch { return newKey(e, func(a string) { e.w.AWS.SetState(a, "PendingImport") }) },
			"AWS_KMS_CUSTOMER_MASTER_KEY_PENDING_IMPORT", nil},
		"unknown id": {func(env) cmk.Patch {
			return cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr("12345678-1234-1234-1234-123456781234")}}
		}, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"full ARN", "region"}},
		"wrong region, id": {func(e env) cmk.Patch {
			return cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr(keyOnly(e.target.KeyID)), Region: ptr("EU_WEST_2")}}
		}, "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"EU_WEST_2"}},
		"wrong region, ARN": {func(env) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{Region: ptr("EU_WEST_2")}} },
			"AWS_CUSTOMER_MASTER_KEY_NOT_FOUND", []string{"us-east-1"}},
		"no region": {func(env) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{Region: ptr("MIDDLE_EARTH")}} }, "AWS_KMS_REGION_NOT_SUPPORTED", nil},
		"alias": {func(env) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr("alias/mine")}} },
			"INVALID_ATTRIBUTE", []string{"alias/mine is an alias"}},
		"ARN of something else": {func(env) cmk.Patch {
			return cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr("arn:aws:s3:::bucket/key")}}
		}, "INVALID_ATTRIBUTE", nil},
		"missing permission": {func(e env) cmk.Patch {
			e.w.AWS.Deny(e.target.RoleARN, true, kms.OpEncrypt)
			e.w.T.Cleanup(func() { e.w.AWS.Deny(e.target.RoleARN, false, kms.OpEncrypt) })
			return newKey(e, func(string) {})
		}, "NO_PERMISSION_TO_ENCRYPT_DECRYPT", []string{"lacks kms:Encrypt", `"Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"]`, `"Effect":"Allow"`}},
		"trust withdrawn": {func(e env) cmk.Patch {
			e.w.AWS.Deny(e.target.RoleARN, true, kms.OpAssumeRole)
			return newKey(e, func(string) {})
		}, "CANNOT_ASSUME_ROLE", []string{"trust policy"}},
		"AWS down": {func(e env) cmk.Patch { e.w.AWS.Down(kms.Timeout); return newKey(e, func(string) {}) }, "SERVICE_UNAVAILABLE", nil},
		"role of nobody": {func(env) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{RoleID: ptr(strings.Repeat("0", 24))}} },
			"CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND", nil},
		"role not authorized": {func(e env) cmk.Patch {
			r, err := e.w.Access.Register(e.w.T.Context(), e.w.Owner, e.p)
			e.w.Must(err)
			return cmk.Patch{AWS: &cmk.AWSPatch{RoleID: ptr(string(r.ID))}}
		}, "CLOUD_PROVIDER_ACCESS_ROLE_NOT_AUTHORIZED", nil},
		"access keys": {func(env) cmk.Patch {
			return cmk.Patch{AWS: &cmk.AWSPatch{AccessKeyID: ptr("AKIAEXAMPLEEXAMPLE"), SecretAccessKey: ptr(secret.FromString("x"))}}
		}, "AWS_KMS_CREDENTIALS_AUTH_DEPRECATED", nil},
		"private networking": {func(env) cmk.Patch { return cmk.Patch{AWS: &cmk.AWSPatch{RequirePrivateNetworking: ptr(true)}} }, "FEATURE_UNSUPPORTED", nil},
		"another service":    {func(env) cmk.Patch { return cmk.Patch{Azure: &cmk.OtherPatch{Enabled: ptr(true)}} }, "ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := controltest.New(t)
			p := w.Project("p")
			v, target := w.Enable(p.ID)
			e := env{w: w, p: p.ID, role: v.Role, target: target}
			patch := c.patch(e)
			before := peek(t, w, p.ID)
			_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, patch)
			if got := apierr.Code(err); got != c.code {
				t.Fatalf("code %q, want %q: %v", got, c.code, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the refusal does not say %q: %v", s, err)
				}
			}
			if after := peek(t, w, p.ID); !reflect.DeepEqual(before, after) {
				t.Errorf("the refusal changed something:\n%+v\n%+v", before, after)
			}
			w.Verify()
		})
	}
}

func peek(t *testing.T, w *controltest.World, p keys.ProjectID) cmk.View {
	t.Helper()
	v, err := w.CMK.Peek(t.Context(), w.Owner, p)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAFirstEnablingNeedsEveryField(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, target := w.Role(p.ID)
	full := func() *cmk.AWSPatch { return controltest.Patch(r.ID, target.KeyID, "US_EAST_1").AWS }
	for name, drop := range map[string]func(*cmk.AWSPatch){
		"awsKms.enabled": func(a *cmk.AWSPatch) { a.Enabled = nil }, "awsKms.roleId": func(a *cmk.AWSPatch) { a.RoleID = nil },
		"awsKms.region": func(a *cmk.AWSPatch) { a.Region = nil }, "awsKms.customerMasterKeyID": func(a *cmk.AWSPatch) { a.CustomerMasterKeyID = nil },
	} {
		a := full()
		drop(a)
		_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: a})
		if apierr.Code(err) != "MISSING_ATTRIBUTE" || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if v := peek(t, w, p.ID); v.Enabled || v.Generation != 0 {
		t.Errorf("after refusals: %+v", v)
	}
}

func TestAKeyOfAnotherAccountNeedsItsFullARN(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	target := w.AWS.Project()
	const role = "arn:aws:iam::333333333333:role/elsewhere"
	w.AWS.TrustAs(role, target, r.ExternalID)
	_, err = w.Access.Authorize(t.Context(), w.Owner, p.ID, r.ID, role)
	w.Must(err)
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, keyOnly(target.KeyID), "US_EAST_1"))
	if apierr.Code(err) != "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND" || !strings.Contains(err.Error(), "full ARN") || !strings.Contains(err.Error(), "333333333333") {
		t.Fatalf("by id: %v", err)
	}
	w.AWS.Deny(target.RoleARN, true, kms.OpDecrypt)
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, target.KeyID, "US_EAST_1"))
	if apierr.Code(err) != "NO_PERMISSION_TO_ENCRYPT_DECRYPT" || !strings.Contains(err.Error(), `"Principal":{"AWS":"`+role+`"}`) {
		t.Fatalf("key policy statement: %v", err)
	}
	w.AWS.Deny(target.RoleARN, false, kms.OpDecrypt)
	v, err := w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, target.KeyID, "US_EAST_1"))
	if err != nil || !v.Valid {
		t.Fatalf("by ARN: %+v %v", v, err)
	}
}

func TestOnlyProjectOwnersChangeKeyManagement(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	patch := cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}}
	for name, c := range map[string]struct {
		who  tenant.Principal
		code string
	}{
		"organization owner": {w.Key([]tenant.Role{tenant.OrgOwner}, ""), "USER_UNAUTHORIZED"},
		"cluster manager":    {w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupClusterManager), "USER_UNAUTHORIZED"},
		"reader":             {w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupReadOnly), "USER_UNAUTHORIZED"},
		"member elsewhere":   {w.Key([]tenant.Role{tenant.OrgMember}, ""), "GROUP_NOT_FOUND"},
		"nobody":             {tenant.Principal{}, "GROUP_NOT_FOUND"},
	} {
		if _, err := w.CMK.Update(t.Context(), c.who, p.ID, patch); apierr.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.Access.Register(t.Context(), c.who, p.ID); apierr.Code(err) != c.code {
			t.Errorf("%s registers: %v", name, err)
		}
	}
	if v := peek(t, w, p.ID); !v.Enabled {
		t.Error("somebody switched it off")
	}
}

func TestConcurrentPatchesLoseNothing(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, target := w.Enable(p.ID)
	second, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	const other = "arn:aws:iam::222222222222:role/other"
	w.AWS.TrustAs(other, target, second.ExternalID)
	_, err = w.Access.Authorize(t.Context(), w.Owner, p.ID, second.ID, other)
	w.Must(err)
	patches := []cmk.Patch{
		{AWS: &cmk.AWSPatch{RoleID: ptr(string(second.ID))}},
		{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr(keyOnly(target.KeyID))}},
		{EnabledForSearchNodes: ptr(true)},
	}
	var wg sync.WaitGroup
	for _, patch := range patches {
		wg.Go(func() {
			if _, err := w.CMK.Update(t.Context(), w.Owner, p.ID, patch); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := peek(t, w, p.ID)
	if got.Role != second.ID || got.KeyID != keyOnly(target.KeyID) || !got.SearchNodes || got.Generation != v.Generation+2 {
		t.Errorf("after three concurrent patches: %+v", got.KeyConfig)
	}
	w.Verify()
}

func TestReadersShareOneRun(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	w.Reopen() // forgets the run of the change
	runs := func() (n int) {
		for _, c := range w.AWS.Calls() {
			if c.Operation == kms.OpAssumeRole {
				n++
			}
		}
		return n
	}
	before := runs()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if v, err := w.CMK.Get(t.Context(), w.Owner, p.ID); err != nil || !v.Valid {
				t.Errorf("%+v %v", v, err)
			}
		})
	}
	wg.Wait()
	if n := runs() - before; n != 1 {
		t.Errorf("8 readers made %d runs", n)
	}
	for _, c := range w.AWS.Calls() {
		if c.Operation == kms.OpEncrypt && (c.Context[keys.ContextProject] != string(p.ID) || c.Context[keys.ContextPurpose] != "validation" || c.Context[keys.ContextDeployment] != string(w.Store.Deployment())) {
			t.Errorf("encryption context %v", c.Context)
		}
	}
}

func TestAKeyInUseIsNotGivenUp(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	_, target := w.Enable(p.ID)
	w.Host("h")
	_, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", settings("AWS"))
	w.Must(err)
	before := peek(t, w, p.ID)
	// The same key by its id is no other key.
	if _, err := w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{CustomerMasterKeyID: ptr(keyOnly(target.KeyID))}}); err != nil {
		t.Fatal(err)
	}
	_, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: ptr(false)}})
	if apierr.Code(err) != "CANNOT_DISABLE_ENCRYPTION_AT_REST" {
		t.Fatal(err)
	}
	if err := w.Access.Deauthorize(t.Context(), w.Owner, p.ID, before.Role); apierr.Code(err) != "AWS_IAM_ROLE_IN_USE" {
		t.Fatal(err)
	}
	if err := w.Tenant.DeleteProject(t.Context(), w.Owner, p.ID); apierr.Code(err) != "CANNOT_CLOSE_GROUP_ACTIVE_ATLAS_CLUSTERS" {
		t.Fatal(err)
	}
	if after := peek(t, w, p.ID); !after.Enabled || after.KeyARN != before.KeyARN {
		t.Errorf("%+v", after)
	}
}

func settings(provider string) store.ClusterSettings {
	return store.ClusterSettings{EncryptionProvider: provider, Specs: []store.ReplicationSpec{{Regions: []store.RegionConfig{{
		ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3},
	}}}}}
}

var _ kms.Provider = (*controltest.AWS)(nil)

// Rule 24: where data is encrypted, another way to the key must open the stored
// probe, also while the key cannot be used through the present one.
func TestAnotherWayToTheKeyMustOpenTheStoredProbe(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	v, target := w.Enable(p.ID)
	second, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	const other = "arn:aws:iam::222222222222:role/other"
	w.AWS.TrustAs(other, target, second.ExternalID)
	_, err = w.Access.Authorize(t.Context(), w.Owner, p.ID, second.ID, other)
	w.Must(err)
	damage := func(change func(*store.KeyConfig)) {
		w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
			c := v.KeyConfig
			change(&c)
			return tx.PutKeyConfig(c)
		}))
	}
	patch := cmk.Patch{AWS: &cmk.AWSPatch{RoleID: ptr(string(second.ID))}}
	damage(func(c *store.KeyConfig) { c.Probe = make([]byte, 60) })
	if _, err := w.CMK.Update(t.Context(), w.Owner, p.ID, patch); apierr.Code(err) != "ENCRYPTION_AT_REST_SETTINGS_INVALID" {
		t.Errorf("a key that does not open the probe: %v", err)
	}
	damage(func(*store.KeyConfig) {})
	if got, err := w.CMK.Update(t.Context(), w.Owner, p.ID, patch); err != nil || got.Role != second.ID || !got.Valid {
		t.Errorf("%+v %v", got, err)
	}
}
