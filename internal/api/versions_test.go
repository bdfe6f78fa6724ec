package api_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVersionsAreChosenAndEchoed(t *testing.T) {
	r := newRig(t)
	r.newCluster("main", "NONE", "")
	for _, c := range []struct {
		accept, contentType, path string
		status                    int
		want                      string
	}{
		{"2023-01-01", "", v2 + "/groups/{G}", 200, "2023-01-01"},
		{"2023-12-31", "", v2 + "/groups/{G}", 200, "2023-01-01"},
		{"2030-01-01", "", v2 + "/groups/{G}", 200, "2023-01-01"},
		{"2022-12-31", "", v2 + "/groups/{G}", 406, ""},
		{"2022-12-31", "", v2 + "/groups/{G}/clusters", 406, ""},
		{"2023-02-01", "", v2 + "/groups/{G}/clusters", 200, "2023-02-01"},
		{"2024-08-04", "", v2 + "/groups/{G}/clusters/main", 200, "2023-02-01"},
		{"2024-10-23", "", v2 + "/groups/{G}/clusters/main", 200, "2024-08-05"},
		{"2024-08-04", "", v2 + "/groups/{G}/clusters/main/autoScalingConfiguration", 406, ""},
		{"2024-08-05", "", v2 + "/groups/{G}/flexClusters", 406, ""},
		{"2024-11-13", "", v2 + "/groups/{G}/flexClusters", 200, "2024-11-13"},
		{"2025-02-19", "", v2 + "/groups/{G}/users", 200, "2025-02-19"},
		{"", "", v2 + "/groups/{G}", 406, ""},
		{"", "2023-01-01", v2 + "/groups/{G}/accessList", 200, "2023-01-01"},
		{"2023-13-01", "", v2 + "/groups/{G}", 406, ""},
		{"preview", "", v2 + "/groups/{G}", 406, ""},
		{"", "", "/api/atlas/v1.0/groups/{G}", 200, "plain"},
		{"", "", "/api/atlas/v1.0/groups/{G}/clusters", 200, "plain"},
		{"", "", "/api/atlas/v1.5/groups/{G}/clusters", 200, "plain"},
		{"", "", "/api/atlas/v1.0/groups/{G}/flexClusters", 404, ""},
		{"", "", "/api/keywright/v1/hosts", 200, "plain"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.srv.URL+strings.ReplaceAll(c.path, "{G}", string(r.project)), nil)
		r.Must(err)
		req.Header.Set("Accept", "*/*")
		if c.accept != "" {
			req.Header.Set("Accept", jsonOf+c.accept+"+json")
		}
		if c.contentType != "" {
			req.Header.Set("Content-Type", jsonOf+c.contentType+"+json")
		}
		a := r.send(owner, req)
		want := jsonOf + c.want + "+json;charset=utf-8"
		if c.want == "plain" {
			want = "application/json"
		}
		if a.status != c.status || c.want != "" && a.header.Get("Content-Type") != want {
			t.Errorf("%s with %q: %d %q", c.path, c.accept, a.status, a.header.Get("Content-Type"))
		}
		if a.status == 406 && a.code() != "INVALID_VERSION_DATE" {
			t.Errorf("%s: %s", c.path, a.code())
		}
	}
	if a := r.ok(201, "POST", "2024-10-23", "/groups/{G}/clusters", clusterJSON("later", "NONE", "M10", "")); a.header.Get("Content-Type") != jsonOf+"2024-10-23+json;charset=utf-8" {
		t.Errorf("create answers %q", a.header.Get("Content-Type"))
	}
}

