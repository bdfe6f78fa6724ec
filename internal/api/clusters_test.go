package api_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/control/tenant"
)

// Each form of a cluster, as a client reads and writes it.
var forms = []struct{ name, version, path string }{
	{"2024-08-05", current, "/groups/{G}/clusters"},
	{"2024-10-23", "2024-10-23", "/groups/{G}/clusters"},
	{"2023-02-01", advanced, "/groups/{G}/clusters"},
	{"2023-01-01", legacy, "/groups/{G}/clusters"},
	{"v1.5", "", "/api/atlas/v1.5/groups/{G}/clusters"},
	{"v1.0", "", "/api/atlas/v1.0/groups/{G}/clusters"},
}

// rich is everything that a cluster can have, in the form of 2024-08-05.
const rich = `{"name":"rich","clusterType":"REPLICASET","encryptionAtRestProvider":"NONE","backupEnabled":true,"pitEnabled":true,"mongoDBMajorVersion":"7.0",
"versionReleaseSystem":"CONTINUOUS","terminationProtectionEnabled":true,"rootCertType":"ISRGROOTX1","biConnector":{"enabled":true,"readPreference":"analytics"},
"advancedConfiguration":{"minimumEnabledTlsProtocol":"TLS1_3","tlsCipherConfigMode":"CUSTOM","customOpensslCipherConfigTls12":["TLS_A"],"customOpensslCipherConfigTls13":["TLS_B"]},
"configServerManagementMode":"FIXED_TO_DEDICATED","replicaSetScalingStrategy":"NODE_TYPE","diskWarmingMode":"VISIBLE_EARLIER","globalClusterSelfManagedSharding":true,"redactClientLogData":true,
"labels":[{"key":"l","value":"1"}],"tags":[{"key":"t","value":"2"}],
"replicationSpecs":[{"zoneName":"Zone 9","regionConfigs":[
{"providerName":"AWS","regionName":"US_EAST_1","priority":7,"electableSpecs":{"instanceSize":"M30","nodeCount":2,"diskSizeGB":100,"diskIOPS":4000,"ebsVolumeType":"PROVISIONED"},
 "readOnlySpecs":{"instanceSize":"M30","nodeCount":1,"diskSizeGB":100,"diskIOPS":4000,"ebsVolumeType":"PROVISIONED"},
 "analyticsSpecs":{"instanceSize":"M30","nodeCount":1,"diskSizeGB":100,"diskIOPS":4000,"ebsVolumeType":"PROVISIONED"},
 "autoScaling":{"compute":{"enabled":true,"scaleDownEnabled":true,"minInstanceSize":"M10","maxInstanceSize":"M40"},"diskGB":{"enabled":true}},
 "analyticsAutoScaling":{"compute":{"enabled":false,"scaleDownEnabled":false},"diskGB":{"enabled":true}}},
{"providerName":"AWS","regionName":"EU_WEST_1","priority":6,"electableSpecs":{"instanceSize":"M30","nodeCount":1,"diskSizeGB":100,"diskIOPS":4000,"ebsVolumeType":"PROVISIONED"}}]}]}`

// Clients read a cluster, change one field and send the whole of it back. Sent back
// unchanged it changes nothing, in no form, and makes no event.
func TestAClusterSentBackWholeIsNoChange(t *testing.T) {
	r := newRig(t)
	r.Enable(r.project)
	r.newCluster("plain", "NONE", "")
	r.newCluster("locked", "AWS", `"tags":[],"labels":[],`)
	r.newCluster("paused", "NONE", "")
	r.ok(200, "PATCH", current, "/groups/{G}/clusters/paused", `{"paused":true}`)
	r.ok(201, "POST", current, "/groups/{G}/clusters", rich)
	for _, name := range []string{"plain", "locked", "paused", "rich"} {
		for _, f := range forms {
			t.Run(name+" "+f.name, func(t *testing.T) {
				got := r.ok(200, "GET", f.version, f.path+"/"+name, "")
				events := len(r.Events(r.project))
				r.unchanged("sending back what was read", func() {
					back := r.ok(200, "PATCH", f.version, f.path+"/"+name, got.raw)
					if back.raw != got.raw && f.version != "2024-10-23" {
						t.Errorf("%s\n%s", got.raw, back.raw)
					}
					r.ok(200, "PATCH", f.version, f.path+"/"+name, `{}`)
					r.ok(200, "PATCH", f.version, f.path+"/"+name, withoutIDs(got))
				})
				if n := len(r.Events(r.project)); n != events {
					t.Errorf("%d events", n-events)
				}
			})
		}
	}
}

