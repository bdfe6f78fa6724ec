package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// tokenLife is how long an enrolment token can be redeemed (key-plane rule 5.6).
const tokenLife = time.Hour

// keptFingerprints is how many KMIP client certificates of a node are admitted at
// once: the one in use, and those of renewals that are under way.
const keptFingerprints = 4

var hostName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,252}[a-zA-Z0-9])?$`)

// Token is an enrolment token, shown once.
type Token struct {
	Token       secret.Bytes
	Expires     time.Time
	Fingerprint string
}

// CreateToken makes an enrolment token for one host name. It needs Organization
// Owner. USER_UNAUTHORIZED, INVALID_ATTRIBUTE.
func (s *Service) CreateToken(ctx context.Context, p tenant.Principal, hostname string) (Token, error) {
	if !p.HasOrg(tenant.OrgOwner, p.Org) {
		return Token{}, tenant.Unauthorized("Enrolling hosts needs the role ORG_OWNER.")
	}
	if !hostName.MatchString(hostname) {
		return Token{}, invalid("hostname", "1 to 254 letters, digits, dots and hyphens are expected.")
	}
	value := secret.RandomText(32)
	out := Token{
		Token:       secret.FromString(agentlink.TokenPrefix + string(value.Reveal()) + "." + s.cfg.LinkCA),
		Fingerprint: s.cfg.LinkCA,
	}
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		if err := tx.ExpireTokens(tx.Now().Add(-24 * time.Hour)); err != nil {
			return err
		}
		out.Expires = tx.Now().Add(tokenLife)
		if err := tx.AddToken(store.EnrolmentToken{Hash: hashToken(string(value.Reveal())), Org: p.Org, Hostname: hostname, Expires: out.Expires}); err != nil {
			return err
		}
		e := tenant.Event(p, "HOST_ENROLMENT_TOKEN_CREATED", store.Project{Org: p.Org}, "An enrolment token for host %s was made.", hostname)
		e.Data["hostname"] = hostname
		return tx.Append(e)
	})
	return out, err
}

func hashToken(value string) string {
	sum := sha256.Sum256([]byte("keywright enrolment token " + value))
	return hex.EncodeToString(sum[:])
}

// Hosts lists the hosts that the principal's organization has enrolled, and those of the
// platform. It needs Organization Read Only.
func (s *Service) Hosts(ctx context.Context, p tenant.Principal) (out []store.Host, err error) {
	if !p.HasOrg(tenant.OrgReadOnly, p.Org) {
		return nil, tenant.Unauthorized("Reading hosts needs the role ORG_READ_ONLY.")
	}
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Hosts()
		out = slices.DeleteFunc(all, func(h store.Host) bool { return h.Org != "" && !p.HasOrg(tenant.OrgReadOnly, h.Org) })
		return err
	})
	return out, err
}

// errToken is the one answer for every token that cannot be redeemed.
func errToken() error {
	return apierr.New(403, "INVALID_ENROLMENT_TOKEN", "This enrolment token cannot be redeemed: it is unknown, used, older than an hour, or for another host name. Make a new one.")
}

// Enroll redeems a token: the host becomes a member, or, if one of its name and
// organization is a member already, that one again with its nodes and wraps (a host
// that lost its disk). sign makes the link certificate for the host's id; the token is spent only
// if that works.
func (s *Service) Enroll(ctx context.Context, token, hostname string, sign func(keys.HostID) (certPEM []byte, fingerprint string, err error)) (host keys.HostID, certPEM []byte, err error) {
	value, _, err := agentlink.ParseToken(token)
	if err != nil {
		return "", nil, errToken()
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		org, err := tx.UseToken(hashToken(value), hostname)
		if errors.Is(err, store.ErrNotFound) {
			return errToken()
		}
		if err != nil {
			return err
		}
		h, err := tx.HostNamed(hostname)
		kind := "HOST_REENROLLED"
		if errors.Is(err, store.ErrNotFound) {
			kind = "HOST_ENROLLED"
			h = store.Host{ID: keys.HostID(keys.NewID(tx.Now())), Org: org, Hostname: hostname}
		} else if err != nil {
			return err
		}
		if h.Org != org {
			return errToken() // nobody takes over a host of somebody else by its name
		}
		var fingerprint string
		if certPEM, fingerprint, err = sign(h.ID); err != nil {
			return err
		}
		h.Enrolled, h.Certificates, host = tx.Now(), []string{fingerprint}, h.ID
		e := hostEvent(h, kind, "Host %s has joined.", hostname)
		e.Data["hostname"], e.Data["certificate"] = hostname, fingerprint
		if h.AuditHead != "" { // a new directory begins a new chain; where the old one ended is kept here
			e.Data["previousAuditSeq"], e.Data["previousAuditHead"] = fmt.Sprint(h.AuditSeq), h.AuditHead
		}
		h.AuditSeq, h.AuditHead, h.AuditDoubt, h.Enacted = 0, "", "", 0
		if err := tx.DropHostHeads(h.ID); err != nil {
			return err
		}
		if err := tx.PutHost(h); err != nil {
			return err
		}
		return tx.Append(e)
	})
	return host, certPEM, err
}

// hostEvent starts an event that a host causes.
func hostEvent(h store.Host, kind, format string, args ...any) audit.Event {
	return audit.Event{
		Type: kind, Actor: "host:" + string(h.ID), Org: string(h.Org), Host: string(h.ID),
		Message: fmt.Sprintf(format, args...), Data: map[string]string{},
	}
}

// Admit checks that a link certificate is one of the host's.
func (s *Service) Admit(ctx context.Context, host keys.HostID, fingerprint string) error {
	return s.st.View(ctx, func(tx *store.Tx) error {
		h, err := tx.Host(host)
		if errors.Is(err, store.ErrNotFound) || (err == nil && !slices.Contains(h.Certificates, fingerprint)) {
			return apierr.New(403, "HOST_NOT_ADMITTED", "This host is not a member, or another one has enrolled under its name.")
		}
		return err
	})
}

// Renewed records a new link certificate of a host; the old ones go on until they
// end, the newest few.
func (s *Service) Renewed(ctx context.Context, host keys.HostID, fingerprint string) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		h, err := tx.Host(host)
		if err != nil {
			return err
		}
		h.Certificates = lastOf(append(h.Certificates, fingerprint), keptFingerprints)
		if err := tx.PutHost(h); err != nil {
			return err
		}
		e := hostEvent(h, "HOST_CERTIFICATE_RENEWED", "Host %s has a new certificate.", h.Hostname)
		e.Data["certificate"] = fingerprint
		return tx.Append(e)
	})
}

func lastOf(v []string, n int) []string { return slices.Clone(v[max(0, len(v)-n):]) }

// NodeOfHost gives a node if it lives on the host: NODE_NOT_FOUND.
func (s *Service) NodeOfHost(ctx context.Context, host keys.HostID, node keys.NodeID) (out store.Node, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		out, err = nodeOf(tx, host, node)
		return err
	})
	return out, err
}

func nodeOf(tx *store.Tx, host keys.HostID, node keys.NodeID) (store.Node, error) {
	n, err := tx.Node(node)
	if errors.Is(err, store.ErrNotFound) || (err == nil && (n.Host != host || n.Buried)) {
		return store.Node{}, apierr.NotFound("NODE_NOT_FOUND", "There is no node %q on this host.", node)
	}
	return n, err
}

// AdmitNode adds the certificate that a node shows to its host's KMIP server to the
// desired state; only such certificates are admitted (key-plane rule 5.3).
func (s *Service) AdmitNode(ctx context.Context, host keys.HostID, node keys.NodeID, fingerprint string) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		n, err := nodeOf(tx, host, node)
		if err != nil {
			return err
		}
		n.KMIPFingerprints = lastOf(append(n.KMIPFingerprints, fingerprint), keptFingerprints)
		if err := tx.PutNode(n); err != nil {
			return err
		}
		pr, err := tx.Project(n.Project)
		if err != nil {
			return err
		}
		return tx.Append(audit.Event{
			Type: "NODE_KMIP_CERTIFICATE_ADMITTED", Actor: "host:" + string(host), Org: string(pr.Org), Project: string(n.Project),
			Cluster: string(n.Cluster), Node: string(n.ID), Host: string(host),
			Message: "A certificate of a node was admitted to the KMIP server of its host.", Data: map[string]string{"certificate": fingerprint},
		})
	})
}
