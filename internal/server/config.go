package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/telemetry"
)

// Config configures a control plane.
type Config struct {
	// DataDir holds everything; it is made if absent.
	DataDir string
	// Listen is the address of the HTTP API. Addresses other than loopback need
	// TLSCertFile and TLSKeyFile (PEM).
	Listen                  string
	TLSCertFile, TLSKeyFile string
	// AgentListen is the address of the agent link, always mutual TLS.
	AgentListen string
	// Interval is the distance of validation runs; 0 means 15 minutes.
	Interval time.Duration
	// AWSRegion is the region of the platform's own calls; empty: the SDK's.
	AWSRegion string
	// CanaryRoleARN is a role of the platform's account (see awskms.Config).
	CanaryRoleARN string
	// KMSEndpoints and STSEndpoints override AWS's addresses by Region, FIPS asks for the
	// FIPS endpoints of the others; all of it for hosts too.
	KMSEndpoints, STSEndpoints kms.Endpoints
	FIPS                       bool
	// EgressAddresses are the addresses from which the control plane calls AWS, as seen
	// from outside; needed behind an address translation. Without them they are the local
	// ones of its connections.
	EgressAddresses []string
	// SourceAddress, if valid, is the local address that AWS is called from.
	SourceAddress netip.Addr
	// Hostname is this machine's; empty: what the system says.
	Hostname string
	// InitFile, if set, makes the first organization; see ReadInit.
	InitFile string
	// ReadyFile, if set, is written when everything listens, and removed at the end.
	ReadyFile string
	// Mail sends alerts to people; nil: no mail. Recipients are the operator's addresses
	// for what goes to people by role.
	Mail       *alert.SMTP
	Recipients []string
	// PrivateHooks allows webhooks in private networks; those on loopback are possible
	// when Listen is loopback.
	PrivateHooks bool
	// Metrics counts and is shown at /metrics, to this machine or to who has MetricsToken;
	// nil counts nothing.
	Metrics      *telemetry.Metrics
	MetricsToken secret.Bytes
	// API makes the handler of everything but /healthz and /readyz.
	API func(Services) http.Handler
	// Console makes the handler of everything outside /api/ then; nil: there is no console.
	Console func(Services) http.Handler
	// Provider replaces AWS; nil means awskms with the SDK's default chain.
	Provider kms.Provider
	// Log may be nil.
	Log *slog.Logger
	// ShowCreating and ShowDeleting: see cluster.Config.
	ShowCreating, ShowDeleting time.Duration
}

// Services is what the API and the console work with.
type Services struct {
	Store   *store.Store
	Tenant  *tenant.Service
	Access  *access.Service
	CMK     *cmk.Service
	Cluster *cluster.Service
	// Network knows from where AWS is called.
	Network *network.Service
	// Rotation plans the rotation of master keys, Export makes bundles of wrapped keys.
	Rotation *rotation.Service
	// Maintenance keeps the projects' maintenance windows.
	Maintenance *maintenance.Service
	Export      *escrow.Service
	// Inventory answers which customer keys are needed.
	Inventory *inventory.Service
	// Alert keeps alert configurations and alerts, and sends notifications.
	Alert *alert.Service
	// DatabaseCA is the certificate (PEM) that the databases' certificates come from.
	DatabaseCA []byte
	Log        *slog.Logger
}

// InitVersion is the version of the init file.
const InitVersion = 1

const maxInit = 64 << 10

// ReadInit reads an init file: JSON with version, orgName, ownerName, publicKey,
// privateKey and, for the console, username and password.
func ReadInit(path string) (tenant.Init, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's own file
	if err != nil {
		return tenant.Init{}, fmt.Errorf("read init file: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxInit+1))
	if err != nil {
		return tenant.Init{}, fmt.Errorf("read init file: %w", err)
	}
	return parseInit(b)
}

// parseInit never quotes the file: it holds a secret.
func parseInit(b []byte) (tenant.Init, error) {
	if len(b) > maxInit {
		return tenant.Init{}, errors.New("read init file: it is larger than 64 KiB")
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return tenant.Init{}, errors.New("read init file: it is not JSON")
	}
	if version.Version != InitVersion {
		return tenant.Init{}, fmt.Errorf("read init file: version %d is not known, this keywright knows %d", version.Version, InitVersion)
	}
	var in struct {
		Version    int    `json:"version"`
		OrgName    string `json:"orgName"`
		OwnerName  string `json:"ownerName"`
		PublicKey  string `json:"publicKey"`
		PrivateKey string `json:"privateKey"`
		Username   string `json:"username"`
		Password   string `json:"password"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return tenant.Init{}, errors.New("read init file: version, orgName, ownerName, publicKey and privateKey are expected, and username and password of a person are possible; all are strings but the version")
	}
	return tenant.Init{OrgName: in.OrgName, OwnerName: in.OwnerName, PublicKey: in.PublicKey, PrivateKey: secret.FromString(in.PrivateKey), Username: in.Username, Password: secret.FromString(in.Password)}, nil
}

// loopback tells whether a listener at addr is reachable from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
