package awskms

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/keywright/keywright/internal/kms"
)

// The bounds of connecting: how long one attempt may take, and how many ways out are
// remembered.
const (
	dialTimeout = 5 * time.Second
	maxWays     = 64
)

// way is one way out: where to, and over which version of IP.
type way struct {
	to string
	v6 bool
}

// sources remembers the local addresses from which connections to the service were
// made. It is safe for concurrent use.
type sources struct {
	// bound, if valid, is the address that every connection is made from.
	bound netip.Addr

	mu   sync.Mutex
	seen map[way]used
}

// used is an address and when it served last.
type used struct {
	from netip.Addr
	at   time.Time
}

// together is how far apart the connections of one machine's present addresses may be:
// what was used longer before the newest one does not count any more.
const together = time.Hour

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialer is the standard one, bound to the configured address if there is one.
func (s *sources) dialer() dialFunc {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if s.bound.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.bound, 0))
	}
	return d.DialContext
}

// noting is dial, and remembers from where each connection was made.
func (s *sources) noting(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil {
			s.note(address, c.LocalAddr())
		}
		return c, err
	}
}

func (s *sources) note(to string, local net.Addr) {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return
	}
	from, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return
	}
	from = from.Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := way{to: to, v6: from.Is6()}
	if _, known := s.seen[w]; known || len(s.seen) < maxWays {
		s.seen[w] = used{from: from, at: time.Now()}
	}
}

func (s *sources) list() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest time.Time
	for _, u := range s.seen {
		if u.at.After(newest) {
			newest = u.at
		}
	}
	var out []netip.Addr
	for w, u := range s.seen {
		if newest.Sub(u.at) > together {
			delete(s.seen, w)
		} else if !slices.Contains(out, u.from) {
			out = append(out, u.from)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// SourceAddresses are the local addresses from which this machine calls KMS and STS:
// the configured one, else those of the connections that were made, else (before the
// first call) what the machine's routes say about the endpoints in use, for which no
// packet is sent but the resolver's. Nobody else is ever asked. Behind an address
// translation or a proxy they are not what AWS sees.
func (p *Provider) SourceAddresses(ctx context.Context) []netip.Addr {
	if p.sources.bound.IsValid() {
		return []netip.Addr{p.sources.bound}
	}
	if seen := p.sources.list(); len(seen) > 0 {
		return seen
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ep := p.Endpoints(kms.Target{})
	var out []netip.Addr
	for _, endpoint := range []string{ep.KMS, ep.STS} {
		u, err := url.Parse(endpoint)
		if err != nil || u.Hostname() == "" {
			continue
		}
		// Connecting a datagram socket only asks the machine's own routing table.
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "443"))
		if err != nil {
			continue
		}
		if local, ok := c.LocalAddr().(*net.UDPAddr); ok {
			if a, ok := netip.AddrFromSlice(local.IP); ok && !slices.Contains(out, a.Unmap()) {
				out = append(out, a.Unmap())
			}
		}
		_ = c.Close()
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// ownClient makes an HTTP client with connections of its own, with the settings of the
// configured one (certificate authorities, proxy).
func (p *Provider) ownClient() *http.Client {
	var tr *http.Transport
	dial := p.sources.dialer()
	switch v := p.aws.HTTPClient.(type) {
	case *awshttp.BuildableClient:
		tr = v.GetTransport()
	case *http.Client:
		if t, ok := v.Transport.(*http.Transport); ok {
			tr = t.Clone()
			if tr.DialContext != nil && !p.sources.bound.IsValid() {
				dial = tr.DialContext
			}
		} else if v.Transport != nil {
			return v
		}
	}
	if tr == nil {
		tr = awshttp.NewBuildableClient().GetTransport()
	}
	tr.DialContext = p.sources.noting(dial)
	return &http.Client{
		Transport: tr,
		// The services do not redirect; what does is no AWS.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CredentialSource names where the platform's own credentials come from, in the SDK's
// words.
func (p *Provider) CredentialSource(ctx context.Context) (string, error) {
	if p.aws.Credentials == nil {
		return "", errors.New("no credentials provider is configured")
	}
	c, err := p.aws.Credentials.Retrieve(ctx)
	if err != nil {
		return "", fmt.Errorf("load AWS credentials: %w", err)
	}
	return c.Source, nil
}