func TestOtherMethodsAndPaths(t *testing.T) {
	r := newRig(t)
	a := r.refused(405, "METHOD_NOT_ALLOWED", "PUT", current, "/groups/{G}/encryptionAtRest", `{}`)
	if a.header.Get("Allow") != "GET, PATCH" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
	if a := r.refused(405, "METHOD_NOT_ALLOWED", "DELETE", current, "/groups/{G}/clusters", ""); a.header.Get("Allow") != "GET, POST" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
	r.refused(404, "RESOURCE_NOT_FOUND", "GET", current, "/groups/{G}/nothing", "")
	r.refused(404, "RESOURCE_NOT_FOUND", "GET", current, "/api/atlas/v9/groups", "")
	r.refused(404, "GROUP_NOT_FOUND", "GET", current, "/groups/000000000000000000000000", "")
	r.refused(404, "GROUP_NOT_FOUND", "GET", current, "/groups/not-an-id/clusters", "")
	r.refused(404, "ORG_NOT_FOUND", "GET", current, "/orgs/000000000000000000000000", "")
	r.refused(404, "CLUSTER_NOT_FOUND", "GET", current, "/groups/{G}/clusters/main", "")
	r.refused(404, "EVENT_NOT_FOUND", "GET", current, "/groups/{G}/events/000000000000000000000000", "")
	r.refused(404, "GROUP_NAME_NOT_FOUND", "GET", current, "/groups/byName/Nobody", "")
	// A project may have the name of a collection.
	p := r.Project("clusters")
	if a := r.ok(200, "GET", current, "/groups/byName/clusters", ""); a.body["id"] != string(p.ID) {
		t.Errorf("%s", a.raw)
	}
}

