package api_test

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
)

func TestWithoutCredentialsNothingIsTold(t *testing.T) {
	r := newRig(t)
	nobody := key{}
	for _, c := range []struct{ method, path string }{
		{"GET", "/groups/{G}"}, {"GET", "/groups"}, {"POST", "/groups"}, {"PUT", "/groups/{G}"}, {"GET", "/nothing"}, {"GET", "/"},
		{"GET", "/api/keywright/v1/hosts"}, {"POST", "/api/keywright/v1/hosts/enrolmentTokens"}, {"GET", v2 + "/groups/000000000000000000000000"}, {"DELETE", v2 + "/unauth/controlPlaneIPAddresses"},
	} {
		a := r.call(nobody, c.method, current, c.path, `{"name":`)
		challenge := a.header.Get("WWW-Authenticate")
		if a.status != 401 || a.code() != "UNEXPECTED_ERROR" || !strings.HasPrefix(challenge, `Digest realm="MMS Public API", domain="", nonce="`) || !strings.HasSuffix(challenge, `", algorithm=MD5, qop="auth", stale=false`) {
			t.Errorf("%s %s: %d %s %q", c.method, c.path, a.status, a.raw, challenge)
		}
		if a.header.Get("Allow") != "" {
			t.Errorf("%s %s tells which methods there are", c.method, c.path)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
			if a.header.Get(name) != want {
				t.Errorf("%s is %q", name, a.header.Get(name))
			}
		}
	}
	a := r.call(nobody, "GET", "2023-11-15", v2+"/unauth/controlPlaneIPAddresses", "")
	if a.status != 200 || a.body["outbound"] == nil || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("addresses without authentication: %d %s", a.status, a.raw)
	}
}

func TestWrongCredentialsAreRefusedAlike(t *testing.T) {
	r := newRig(t)
	wrong := r.call(key{ownerKey, "another-private-key"}, "GET", current, "/groups", "")
	unknown := r.call(key{"nobodysk", ownerSecret}, "GET", current, "/groups", "")
	if wrong.status != 401 || wrong.raw != unknown.raw || wrong.body["error"] == nil {
		t.Errorf("%s\n%s", wrong.raw, unknown.raw)
	}
	err := client.New(r.srv.URL, ownerKey, secret.FromString("another-private-key")).Do(t.Context(), "GET", v2+"/groups", nil, nil)
	if e := refusalOf(err); e == nil || e.Status != 401 || e.Code != "UNEXPECTED_ERROR" {
		t.Errorf("client: %v", err)
	}
}

func refusalOf(err error) *client.Error {
	var e *client.Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

func TestOurClientSpeaksToTheAPI(t *testing.T) {
	r := newRig(t)
	c := client.New(r.srv.URL+"/", ownerKey, secret.FromString(ownerSecret))
	var got struct {
		Name string `json:"name"`
	}
	if err := c.Do(t.Context(), "PATCH", v2+"/groups/"+string(r.project), map[string]string{"name": "Renamed"}, &got); err != nil || got.Name != "Renamed" {
		t.Fatalf("%+v %v", got, err)
	}
	err := c.DoVersion(t.Context(), jsonOf+"2022-01-01+json", "GET", v2+"/groups", nil, nil)
	if e := refusalOf(err); e == nil || e.Status != 406 || e.Code != "INVALID_VERSION_DATE" || !strings.Contains(e.Error(), "2023-01-01") {
		t.Errorf("%v", err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }))
	defer proxy.Close()
	err = client.New(proxy.URL, "a", secret.FromString("b")).Do(t.Context(), "GET", "/x", nil, nil)
	if e := refusalOf(err); e == nil || e.Status != 502 || e.Code != "UNEXPECTED_ANSWER" {
		t.Errorf("an answer that is not ours: %v", err)
	}
}

// recorder keeps the last Authorization that a client sent.
type recorder struct {
	http.RoundTripper
	last string
}