// withoutIDs is what Terraform and the CLI send of what they read: no ids of specs.
func withoutIDs(a answer) string {
	body := maps.Clone(a.body)
	specs, _ := body["replicationSpecs"].([]any)
	for _, s := range specs {
		m, _ := s.(map[string]any)
		delete(m, "id")
		delete(m, "zoneId")
	}
	delete(body, "keywright")
	b, _ := json.Marshal(body)
	return string(b)
}

func TestOneClusterInThreeForms(t *testing.T) {
	r := newRig(t)
	r.ok(201, "POST", current, "/groups/{G}/clusters", rich)
	now := r.ok(200, "GET", current, "/groups/{G}/clusters/rich", "")
	old := r.ok(200, "GET", advanced, "/groups/{G}/clusters/rich", "")
	oldest := r.ok(200, "GET", legacy, "/groups/{G}/clusters/rich", "")
	spec := func(a answer) map[string]any { return a.body["replicationSpecs"].([]any)[0].(map[string]any) }
	region := func(a answer) map[string]any { return spec(a)["regionConfigs"].([]any)[0].(map[string]any) }
	hardware := func(a answer) map[string]any { return region(a)["electableSpecs"].(map[string]any) }
	id := regexp.MustCompile(`^[0-9a-f]{24}$`)
	switch {
	case now.body["diskSizeGB"] != nil || spec(now)["numShards"] != nil || !id.MatchString(spec(now)["zoneId"].(string)) || hardware(now)["diskSizeGB"] != json.Number("100"):
		t.Errorf("2024-08-05: %s", now.raw)
	case old.body["diskSizeGB"] != json.Number("100") || spec(old)["numShards"] != json.Number("1") || spec(old)["zoneId"] != nil || hardware(old)["diskSizeGB"] != nil || old.body["backupEnabled"] != true:
		t.Errorf("2023-02-01: %s", old.raw)
	case oldest.body["providerBackupEnabled"] != true || oldest.body["backupEnabled"] != false || oldest.body["replicationFactor"] != json.Number("3") || spec(oldest)["regionConfigs"] != nil:
		t.Errorf("2023-01-01: %s", oldest.raw)
	}
	for _, a := range []answer{now, old, oldest} {
		if spec(a)["zoneName"] != "Zone 9" || spec(a)["id"] != spec(now)["id"] || a.body["stateName"] != "CREATING" || a.body["groupId"] != string(r.project) {
			t.Errorf("%s", a.raw)
		}
	}
	provider := oldest.body["providerSettings"].(map[string]any)
	regions := spec(oldest)["regionsConfig"].(map[string]any)
	if provider["instanceSizeName"] != "M30" || provider["providerName"] != "AWS" || provider["regionName"] != nil || len(regions) != 2 ||
		regions["US_EAST_1"].(map[string]any)["readOnlyNodes"] != json.Number("1") || oldest.body["autoScaling"].(map[string]any)["diskGBEnabled"] != true {
		t.Errorf("2023-01-01: %s", oldest.raw)
	}
}

