package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
)

// maxStranger bounds the message of somebody who is no member yet, in bytes.
const maxStranger = 64 << 10

// link serves the agents.
type link struct {
	st         *store.Store
	clusters   *cluster.Service
	deployment keys.DeploymentID
	cas        authorities
	log        *slog.Logger
}

func newLink(p *plane) *link {
	return &link{st: p.services.Store, clusters: p.services.Cluster, deployment: p.services.Store.Deployment(), cas: p.cas, log: p.cfg.Log}
}

func (l *link) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+agentlink.PathEnroll, call(l, false, func(ctx context.Context, _ peer, in agentlink.EnrollRequest) (agentlink.EnrollResponse, error) {
		return l.enroll(ctx, in)
	}))
	mux.Handle("POST "+agentlink.PathRenew, call(l, true, l.renew))
	mux.Handle("POST "+agentlink.PathSign, call(l, true, l.sign))
	mux.Handle("POST "+agentlink.PathDesired, call(l, true, func(ctx context.Context, p peer, in agentlink.DesiredRequest) (agentlink.Desired, error) {
		if err := l.clusters.Known(ctx, p.host, in.Known); err != nil {
			return agentlink.Desired{}, err
		}
		return l.clusters.Desired(ctx, p.host, in.Have)
	}))
	mux.Handle("POST "+agentlink.PathStatus, call(l, true, func(ctx context.Context, p peer, in agentlink.Status) (agentlink.Acknowledged, error) {
		return l.status(ctx, p, in)
	}))
	mux.Handle("POST "+agentlink.PathEscrow, call(l, true, func(ctx context.Context, p peer, in agentlink.EscrowRequest) (agentlink.Acknowledged, error) {
		return acknowledged, l.clusters.Escrow(ctx, p.host, in.Wraps)
	}))
	mux.Handle("POST "+agentlink.PathWraps, call(l, true, func(ctx context.Context, p peer, _ agentlink.Acknowledged) (agentlink.WrapsResponse, error) {
		wraps, err := l.clusters.Wraps(ctx, p.host)
		return agentlink.WrapsResponse{Version: agentlink.Version, Wraps: wraps}, err
	}))
	return mux
}

var acknowledged = agentlink.Acknowledged{Version: agentlink.Version}

// peer is who calls: a host whose certificate was checked, and where from.
type peer struct {
	host    keys.HostID
	address net.IP
	// certificate is what a member has shown.
	certificate *x509.Certificate
}

// call makes a handler of one message: identity, bounded body, version, answer.
func call[In, Out any](l *link, member bool, fn func(context.Context, peer, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p peer
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			p.address = net.ParseIP(host)
		}
		if member {
			host, err := l.identify(r)
			if err != nil {
				l.refuse(w, r, err)
				return
			}
			p.host, p.certificate = host, r.TLS.PeerCertificates[0]
		}
		most := int64(agentlink.MaxBody)
		if !member {
			most = maxStranger
		}
		in, err := decode[In](http.MaxBytesReader(w, r.Body, most))
		if err != nil {
			l.refuse(w, r, err)
			return
		}
		out, err := fn(r.Context(), p, in)
		if err != nil {
			l.refuse(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			l.log.DebugContext(r.Context(), "answer to agent was not sent", "error", err)
		}
	})
}

// identify takes the host's id from its verified certificate.
func (l *link) identify(r *http.Request) (keys.HostID, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", apierr.New(http.StatusUnauthorized, "CERTIFICATE_REQUIRED", "This call needs the certificate that enrolment gave to the host.")
	}
	cert := r.TLS.PeerCertificates[0]
	host := keys.HostID(cert.Subject.CommonName)
	return host, l.clusters.Admit(r.Context(), host, pki.Fingerprint(cert.Raw))
}

// status takes in a host's report. The head of its audit chain has to be signed by the
// certificate that it shows, if it is signed.
func (l *link) status(ctx context.Context, p peer, in agentlink.Status) (agentlink.Acknowledged, error) {
	if len(in.AuditSignature) > 0 {
		hash, err := audit.ParseHash(in.AuditHead)
		head := audit.SignedHead{
			Deployment: string(l.deployment), Chain: audit.HostChain(string(p.host)), Head: audit.Head{Seq: in.AuditSeq, Hash: hash}, Time: in.AuditSigned, Signature: in.AuditSignature,
		}
		if err == nil {
			err = head.Check(p.certificate)
		}
		if err != nil {
			return acknowledged, apierr.BadRequest("INVALID_AUDIT_SIGNATURE", "The signature of the audit head is not of this host's certificate.").Because(err)
		}
		in.AuditCertificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw}))
	}
	if err := l.clusters.Status(ctx, p.host, in); err != nil {
		return acknowledged, err
	}
	out := acknowledged
	err := l.st.View(ctx, func(tx *store.Tx) (err error) {
		out.AuditAnchors, err = l.clusters.AuditAnchors(tx, p.host)
		return err
	})
	return out, err
}

