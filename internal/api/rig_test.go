package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mongodb-forks/digest"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

const (
	ownerKey    = "ownerkey"
	ownerSecret = "a-private-key-of-the-owner"
	jsonOf      = "application/vnd.atlas."
	v2          = "/api/atlas/v2"
	legacy      = "2023-01-01"
	advanced    = "2023-02-01"
	current     = "2024-08-05"
)

// rig is the API over real services.
type rig struct {
	*controltest.World
	srv     *httptest.Server
	project keys.ProjectID
	clock   *clock
}

// clock is a clock of the API that tests move.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// newRig serves one organization with one project and one host.
func newRig(t *testing.T) *rig {
	t.Helper()
	w := controltest.New(t)
	r := &rig{World: w, clock: &clock{}}
	r.project = w.Project("Project").ID
	w.Host("host-1")
	certificate, private, err := pki.NewAuthority(pki.KindLink, w.Store.Deployment(), time.Now())
	w.Must(err)
	link, err := pki.LoadAuthority(pki.KindLink, certificate, private)
	w.Must(err)
	h := api.New(api.Config{Tenant: w.Tenant, Access: w.Access, CMK: w.CMK, Cluster: w.Cluster, Audit: w.Store, Network: w.Network,
		Rotation: rotation.New(rotation.Config{Store: w.Store}), Maintenance: maintenance.New(w.Store), Export: escrow.New(w.Store, link), Inventory: inventory.New(w.Store), Alert: w.Alert,
		Build: "test", Now: r.clock.now})
	mux := http.NewServeMux() // as the server serves it
	mux.Handle("/", h)
	r.srv = httptest.NewServer(mux)
	t.Cleanup(r.srv.Close)
	return r
}

// answer is an answer with its body read.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (a answer) code() string {
	s, _ := a.body["errorCode"].(string)
	return s
}

func (a answer) detail() string {
	s, _ := a.body["detail"].(string)
	return s
}

// key is an API key as a client has it.
type key struct{ public, private string }

var owner = key{ownerKey, ownerSecret}

// newKey makes an API key with a role in the project.
func (r *rig) newKey(org tenant.Role, roles ...tenant.Role) key {
	r.T.Helper()
	in := tenant.NewAPIKey{OrgRoles: []tenant.Role{org}}
	if len(roles) > 0 {
		in.Projects = map[keys.ProjectID][]tenant.Role{r.project: roles}
	}
	k, private, err := r.Tenant.CreateAPIKey(r.T.Context(), tenant.System(), r.Org, in)
	r.Must(err)
	return key{k.PublicKey, string(private.Reveal())}
}

// call makes a call as a client with the key does. The path may have {G} and {O}; a
// version "" sends plain JSON.
func (r *rig) call(k key, method, version, path, body string) answer {
	r.T.Helper()
	path = strings.NewReplacer("{G}", string(r.project), "{O}", string(r.Org)).Replace(path)
	if strings.HasPrefix(path, "/groups") || strings.HasPrefix(path, "/orgs") {
		path = v2 + path
	}
	req, err := http.NewRequestWithContext(r.T.Context(), method, r.srv.URL+path, strings.NewReader(body))
	r.Must(err)
	media := "application/json"
	if version != "" {
		media = jsonOf + version + "+json"
	}
	req.Header.Set("Accept", media)
	if body != "" {
		req.Header.Set("Content-Type", media)
	}
	return r.send(k, req)
}

func (r *rig) send(k key, req *http.Request) answer {
	r.T.Helper()
	c := r.srv.Client()
	if k.public != "" {
		c = &http.Client{Transport: digest.NewTransportWithHTTPRoundTripper(k.public, k.private, r.srv.Client().Transport)}
	}
	resp, err := c.Do(req)
	r.Must(err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	r.Must(err)
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(b)}
	if len(b) > 0 && b[0] == '{' {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		r.Must(d.Decode(&a.body))
	}
	if a.status >= 400 {
		r.checkError(req, a)
	}
	return a
}

