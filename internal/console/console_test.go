package console_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/console"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

const password = "correct horse battery"

// browser is somebody with cookies who does not follow redirects by themselves.
type browser struct {
	t   *testing.T
	c   *http.Client
	url string
}

type answer struct {
	*http.Response
	body string
}

func open(t *testing.T, w *controltest.World) *browser {
	t.Helper()
	srv := httptest.NewServer(console.New(console.Config{
		Tenant: w.Tenant, Access: w.Access, CMK: w.CMK, Cluster: w.Cluster, Audit: w.Store, LocalAWS: true,
		Now: func() time.Time { return time.Now() },
	}))
	t.Cleanup(srv.Close)
	jar, _ := cookiejar.New(nil)
	return &browser{t: t, url: srv.URL, c: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) do(method, path string, form url.Values, head ...string) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	res, err := b.c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{res, string(text)}
}

func (b *browser) get(path string) answer { b.t.Helper(); return b.do("GET", path, nil) }

func (b *browser) signIn(name, pw string) answer {
	b.t.Helper()
	return b.do("POST", "/sign-in", url.Values{"username": {name}, "password": {pw}})
}

func person(w *controltest.World, name string, roles ...tenant.Role) {
	w.T.Helper()
	_, err := w.Tenant.CreatePerson(w.T.Context(), w.Owner, w.Org, tenant.NewPerson{Username: name, Password: secret.FromString(password), OrgRoles: roles})
	w.Must(err)
}

func (b *browser) says(path string, words ...string) string {
	b.t.Helper()
	a := b.get(path)
	if a.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s\n%s", path, a.Status, a.body)
	}
	for _, w := range words {
		if !strings.Contains(a.body, w) {
			b.t.Errorf("%s does not say %q\n%s", path, w, a.body)
		}
	}
	return a.body
}

func TestNothingIsShownWithoutASession(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("secret-project")
	b := open(t, w)
	for _, path := range []string{"/", "/orgs/" + string(w.Org), "/projects/" + string(p.ID), "/projects/" + string(p.ID) + "/advanced", "/projects/" + string(p.ID) + "/activity", "/projects/" + string(p.ID) + "/clusters"} {
		a := b.get(path)
		if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "/sign-in") || strings.Contains(a.body, p.Name) {
			t.Errorf("%s: %s %s", path, a.Status, a.Header.Get("Location"))
		}
	}
	if a := b.do("POST", "/projects/"+string(p.ID)+"/advanced/try-again", url.Values{}); a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "/sign-in") {
		t.Error(a.Status)
	}
}

func TestSignInAndOut(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara", tenant.OrgOwner)
	b := open(t, w)
	if a := b.signIn("mara", "wrong"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.body, "Username or password is wrong.") || strings.Contains(a.body, `value="wrong"`) {
		t.Fatal(a.Status, a.body)
	}
	a := b.signIn("mara", password)
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
		t.Fatal(a.Status, a.body)
	}
	cookie := a.Header.Get("Set-Cookie")
	for _, want := range []string{"keywright=", "HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("%q lacks %s", cookie, want)
		}
	}
	if a := b.get("/"); a.Header.Get("Location") != "/orgs/"+string(w.Org) {
		t.Error(a.Header.Get("Location"))
	}
	if a := b.do("POST", "/sign-out", url.Values{}); a.Header.Get("Location") != "/sign-in" {
		t.Error(a.Status)
	}
	if a := b.get("/"); !strings.HasPrefix(a.Header.Get("Location"), "/sign-in") {
		t.Error("still signed in", a.Status)
	}
	for range 5 {
		b.signIn("mara", "wrong")
	}
	if a := b.signIn("mara", password); a.StatusCode != http.StatusTooManyRequests || !strings.Contains(a.body, "Too many attempts. Try again at") {
		t.Error(a.Status)
	}
}

func TestTheSignInLeadsNowhereElse(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara")
	b := open(t, w)
	for next, want := range map[string]string{
		"/orgs/x?a=b": "/orgs/x?a=b", "https://evil.example/": "/", "//evil.example": "/", `/\evil.example`: "/", "javascript:alert(1)": "/", "": "/", "///evil.example": "/",
	} {
		a := b.do("POST", "/sign-in", url.Values{"username": {"mara"}, "password": {password}, "next": {next}})
		if got := a.Header.Get("Location"); got != want {
			t.Errorf("%q leads to %q", next, got)
		}
	}
}

func TestOtherOriginsAreRefused(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara")
	b := open(t, w)
	form := url.Values{"username": {"mara"}, "password": {password}}
	for _, head := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		if a := b.do("POST", "/sign-in", form, head...); a.StatusCode != http.StatusForbidden || a.Header.Get("Set-Cookie") != "" {
			t.Error(head, a.Status)
		}
	}
}

var (
	inlineScript = regexp.MustCompile(`<script[^>]*>[^<]`)
	inlineStyle  = regexp.MustCompile(`<style|\sstyle=|\son[a-z]+=`)
)