// decode reads one message and refuses a newer version than ours.
func decode[In any](body io.Reader) (In, error) {
	var in In
	b, err := io.ReadAll(body)
	if err != nil {
		return in, apierr.New(http.StatusRequestEntityTooLarge, "MESSAGE_TOO_LARGE", "The message is too large, or was not read to its end.").Because(err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return in, apierr.BadRequest("MALFORMED_JSON", "The message is not JSON.").Because(err)
	}
	if head.Version > agentlink.Version {
		return in, apierr.BadRequest("UNSUPPORTED_VERSION", "The message has version %d, this control plane knows %d: update it first.", head.Version, agentlink.Version)
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return in, apierr.BadRequest("MALFORMED_JSON", "The message does not have the form that its path expects.").Because(err)
	}
	return in, nil
}

// refuse answers with an error; what is not meant for a peer becomes one sentence.
func (l *link) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := apierr.As(err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = apierr.New(http.StatusServiceUnavailable, "STOPPING", "The control plane is stopping; try again.")
	case errors.Is(err, store.ErrNotFound):
		e = apierr.NotFound("NOT_FOUND", "There is no such record.")
	default:
		e = apierr.New(http.StatusInternalServerError, "UNEXPECTED_ERROR", "The control plane could not do this; its log says why.")
	}
	level := slog.LevelWarn
	if e.Status >= http.StatusInternalServerError && e.Code != "STOPPING" {
		level = slog.LevelError
	}
	l.log.Log(r.Context(), level, "call of an agent was refused", "path", r.URL.Path, "code", e.Code, "error", err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(agentlink.Error{Code: e.Code, Detail: e.Detail})
}

func (l *link) enroll(ctx context.Context, in agentlink.EnrollRequest) (agentlink.EnrollResponse, error) {
	host, certPEM, err := l.clusters.Enroll(ctx, in.Token, in.Hostname, func(id keys.HostID) ([]byte, string, error) {
		return l.hostCertificate(id, in.CSR)
	})
	if err != nil {
		return agentlink.EnrollResponse{}, err
	}
	return agentlink.EnrollResponse{
		Version: agentlink.Version, Deployment: l.deployment, Host: host, Certificate: string(certPEM),
		CAs: agentlink.Authorities{
			Link: string(l.cas.pem(pki.KindLink)), KMIPServer: string(l.cas.pem(pki.KindKMIPServer)),
			KMIPClient: string(l.cas.pem(pki.KindKMIPClient)), Database: string(l.cas.pem(pki.KindDatabase)),
		},
	}, nil
}

// hostCertificate signs an agent's link certificate.
func (l *link) hostCertificate(id keys.HostID, csr string) (certPEM []byte, fingerprint string, err error) {
	certPEM, err = l.cas[pki.KindLink].Sign([]byte(csr), pki.Leaf{CommonName: string(id), Client: true}, time.Now())
	if err != nil {
		return nil, "", apierr.BadRequest("INVALID_CSR", "The certificate request was refused: %s.", err).Because(err)
	}
	return certPEM, pki.Fingerprint(certPEM), nil
}

func (l *link) renew(ctx context.Context, p peer, in agentlink.RenewRequest) (agentlink.CertificateResponse, error) {
	certPEM, fingerprint, err := l.hostCertificate(p.host, in.CSR)
	if err == nil {
		err = l.clusters.Renewed(ctx, p.host, fingerprint)
	}
	return agentlink.CertificateResponse{Version: agentlink.Version, Certificate: string(certPEM)}, err
}

// sign signs for a host's KMIP server or one of its nodes. Names come from what the
// control plane knows; addresses must be loopback or the one that the host calls from.
func (l *link) sign(ctx context.Context, p peer, in agentlink.SignRequest) (agentlink.CertificateResponse, error) {
	out := agentlink.CertificateResponse{Version: agentlink.Version}
	ips, err := addresses(in.Addresses, p.address)
	if err != nil {
		return out, err
	}
	var kind pki.Kind
	var leaf pki.Leaf
	switch in.Kind {
	case agentlink.SignKMIPServer:
		kind, leaf = pki.KindKMIPServer, pki.Leaf{CommonName: string(p.host), DNSNames: []string{"localhost"}, IPs: ips, Server: true}
	case agentlink.SignKMIPClient:
		kind, leaf = pki.KindKMIPClient, pki.Leaf{CommonName: string(in.Node), Client: true}
	case agentlink.SignDatabase:
		kind, leaf = pki.KindDatabase, pki.Leaf{CommonName: string(in.Node), DNSNames: []string{"localhost"}, IPs: ips, Server: true, Client: true}
	default:
		return out, apierr.BadRequest("INVALID_KIND", "%q is not a kind of certificate.", in.Kind[:min(len(in.Kind), 64)])
	}
	if kind != pki.KindKMIPServer {
		if _, err := l.clusters.NodeOfHost(ctx, p.host, in.Node); err != nil {
			return out, err
		}
	}
	certPEM, err := l.cas[kind].Sign([]byte(in.CSR), leaf, time.Now())
	if err != nil {
		return out, apierr.BadRequest("INVALID_CSR", "The certificate request was refused: %s.", err).Because(err)
	}
	if kind == pki.KindKMIPClient {
		if err := l.clusters.AdmitNode(ctx, p.host, in.Node, pki.Fingerprint(certPEM)); err != nil {
			return out, err
		}
	}
	out.Certificate = string(certPEM)
	return out, nil
}

func addresses(asked []string, from net.IP) ([]net.IP, error) {
	out := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if len(asked) > 16 {
		return nil, apierr.BadRequest("INVALID_ADDRESS", "At most 16 addresses are possible.")
	}
	for _, a := range asked {
		ip := net.ParseIP(a)
		switch {
		case a == "localhost":
		case ip != nil && (ip.IsLoopback() || ip.Equal(from)):
			if !slices.ContainsFunc(out, ip.Equal) {
				out = append(out, ip)
			}
		default:
			return nil, apierr.BadRequest("INVALID_ADDRESS", "%q is neither a loopback address nor the one that this host calls from.", a[:min(len(a), 64)])
		}
	}
	return out, nil
}
