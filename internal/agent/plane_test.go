package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

// plane is a control plane in a test: real certificates and transport, scripted state.
type plane struct {
	t    *testing.T
	http *httptest.Server
	cas  map[pki.Kind]*pki.Authority
	host keys.HostID

	mu      sync.Mutex
	down    bool
	desired agentlink.Desired
	changed chan struct{}
	status  agentlink.Status
	escrow  map[keys.KeyID]agentlink.EscrowedWrap
	// wraps are all that are in escrow, by key and generation.
	wraps  map[keys.KeyID]map[uint64]agentlink.EscrowedWrap
	refuse bool // escrow
	asked  []uint64
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	now := time.Now()
	p := &plane{
		t: t, cas: map[pki.Kind]*pki.Authority{}, host: keys.HostID(keys.NewID(now)), changed: make(chan struct{}),
		escrow: map[keys.KeyID]agentlink.EscrowedWrap{}, wraps: map[keys.KeyID]map[uint64]agentlink.EscrowedWrap{},
	}
	deployment := keys.DeploymentID(keys.NewID(now))
	p.desired = agentlink.Desired{Version: 1, Revision: 1, Deployment: deployment, Host: p.host}
	for _, k := range pki.Kinds() {
		cert, key, err := pki.NewAuthority(k, deployment, now)
		if err != nil {
			t.Fatal(err)
		}
		if p.cas[k], err = pki.LoadAuthority(k, cert, key); err != nil {
			t.Fatal(err)
		}
	}
	p.http = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.http.TLS = p.tls()
	p.http.StartTLS()
	t.Cleanup(func() { p.http.CloseClientConnections(); p.http.Close() })
	return p
}

func (p *plane) tls() *tls.Config {
	key, csr, err := pki.NewKey()
	if err != nil {
		p.t.Fatal(err)
	}
	link := p.cas[pki.KindLink]
	cert, err := link.Sign(csr, pki.Leaf{CommonName: "server", DNSNames: []string{agentlink.ServerName}, Server: true}, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(append(cert, link.CertificatePEM()...), key.Reveal())
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(link.CertificatePEM())
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
}

func (p *plane) token() string {
	return agentlink.TokenPrefix + "once." + pki.Fingerprint(p.cas[pki.KindLink].CertificatePEM())
}

// change changes the desired state and gives it a new revision.
func (p *plane) change(fn func(*agentlink.Desired)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changeLocked(fn)
}

func (p *plane) changeLocked(fn func(*agentlink.Desired)) {
	d := p.desired
	d.Nodes, d.Projects, d.Tombstones = slices.Clone(d.Nodes), slices.Clone(d.Projects), slices.Clone(d.Tombstones)
	d.Revision++
	fn(&d)
	p.desired = d
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plane) setDown(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	if down {
		p.http.CloseClientConnections()
	}
}

func (p *plane) node(id keys.NodeID) agentlink.NodeStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.status.Nodes, func(n agentlink.NodeStatus) bool { return n.Node == id })
	if i < 0 {
		return agentlink.NodeStatus{}
	}
	return p.status.Nodes[i]
}

func (p *plane) last() agentlink.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *plane) escrowed() []agentlink.EscrowedWrap {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []agentlink.EscrowedWrap
	for _, w := range p.escrow {
		out = append(out, w)
	}
	return out
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path != agentlink.PathEnroll && len(r.TLS.PeerCertificates) == 0 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	read := func(v any) { _ = json.NewDecoder(r.Body).Decode(v) }
	ok := agentlink.Acknowledged{Version: 1}
	switch r.URL.Path {
	case agentlink.PathEnroll:
		var in agentlink.EnrollRequest
		read(&in)
		answer(p.enroll(in))
	case agentlink.PathSign:
		var in agentlink.SignRequest
		read(&in)
		answer(agentlink.CertificateResponse{Version: 1, Certificate: p.sign(in)})
	case agentlink.PathDesired:
		var in agentlink.DesiredRequest
		read(&in)
		answer(p.poll(r.Context(), in.Have))
	case agentlink.PathStatus:
		var in agentlink.Status
		read(&in)
		p.mu.Lock()
		p.status = in
		p.mu.Unlock()
		answer(ok)
	case agentlink.PathEscrow:
		var in agentlink.EscrowRequest
		read(&in)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.refuse {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		for _, e := range in.Wraps {
			p.escrow[e.Key] = e
			if p.wraps[e.Key] == nil || e.State == keys.StateDestroyed {
				p.wraps[e.Key] = map[uint64]agentlink.EscrowedWrap{}
			}
			p.wraps[e.Key][e.Generation] = e
		}
		answer(ok)
	case agentlink.PathWraps:
		p.mu.Lock()
		var all []agentlink.EscrowedWrap
		for _, of := range p.wraps {
			all = slices.AppendSeq(all, maps.Values(of))
		}
		p.mu.Unlock()
		answer(agentlink.WrapsResponse{Version: 1, Wraps: all})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (p *plane) enroll(in agentlink.EnrollRequest) agentlink.EnrollResponse {
	cert, err := p.cas[pki.KindLink].Sign([]byte(in.CSR), pki.Leaf{CommonName: string(p.host), Client: true}, time.Now())
	if err != nil {
		p.t.Error(err)
	}
	pem := func(k pki.Kind) string { return string(p.cas[k].CertificatePEM()) }
	return agentlink.EnrollResponse{
		Version: 1, Deployment: p.desired.Deployment, Host: p.host, Certificate: string(cert),
		CAs: agentlink.Authorities{Link: pem(pki.KindLink), KMIPServer: pem(pki.KindKMIPServer), KMIPClient: pem(pki.KindKMIPClient), Database: pem(pki.KindDatabase)},
	}
}

func (p *plane) sign(in agentlink.SignRequest) string {
	leaf := pki.Leaf{CommonName: string(in.Node), DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true, Client: true}
	kind := pki.KindDatabase
	switch in.Kind {
	case agentlink.SignKMIPServer:
		kind, leaf.CommonName, leaf.Client = pki.KindKMIPServer, string(p.host), false
	case agentlink.SignKMIPClient:
		kind, leaf = pki.KindKMIPClient, pki.Leaf{CommonName: string(in.Node), Client: true}
	}
	cert, err := p.cas[kind].Sign([]byte(in.CSR), leaf, time.Now())
	if err != nil {
		p.t.Error(err)
	}
	if kind == pki.KindKMIPClient {
		p.change(func(d *agentlink.Desired) {
			for i, n := range d.Nodes {
				if n.ID == in.Node {
					d.Nodes[i].KMIPClientFingerprints = append(slices.Clone(n.KMIPClientFingerprints), pki.Fingerprint(cert))
				}
			}
		})
	}
	return string(cert)
}

func (p *plane) poll(ctx context.Context, have uint64) agentlink.Desired {
	p.mu.Lock()
	p.asked = append(p.asked, have)
	p.mu.Unlock()
	for {
		p.mu.Lock()
		d, changed := p.desired, p.changed
		p.mu.Unlock()
		if d.Revision != have {
			return d
		}
		select {
		case <-changed:
		case <-time.After(agentlink.LongPoll):
			return d
		case <-ctx.Done():
			return d
		}
	}
}