func TestPages(t *testing.T) {
	w := controltest.New(t)
	w.Start()
	p := w.Project("payments & co")
	person(w, "mara", tenant.OrgOwner)
	b := open(t, w)
	b.signIn("mara", password)
	at := "/projects/" + string(p.ID)
	b.says(at+"/advanced", "Not configured", "This project has no key yet")
	role, target := w.Role(p.ID)
	_, err := w.CMK.Update(t.Context(), w.Owner, p.ID, controltest.Patch(role.ID, target.KeyID, "US_EAST_1"))
	w.Must(err)
	if a := b.do("POST", at+"/advanced/try-again", url.Values{}); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != at+"/advanced?checked=1" {
		t.Fatal(a.Status, a.body)
	}
	for path, words := range map[string][]string{
		"/orgs/" + string(w.Org):               {"All clusters", "payments &amp; co", "Keys that open", "1 of 1", "Keywright may use this key"},
		at:                                     {"Overview", "Last events", "Local AWS: keys lie on this machine"},
		at + "/clusters":                       {"Database Deployments", "No clusters yet."},
		at + "/advanced":                       {"Encryption at Rest using your Key Management", "Keywright may use this key", role.ARN, "Try Again", "us-east-1", "0 of 0 clusters"},
		at + "/activity":                       {"ENCRYPTION_AT_REST_VALIDATION_REQUESTED", "user:mara", "Not verified now"},
		at + "/activity?verify=1":              {"Intact", "Verified up to #"},
		"/orgs/" + string(w.Org) + "/activity": {"USER_SIGNED_IN"},
		at + "/activity?type=GROUP_CREATED":    {"1 event<", `value="GROUP_CREATED"`},
		at + "/activity?type=GROUP_CREATED&from=2999-01-01": {"No event fits the filter."},
	} {
		body := b.says(path, append(words, `<h1>`, `lang="en"`, `Skip to content`, `<main class="main" id="content"`)...)
		if inlineScript.MatchString(body) || inlineStyle.MatchString(body) {
			t.Errorf("%s has inline script or style", path)
		}
		if n := strings.Count(body, "<h1"); n != 1 {
			t.Errorf("%s has %d h1", path, n)
		}
	}
	if a := b.get(at + "/activity?from=tomorrow"); a.StatusCode != http.StatusBadRequest {
		t.Error(a.Status)
	}
}

func TestHeaders(t *testing.T) {
	w := controltest.New(t)
	b := open(t, w)
	for _, path := range []string{"/sign-in", "/nothing", "/"} {
		a := b.get(path)
		csp := a.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; ") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "form-action 'self'") {
			t.Errorf("%s: %s", path, csp)
		}
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Error(path, a.Header)
		}
	}
	found := regexp.MustCompile(`/static/[a-z]+-[0-9a-f]{12}\.[a-z]+`).FindAllString(b.get("/sign-in").body, -1)
	if len(found) != 3 {
		t.Fatalf("%q", found)
	}
	for _, path := range found {
		a := b.get(path)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") || strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Error(path, a.Status, a.Header)
		}
	}
	if a := b.get("/static/none.css"); a.StatusCode != http.StatusNotFound {
		t.Error(a.Status)
	}
}

func TestRolesDecideHereToo(t *testing.T) {
	w := controltest.New(t)
	mine, other := w.Project("mine"), w.Project("other")
	person(w, "reader")
	_, err := w.Tenant.AssignPerson(t.Context(), w.Owner, mine.ID, "reader", []tenant.Role{tenant.GroupReadOnly})
	w.Must(err)
	b := open(t, w)
	b.signIn("reader", password)
	if body := b.says("/orgs/"+string(w.Org), "mine"); strings.Contains(body, "other") {
		t.Error("a project of others is shown")
	}
	b.says("/projects/"+string(mine.ID)+"/activity", "Verifying needs Organization Owner.")
	for path, want := range map[string]int{
		"/projects/" + string(other.ID): 404, "/projects/" + string(other.ID) + "/advanced": 404, "/projects/x": 404, "/orgs/" + string(keys.NewID(time.Now())): 404,
		"/projects/" + string(mine.ID) + "/activity?verify=1": 403,
	} {
		if a := b.get(path); a.StatusCode != want {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	if a := b.do("POST", "/projects/"+string(mine.ID)+"/advanced/try-again", url.Values{}); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "USER_UNAUTHORIZED") {
		t.Error(a.Status, a.body)
	}
}

func TestTheThemeIsKept(t *testing.T) {
	b := open(t, controltest.New(t))
	b.do("POST", "/theme", url.Values{"theme": {"dark"}, "back": {"/sign-in"}})
	if !strings.Contains(b.get("/sign-in").body, `data-theme="dark"`) {
		t.Error("the theme was not kept")
	}
	b.do("POST", "/theme", url.Values{"theme": {`"><script>`}})
	if strings.Contains(b.get("/sign-in").body, "data-theme") {
		t.Error("another theme was taken")
	}
}

func TestCookiesWithTLS(t *testing.T) {
	w := controltest.New(t)
	person(w, "mara")
	srv := httptest.NewTLSServer(console.New(console.Config{Tenant: w.Tenant, CMK: w.CMK, Cluster: w.Cluster, Access: w.Access, Audit: w.Store}))
	defer srv.Close()
	c := srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.PostForm(srv.URL+"/sign-in", url.Values{"username": {"mara"}, "password": {password}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "__Host-keywright=") || !strings.Contains(got, "Secure") {
		t.Error(got)
	}
	if res.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS")
	}
}

// golden compares with a file in testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s changed:\n%s\nwant\n%s", name, got, want)
	}
}

func TestTheSignInPageIsAsItWas(t *testing.T) {
	b := open(t, controltest.New(t))
	body := b.get("/sign-in").body
	body = regexp.MustCompile(`-[0-9a-f]{12}\.`).ReplaceAllString(body, "-HASH.")
	golden(t, "sign-in.html", strings.ReplaceAll(body, strings.TrimPrefix(b.url, "http://"), "HOST"))
}
