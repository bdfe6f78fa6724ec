package agentlink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// authority is a certificate authority of a test. (pki, which makes the real ones, is
// no neighbour of this package.)
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func certificate(t *testing.T, tmpl *x509.Certificate, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	if by == nil {
		by = &authority{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func newAuthority(t *testing.T) *authority {
	return certificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "link"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
}

func (a *authority) leaf(t *testing.T, name string, use x509.ExtKeyUsage) tls.Certificate {
	l := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{use}}, a)
	return tls.Certificate{Certificate: [][]byte{l.cert.Raw, a.cert.Raw}, PrivateKey: l.key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) token() string { return TokenPrefix + "secret." + fingerprintOf(a.cert.Raw) }

func serve(t *testing.T, cert tls.Certificate, clients *authority, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	if clients != nil {
		s.TLS.ClientCAs = x509.NewCertPool()
		s.TLS.ClientCAs.AddCert(clients.cert)
		s.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestParseToken(t *testing.T) {
	print := strings.Repeat("aB", 32)
	for in, ok := range map[string]bool{
		TokenPrefix + "s." + print:              true,
		" " + TokenPrefix + "s." + print + "\n": true,
		"":                                      false,
		TokenPrefix:                             false,
		TokenPrefix + "." + print:               false,
		TokenPrefix + "s." + print[1:]:          false,
		TokenPrefix + "s." + print + "00":       false,
		TokenPrefix + "s.t." + print:            false,
		"kwet2.s." + print:                      false,
		TokenPrefix + strings.Repeat("s", 2000) + "." + print: false,
		TokenPrefix + "s." + strings.Repeat("zz", 32):         false,
	} {
		s, f, err := ParseToken(in)
		if (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if ok && (s != "s" || f != strings.ToLower(print)) {
			t.Errorf("%q gives %q and %q", in, s, f)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(TokenPrefix + "s." + strings.Repeat("ab", 32))
	f.Add("kwet1..")
	f.Add("")
	f.Fuzz(func(t *testing.T, in string) {
		s, p, err := ParseToken(in)
		if err != nil {
			return
		}
		again, q, err := ParseToken(TokenPrefix + s + "." + p)
		if err != nil || again != s || q != p || len(p) != 64 || s == "" {
			t.Errorf("%q gives %q and %q, and those %q, %q, %v", in, s, p, again, q, err)
		}
	})
}

func enrolled(a *authority) EnrollResponse {
	id := keys.NewID(time.Now())
	return EnrollResponse{Version: 1, Deployment: keys.DeploymentID(id), Host: keys.HostID(id), Certificate: "c", CAs: Authorities{Link: a.pem()}}
}

func TestEnrolmentTrustsOnlyThePinnedAuthority(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	mixed := other.leaf(t, ServerName, x509.ExtKeyUsageServerAuth)
	mixed.Certificate[1] = ours.cert.Raw // the right authority beside a leaf of another
	for _, c := range []struct {
		name string
		cert tls.Certificate
		give EnrollResponse
		ok   bool
	}{
		{"the pinned one", ours.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), enrolled(ours), true},
		{"another authority", other.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), enrolled(ours), false},
		{"the right one beside a foreign leaf", mixed, enrolled(ours), false},
		{"another name", ours.leaf(t, "elsewhere", x509.ExtKeyUsageServerAuth), enrolled(ours), false},
		{"an agent's certificate", ours.leaf(t, ServerName, x509.ExtKeyUsageClientAuth), enrolled(ours), false},
		{"hands out another authority", ours.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), enrolled(other), false},
		{"names no host", ours.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), EnrollResponse{Version: 1, CAs: Authorities{Link: ours.pem()}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			url := serve(t, c.cert, nil, func(w http.ResponseWriter, r *http.Request) {
				var in EnrollRequest
				_ = json.NewDecoder(r.Body).Decode(&in)
				got = in.Token
				_ = json.NewEncoder(w).Encode(c.give)
			})
			_, err := Enroll(t.Context(), url, EnrollRequest{Token: ours.token(), Hostname: "h"})
			if (err == nil) != c.ok {
				t.Errorf("enroll: %v", err)
			}
			if strings.Contains(c.name, "authority") && c.name[0] == 'a' && got != "" {
				t.Error("the token was shown to a stranger")
			}
		})
	}
	if _, err := Enroll(t.Context(), "https://127.0.0.1:1", EnrollRequest{Token: "nonsense"}); err == nil || !strings.Contains(err.Error(), "not an enrolment token") {
		t.Errorf("nonsense: %v", err)
	}
}

// member gives a client with a certificate at a server that answers with h.
func member(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	ca := newAuthority(t)
	mine := ca.leaf(t, "host", x509.ExtKeyUsageClientAuth)
	url := serve(t, ca.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), ca, h)
	c, err := NewClient(url+"/", ca.pem(), func() (*tls.Certificate, error) { return &mine, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) }
}

func TestClientProvesItselfAndSendsItsVersion(t *testing.T) {
	c := member(t, func(w http.ResponseWriter, r *http.Request) {
		var in DesiredRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Version != Version || in.Have != 7 || r.URL.Path != PathDesired || r.Method != http.MethodPost {
			t.Errorf("%s %s: %+v, %v", r.Method, r.URL.Path, in, err)
		}
		if cn := r.TLS.PeerCertificates[0].Subject.CommonName; cn != "host" {
			t.Errorf("peer %q", cn)
		}
		answer(http.StatusOK, `{"version":1,"revision":8,"nodes":[{"id":"x","run":true}],"projects":[{"customerKey":{"interval":"1.5s"}}]}`)(w, r)
	})
	d, err := c.Desired(t.Context(), 7, 0)
	if err != nil || d.Revision != 8 || !d.Nodes[0].Run || time.Duration(d.Projects[0].CustomerKey.Interval) != 1500*time.Millisecond {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestNewerPeersAreRefusedInEveryAnswer(t *testing.T) {
	// A newer message may have another form: the version is looked at before it.
	c := member(t, answer(http.StatusOK, `{"version":2,"revision":"many","wraps":{},"certificate":[]}`))
	_, desired := c.Desired(t.Context(), 0, 0)
	_, wraps := c.Wraps(t.Context())
	_, renewed := c.Renew(t.Context(), "csr")
	_, signed := c.Sign(t.Context(), SignRequest{})
	for name, err := range map[string]error{
		"desired": desired, "wraps": wraps, "renew": renewed, "sign": signed,
		"status": c.Status(t.Context(), Status{}), "escrow": c.Escrow(t.Context(), EscrowedWrap{}),
	} {
		if !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalsAreTold(t *testing.T) {
	for _, c := range []struct {
		status       int
		body         string
		code, detail string
	}{
		{http.StatusConflict, `{"errorCode":"HOST_FROZEN","detail":"restored"}`, "HOST_FROZEN", "restored"},
		{http.StatusForbidden, `{"errorCode":"INVALID_ENROLMENT_TOKEN"}`, "INVALID_ENROLMENT_TOKEN", ""},
		{http.StatusBadGateway, `<html>`, "UNEXPECTED_ERROR", "Bad Gateway"},
		{http.StatusInternalServerError, ``, "UNEXPECTED_ERROR", "Internal Server Error"},
		{http.StatusBadRequest, `{"errorCode":"LONG","detail":"` + strings.Repeat("x", 100_000) + `"}`, "LONG", strings.Repeat("x", maxDetail)},
	} {
		err := member(t, answer(c.status, c.body)).Status(t.Context(), Status{})
		var e *Error
		if !errors.As(err, &e) || e.Status != c.status || e.Code != c.code || e.Detail != c.detail {
			t.Errorf("%d %.40s: %.200v", c.status, c.body, err)
		}
	}
}

func TestAnswersAreBoundedAndRedirectsNotFollowed(t *testing.T) {
	huge := member(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"version":1,"x":"`))
		chunk := []byte(strings.Repeat("x", 1<<20))
		for range 9 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte(`"}`))
	})
	if err := huge.Status(t.Context(), Status{}); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("oversized answer: %v", err)
	}
	reached := false
	lost := member(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != PathStatus {
			reached = true
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	if err := lost.Status(t.Context(), Status{}); err == nil || reached {
		t.Errorf("redirect: %v, followed: %t", err, reached)
	}
	if err := member(t, answer(http.StatusOK, `{"version":1`)).Status(t.Context(), Status{}); err == nil {
		t.Error("half an answer was taken")
	}
}

func TestServerOfAnotherAuthorityIsRefused(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	url := serve(t, other.leaf(t, ServerName, x509.ExtKeyUsageServerAuth), nil, answer(http.StatusOK, `{"version":1}`))
	mine := ours.leaf(t, "host", x509.ExtKeyUsageClientAuth)
	c, err := NewClient(url, ours.pem(), func() (*tls.Certificate, error) { return &mine, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Status(t.Context(), Status{}); err == nil {
		t.Error("an impostor was believed")
	}
	if _, err := NewClient(url, "no certificate", nil); err == nil {
		t.Error("a client without authority was made")
	}
}

func FuzzDecode(f *testing.F) {
	d, err := json.Marshal(Desired{
		Version: 1, Revision: 3, Projects: []Project{{CustomerKey: &CustomerKey{Interval: Duration(time.Second), Probe: []byte{1}}, Users: []DatabaseUser{{Username: "u"}}}},
		Nodes: []Node{{ID: "n"}}, Tombstones: []Tombstone{{Node: "t"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d)
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"wraps":[{"wrapped":"AAAA","created":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"version":1,"custody":[{"state":{"format":9}}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, out := range []any{&Desired{}, &WrapsResponse{}, &CertificateResponse{}, &EnrollResponse{}, &Status{}} {
			if decode(in, out) != nil {
				continue
			}
			again, err := json.Marshal(out)
			if err != nil {
				continue // such as a custody state of no known form
			}
			if _, isStatus := out.(*Status); !isStatus && decode(again, out) != nil {
				t.Errorf("%T is not read back: %s", out, again)
			}
		}
		if e := refusal(http.StatusTeapot, in); e.Code == "" || len(e.Detail) > maxDetail {
			t.Errorf("refusal %+v", e)
		}
	})
}