// shown is what 2024-08-05 shows of a cluster's nodes.
func (r *rig) shown(name string) (size, disk, nodes, zone, iops string) {
	r.T.Helper()
	a := r.ok(200, "GET", current, "/groups/{G}/clusters/"+name, "")
	spec := a.body["replicationSpecs"].([]any)[0].(map[string]any)
	h := spec["regionConfigs"].([]any)[0].(map[string]any)["electableSpecs"].(map[string]any)
	return h["instanceSize"].(string), h["diskSizeGB"].(json.Number).String(), h["nodeCount"].(json.Number).String(), spec["zoneName"].(string), h["diskIOPS"].(json.Number).String()
}

// A field that is not sent is no change, also inside of what is sent.
func TestPartsOfAClusterKeepTheRest(t *testing.T) {
	r := newRig(t)
	old := `{"name":"main","diskSizeGB":50,"replicationSpecs":[{"numShards":1,"zoneName":"Zone 7","regionConfigs":[{"providerName":"AWS","regionName":"US_EAST_1","priority":7,"electableSpecs":{"instanceSize":"M10","nodeCount":3,"diskIOPS":3300}}]}]}`
	r.ok(201, "POST", advanced, "/groups/{G}/clusters", old)
	check := func(step, want string) {
		t.Helper()
		size, disk, nodes, zone, iops := r.shown("main")
		if got := strings.Join([]string{size, disk, nodes, zone, iops}, " "); got != want {
			t.Errorf("%s: %s, want %s", step, got, want)
		}
	}
	check("created", "M10 50 3 Zone 7 3300")
	specs := func(size string) string {
		return `{"replicationSpecs":[{"regionConfigs":[{"providerName":"AWS","regionName":"US_EAST_1","priority":7,"electableSpecs":{"instanceSize":"` + size + `","nodeCount":5}}]}]}`
	}
	r.ok(200, "PATCH", advanced, "/groups/{G}/clusters/main", specs("M20"))
	check("specs without disk, 2023-02-01", "M20 50 5 Zone 7 3300")
	r.ok(200, "PATCH", current, "/groups/{G}/clusters/main", specs("M10"))
	check("specs without disk, 2024-08-05", "M10 50 5 Zone 7 3300")
	r.ok(200, "PATCH", advanced, "/groups/{G}/clusters/main", `{"diskSizeGB":60}`)
	check("disk alone, 2023-02-01", "M10 60 5 Zone 7 3300")
	r.ok(200, "PATCH", legacy, "/groups/{G}/clusters/main", `{"diskSizeGB":70}`)
	check("disk alone, 2023-01-01", "M10 70 5 Zone 7 3300")
	r.ok(200, "PATCH", legacy, "/groups/{G}/clusters/main", `{"providerSettings":{"providerName":"AWS","instanceSizeName":"M30"}}`)
	check("size alone, 2023-01-01", "M30 70 5 Zone 7 3300")
	r.ok(200, "PATCH", legacy, "/groups/{G}/clusters/main", `{"replicationFactor":7}`)
	check("factor alone, 2023-01-01", "M30 70 7 Zone 7 3300")
	r.ok(200, "PATCH", "", "/api/atlas/v1.0/groups/{G}/clusters/main", `{"replicationSpecs":[{"numShards":1,"zoneName":"Zone 8","regionsConfig":{"US_EAST_1":{"electableNodes":3,"priority":7,"readOnlyNodes":0,"analyticsNodes":0}}}]}`)
	check("specs, v1.0", "M30 70 3 Zone 8 3300")
	r.ok(200, "PATCH", current, "/groups/{G}/clusters/main", `{"advancedConfiguration":{"minimumEnabledTlsProtocol":"TLS1_3"}}`)
	a := r.ok(200, "PATCH", current, "/groups/{G}/clusters/main", `{"advancedConfiguration":{"tlsCipherConfigMode":"CUSTOM","customOpensslCipherConfigTls12":["A"]}}`)
	if got := a.body["advancedConfiguration"].(map[string]any); got["minimumEnabledTlsProtocol"] != "TLS1_3" || got["tlsCipherConfigMode"] != "CUSTOM" {
		t.Errorf("%v", got)
	}
}

