package api_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestAPIKeysAreMadeShownOnceAndTakenAway(t *testing.T) {
	r := newRig(t)
	made := r.ok(200, "POST", legacy, "/groups/{G}/apiKeys", `{"desc":"reader","roles":["GROUP_READ_ONLY"]}`)
	k := key{made.body["publicKey"].(string), made.body["privateKey"].(string)}
	id := made.body["id"].(string)
	if a := r.call(k, "GET", legacy, "/groups/{G}", ""); a.status != 200 {
		t.Fatalf("the new key may not read: %d %s", a.status, a.raw)
	}
	if a := r.call(k, "PATCH", legacy, "/groups/{G}", `{"name":"Mine"}`); a.status != 401 || a.code() != "USER_UNAUTHORIZED" {
		t.Errorf("a read-only key changed a project: %d %s", a.status, a.raw)
	}
	if a := r.call(k, "POST", legacy, "/orgs/{O}/apiKeys", `{"desc":"more","roles":["ORG_OWNER"]}`); a.status != 401 {
		t.Errorf("a read-only key made another key: %d %s", a.status, a.raw)
	}
	for _, path := range []string{"/orgs/{O}/apiKeys", "/orgs/{O}/apiKeys/" + id} {
		a := r.ok(200, "GET", legacy, path, "")
		if strings.Contains(a.raw, k.private) || !strings.Contains(a.raw, k.public) {
			t.Errorf("%s shows the private key, or not the public one: %s", path, a.raw)
		}
	}
	r.ok(200, "PATCH", legacy, "/groups/{G}/apiKeys/"+id, `{"roles":["GROUP_OWNER"]}`)
	if a := r.call(k, "PATCH", legacy, "/groups/{G}", `{"name":"Mine"}`); a.status != 200 {
		t.Errorf("a key made owner may not change its project: %d %s", a.status, a.raw)
	}
	if a := r.call(owner, "POST", legacy, "/groups/{G}/apiKeys", `{"desc":"x","roles":["GROUP_GOD"]}`); a.status != 400 || a.code() != "INVALID_ENUM_VALUE" {
		t.Errorf("an unknown role: %d %s", a.status, a.raw)
	}
	r.ok(204, "DELETE", legacy, "/orgs/{O}/apiKeys/"+id, "")
	if a := r.call(k, "GET", legacy, "/groups/{G}", ""); a.status != 401 {
		t.Errorf("a deleted key still works: %d", a.status)
	}
}

func TestAuditCanBeVerifiedAgainstAKeptHead(t *testing.T) {
	r := newRig(t)
	const path = "/api/keywright/v1/orgs/{O}/audit:verify"
	first := r.ok(200, "GET", "", path, "")
	head := first.body["head"].(map[string]any)
	if first.body["intact"] != true {
		t.Fatalf("verify: %s", first.raw)
	}
	r.ok(201, "POST", legacy, "/groups", `{"name":"Later","orgId":"`+string(r.Org)+`"}`)
	kept := fmt.Sprintf("?seq=%s&hash=%s", head["seq"], head["hash"])
	if a := r.ok(200, "GET", "", path+kept, ""); a.body["intact"] != true {
		t.Errorf("a kept head does not lie on the chain: %s", a.raw)
	}
	other := fmt.Sprintf("?seq=%s&hash=%s", head["seq"], strings.Repeat("ab", 32))
	if a := r.ok(200, "GET", "", path+other, ""); a.body["intact"] != false || a.body["finding"] == "" {
		t.Errorf("a head of another chain was accepted: %s", a.raw)
	}
	if a := r.call(owner, "GET", "", path+"?seq=x", ""); a.status != 400 {
		t.Errorf("a head that is none: %d", a.status)
	}
	reader := r.newKey("ORG_READ_ONLY")
	if a := r.call(reader, "GET", "", path, ""); a.status != 401 {
		t.Errorf("a read-only key verified the chain: %d %s", a.status, a.raw)
	}
}
