package cmk_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// Guidance works before anything is configured, and becomes exact as more is known.
func TestGuidanceBeforeSave(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.AWS.Down(kms.Timeout) // nobody is asked
	guide := func(c cmk.Candidate, limited bool) cmk.Guidance {
		t.Helper()
		g, err := w.CMK.Guide(t.Context(), w.Owner, p.ID, c, limited)
		w.Must(err)
		return g
	}
	kinds := func(g cmk.Guidance) (out []policydoc.Kind) {
		for _, x := range g.Texts {
			out = append(out, x.Kind)
		}
		return out
	}
	if g := guide(cmk.Candidate{}, false); g.CrossAccount != nil || !slices.Equal(g.Placeholders, []string{"PLATFORM_ACCOUNT_ID", "EXTERNAL_ID", "ROLE_ACCOUNT_ID", "KEY_ACCOUNT_ID", "KEY_ID"}) || len(g.Texts) != 2 {
		t.Errorf("nothing known: %+v", g)
	}
	if g := guide(cmk.Candidate{Region: "US_GOV_WEST_1"}, false); !strings.HasPrefix(g.Access.RoleARN, "arn:aws-us-gov:") || !strings.HasPrefix(g.Access.KeyARN, "arn:aws-us-gov:kms:us-gov-west-1:") || !strings.Contains(g.CreateKey.AWSCLI, "us-gov-west-1") {
		t.Errorf("GovCloud: %+v", g.Access)
	}
	w.AWS.Down("")
	r, target := w.Role(p.ID)
	id := cmk.Candidate{RoleID: string(r.ID), Region: "US_EAST_1", KeyID: keyOnly(target.KeyID)}
	if g := guide(id, true); g.CrossAccount == nil || *g.CrossAccount || len(g.Placeholders) != 0 || g.Access.KeyARN != target.KeyID || g.Access.ExternalID != r.ExternalID ||
		!slices.Equal(kinds(g), []policydoc.Kind{"trust", "identity"}) || !strings.Contains(g.Texts[1].JSON, `"kms:EncryptionContext:keywright:project": "`+string(p.ID)+`"`) {
		t.Errorf("same account: %+v", g)
	}
	foreign := cmk.Candidate{KeyID: "arn:aws:kms:eu-west-1:333333333333:key/mrk-1"}
	if g := guide(foreign, false); g.CrossAccount == nil || !*g.CrossAccount || !slices.Equal(kinds(g), []policydoc.Kind{"trust", "identity", "key"}) || !strings.Contains(g.CreateKey.AWSCLI, "--multi-region") || !strings.Contains(g.CreateKey.AWSCLI, "eu-west-1") {
		t.Errorf("another account: %+v", g)
	}
	foreign.Region = "EU_CENTRAL_1"
	if g := guide(foreign, false); g.Access.KeyARN != "arn:aws:kms:eu-central-1:333333333333:key/mrk-1" || !slices.Equal(g.Access.Replicas, []string{foreign.KeyID}) {
		t.Errorf("a replica: %+v", g.Access)
	}
	other := w.Project("other")
	for code, c := range map[string]cmk.Candidate{"CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND": {RoleID: strings.Repeat("0", 24)}, "INVALID_ATTRIBUTE": {KeyID: "alias/x"}, "AWS_KMS_REGION_NOT_SUPPORTED": {Region: "MOON"}} {
		if _, err := w.CMK.Guide(t.Context(), w.Owner, p.ID, c, false); apierr.Code(err) != code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := w.CMK.Guide(t.Context(), w.Owner, other.ID, cmk.Candidate{RoleID: string(r.ID)}, false); apierr.Code(err) != "CLOUD_PROVIDER_ACCESS_ROLE_NOT_FOUND" {
		t.Errorf("a role of another project: %v", err)
	}
	if _, err := w.CMK.Guide(t.Context(), w.Key([]tenant.Role{tenant.OrgMember}, other.ID, tenant.GroupReadOnly), p.ID, cmk.Candidate{}, false); apierr.Code(err) == "" {
		t.Error("a stranger was told")
	}
}

// A check changes nothing, tells each permission apart, and is what a change would be
// answered with.
func TestACheckChangesNothing(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, target := w.Role(p.ID)
	cand := cmk.Candidate{RoleID: string(r.ID), KeyID: target.KeyID, Region: "US_EAST_1"}
	events, before := w.Events(p.ID), peek(t, w, p.ID)
	results := func(c cmk.Check) string {
		var out []string
		for _, x := range c.Permissions {
			word := "?"
			switch {
			case x.OK:
				word = "ok"
			case x.Tried:
				word = "no"
			}
			if (x.Advice.Sentence != "") != (word == "no") {
				t.Errorf("%s %s with the advice %q", x.Action, word, x.Advice.Sentence)
			}
			out = append(out, word)
		}
		return strings.Join(out, " ")
	}
	for _, x := range []struct {
		deny []kms.Operation
		want string
		code string
	}{
		{nil, "ok ok ok ok", ""},
		{[]kms.Operation{kms.OpDescribeKey}, "ok no ok ok", "NO_PERMISSION_TO_ENCRYPT_DECRYPT"},
		{[]kms.Operation{kms.OpEncrypt}, "ok ok no ?", "NO_PERMISSION_TO_ENCRYPT_DECRYPT"},
		{[]kms.Operation{kms.OpDecrypt}, "ok ok ok no", "NO_PERMISSION_TO_ENCRYPT_DECRYPT"},
		{[]kms.Operation{kms.OpAssumeRole}, "no ? ? ?", "CANNOT_ASSUME_ROLE"},
	} {
		w.AWS.Deny(target.RoleARN, true, x.deny...)
		c, err := w.CMK.Check(t.Context(), w.Owner, p.ID, cand)
		w.Must(err)
		if got := results(c); got != x.want || (c.Refusal == nil) != (x.code == "") || c.Refusal != nil && c.Refusal.Code != x.code {
			t.Errorf("without %v: %s, %v", x.deny, got, c.Refusal)
		}
		w.AWS.Deny(target.RoleARN, false, x.deny...)
	}
	w.AWS.Down(kms.DNS)
	if c, err := w.CMK.Check(t.Context(), w.Owner, p.ID, cand); err != nil || c.Outcome != kms.Unreachable || results(c) != "? ? ? ?" {
		t.Errorf("AWS away: %+v %v", c.Result, err)
	}
	w.AWS.Down("")
	if got := peek(t, w, p.ID); !reflect.DeepEqual(got, before) || !slices.Equal(w.Events(p.ID), events) {
		t.Errorf("changed %+v to %+v", before, got)
	}
	for code, c := range map[string]cmk.Candidate{"MISSING_ATTRIBUTE": {}, "INVALID_ATTRIBUTE": {RoleID: "x"}, "AWS_KMS_REGION_NOT_SUPPORTED": {RoleID: cand.RoleID, KeyID: keyOnly(cand.KeyID), Region: "CN_NORTH_1"}} {
		if _, err := w.CMK.Check(t.Context(), w.Owner, p.ID, c); apierr.Code(err) != code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := w.CMK.Check(t.Context(), w.Key([]tenant.Role{tenant.OrgMember}, p.ID, tenant.GroupClusterManager), p.ID, cand); apierr.Code(err) != "USER_UNAUTHORIZED" {
		t.Errorf("not an owner: %v", err)
	}
}

func TestChecksAreBounded(t *testing.T) {
	w := controltest.New(t)
	p, other := w.Project("p"), w.Project("other")
	r, target := w.Role(p.ID)
	cand := cmk.Candidate{RoleID: string(r.ID), KeyID: target.KeyID, Region: "US_EAST_1"}
	var err error
	n := 0
	for ; err == nil && n < 50; n++ {
		_, err = w.CMK.Check(t.Context(), w.Owner, p.ID, cand)
	}
	// A slow machine may get into the next minute; it never gets to fifty.
	if apierr.Code(err) != "RATE_LIMITED" || n < 11 {
		t.Errorf("check %d: %v", n, err)
	}
	r, target = w.Role(other.ID)
	if _, err := w.CMK.Check(t.Context(), w.Owner, other.ID, cmk.Candidate{RoleID: string(r.ID), KeyID: target.KeyID, Region: "US_EAST_1"}); err != nil {
		t.Errorf("another project: %v", err)
	}
}

// Roles, regions and keys of different partitions never go together.
func TestPartitionsDoNotMix(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, target := w.Role(p.ID)
	for _, region := range []string{"US_GOV_WEST_1", "CN_NORTH_1"} {
		_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, keyOnly(target.KeyID), region))
		if apierr.Code(err) != "AWS_KMS_REGION_NOT_SUPPORTED" || !strings.Contains(err.Error(), "partition") {
			t.Errorf("%s: %v", region, err)
		}
	}
	const gov = "arn:aws-us-gov:iam::222222222222:role/keywright"
	fresh, err := w.Access.Register(t.Context(), w.Owner, p.ID)
	w.Must(err)
	calls := len(w.AWS.Tried())
	if _, err := w.Access.Authorize(t.Context(), w.Owner, p.ID, fresh.ID, gov); apierr.Code(err) != "INVALID_ATTRIBUTE" || !strings.Contains(err.Error(), "aws-us-gov") || len(w.AWS.Tried()) != calls {
		t.Errorf("a role of another partition: %v", err)
	}
	var list []access.Role
	list, err = w.Access.List(t.Context(), w.Owner, p.ID)
	w.Must(err)
	if i := slices.IndexFunc(list, func(x access.Role) bool { return x.ID == fresh.ID }); i < 0 || list[i].ARN != "" {
		t.Errorf("%+v", list)
	}
}

// Rule 25: another Region of the same multi-Region key is accepted if its replica opens
// the probe, whether the ARN of the primary is kept or not.
func TestARegionChangesToAReplica(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	r, target := w.Role(p.ID)
	primary, replica := w.AWS.Replicate(target.KeyID, "eu-west-1")
	v, err := w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(r.ID, primary, "US_EAST_1"))
	if err != nil || v.KeyARN != primary {
		t.Fatalf("%+v %v", v.KeyConfig, err)
	}
	none := "EU_CENTRAL_1"
	if _, err := w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Region: &none}}); apierr.Code(err) != "AWS_CUSTOMER_MASTER_KEY_NOT_FOUND" || !strings.Contains(err.Error(), "aws kms replicate-key") {
		t.Errorf("without a replica: %v", err)
	}
	region := "EU_WEST_1"
	v, err = w.CMK.Update(t.Context(), w.Owner, p.ID, cmk.Patch{AWS: &cmk.AWSPatch{Region: &region}})
	if err != nil || v.KeyARN != replica || v.KeyID != primary || v.Region != region || !v.Valid {
		t.Errorf("%+v %v", v.KeyConfig, err)
	}
}
