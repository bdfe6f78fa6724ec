package cli

import (
	"cmp"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/api"
	"github.com/keywright/keywright/internal/console"
	"github.com/keywright/keywright/internal/server"
	"github.com/keywright/keywright/internal/telemetry"
)

func serverCommand() *cobra.Command {
	var cfg server.Config
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
					Tenant: s.Tenant, Access: s.Access, CMK: s.CMK, Cluster: s.Cluster, Audit: s.Store, LocalAWS: localAWS(cfg.KMSEndpoint), Logger: cfg.Log,
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
	f.StringVar(&cfg.KMSEndpoint, "kms-endpoint", "", "replaces KMS's own endpoint, here and on all hosts")
	f.StringVar(&cfg.STSEndpoint, "sts-endpoint", "", "replaces STS's own endpoint, here and on all hosts")
	egressFlags(f, &cfg.EgressAddresses, &source)
	f.StringVar(&cfg.Hostname, "hostname", "", "name of this machine, as customers see it beside its addresses (default: the machine's)")
	f.StringVar(&cfg.InitFile, "init-file", "", "file with the first organization and its API key; read while there is none")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "file that is written when everything listens")
	f.StringVar(&tokenFile, "metrics-token-file", "", "file with the token that /metrics demands; without it /metrics is for this machine only")
	mail.add(f, &cfg)
	return c
}

// localAWS tells whether keys come from a KMS on this machine, which is for development
// and tests only.
func localAWS(endpoint string) bool {
	u, err := url.Parse(cmp.Or(endpoint, os.Getenv("AWS_ENDPOINT_URL_KMS"), os.Getenv("AWS_ENDPOINT_URL")))
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || (err == nil && a.IsLoopback())
}
