package cli

import (
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/console"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/server"
	"github.com/keywright/keywright/internal/telemetry"
)

func serverCommand() *cobra.Command {
	cfg := server.Config{KMSEndpoints: kms.Endpoints{}, STSEndpoints: kms.Endpoints{}}
	var source string
	var tokenFile string
	var mail mailFlags
	c := &cobra.Command{
		Use: "server", Short: "Run the control plane", Args: cobra.NoArgs,
		Long: "Runs the control plane: the HTTP API, the listener for agents, and the reconcilers over the metadata store.\n" +
			"AWS credentials come from the SDK's default chain. Plain HTTP is possible on loopback addresses only.",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if cfg.DataDir, err = absolute(cfg.DataDir); err != nil {
				return err
			}
			if cfg.SourceAddress, err = sourceAddress(source); err != nil {
				return err
			}
			if err = mail.apply(&cfg); err != nil {
				return err
			}
			cfg.Metrics = telemetry.New(build())
			if tokenFile != "" {
				if cfg.MetricsToken, err = keyFile("--metrics-token-file", tokenFile); err != nil {
					return err
				}
			}
			cfg.Log = logger(c)
			protect(cfg.Log)
			cfg.API = func(s server.Services) http.Handler {
				return api.New(api.Config{
					Tenant: s.Tenant, Access: s.Access, CMK: s.CMK, Cluster: s.Cluster, Rotation: s.Rotation, Maintenance: s.Maintenance, Export: s.Export,
					Inventory: s.Inventory, Audit: s.Store, Network: s.Network,
					Alert: s.Alert, Metrics: cfg.Metrics,
					Build: build(), Logger: cfg.Log,
				})
			}
			cfg.Console = func(s server.Services) http.Handler {
				return console.New(console.Config{
					Tenant: s.Tenant, Access: s.Access, CMK: s.CMK, Cluster: s.Cluster, Audit: s.Store, LocalAWS: localAWS(cfg.KMSEndpoints), Logger: cfg.Log,
				})
			}
			return server.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "directory of the metadata store (needed)")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address of the API")
	f.StringVar(&cfg.AgentListen, "agent-listen", "127.0.0.1:0", "address for agents (mutual TLS)")
	f.StringVar(&cfg.TLSCertFile, "tls-cert-file", "", "certificate (PEM) of the API; needed on addresses other than loopback")
	f.StringVar(&cfg.TLSKeyFile, "tls-key-file", "", "private key (PEM) of the API's certificate")
	f.DurationVar(&cfg.Interval, "validation-interval", 15*time.Minute, "how often each customer key is checked, 1s or more")
	f.StringVar(&cfg.AWSRegion, "aws-region", "", "region whose STS is asked for role checks (default: the environment's, else us-east-1)")
	f.StringVar(&cfg.CanaryRoleARN, "canary-role-arn", "", "role in the platform's account that tells a customer's refusal from our own fault")
	f.Var(endpointFlag(cfg.KMSEndpoints), "kms-endpoint", "REGION=URL that replaces KMS's own endpoint in a Region, here and on all hosts, such as a VPC endpoint; URL alone: in all others; may be repeated")
	f.Var(endpointFlag(cfg.STSEndpoints), "sts-endpoint", "the same for STS")
	f.BoolVar(&cfg.FIPS, "aws-fips", false, "use AWS's FIPS endpoints, here and on all hosts, in every Region without --kms-endpoint or --sts-endpoint; Regions outside the USA and Canada have none for STS")
	egressFlags(f, &cfg.EgressAddresses, &source)
	f.StringVar(&cfg.Hostname, "hostname", "", "name of this machine, as customers see it beside its addresses (default: the machine's)")
	f.StringVar(&cfg.InitFile, "init-file", "", "file with the first organization and its API key; read while there is none")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "file that is written when everything listens")
	f.StringVar(&tokenFile, "metrics-token-file", "", "file with the token that /metrics demands; without it /metrics is for this machine only")
	mail.add(f, &cfg)
	return c
}

// endpointFlag is a repeatable flag of addresses by Region.
type endpointFlag kms.Endpoints

// String implements pflag.Value.
func (f endpointFlag) String() string { return "" }

// Set implements pflag.Value.
func (f endpointFlag) Set(text string) error { return kms.Endpoints(f).Set(text) }

// Type implements pflag.Value.
func (f endpointFlag) Type() string { return "REGION=URL" }

// localAWS tells whether keys come from a KMS on this machine, which is for development
// and tests only.
func localAWS(endpoints kms.Endpoints) bool {
	for _, endpoint := range append(slices.Collect(maps.Values(endpoints)), os.Getenv("AWS_ENDPOINT_URL_KMS"), os.Getenv("AWS_ENDPOINT_URL")) {
		u, err := url.Parse(endpoint)
		if err != nil {
			continue
		}
		a, err := netip.ParseAddr(u.Hostname())
		if u.Hostname() == "localhost" || err == nil && a.IsLoopback() {
			return true
		}
	}
	return false
}
