package agentlink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// ServerName is the DNS name in the certificate of the control plane's listener
// for agents. Agents check this name, not the address they dial, so that an
// address may change or stand behind a translation.
const ServerName = "agentlink.keywright.internal"

// TokenPrefix starts every enrolment token:
// "kwet1." secret "." hexadecimal SHA-256 of the link authority's certificate.
const TokenPrefix = "kwet1."

// The bounds of small things, in bytes: the secret of a token, and what of a
// refusal's text is kept.
const (
	maxToken  = 1024
	maxDetail = 2048
)

// Error is a refusal by the control plane.
type Error struct {
	Status int    `json:"-"`
	Code   string `json:"errorCode"`
	Detail string `json:"detail"`
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("control plane refused (%d %s): %s", e.Status, e.Code, e.Detail)
}

// ErrVersion means that the peer speaks a newer version of the messages.
var ErrVersion = errors.New("peer speaks a newer version of the agent link, update this program")

// ParseToken splits an enrolment token into its secret and the fingerprint that
// the control plane's authority must have.
func ParseToken(token string) (secretPart, fingerprint string, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(token), TokenPrefix)
	secretPart, fingerprint, found := strings.Cut(rest, ".")
	if b, e := hex.DecodeString(fingerprint); !ok || !found || secretPart == "" || e != nil || len(b) != sha256.Size || len(secretPart) > maxToken {
		return "", "", errors.New("this is not an enrolment token (kwet1.SECRET.FINGERPRINT)")
	}
	return secretPart, strings.ToLower(fingerprint), nil
}

// Enroll redeems a token at the control plane. The server must prove that its
// certificate was signed by the authority that the token names, and that one is
// what the host trusts from then on.
func Enroll(ctx context.Context, baseURL string, req EnrollRequest) (EnrollResponse, error) {
	_, fingerprint, err := ParseToken(req.Token)
	if err != nil {
		return EnrollResponse{}, err
	}
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection below checks the chain against the pinned authority
		VerifyConnection:   func(cs tls.ConnectionState) error { return verifyPinned(cs, fingerprint) },
	}
	c := newClient(baseURL, cfg)
	defer c.Close()
	req.Version = Version
	var resp EnrollResponse
	if err := c.call(ctx, PathEnroll, req, &resp, 30*time.Second); err != nil {
		return EnrollResponse{}, fmt.Errorf("enroll: %w", err)
	}
	block, _ := pem.Decode([]byte(resp.CAs.Link))
	if block == nil || fingerprintOf(block.Bytes) != fingerprint {
		return EnrollResponse{}, errors.New("enroll: the control plane hands out another authority than the token names")
	}
	return resp, errors.Join(keys.CheckID("enroll: deployment", string(resp.Deployment)), keys.CheckID("enroll: host", string(resp.Host)))
}

func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func verifyPinned(cs tls.ConnectionState, fingerprint string) error {
	roots := x509.NewCertPool()
	found := false
	for _, c := range cs.PeerCertificates {
		if fingerprintOf(c.Raw) == fingerprint {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errors.New("the control plane does not present the authority that the token names")
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, DNSName: ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// Client is the agent's side of the link. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a client for the control plane at baseURL (https://host:port).
// linkCA is the authority's certificate (PEM); certificate gives the agent's
// current certificate.
func NewClient(baseURL, linkCA string, certificate func() (*tls.Certificate, error)) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(linkCA)) {
		return nil, errors.New("no certificate of the link authority")
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate() },
	}
	return newClient(baseURL, cfg), nil
}

func newClient(baseURL string, cfg *tls.Config) *Client {
	return &Client{base: strings.TrimSuffix(baseURL, "/"), http: &http.Client{
		Transport:     transport(cfg),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func transport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: LongPoll + 10*time.Second,
		// A connection whose other end is gone must not swallow calls until TCP gives up.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Desired asks for the desired state; it waits at the server up to LongPoll while the
// revision is have. known is the newest one that the host remembers.
func (c *Client) Desired(ctx context.Context, have, known uint64) (Desired, error) {
	var d Desired
	err := c.call(ctx, PathDesired, DesiredRequest{Version: Version, Have: have, Known: known}, &d, LongPoll+10*time.Second)
	return d, err
}

// Status tells the host's state.
func (c *Client) Status(ctx context.Context, s Status) error {
	_, err := c.Report(ctx, s)
	return err
}

// Report is Status with the control plane's answer.
func (c *Client) Report(ctx context.Context, s Status) (Acknowledged, error) {
	s.Version = Version
	var out Acknowledged
	err := c.call(ctx, PathStatus, s, &out, 10*time.Second)
	return out, err
}

// Escrow puts wraps into the control plane's store; nil means they are durable there.
func (c *Client) Escrow(ctx context.Context, wraps ...EscrowedWrap) error {
	return c.call(ctx, PathEscrow, EscrowRequest{Version: Version, Wraps: wraps}, &Acknowledged{}, 3*time.Second)
}

// Wraps lists what the control plane has in escrow for this host.
func (c *Client) Wraps(ctx context.Context) ([]EscrowedWrap, error) {
	var r WrapsResponse
	err := c.call(ctx, PathWraps, Acknowledged{Version: Version}, &r, 30*time.Second)
	return r.Wraps, err
}

// Renew has the agent's own certificate signed anew.
func (c *Client) Renew(ctx context.Context, csr string) (string, error) {
	return c.certificate(ctx, PathRenew, RenewRequest{Version: Version, CSR: csr})
}

// Sign has a certificate signed for the host's KMIP server or for a node.
func (c *Client) Sign(ctx context.Context, req SignRequest) (string, error) {
	req.Version = Version
	return c.certificate(ctx, PathSign, req)
}

func (c *Client) certificate(ctx context.Context, path string, req any) (string, error) {
	var r CertificateResponse
	err := c.call(ctx, path, req, &r, 15*time.Second)
	return r.Certificate, err
}

// decode reads an answer, whose version comes first: a newer form may not fit ours.
func decode(answer []byte, out any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(answer, &head); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if head.Version > Version {
		return ErrVersion
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// refusal reads an answer that is none. What is not of our form becomes the
// status's text.
func refusal(status int, answer []byte) *Error {
	e := &Error{Status: status}
	if json.Unmarshal(answer, e) != nil || e.Code == "" {
		e.Code, e.Detail = "UNEXPECTED_ERROR", http.StatusText(status)
	}
	e.Code, e.Detail = e.Code[:min(len(e.Code), 128)], strings.ToValidUTF8(e.Detail[:min(len(e.Detail), maxDetail)], "")
	return e
}

func (c *Client) call(ctx context.Context, path string, in, out any, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach control plane: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(answer) > MaxBody {
		return errors.New("answer of the control plane is too large")
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, answer)
	}
	return decode(answer, out)
}
