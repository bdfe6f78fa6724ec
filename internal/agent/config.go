package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/telemetry"
)

// Config is what an agent needs. All fields but EnrollTokenFile, ReadyFile and
// StopNodesOnExit are required.
type Config struct {
	// DataDir holds everything of the host: identity, wrapped keys, nodes. One
	// agent at a time may use it.
	DataDir string
	// ServerURL is the control plane's listener for agents, https://host:port.
	ServerURL string
	// EnrollTokenFile is a file with the enrolment token; used once.
	EnrollTokenFile string
	// Reenroll redeems the token although the host is enrolled: the same host comes back
	// with a new certificate. Its directory stays.
	Reenroll bool
	// Hostname is the name that the token is bound to.
	Hostname string
	// KMIPListen is the address of the KMIP server.
	KMIPListen string
	// NodePorts is where the nodes get their ports from.
	NodePorts PortRange
	// StopNodesOnExit stops the nodes when the agent is told to end. Without it
	// they go on, and the next agent adopts them.
	StopNodesOnExit bool
	// ReadyFile is written when the agent serves.
	ReadyFile string
	// Executable is the program that runs the bundled engine.
	Executable string
	// Provider reaches the customers' keys with this host's own AWS principal.
	Provider kms.Provider
	// EgressAddresses are the addresses from which this host calls AWS, as seen from
	// outside. Without them they are what the provider finds on its connections, if it
	// has SourceAddresses.
	EgressAddresses []string
	Logger          *slog.Logger
	// Metrics counts, and is shown at http://MetricsListen/metrics if that is set, a
	// loopback address. Both may be empty.
	Metrics       *telemetry.Metrics
	MetricsListen string
	// afterStep is called between the steps of a rotation: a test fails them there.
	afterStep func(step string) error
}

func (c Config) check() error {
	errs := []error{checkMetricsListen(c.MetricsListen)}
	if c.DataDir == "" || !filepath.IsAbs(c.DataDir) {
		errs = append(errs, errors.New("data directory: an absolute path is needed"))
	}
	if u, err := url.Parse(c.ServerURL); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("server %q: an address such as https://host:port is needed", c.ServerURL))
	}
	if c.Hostname == "" {
		errs = append(errs, errors.New("host name: it is empty"))
	}
	if c.Executable == "" || c.Provider == nil || c.Logger == nil {
		errs = append(errs, errors.New("executable, provider and logger are needed"))
	}
	if _, bad := agentlink.NormalAddresses(c.EgressAddresses); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("addresses from which AWS is called: %s", strings.Join(bad, "; ")))
	}
	return errors.Join(errs...)
}

// PortRange is an inclusive range of ports; the zero value means any free port.
type PortRange struct{ From, To int }

// ParsePortRange reads "27100-27199", a single port, or "0".
func ParsePortRange(s string) (PortRange, error) {
	from, to, found := strings.Cut(s, "-")
	if !found {
		to = from
	}
	a, errA := strconv.Atoi(from)
	b, errB := strconv.Atoi(to)
	if errA != nil || errB != nil || a < 0 || b < a || b > 65535 || (a == 0 && b != 0) {
		return PortRange{}, fmt.Errorf("ports %q: a range such as 27100-27199, one port, or 0 for any free one is needed", s)
	}
	return PortRange{From: a, To: b}, nil
}

// layout names the files below the data directory.
type layout struct{ root string }

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}
func (l layout) lock() string         { return l.path("agent.lock") }
func (l layout) identity() string     { return l.path("identity.json") }
func (l layout) linkCert() string     { return l.path("link.pem") }
func (l layout) kmipCert() string     { return l.path("kmip-server.pem") }
func (l layout) kmipServerCA() string { return l.path("kmip-server-ca.pem") }
func (l layout) databaseCA() string   { return l.path("database-ca.pem") }
func (l layout) desired() string      { return l.path("desired.json") }
func (l layout) custody(p keys.ProjectID) string {
	return l.path("custody", string(p)+".json")
}
func (l layout) keys() string  { return l.path("keys") }
func (l layout) audit() string { return l.path("audit.jsonl") }
func (l layout) nodes() string { return l.path("nodes") }
func (l layout) node(n keys.NodeID, e ...string) string {
	return l.path(append([]string{"nodes", string(n)}, e...)...)
}

// prepare makes the directories.
func (l layout) prepare() error {
	for _, d := range []string{l.root, l.path("custody"), l.nodes()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	return errors.Join(durable.SyncDir(filepath.Dir(l.root)), durable.SyncDir(l.root))
}
