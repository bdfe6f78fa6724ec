package keys_test

import (
	"maps"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

func TestIdentifiersHaveTheFormThatClientsCheck(t *testing.T) {
	a, b := keys.NewID(time.Now()), keys.NewID(time.Now())
	if a == b || !keys.ValidID(a) {
		t.Fatalf("identifiers %q, %q", a, b)
	}
	if k := keys.NewKeyID(); !k.Valid() || len(k) > 40 {
		t.Fatalf("key identifier %q", k)
	}
	for _, bad := range []string{"", "65A0F0C2E4B0A1B2C3D4E5F6", "65a0f0c2e4b0a1b2c3d4e5f", "zzzzzzzzzzzzzzzzzzzzzzzz"} {
		if keys.ValidID(bad) || keys.CheckID("project", bad) == nil {
			t.Errorf("%q was taken for an identifier", bad)
		}
	}
	for _, bad := range []keys.KeyID{"", "1", "kw-", "kw-0123456789abcdef0123456789abcdeX"} {
		if bad.Valid() {
			t.Errorf("%q was taken for a key identifier", bad)
		}
	}
}

func TestContextLeavesEmptyPairsOut(t *testing.T) {
	got := keys.ProbeContext("d", "p").Map()
	want := map[string]string{"keywright:deployment": "d", "keywright:project": "p", "keywright:purpose": "validation"}
	if !maps.Equal(got, want) {
		t.Fatalf("probe context %v", got)
	}
	full := keys.Context{Deployment: "d", Project: "p", Cluster: "c", Node: "n", Purpose: keys.PurposeMasterKey, Key: "k"}.Map()
	if len(full) != 6 || full["keywright:node"] != "n" || full["keywright:key"] != "k" || full["keywright:cluster"] != "c" {
		t.Fatalf("master key context %v", full)
	}
}

func TestARNs(t *testing.T) {
	const role = "arn:aws-us-gov:iam::123456789012:role/path/name"
	a, err := keys.ParseRoleARN(role)
	if err != nil || a.String() != role || a.Partition != "aws-us-gov" {
		t.Fatalf("%v %v", a, err)
	}
	for _, bad := range []string{"", "role/x", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::123456789012:role/"} {
		if _, err := keys.ParseRoleARN(bad); err == nil {
			t.Errorf("%q was taken for a role", bad)
		}
	}
	for name, want := range map[string]bool{
		"alias/x": true, "arn:aws:kms:us-east-1:123456789012:alias/x": true,
		"arn:aws:kms:us-east-1:123456789012:key/x": false, "1234": false,
	} {
		if keys.IsAlias(name) != want {
			t.Errorf("IsAlias(%q) is %v", name, !want)
		}
	}
}

func TestReplicasOfAKeyAreTheSameKey(t *testing.T) {
	const key = "arn:aws:kms:us-east-1:123456789012:key/"
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{key + "1", key + "1", true},
		{key + "1", key + "2", false},
		{key + "1", "arn:aws:kms:eu-west-1:123456789012:key/1", false},
		{key + "mrk-1", "arn:aws:kms:eu-west-1:123456789012:key/mrk-1", true},
		{key + "mrk-1", "arn:aws:kms:eu-west-1:123456789013:key/mrk-1", false},
		{key + "mrk-1", "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1", false},
		{key + "1", "", false},
		{"", "", false},
	} {
		if got := keys.SameKey(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
