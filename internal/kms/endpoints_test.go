package kms_test

import (
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/kms"
)

func TestEndpointsByRegion(t *testing.T) {
	e := kms.Endpoints{}
	for _, s := range []string{
		"eu-west-1=https://vpce-0a1b-2c3d.kms.eu-west-1.vpce.amazonaws.com", "us-gov-west-1=https://kms-fips.us-gov-west-1.amazonaws.com/",
		"cn-north-1=http://127.0.0.1:4566", "ap-southeast-2=http://[::1]:1", "http://localhost:4566",
	} {
		if err := e.Set(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for region, want := range map[string]string{
		"eu-west-1": "https://vpce-0a1b-2c3d.kms.eu-west-1.vpce.amazonaws.com", "us-gov-west-1": "https://kms-fips.us-gov-west-1.amazonaws.com",
		"cn-north-1": "http://127.0.0.1:4566", "us-east-1": "http://localhost:4566",
	} {
		if got := e.For(region); got != want {
			t.Errorf("%s: %q", region, got)
		}
	}
	if kms.Endpoints(nil).For("us-east-1") != "" {
		t.Error("without any the service's own counts")
	}
	for s, says := range map[string]string{
		"eu-west-1=http://kms.example.net": "https", "http://10.0.0.1:80": "https", "ftp://127.0.0.1": "https",
		"EU_WEST_1=https://a.example": "us-east-1", "=https://a.example": "us-east-1", "": "not an address", "kms.example.net": "not an address",
		"eu-west-2=https://u:p@a.example": "more than", "eu-west-2=https://a.example/x": "more than", "eu-west-2=https://a.example?x=1": "more than",
		"eu-west-1=https://b.example": "already", "https://b.example": "already", "eu-west-2=https://": "not an address", "eu-west-2=https://a b": "not an address",
	} {
		before := len(e)
		if err := e.Set(s); err == nil || !strings.Contains(err.Error(), says) || len(e) != before || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestNameOfAMultiRegionKey(t *testing.T) {
	const mrk = "arn:aws:kms:us-east-1:111122223333:key/mrk-1"
	for _, x := range []struct{ key, region, name, arn string }{
		{mrk, "us-east-1", mrk, mrk},
		{mrk, "eu-west-1", "arn:aws:kms:eu-west-1:111122223333:key/mrk-1", "arn:aws:kms:eu-west-1:111122223333:key/mrk-1"},
		{"mrk-1", "eu-west-1", "mrk-1", "arn:aws:kms:eu-west-1:444455556666:key/mrk-1"},
		{"arn:aws:kms:us-east-1:111122223333:key/1", "eu-west-1", "arn:aws:kms:us-east-1:111122223333:key/1", "arn:aws:kms:us-east-1:111122223333:key/1"},
		{"arn:aws:kms:us-east-1:111122223333:alias/mrk-1", "eu-west-1", "arn:aws:kms:us-east-1:111122223333:alias/mrk-1", "arn:aws:kms:us-east-1:111122223333:alias/mrk-1"},
		{mrk, "", mrk, mrk},
	} {
		target := kms.Target{RoleARN: "arn:aws:iam::444455556666:role/r", KeyID: x.key, Region: x.region}
		if target.Name() != x.name || target.KeyARN() != x.arn {
			t.Errorf("%s in %s: %s, %s", x.key, x.region, target.Name(), target.KeyARN())
		}
	}
}