// results of a list.
func (a answer) results() []map[string]any {
	all, _ := a.body["results"].([]any)
	out := []map[string]any{}
	for _, x := range all {
		m, _ := x.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (a answer) link(rel string) string {
	all, _ := a.body["links"].([]any)
	for _, x := range all {
		if m, _ := x.(map[string]any); m["rel"] == rel {
			s, _ := m["href"].(string)
			return s
		}
	}
	return ""
}

func TestListsComeInPages(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"B", "C", "D", "E"} {
		r.Project(name)
	}
	all := r.ok(200, "GET", current, "/groups", "")
	if len(all.results()) != 5 || all.body["totalCount"] != json.Number("5") || all.link("next") != "" || all.link("previous") != "" || !strings.Contains(all.link("self"), "pageNum=1") {
		t.Fatalf("%s", all.raw)
	}
	var names []string
	for next := "/groups?itemsPerPage=2&pretty=false"; next != ""; {
		a := r.ok(200, "GET", current, next, "")
		for _, p := range a.results() {
			names = append(names, p["name"].(string))
		}
		if a.link("self") == "" || a.body["totalCount"] != json.Number("5") {
			t.Errorf("%s", a.raw)
		}
		u, err := url.Parse(a.link("next"))
		r.Must(err)
		if next = ""; u.Path != "" {
			if u.Query().Get("pretty") != "false" || u.Host == "" || u.Scheme != "http" {
				t.Errorf("the next page is %s", u)
			}
			next = u.RequestURI()
		}
	}
	var want []string
	for _, p := range all.results() {
		want = append(want, p["name"].(string))
	}
	if !slices.Equal(names, want) {
		t.Errorf("pages have %v", names)
	}
	third := r.ok(200, "GET", current, "/groups?itemsPerPage=2&pageNum=3", "")
	if !strings.Contains(third.link("previous"), "pageNum=2") || third.link("next") != "" {
		t.Errorf("%s", third.raw)
	}
	if a := r.ok(200, "GET", current, "/groups?pageNum=0&includeCount=false", ""); len(a.results()) != 5 || a.body["totalCount"] != nil {
		t.Errorf("page 0 is the first, without its count: %s", a.raw)
	}
	if a := r.ok(200, "GET", current, "/groups?pageNum=99", ""); !strings.Contains(a.raw, `"results":[]`) || a.body["totalCount"] != json.Number("5") {
		t.Errorf("an empty page: %s", a.raw)
	}
	if a := r.ok(200, "GET", current, "/groups/{G}/databaseUsers?itemsPerPage=500", ""); !strings.Contains(a.raw, `"results":[]`) || a.body["totalCount"] != json.Number("0") {
		t.Errorf("an empty list: %s", a.raw)
	}
	for _, q := range []string{"pageNum=-1", "pageNum=x", "itemsPerPage=501", "itemsPerPage=0", "itemsPerPage=-5", "itemsPerPage=1.5", "pageNum=9223372036854775807", "pageNum=99999999999999999999"} {
		r.refused(400, "INVALID_QUERY_PARAMETER", "GET", current, "/groups?"+q, "")
		r.refused(400, "INVALID_QUERY_PARAMETER", "GET", current, "/groups/{G}/events?"+q, "")
	}
	// Queries that clients send without a use for them.
	for _, q := range []string{"/orgs?name=", "/orgs?name=Acme", "/groups/{G}/clusters?includeDeletedWithRetainedBackups=false", "/groups/{G}/users?flattenTeams=false&includeOrgUsers=false", "/groups/{G}/events?includeRaw=false"} {
		r.ok(200, "GET", current, q, "")
	}
	r.ok(201, "POST", current, "/groups?projectOwnerId=", `{"name":"F","orgId":"`+string(r.Org)+`","clusterCount":0,"created":"0001-01-01T00:00:00Z"}`)
}

func TestEventsAreFiltered(t *testing.T) {
	r := newRig(t)
	r.newCluster("one", "NONE", "")
	r.newCluster("two", "NONE", "")
	r.ok(201, "POST", legacy, "/groups/{G}/databaseUsers", appUser)
	types := func(query string) string {
		t.Helper()
		var out []string
		a := r.ok(200, "GET", legacy, "/groups/{G}/events"+query, "")
		for _, e := range a.results() {
			out = append(out, e["eventTypeName"].(string))
			for _, field := range []string{"id", "created", "groupId", "orgId", "links", "message", "chain"} {
				if e[field] == nil {
					t.Errorf("an event without %s: %v", field, e)
				}
			}
			if e["isGlobalAdmin"] != false || e["publicKey"] != ownerKey || e["remoteAddress"] == nil && e["eventTypeName"] != "GROUP_CREATED" {
				t.Errorf("%v", e)
			}
		}
		return strings.Join(out, " ")
	}
	all := types("")
	if all != "MONGODB_USER_ADDED CLUSTER_CREATED CLUSTER_CREATED GROUP_CREATED" {
		t.Fatalf("newest first: %s", all)
	}
	now, hour := time.Now().UTC(), time.Hour
	for query, want := range map[string]string{
		"?eventType=CLUSTER_CREATED":                                         "CLUSTER_CREATED CLUSTER_CREATED",
		"?eventType=GROUP_CREATED&eventType=MONGODB_USER_ADDED":              "MONGODB_USER_ADDED GROUP_CREATED",
		"?eventType=GROUP_CREATED,MONGODB_USER_ADDED":                        "MONGODB_USER_ADDED GROUP_CREATED",
		"?eventType=NOTHING":                                                 "",
		"?eventType=":                                                        all,
		"?itemsPerPage=1&pageNum=2":                                          "CLUSTER_CREATED",
		"?clusterNames=one":                                                  "CLUSTER_CREATED",
		"?clusterNames=one&clusterNames=two":                                 "CLUSTER_CREATED CLUSTER_CREATED",
		"?clusterNames=nobody":                                               "",
		"?minDate=" + now.Add(hour).Format(time.RFC3339):                     "",
		"?minDate=" + now.Add(-hour).Format(time.RFC3339):                    all,
		"?maxDate=" + now.Add(-hour).Format(time.RFC3339):                    "",
		"?maxDate=" + now.Add(hour).Format("2006-01-02T15:04:05") + "+00:00": all,
	} {
		if got := types(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	r.refused(400, "INVALID_QUERY_PARAMETER", "GET", legacy, "/groups/{G}/events?minDate=yesterday", "")
	first := r.ok(200, "GET", legacy, "/groups/{G}/events", "").results()[0]
	if a := r.ok(200, "GET", legacy, "/groups/{G}/events/"+first["id"].(string), ""); a.body["eventTypeName"] != "MONGODB_USER_ADDED" {
		t.Errorf("%s", a.raw)
	}
	org := r.ok(200, "GET", legacy, "/orgs/{O}/events", "").results()
	if len(org) == 0 || org[len(org)-1]["eventTypeName"] != "ORG_CREATED" {
		t.Fatalf("%v", org)
	}
	r.ok(200, "GET", legacy, "/orgs/{O}/events/"+org[0]["id"].(string), "")
	r.refused(404, "EVENT_NOT_FOUND", "GET", legacy, "/orgs/{O}/events/"+first["id"].(string), "")
}