func TestClustersAreMadeInEveryForm(t *testing.T) {
	r := newRig(t)
	body := map[string]string{
		advanced: `{"name":"NAME","groupId":"{G}","clusterType":"REPLICASET","diskSizeGB":2,"replicationSpecs":[{"numShards":1,"zoneName":"Zone 1","regionConfigs":[{"providerName":"AWS","regionName":"US_EAST_1","priority":7,"electableSpecs":{"instanceSize":"M10","nodeCount":3}}]}]}`,
		legacy:   `{"name":"NAME","clusterType":"REPLICASET","replicationFactor":3,"providerSettings":{"providerName":"AWS","instanceSizeName":"M10","regionName":"US_EAST_1"},"providerBackupEnabled":true}`,
		current:  clusterJSON("NAME", "NONE", "M10", ""),
	}
	body[""] = body[legacy]
	body["2024-10-23"] = body[current]
	for i, f := range forms {
		name := "c" + itoa(i)
		in := body[f.version]
		if f.name == "v1.5" {
			in = body[advanced]
		}
		a := r.ok(201, "POST", f.version, f.path, strings.NewReplacer("NAME", name, "{G}", string(r.project)).Replace(in))
		if a.body["stateName"] != "CREATING" || a.body["id"] == nil {
			t.Errorf("%s: %s", f.name, a.raw)
		}
		if size, disk, nodes, _, _ := r.shown(name); size != "M10" || disk != "10" || nodes != "3" {
			t.Errorf("%s: %s %s %s", f.name, size, disk, nodes)
		}
		list := r.ok(200, "GET", f.version, f.path, "")
		if list.body["totalCount"] != json.Number(itoa(i+1)) {
			t.Errorf("%s: %s", f.name, list.raw)
		}
		if s := r.ok(200, "GET", legacy, "/groups/{G}/clusters/"+name+"/status", ""); s.body["changeStatus"] != "PENDING" {
			t.Errorf("%s", s.raw)
		}
	}
	for i, f := range forms {
		path := f.path + "/c" + itoa(i)
		if a := r.ok(202, "DELETE", f.version, path+"?retainBackups=false", ""); a.raw != "{}\n" {
			t.Errorf("%q", a.raw)
		}
		if a := r.ok(200, "GET", f.version, path, ""); a.body["stateName"] != "DELETING" {
			t.Errorf("%s: %s", f.name, a.raw)
		}
		r.refused(400, "CLUSTER_ALREADY_REQUESTED_DELETION", "DELETE", f.version, path, "")
	}
}

