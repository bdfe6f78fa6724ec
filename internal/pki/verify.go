package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Use is what a peer presents its certificate for.
type Use int

// The uses.
const (
	AsServer Use = iota + 1
	AsClient
)

// Pool makes a pool of the authorities in a PEM text: only certificates that
// are authorities of the kind, at least one. Several stand side by side while
// an authority is replaced.
func Pool(kind Kind, caPEM []byte) (*x509.CertPool, error) {
	pool, rest, n := x509.NewCertPool(), caPEM, 0
	for {
		b, tail := nextCertificate(rest)
		if b == nil {
			break
		}
		rest = tail
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("read %s authorities: %w", kind, err)
		}
		if !cert.IsCA || kindOf(cert) != kind {
			return nil, fmt.Errorf("read %s authorities: a certificate of kind %q is among them", kind, kindOf(cert))
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("read %s authorities: no PEM certificate found", kind)
	}
	return pool, nil
}

// Verify checks that leaf is a certificate of the kind, signed by one of the
// authorities in roots, valid at now, and made for use and nothing that the
// kind does not allow. It does not check names.
func Verify(kind Kind, roots *x509.CertPool, leaf *x509.Certificate, use Use, now time.Time) error {
	want := x509.ExtKeyUsageServerAuth
	if use == AsClient {
		want = x509.ExtKeyUsageClientAuth
	}
	if leaf == nil {
		return fmt.Errorf("verify %s certificate: none was presented", kind)
	}
	if leaf.IsCA {
		return fmt.Errorf("verify %s certificate: it is an authority", kind)
	}
	if got := kindOf(leaf); got != kind {
		return fmt.Errorf("verify %s certificate: it is of kind %q", kind, got)
	}
	if err := checkUsages(kind, leaf, want); err != nil {
		return fmt.Errorf("verify %s certificate: %w", kind, err)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{want}})
	if err != nil {
		return fmt.Errorf("verify %s certificate: %w", kind, err)
	}
	return nil
}

// checkUsages demands that want is named and nothing else than the kind allows;
// "any usage" and certificates without usages, which x509 takes for everything,
// are refused.
func checkUsages(kind Kind, leaf *x509.Certificate, want x509.ExtKeyUsage) error {
	r, ok := kind.rule()
	if !ok {
		return fmt.Errorf("unknown kind %q", kind)
	}
	found := false
	for _, u := range leaf.ExtKeyUsage {
		switch {
		case u == x509.ExtKeyUsageServerAuth && r.server, u == x509.ExtKeyUsageClientAuth && r.client:
		default:
			return errors.New("it carries an extended key usage that its kind does not have")
		}
		found = found || u == want
	}
	if !found || len(leaf.UnknownExtKeyUsage) > 0 {
		return errors.New("it was not made for this use")
	}
	return nil
}

// ServerTLS is the configuration of a server with the certificates that keeper
// holds, whose clients show certificates of clientKind signed by clientCAs. With
// optional true a client may also come without any (enrolment); the handler then
// sees no peer certificate. TLS 1.2 and 1.3; sessions are never resumed, so that
// every connection is judged anew.
func ServerTLS(keeper *Keeper, clientKind Kind, clientCAs []byte, optional bool) (*tls.Config, error) {
	pool, err := Pool(clientKind, clientCAs)
	if err != nil {
		return nil, err
	}
	auth := tls.RequireAndVerifyClientCert
	if optional {
		auth = tls.VerifyClientCertIfGiven
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		GetCertificate:         keeper.GetCertificate,
		ClientAuth:             auth,
		ClientCAs:              pool,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 && optional {
				return nil
			}
			return Verify(clientKind, pool, first(cs), AsClient, time.Now())
		},
	}, nil
}

// ClientTLS is the configuration of a client with the certificate that keeper
// holds (nil: none), towards servers of serverKind signed by serverCAs. The
// caller sets ServerName, or lets the dialer set it.
func ClientTLS(keeper *Keeper, serverKind Kind, serverCAs []byte) (*tls.Config, error) {
	pool, err := Pool(serverKind, serverCAs)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    pool,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return Verify(serverKind, pool, first(cs), AsServer, time.Now())
		},
	}
	if keeper != nil {
		cfg.GetClientCertificate = keeper.GetClientCertificate
	}
	return cfg, nil
}

// PinnedClientTLS is for a client that knows only the fingerprint of the
// server's authority (enrolment): the server sends its authority's certificate
// along, and the chain must end in the pinned one. Names are checked too.
func PinnedClientTLS(serverKind Kind, authorityFingerprint, serverName string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         serverName,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection below does the whole verification against the pinned authority
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, cert := range cs.PeerCertificates {
				if !cert.IsCA || Fingerprint(cert.Raw) != authorityFingerprint || kindOf(cert) != serverKind {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(cert)
				if err := Verify(serverKind, pool, first(cs), AsServer, time.Now()); err != nil {
					return err
				}
				return cs.PeerCertificates[0].VerifyHostname(serverName)
			}
			return errors.New("the server's certificate does not come from the pinned authority")
		},
	}
}

func first(cs tls.ConnectionState) *x509.Certificate {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	return cs.PeerCertificates[0]
}
