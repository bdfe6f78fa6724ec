package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keywright/keywright/internal/secret"
)

// The headers of a webhook's message. The signature's value is
// "t=UNIX SECONDS,v1=HEX", HEX being HMAC-SHA256 under the webhook's secret over the
// decimal seconds, a full stop and the body. Receivers refuse old seconds and ids that
// they have had.
const (
	SignatureHeader = "X-Keywright-Signature"
	DeliveryHeader  = "X-Keywright-Delivery"
	MessageHeader   = "X-Keywright-Message"
)

// The bounds of a webhook call.
const (
	hookTime   = 10 * time.Second
	hookAnswer = 4 << 10
	maxURL     = 2048
)

// Sign gives the value of SignatureHeader.
func Sign(key secret.Bytes, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, key.Reveal())
	_, _ = m.Write([]byte(t + "."))
	_, _ = m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// CheckSignature is what a receiver does: it tells whether a header is the signature of
// a body, made within tolerance of now.
func CheckSignature(key secret.Bytes, header string, body []byte, now time.Time, tolerance time.Duration) error {
	t, _, ok := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	seconds, err := strconv.ParseInt(t, 10, 64)
	if !ok || err != nil {
		return errors.New("the signature is malformed")
	}
	at := time.Unix(seconds, 0)
	if !hmac.Equal([]byte(Sign(key, at, body)), []byte(header)) {
		return errors.New("the signature is of another secret or body")
	}
	if now.Sub(at).Abs() > tolerance {
		return errors.New("the signature is too old, or of the future")
	}
	return nil
}

// errForbidden is the class of addresses that a webhook must not have.
var errForbidden = errors.New("webhooks to this address are not allowed")

// checkURL refuses what can be no webhook.
func checkURL(raw string, local bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL:
		return nil, fmt.Errorf("it is longer than %d characters", maxURL)
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("https://HOST/PATH is expected")
	case u.User != nil:
		return nil, errors.New("it has a user name; put a token into the path or check the signature instead")
	case u.Fragment != "":
		return nil, errors.New("it has a fragment")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && local && loopbackName(u.Hostname()):
		return u, nil
	}
	return nil, errors.New("https is expected; http is possible to loopback only, on a server that listens on loopback only")
}

func loopbackName(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// redacted shows a URL without what may be secret in it.
func redacted(u *url.URL) string { return u.Scheme + "://" + u.Host + "/..." }

// allowed judges the address that a webhook's name has just been resolved to.
func allowed(a netip.Addr, local, private bool) bool {
	a = a.Unmap()
	switch {
	case a.IsLoopback():
		return local
	case a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.IsInterfaceLocalMulticast():
		return false // link-local addresses have the metadata of cloud machines
	case a.IsPrivate(), sharedSpace(a):
		return private || local
	}
	return a.IsGlobalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// sharedSpace is 100.64.0.0/10, and what stands for IPv4 inside IPv6.
func sharedSpace(a netip.Addr) bool {
	for _, p := range []string{"100.64.0.0/10", "198.18.0.0/15", "0.0.0.0/8", "64:ff9b::/96", "2002::/16"} {
		if netip.MustParsePrefix(p).Contains(a) {
			return true
		}
	}
	return false
}

// hookClient makes the client of all webhooks: no proxy, no redirect, no reuse, short
// times, and addresses that are judged when they are dialled, so that a name cannot lead
// elsewhere afterwards.
func hookClient(local, private bool) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !allowed(ap.Addr(), local, private) {
			return fmt.Errorf("%w (%s)", errForbidden, address)
		}
		return nil
	}}
	return &http.Client{
		Timeout: hookTime,
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: hookTime, DisableKeepAlives: true,
			MaxResponseHeaderBytes: hookAnswer, ForceAttemptHTTP2: false,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends a message to a webhook and gives the status of the answer.
func (s *Service) post(ctx context.Context, to, key secret.Bytes, id, kind string, body []byte) (int, error) {
	if _, err := checkURL(string(to.Reveal()), s.cfg.LocalHooks); err != nil {
		return 0, fmt.Errorf("the URL is not one for webhooks: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(to.Reveal()), bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Keywright")
	req.Header.Set(DeliveryHeader, id)
	req.Header.Set(MessageHeader, kind)
	if key.Len() > 0 {
		req.Header.Set(SignatureHeader, Sign(key, s.st.Now(), body))
	}
	resp, err := s.hooks.Do(req)
	if err != nil {
		return 0, plain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, hookAnswer))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, fmt.Errorf("the webhook answered %s", resp.Status)
	}
	return resp.StatusCode, nil
}

// plain takes the URL out of an error: it may be secret.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return errors.New("the webhook did not answer in time")
		}
		return u.Err
	}
	return err
}