func TestProcessArgumentsAreKept(t *testing.T) {
	r := newRig(t)
	r.newCluster("main", "NONE", "")
	const path = "/groups/{G}/clusters/main/processArgs"
	a := r.ok(200, "GET", current, path, "")
	for name, want := range map[string]any{
		"javascriptEnabled": false, "noTableScan": false, "minimumEnabledTlsProtocol": "TLS1_2", "tlsCipherConfigMode": "DEFAULT", "defaultWriteConcern": "majority", "oplogSizeMB": nil,
	} {
		if got, there := a.body[name]; !there || got != want {
			t.Errorf("%s is %v (%t)", name, got, there)
		}
	}
	if _, there := a.body["defaultReadConcern"]; there {
		t.Error("2024-08-05 has no defaultReadConcern")
	}
	full := `{"javascriptEnabled":true,"noTableScan":true,"oplogMinRetentionHours":1.5,"oplogSizeMB":2000,"minimumEnabledTlsProtocol":"TLS1_3","changeStreamOptionsPreAndPostImagesExpireAfterSeconds":-1,"customOpensslCipherConfigTls12":[],"defaultMaxTimeMS":null}`
	a = r.ok(200, "PATCH", current, path, full)
	if a.body["javascriptEnabled"] != true || a.body["oplogMinRetentionHours"] != json.Number("1.5") || a.body["changeStreamOptionsPreAndPostImagesExpireAfterSeconds"] != nil || a.body["defaultWriteConcern"] != "majority" {
		t.Errorf("%s", a.raw)
	}
	if c := r.ok(200, "GET", current, "/groups/{G}/clusters/main", ""); c.body["advancedConfiguration"].(map[string]any)["minimumEnabledTlsProtocol"] != "TLS1_3" {
		t.Errorf("TLS is the same setting: %s", c.raw)
	}
	events := len(r.Events(r.project))
	r.unchanged("the same arguments", func() {
		r.ok(200, "PATCH", current, path, full)
		r.ok(200, "PATCH", current, path, a.raw)
		r.ok(200, "PATCH", current, path, `{}`)
		r.ok(200, "PATCH", legacy, path, r.ok(200, "GET", legacy, path, "").raw)
	})
	// The second and the last send a default explicitly, which is stored once.
	if n := len(r.Events(r.project)) - events; n > 1 {
		t.Errorf("%d events", n)
	}
	a = r.ok(200, "PATCH", "", "/api/atlas/v1.0/groups/{G}/clusters/main/processArgs", `{"defaultReadConcern":"local","failIndexKeyTooLong":false,"changeStreamOptionsPreAndPostImagesExpireAfterSeconds":100}`)
	if a.body["defaultReadConcern"] != "local" || a.body["failIndexKeyTooLong"] != false || a.body["noTableScan"] != true {
		t.Errorf("%s", a.raw)
	}
	a = r.ok(200, "PATCH", current, path, `{"changeStreamOptionsPreAndPostImagesExpireAfterSeconds":-1}`)
	if a.body["changeStreamOptionsPreAndPostImagesExpireAfterSeconds"] != nil {
		t.Errorf("%s", a.raw)
	}
	r.unchanged("refused arguments", func() {
		for body, code := range map[string]string{
			`{"defaultReadConcern":"local"}`: "INVALID_ATTRIBUTE", `{"oplogSizeMB":-1}`: "INVALID_ATTRIBUTE", `{"oplogSizeMB":1.5}`: "INVALID_ATTRIBUTE",
			`{"minimumEnabledTlsProtocol":"SSL3"}`: "INVALID_ENUM_VALUE", `{"tlsCipherConfigMode":"x"}`: "INVALID_ENUM_VALUE", `{"noTableScan":"yes"}`: "INVALID_ATTRIBUTE",
			`{"changeStreamOptionsPreAndPostImagesExpireAfterSeconds":-2}`: "INVALID_ATTRIBUTE", `{"unknown":1}`: "INVALID_ATTRIBUTE", `{"defaultWriteConcern":""}`: "INVALID_ATTRIBUTE",
		} {
			r.refused(400, code, "PATCH", current, path, body)
		}
		r.refused(404, "CLUSTER_NOT_FOUND", "PATCH", current, "/groups/{G}/clusters/other/processArgs", `{"noTableScan":true}`)
	})
}

