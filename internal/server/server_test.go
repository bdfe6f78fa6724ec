package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/server"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/telemetry"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

// plane is a running control plane.
type plane struct {
	t        *testing.T
	dir      string
	aws      *controltest.AWS
	services server.Services
	ready    server.Ready
	cancel   context.CancelFunc
	done     chan error
}

func start(t *testing.T, dir string, aws *controltest.AWS) *plane {
	t.Helper()
	p := &plane{t: t, dir: dir, aws: aws, done: make(chan error, 1)}
	initFile := filepath.Join(dir, "init.json")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(initFile, []byte(`{"version":1,"orgName":"Acme","ownerName":"o","publicKey":"ownerkey","privateKey":"a-private-key-of-the-owner"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	got := make(chan server.Services, 1)
	readyFile := filepath.Join(dir, "ready.json")
	go func() {
		p.done <- server.Run(ctx, server.Config{
			DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AgentListen: "127.0.0.1:0", Interval: time.Second, AWSRegion: "us-east-1",
			InitFile: initFile, ReadyFile: readyFile, Provider: aws, ShowCreating: time.Millisecond, ShowDeleting: time.Millisecond, Metrics: telemetry.New("test"),
			API: func(s server.Services) http.Handler { got <- s; return http.NotFoundHandler() },
		})
	}()
	t.Cleanup(p.stop)
	controltest.Eventually(t, "the ready file", func() bool {
		select {
		case err := <-p.done:
			t.Fatalf("the control plane ended: %v", err)
		default:
		}
		b, err := os.ReadFile(readyFile)
		return err == nil && json.Unmarshal(b, &p.ready) == nil
	})
	p.services = <-got
	return p
}

// stop ends the control plane and waits for it.
func (p *plane) stop() {
	p.t.Helper()
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	select {
	case err := <-p.done:
		if err != nil {
			p.t.Errorf("the control plane ended with %v", err)
		}
	case <-time.After(time.Minute):
		p.t.Error("the control plane does not end")
	}
	if _, err := os.Stat(filepath.Join(p.dir, "ready.json")); !errors.Is(err, os.ErrNotExist) {
		p.t.Error("the ready file is still there")
	}
}

func (p *plane) owner() tenant.Principal {
	p.t.Helper()
	who, _, found, err := p.services.Tenant.Credential(p.t.Context(), "ownerkey")
	if err != nil || !found {
		p.t.Fatalf("no owner: %v", err)
	}
	return who
}

func (p *plane) token(host string) string {
	p.t.Helper()
	k, err := p.services.Cluster.CreateToken(p.t.Context(), p.owner(), host)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(k.Token.Reveal())
}

// host is a member with its certificate.
type host struct {
	*controltest.Agent
	cert tls.Certificate
	cas  agentlink.Authorities
}

func (p *plane) enroll(name string) *host {
	p.t.Helper()
	keyPEM, csr, err := pki.NewKey()
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := agentlink.Enroll(p.t.Context(), p.ready.AgentURL, agentlink.EnrollRequest{Token: p.token(name), Hostname: name, CSR: string(csr)})
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(r.Certificate), keyPEM.Reveal())
	if err != nil {
		p.t.Fatal(err)
	}
	return &host{Agent: controltest.NewAgent(r.Host), cert: cert, cas: r.CAs}
}

func (p *plane) client(h *host) *agentlink.Client {
	p.t.Helper()
	c, err := agentlink.NewClient(p.ready.AgentURL, h.cas.Link, func() (*tls.Certificate, error) { return &h.cert, nil })
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// step fetches, enacts and reports once, over the link.
func (p *plane) step(h *host) {
	p.t.Helper()
	c := p.client(h)
	defer c.Close()
	d, err := c.Desired(p.t.Context(), 0, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	h.Take(d)
	if err := c.Status(p.t.Context(), h.Status()); err != nil {
		p.t.Fatal(err)
	}
}

func code(err error) string {
	var e *agentlink.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return "OTHER: " + err.Error()
	}
	return ""
}

// encrypted makes a project with key management and an encrypted cluster.
func (p *plane) encrypted() (store.Project, cluster.View, kms.Target) {
	p.t.Helper()
	ctx := p.t.Context()
	must := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	owner := p.owner()
	pr, err := p.services.Tenant.CreateProject(ctx, owner, tenant.NewProject{Org: owner.Org, Name: "p"})
	must(err)
	owner = p.owner()
	r, err := p.services.Access.Register(ctx, owner, pr.ID)
	must(err)
	target := p.aws.Project()
	p.aws.Trust(target, r.ExternalID)
	_, err = p.services.Access.Authorize(ctx, owner, pr.ID, r.ID, target.RoleARN)
	must(err)
	v, err := p.services.CMK.Update(ctx, owner, pr.ID, controltest.Patch(r.ID, target.KeyID, "US_EAST_1"))
	must(err)
	if !v.Valid {
		p.t.Fatalf("%+v", v)
	}
	c, err := p.services.Cluster.Create(ctx, owner, pr.ID, "Cluster0", store.ClusterSettings{EncryptionProvider: "AWS", Specs: []store.ReplicationSpec{{Regions: []store.RegionConfig{{
		ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 1}}}}}})
	must(err)
	return pr, c, target
}

func TestTheStoryOverTheLinkThroughRestarts(t *testing.T) {
	dir, aws := t.TempDir(), controltest.NewAWS()
	p := start(t, dir, aws)
	again := func() {
		p.stop()
		p = start(t, dir, aws)
	}
	h := p.enroll("h")
	pr, c, target := p.encrypted()
	again()
	state := func() string {
		v, err := p.services.Cluster.Get(t.Context(), p.owner(), pr.ID, "Cluster0")
		if err != nil {
			return apierr.Code(err)
		}
		return v.State
	}
	p.step(h)
	controltest.Eventually(t, "IDLE", func() bool { return state() == cluster.Idle })
	// The node's certificate is admitted by being signed, and the desired state says so.
	keyPEM, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_ = keyPEM
	node := c.Nodes[0].ID
	cert, err := p.client(h).Sign(t.Context(), agentlink.SignRequest{Kind: agentlink.SignKMIPClient, Node: node, CSR: string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	again()
	p.step(h)
	if got := h.Last.Nodes[0].KMIPClientFingerprints; len(got) != 1 || got[0] != pki.Fingerprint([]byte(cert)) {
		t.Errorf("admitted %v", got)
	}
	wrap := agentlink.EscrowedWrap{Node: node, Project: pr.ID, Cluster: c.ID, Key: keys.NewKeyID(), Purpose: keys.PurposeMasterKey, State: keys.StateActive, Generation: 1, Revision: 1, Wrapped: []byte("wrapped")}
	if err := p.client(h).Escrow(t.Context(), wrap); err != nil {
		t.Fatal(err)
	}
	again()
	if got, err := p.client(h).Wraps(t.Context()); err != nil || len(got) != 1 || got[0].Key != wrap.Key {
		t.Errorf("escrow after a restart: %+v %v", got, err)
	}
	// The key is taken away; the host says so, the control plane finds it too.
	aws.SetState(target.KeyID, "Disabled")
	h.Verdict, h.Reason = custody.Invalid, kms.KeyDisabled
	p.step(h)
	verdict := func() string {
		v, err := p.services.CMK.Peek(t.Context(), p.owner(), pr.ID)
		if err != nil {
			t.Fatal(err)
		}
		return v.Verdict.Kind
	}
	if verdict() != "INVALID" {
		t.Errorf("verdict %s", verdict())
	}
	again()
	if verdict() != "INVALID" {
		t.Errorf("verdict after a restart %s", verdict())
	}
	if v, err := p.services.CMK.Get(t.Context(), p.owner(), pr.ID); err != nil || v.Valid {
		t.Errorf("GET says valid: %+v %v", v, err)
	}
	aws.SetState(target.KeyID, "Enabled")
	h.Verdict, h.Reason = custody.Valid, ""
	p.step(h)
	if verdict() != "VALID" {
		t.Errorf("verdict %s", verdict())
	}
	if err := p.services.Cluster.Delete(t.Context(), p.owner(), pr.ID, "Cluster0"); err != nil {
		t.Fatal(err)
	}
	again()
	p.step(h)
	controltest.Eventually(t, "the cluster's end", func() bool { return state() == "CLUSTER_NOT_FOUND" })
	off := false
	if _, err := p.services.CMK.Update(t.Context(), p.owner(), pr.ID, cmk.Patch{AWS: &cmk.AWSPatch{Enabled: &off}}); err != nil {
		t.Error(err)
	}
	if _, err := p.services.Store.VerifyAudit(t.Context(), audit.Head{}); err != nil {
		t.Error(err)
	}
}

func TestALongPollAnswersWhenSomethingChanges(t *testing.T) {
	p := start(t, t.TempDir(), controltest.NewAWS())
	h := p.enroll("h")
	c := p.client(h)
	first, err := c.Desired(t.Context(), 0, 0)
	if err != nil || len(first.Nodes) != 0 {
		t.Fatalf("%+v %v", first, err)
	}
	got := make(chan agentlink.Desired, 1)
	go func() {
		d, err := c.Desired(t.Context(), first.Revision, 0)
		if err != nil {
			t.Error(err)
		}
		got <- d
	}()
	p.encrypted()
	select {
	case d := <-got:
		if d.Revision <= first.Revision || len(d.Nodes) != 1 {
			t.Errorf("%+v", d)
		}
	case <-time.After(time.Minute):
		t.Fatal("no answer")
	}
	if _, err := c.Desired(t.Context(), 99, 0); code(err) != "HOST_FROZEN" {
		t.Errorf("a host from the future: %v", err)
	}
}

func TestTheLinkRefusesStrangers(t *testing.T) {
	p := start(t, t.TempDir(), controltest.NewAWS())
	h := p.enroll("h")
	_, c, _ := p.encrypted()
	p.step(h)
	other := p.enroll("other")
	_, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	sign := func(h *host, r agentlink.SignRequest) error { _, err := p.client(h).Sign(ctx, r); return err }
	nobody := &host{cas: h.cas}
	for name, c := range map[string]struct {
		err  error
		code string
	}{
		"no certificate":        {p.client(nobody).Status(ctx, agentlink.Status{}), "CERTIFICATE_REQUIRED"},
		"another host's node":   {sign(other, agentlink.SignRequest{Kind: agentlink.SignKMIPClient, Node: c.Nodes[0].ID, CSR: string(csr)}), "NODE_NOT_FOUND"},
		"unknown kind":          {sign(h, agentlink.SignRequest{Kind: "link", CSR: string(csr)}), "INVALID_KIND"},
		"foreign address":       {sign(h, agentlink.SignRequest{Kind: agentlink.SignKMIPServer, CSR: string(csr), Addresses: []string{"192.0.2.1"}}), "INVALID_ADDRESS"},
		"no request":            {sign(h, agentlink.SignRequest{Kind: agentlink.SignKMIPServer, CSR: "x"}), "INVALID_CSR"},
		"another host's escrow": {p.client(other).Escrow(ctx, agentlink.EscrowedWrap{Node: c.Nodes[0].ID}), "NODE_NOT_FOUND"},
		"fine":                  {sign(h, agentlink.SignRequest{Kind: agentlink.SignKMIPServer, CSR: string(csr), Addresses: []string{"127.0.0.1", "localhost"}}), ""},
	} {
		if got := code(c.err); got != c.code {
			t.Errorf("%s: %q, want %q", name, got, c.code)
		}
	}
	// A database's certificate is no link certificate, whatever its name.
	keyPEM, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	db, err := p.client(h).Sign(ctx, agentlink.SignRequest{Kind: agentlink.SignDatabase, Node: c.Nodes[0].ID, CSR: string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	fake := &host{cas: h.cas}
	if fake.cert, err = tls.X509KeyPair([]byte(db), keyPEM.Reveal()); err != nil {
		t.Fatal(err)
	}
	if err := p.client(fake).Status(ctx, agentlink.Status{}); err == nil {
		t.Error("a database's certificate was taken for a host's")
	}
	// Who enrols anew under a name replaces the one who was there.
	p.enroll("h")
	if err := p.client(h).Status(ctx, agentlink.Status{}); code(err) != "HOST_NOT_ADMITTED" {
		t.Errorf("a replaced host: %v", err)
	}
	// Renewal keeps a member a member.
	keyPEM, csr, err = pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := p.client(other).Renew(ctx, string(csr))
	if err != nil {
		t.Fatal(err)
	}
	if other.cert, err = tls.X509KeyPair([]byte(renewed), keyPEM.Reveal()); err != nil {
		t.Fatal(err)
	}
	if err := p.client(other).Status(ctx, agentlink.Status{}); err != nil {
		t.Errorf("a renewed host: %v", err)
	}
}

func TestEnrolmentPinsTheAuthorityAndSpendsTheToken(t *testing.T) {
	p := start(t, t.TempDir(), controltest.NewAWS())
	_, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	enroll := func(token, name, csr string) error {
		_, err := agentlink.Enroll(t.Context(), p.ready.AgentURL, agentlink.EnrollRequest{Token: token, Hostname: name, CSR: csr})
		return err
	}
	token := p.token("h")
	value, _, err := agentlink.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := enroll(agentlink.TokenPrefix+value+"."+strings.Repeat("0", 64), "h", string(csr)); err == nil || code(err) == "INVALID_ENROLMENT_TOKEN" {
		t.Errorf("another authority was accepted: %v", err)
	}
	if err := enroll(token, "h", "no request"); code(err) != "INVALID_CSR" {
		t.Error(err)
	}
	if err := enroll(token, "h", string(csr)); err != nil {
		t.Errorf("a refused request spent the token: %v", err)
	}
	if err := enroll(token, "h", string(csr)); code(err) != "INVALID_ENROLMENT_TOKEN" {
		t.Errorf("a second use: %v", err)
	}
}

func TestHealthAndNewerMessages(t *testing.T) {
	p := start(t, t.TempDir(), controltest.NewAWS())
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := status(t, http.DefaultClient, http.MethodGet, p.ready.BaseURL+path, nil); got != 200 {
			t.Errorf("%s: %d", path, got)
		}
	}
	h := p.enroll("h")
	pool, err := pki.Pool(pki.KindLink, []byte(h.cas.Link))
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: agentlink.ServerName, Certificates: []tls.Certificate{h.cert}, MinVersion: tls.VersionTLS13}}}
	defer c.CloseIdleConnections()
	for name, r := range map[string]struct {
		body io.Reader
		want int
	}{
		"newer":     {strings.NewReader(fmt.Sprintf(`{"version":%d,"wraps":{"another":"form"}}`, agentlink.Version+1)), 400},
		"malformed": {strings.NewReader(`{`), 400},
		"too large": {bytes.NewReader(make([]byte, agentlink.MaxBody+1)), 413},
		"fine":      {strings.NewReader(`{"version":1,"wraps":[]}`), 200},
	} {
		if got := status(t, c, http.MethodPost, p.ready.AgentURL+agentlink.PathEscrow, r.body); got != r.want {
			t.Errorf("%s: %d, want %d", name, got, r.want)
		}
	}
}

func status(t *testing.T, c *http.Client, method, url string, body io.Reader) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, controltest.NewAWS())
	run := func(change func(*server.Config)) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cfg := server.Config{DataDir: filepath.Join(t.TempDir(), "data"), Listen: "127.0.0.1:0", AgentListen: "127.0.0.1:0", Provider: p.aws}
		change(&cfg)
		return server.Run(ctx, cfg)
	}
	if err := run(func(c *server.Config) { c.DataDir = filepath.Join(dir, "data") }); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second control plane: %v", err)
	}
	if err := run(func(c *server.Config) { c.Listen = "0.0.0.0:0" }); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("plain HTTP for everybody: %v", err)
	}
	bad := filepath.Join(dir, "bad.json")
	for _, text := range []string{"", "{}", `{"version":2,"privateKey":"very-secret-value"}`, `{"version":1,"privateKey":"very-secret-value","more":1}`, `{"version":1,"privateKey":"very-secret-value"}`} {
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(func(c *server.Config) { c.InitFile = bad }); err == nil || strings.Contains(err.Error(), "very-secret-value") {
			t.Errorf("init file %q: %v", text, err)
		}
	}
}

// Who is no member yet sends small messages only.
func TestAStrangersMessageIsSmall(t *testing.T) {
	p := start(t, t.TempDir(), controltest.NewAWS())
	_, csr, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	in := agentlink.EnrollRequest{Token: p.token("h"), Hostname: "h", CSR: string(csr) + strings.Repeat("\n", 128<<10)}
	if _, err := agentlink.Enroll(t.Context(), p.ready.AgentURL, in); code(err) != "MESSAGE_TOO_LARGE" {
		t.Error(err)
	}
}