func (rec *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if a := req.Header.Get("Authorization"); a != "" {
		rec.last = a
	}
	return rec.RoundTripper.RoundTrip(req)
}

// record gives the Authorization of one accepted call.
func (r *rig) record(path string) string {
	r.T.Helper()
	rec := &recorder{RoundTripper: http.DefaultTransport}
	before := r.srv.Client().Transport
	r.srv.Client().Transport = rec
	defer func() { r.srv.Client().Transport = before }()
	r.ok(200, "GET", current, path, "")
	return rec.last
}

func (r *rig) replay(path, authorization string) answer {
	r.T.Helper()
	path = strings.ReplaceAll(path, "{G}", string(r.project))
	req, err := http.NewRequestWithContext(r.T.Context(), "GET", r.srv.URL+v2+path, nil)
	r.Must(err)
	req.Header.Set("Accept", jsonOf+current+"+json")
	req.Header.Set("Authorization", authorization)
	return r.send(key{}, req)
}

func TestAReplayedAnswerIsStale(t *testing.T) {
	r := newRig(t)
	const path = "/groups/{G}?pretty=true"
	used := r.record(path)
	for range 2 {
		a := r.replay(path, used)
		if a.status != 401 || !strings.HasSuffix(a.header.Get("WWW-Authenticate"), "stale=true") {
			t.Fatalf("%d %q", a.status, a.header.Get("WWW-Authenticate"))
		}
	}
	if again := r.record(path); again == used {
		t.Error("the same answer to a new challenge")
	}
	if a := r.replay("/groups/{G}?pretty=false", used); a.status != 401 || strings.HasSuffix(a.header.Get("WWW-Authenticate"), "stale=true") {
		t.Errorf("for another target: %d %q", a.status, a.header.Get("WWW-Authenticate"))
	}
}

func TestAChallengeExpires(t *testing.T) {
	r := newRig(t)
	// The clock jumps between challenge and answer.
	late := &lateTransport{rig: r, by: 5*time.Minute + time.Second}
	r.srv.Client().Transport = late
	a := r.call(owner, "GET", current, "/groups", "")
	if a.status != 401 || !strings.HasSuffix(a.header.Get("WWW-Authenticate"), "stale=true") {
		t.Errorf("%d %q", a.status, a.header.Get("WWW-Authenticate"))
	}
	late.by = 5*time.Minute - 10*time.Second
	r.ok(200, "GET", current, "/groups", "")
}

type lateTransport struct {
	rig *rig
	by  time.Duration
}

func (l *lateTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") != "" {
		l.rig.clock.add(l.by)
	}
	return http.DefaultTransport.RoundTrip(req)
}

func TestTheTargetIsComparedAsSent(t *testing.T) {
	r := newRig(t)
	r.ok(201, "POST", legacy, "/groups/{G}/accessList?includeCount=true&itemsPerPage=100&pageNum=1", `[{"cidrBlock":"198.51.100.0/24","comment":"net"}]`)
	const path = "/groups/{G}/accessList/198.51.100.0%2F24?pretty=true&x=a%20b+c"
	used := r.record(path)
	if !strings.Contains(used, `uri="`+v2+`/groups/`+string(r.project)+`/accessList/198.51.100.0%2F24?pretty=true&x=a%20b+c"`) {
		t.Errorf("the client sends %s", used)
	}
}

func TestManyWrongKeysAreSlowedDown(t *testing.T) {
	r := newRig(t)
	for range 100 {
		if a := r.call(key{"guesser", "x"}, "GET", current, "/groups", ""); a.status != 401 {
			t.Fatal(a.status)
		}
	}
	a := r.call(owner, "GET", current, "/groups", "")
	if a.status != 429 || a.code() != "RATE_LIMITED" || !regexp.MustCompile(`^[1-9][0-9]?$`).MatchString(a.header.Get("Retry-After")) {
		t.Fatalf("%d %s %q", a.status, a.raw, a.header.Get("Retry-After"))
	}
	r.clock.add(time.Minute)
	r.ok(200, "GET", current, "/groups", "")
	for range 300 { // the first half of every call is no failure
		if a := r.call(key{}, "GET", current, "/groups", ""); a.status != 401 {
			t.Fatal(a.status)
		}
	}
	r.ok(200, "GET", current, "/groups", "")
}