// checkError: every refusal has the whole error document, whatever it is about.
func (r *rig) checkError(req *http.Request, a answer) {
	r.T.Helper()
	_, params := a.body["parameters"].([]any)
	if a.body["error"] != json.Number(itoa(a.status)) || a.code() == "" || !params ||
		a.body["reason"] != http.StatusText(a.status) || a.detail() == "" || a.header.Get("Content-Type") != "application/json" || a.header.Get("X-Error-Code") != a.code() {
		r.T.Errorf("%s %s: the error document is incomplete: %d %s", req.Method, req.URL, a.status, a.raw)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// ok makes a call as the owner and expects a status.
func (r *rig) ok(want int, method, version, path, body string) answer {
	r.T.Helper()
	a := r.call(owner, method, version, path, body)
	if a.status != want {
		r.T.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	return a
}

// refused makes a call as the owner and expects a refusal.
func (r *rig) refused(status int, code, method, version, path, body string) answer {
	r.T.Helper()
	a := r.call(owner, method, version, path, body)
	if a.status != status || a.code() != code {
		r.T.Errorf("%s %s %.200s: %d %s, want %d %s: %s", method, path, body, a.status, a.code(), status, code, a.detail())
	}
	return a
}

// newCluster makes a cluster in the form of 2024-08-05.
func (r *rig) newCluster(name, provider, more string) answer {
	r.T.Helper()
	return r.ok(201, "POST", "2024-10-23", "/groups/{G}/clusters", clusterJSON(name, provider, "M10", more))
}

func clusterJSON(name, provider, size, more string) string {
	return `{"name":"` + name + `","clusterType":"REPLICASET","encryptionAtRestProvider":"` + provider + `",` + more +
		`"replicationSpecs":[{"zoneName":"ZoneName managed by Terraform","regionConfigs":[{"providerName":"AWS","regionName":"US_EAST_1","priority":7,` +
		`"electableSpecs":{"instanceSize":"` + size + `","nodeCount":3}}]}]}`
}

// state is everything that calls show of the project, for comparison.
func (r *rig) state() string {
	r.T.Helper()
	var out []string
	for _, path := range []string{
		"/groups/{G}", "/groups/{G}/settings", "/groups/{G}/managedSlowMs", "/groups/{G}/clusters", "/groups/{G}/databaseUsers", "/groups/{G}/accessList",
		"/groups/{G}/cloudProviderAccess", "/api/keywright/v1/groups/{G}/encryptionAtRest", "/groups/{G}/encryptionAtRest",
	} {
		a := r.ok(200, "GET", current, path, "")
		if strings.Contains(path, "keywright") { // runs are made all the time
			delete(a.body, "validators")
			b, err := json.Marshal(a.body)
			r.Must(err)
			a.raw = string(b)
		}
		out = append(out, a.raw)
	}
	all := r.ok(200, "GET", current, "/groups/{G}/clusters", "")
	results, _ := all.body["results"].([]any)
	for _, c := range results {
		m, _ := c.(map[string]any)
		name, _ := m["name"].(string)
		out = append(out, r.ok(200, "GET", current, "/groups/{G}/clusters/"+name+"/processArgs", "").raw)
	}
	return strings.Join(out, "\n")
}

// unchanged runs something that must leave everything as it was.
func (r *rig) unchanged(what string, do func()) {
	r.T.Helper()
	before := r.state()
	do()
	if after := r.state(); before != after {
		r.T.Errorf("%s changed something:\n%s\n%s", what, before, after)
	}
}

const appUser = `{"username":"app","databaseName":"admin","password":"a-long-password","roles":[{"roleName":"readWriteAnyDatabase","databaseName":"admin"}]}`

func mustList(r *rig) []keys.RoleID {
	r.T.Helper()
	all, err := r.Access.List(r.T.Context(), r.Owner, r.project)
	r.Must(err)
	var out []keys.RoleID
	for _, x := range all {
		out = append(out, x.ID)
	}
	return out
}