func TestWhatTerraformReadsBesideAProjectAndItsClusters(t *testing.T) {
	r := newRig(t)
	settings := r.ok(200, "GET", legacy, "/groups/{G}/settings", "")
	for _, name := range []string{"CollectDatabaseSpecificsStatistics", "DataExplorer", "ExtendedStorageSizes", "PerformanceAdvisor", "RealtimePerformancePanel", "SchemaAdvisor"} {
		if _, ok := settings.body["is"+name+"Enabled"].(bool); !ok {
			t.Errorf("no flag %s: %s", name, settings.raw)
		}
	}
	events := len(r.Events(r.project))
	if back := r.ok(200, "PATCH", legacy, "/groups/{G}/settings", settings.raw); back.raw != settings.raw || len(r.Events(r.project)) != events {
		t.Errorf("%s", back.raw)
	}
	r.ok(200, "PATCH", legacy, "/groups/{G}/settings", `{"isSchemaAdvisorEnabled":false}`)
	changed := r.ok(200, "GET", legacy, "/groups/{G}/settings", "")
	if changed.body["isSchemaAdvisorEnabled"] != false || len(changed.body) != len(settings.body) {
		t.Errorf("%s", changed.raw)
	}
	changed.body["isSchemaAdvisorEnabled"] = true
	if !maps.Equal(changed.body, settings.body) {
		t.Errorf("another flag changed: %s", changed.raw)
	}
	r.refused(400, "INVALID_ATTRIBUTE", "PATCH", legacy, "/groups/{G}/settings", `{"isSchemaAdvisorEnabled":"no"}`)
	r.refused(400, "INVALID_ATTRIBUTE", "PATCH", legacy, "/groups/{G}/settings", `{"isAnything":true}`)

	slow := func(want string) {
		t.Helper()
		if a := r.ok(200, "GET", legacy, "/groups/{G}/managedSlowMs", ""); strings.TrimSpace(a.raw) != want {
			t.Errorf("%s, want %s", a.raw, want)
		}
	}
	slow("true")
	r.ok(204, "DELETE", legacy, "/groups/{G}/managedSlowMs/disable", "")
	slow("false")
	r.ok(204, "POST", legacy, "/groups/{G}/managedSlowMs/enable", "")
	slow("true")
	if a := r.ok(200, "GET", legacy, "/groups/{G}/limits", ""); strings.TrimSpace(a.raw) != "[]" {
		t.Errorf("limits are a bare array: %s", a.raw)
	}
	for _, path := range []string{"teams", "users", "flexClusters", "containers?providerName=AWS"} {
		if a := r.ok(200, "GET", "2025-02-19", "/groups/{G}/"+path, ""); len(a.results()) != 0 || a.body["totalCount"] != json.Number("0") {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	r.ok(201, "POST", current, "/groups/{G}/clusters", rich)
	r.newCluster("main", "NONE", "")
	got := r.ok(200, "GET", legacy, "/groups/{G}/containers?providerName=AWS", "")
	var regions []string
	for _, c := range got.results() {
		if !regexp.MustCompile(`^[0-9a-f]{24}$`).MatchString(c["id"].(string)) || c["providerName"] != "AWS" {
			t.Errorf("%v", c)
		}
		regions = append(regions, c["regionName"].(string))
	}
	if len(regions) != 2 || got.results()[0]["id"] == got.results()[1]["id"] {
		t.Errorf("one container for each region: %v", regions)
	}
	if again := r.ok(200, "GET", legacy, "/groups/{G}/containers/all", ""); again.raw[strings.Index(again.raw, "results"):] != got.raw[strings.Index(got.raw, "results"):] {
		t.Errorf("%s\n%s", got.raw, again.raw)
	}
	if a := r.ok(200, "GET", legacy, "/groups/{G}/containers?providerName=GCP", ""); len(a.results()) != 0 {
		t.Errorf("%s", a.raw)
	}
	if a := r.ok(200, "GET", current, "/groups/{G}/clusters/main/autoScalingConfiguration", ""); a.body["autoScalingMode"] != "CLUSTER_WIDE_SCALING" {
		t.Errorf("%s", a.raw)
	}
	for _, path := range []string{"", "/backup/snapshots", "/backup/snapshots/65a0f0c2e4b0a1b2c3d4e5f6", "/backup/restoreJobs", "/backup/restoreJobs/65a0f0c2e4b0a1b2c3d4e5f6"} {
		r.refused(400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", "GET", "2024-11-13", "/groups/{G}/flexClusters/main"+path, "")
		r.refused(404, "CLUSTER_NOT_FOUND", "GET", "2024-11-13", "/groups/{G}/flexClusters/other"+path, "")
	}
	reader := r.newKey(tenant.OrgMember, tenant.GroupReadOnly)
	if a := r.call(reader, "GET", legacy, "/groups/{G}/containers", ""); a.status != 200 {
		t.Errorf("%s", a.raw)
	}
}