// A key that may only read is refused by its code wherever something would change,
// before anything does.
func TestAReadOnlyKeyChangesNothing(t *testing.T) {
	r := newRig(t)
	_, target := r.Enable(r.project)
	r.newCluster("main", "AWS", "")
	r.ok(201, "POST", legacy, "/groups/{G}/databaseUsers", appUser)
	r.ok(201, "POST", legacy, "/groups/{G}/accessList", `[{"ipAddress":"203.0.113.7"}]`)
	reader := r.newKey(tenant.OrgMember, tenant.GroupReadOnly)
	role := string(mustList(r)[0])
	r.unchanged("a key that may only read", func() {
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/groups", `{"name":"Another","orgId":"{O}"}`},
			{"PATCH", "/groups/{G}", `{"name":"Mine"}`}, {"DELETE", "/groups/{G}", ""},
			{"PATCH", "/groups/{G}/settings", `{"isDataExplorerEnabled":false}`},
			{"POST", "/groups/{G}/managedSlowMs/enable", ""}, {"DELETE", "/groups/{G}/managedSlowMs/disable", ""},
			{"POST", "/groups/{G}/cloudProviderAccess", `{"providerName":"AWS"}`},
			{"PATCH", "/groups/{G}/cloudProviderAccess/" + role, `{"providerName":"AWS","iamAssumedRoleArn":"` + target.RoleARN + `"}`},
			{"DELETE", "/groups/{G}/cloudProviderAccess/AWS/" + role, ""},
			{"PATCH", "/groups/{G}/encryptionAtRest", `{"awsKms":{"enabled":false}}`},
			{"POST", "/groups/{G}/clusters", clusterJSON("other", "NONE", "M10", "")},
			{"PATCH", "/groups/{G}/clusters/main", `{"terminationProtectionEnabled":true}`},
			{"PATCH", "/groups/{G}/clusters/main", `{"encryptionAtRestProvider":"NONE"}`},
			{"PATCH", "/groups/{G}/clusters/main/processArgs", `{"noTableScan":true}`},
			{"DELETE", "/groups/{G}/clusters/main", ""},
			{"POST", "/groups/{G}/databaseUsers", strings.Replace(appUser, `"app"`, `"other"`, 1)},
			{"PATCH", "/groups/{G}/databaseUsers/admin/app", `{"description":"x"}`}, {"DELETE", "/groups/{G}/databaseUsers/admin/app", ""},
			{"POST", "/groups/{G}/accessList", `[{"ipAddress":"203.0.113.8"}]`}, {"DELETE", "/groups/{G}/accessList/203.0.113.7", ""},
			{"POST", "/api/keywright/v1/groups/{G}/encryptionAtRest:tryAgain", ""},
			{"PATCH", "/api/keywright/v1/groups/{G}/keyPolicy", `{"mode":"ALERT"}`},
			{"POST", "/api/keywright/v1/groups/{G}/clusters/main:drill", `{"minutes":1}`},
			{"POST", "/api/keywright/v1/hosts/enrolmentTokens", `{"hostname":"x"}`},
		} {
			a := r.call(reader, c.method, current, c.path, strings.ReplaceAll(c.body, "{O}", string(r.Org)))
			if a.status != 401 || a.code() != "USER_UNAUTHORIZED" {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.raw)
			}
		}
	})
	for _, path := range []string{"/groups/{G}", "/groups/{G}/clusters/main", "/groups/{G}/encryptionAtRest", "/groups/{G}/events", "/groups/{G}/settings"} {
		if a := r.call(reader, "GET", current, path, ""); a.status != 200 {
			t.Errorf("reading %s: %d %s", path, a.status, a.raw)
		}
	}
	// For whoever is not in the project, there is none.
	stranger := r.newKey(tenant.OrgMember)
	for _, path := range []string{"/groups/{G}", "/groups/{G}/clusters/main", "/groups/{G}/events", "/groups/{G}/limits", "/groups/{G}/containers?providerName=AWS"} {
		if a := r.call(stranger, "GET", current, path, ""); a.status != 404 || a.code() != "GROUP_NOT_FOUND" {
			t.Errorf("a stranger reads %s: %d %s", path, a.status, a.raw)
		}
	}
	// The Organization Owner acts in projects, but not on their keys until added.
	boss := r.newKey(tenant.OrgOwner)
	if a := r.call(boss, "PATCH", current, "/groups/{G}/encryptionAtRest", `{"awsKms":{"enabled":false}}`); a.status != 401 || a.code() != "USER_UNAUTHORIZED" {
		t.Errorf("an Organization Owner: %d %s", a.status, a.raw)
	}
}

// A browser that has a key sends it along whoever asks; pages of others must not
// make use of that.
func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	r := newRig(t)
	send := func(method, header, value string) answer {
		req, err := http.NewRequestWithContext(t.Context(), method, r.srv.URL+"/api/atlas/v1.0/groups/"+string(r.project), strings.NewReader(`{"name":"Taken"}`))
		r.Must(err)
		req.Header.Set(header, value)
		return r.send(owner, req)
	}
	r.unchanged("another origin", func() {
		for _, h := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
			for _, method := range []string{"PATCH", "DELETE"} {
				if a := send(method, h[0], h[1]); a.status != 403 || a.code() != "CROSS_ORIGIN_REFUSED" {
					t.Errorf("%v: %d %s", h, a.status, a.raw)
				}
			}
		}
	})
	if a := send("PATCH", "Origin", r.srv.URL); a.status != 200 {
		t.Errorf("our own page: %d %s", a.status, a.raw)
	}
}

// Of many who send the same answer at once, one is served.
func TestOneOfManyReplaysIsServed(t *testing.T) {
	r := newRig(t)
	h := api.New(api.Config{Tenant: r.Tenant, Access: r.Access, CMK: r.CMK, Cluster: r.Cluster})
	challenges := make(chan string, 1)
	serve := func(authorization string) int {
		req := httptest.NewRequestWithContext(t.Context(), "GET", v2+"/groups", nil)
		req.Header.Set("Accept", jsonOf+legacy+"+json")
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if authorization == "" {
			challenges <- w.Header().Get("WWW-Authenticate")
		}
		return w.Code
	}
	for range 5 {
		serve("")
		nonce := regexp.MustCompile(`nonce="([^"]+)"`).FindStringSubmatch(<-challenges)[1]
		authorization := answerTo(nonce, "GET", v2+"/groups")
		var wg sync.WaitGroup
		var served atomic.Int32
		for range 20 {
			wg.Go(func() {
				if serve(authorization) == 200 {
					served.Add(1)
				}
			})
		}
		wg.Wait()
		if served.Load() != 1 {
			t.Fatalf("%d were served", served.Load())
		}
	}
}

// answerTo is the owner's answer to a nonce, computed here as RFC 7616 says.
func answerTo(nonce, method, uri string) string {
	sum := func(s string) string {
		h := md5.Sum([]byte(s))
		return hex.EncodeToString(h[:])
	}
	ha1, ha2 := sum(ownerKey+":MMS Public API:"+ownerSecret), sum(method+":"+uri)
	response := sum(ha1 + ":" + nonce + ":00000001:0123456789abcdef:auth:" + ha2)
	return `Digest username="` + ownerKey + `", realm="MMS Public API", nonce="` + nonce + `", uri="` + uri + `", response="` + response +
		`", algorithm="MD5", cnonce="0123456789abcdef", qop=auth, nc=00000001`
}
