package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/agent"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/telemetry"
)

func agentCommand() *cobra.Command {
	var cfg agent.Config
	var ports, canary, source string
	c := &cobra.Command{
		Use: "agent", Short: "Run the agent of a database host", Args: cobra.NoArgs,
		Long: "Runs the agent of this host: it keeps the host's database nodes as the control plane wants them, holds their\n" +
			"wrapped master keys, serves them over KMIP, and stops the nodes when a customer takes a key back.\n" +
			"AWS credentials come from the SDK's default chain. A new host needs --enroll-token-file once.",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if cfg.DataDir, err = absolute(cfg.DataDir); err != nil {
				return err
			}
			if cfg.NodePorts, err = agent.ParsePortRange(ports); err != nil {
				return usageError{err}
			}
			if cfg.Hostname == "" {
				if cfg.Hostname, err = os.Hostname(); err != nil {
					return errors.Join(errors.New("name this host with --hostname"), err)
				}
			}
			if cfg.Executable, err = executable(); err != nil {
				return err
			}
			bound, err := sourceAddress(source)
			if err != nil {
				return err
			}
			if err := clobber(); err != nil {
				return err
			}
			cfg.Metrics = telemetry.New(build())
			cfg.Logger = logger(c)
			protect(cfg.Logger)
			if cfg.Provider, err = awskms.New(c.Context(), awskms.Config{CanaryRoleARN: canary, SessionName: "keywright-agent", SourceAddress: bound, Logger: cfg.Logger}); err != nil {
				return fmt.Errorf("reach AWS: %w", err)
			}
			return agent.Run(c.Context(), cfg)
		},
	}
	c.AddCommand(agentRecoverCommand(), agentPolicyCommand())
	f := c.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "directory of this host's keys and nodes (needed)")
	f.StringVar(&cfg.ServerURL, "server", "", "the control plane's address for agents, https://host:port (needed)")
	f.StringVar(&cfg.EnrollTokenFile, "enroll-token-file", "", "file with the enrolment token, for a host that is not enrolled yet")
	f.BoolVar(&cfg.Reenroll, "re-enroll", false, "redeem the token although this host is enrolled: the same host with a new certificate, its keys and nodes stay (once)")
	f.StringVar(&cfg.Hostname, "hostname", "", "name that the enrolment token is bound to (default: the machine's)")
	f.StringVar(&cfg.KMIPListen, "kmip-listen", "127.0.0.1:5696", "address of the KMIP server")
	f.StringVar(&ports, "node-ports", "27100-27199", "ports of database nodes; busy ones are skipped; 0 means any free")
	f.BoolVar(&cfg.StopNodesOnExit, "stop-nodes-on-exit", false, "stop the database nodes when the agent ends; without it they go on and the next agent adopts them")
	egressFlags(f, &cfg.EgressAddresses, &source)
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "", "loopback address that shows metrics for Prometheus at /metrics; empty: none")
	f.StringVar(&cfg.ReadyFile, "ready-file", "", "file that is written when the agent serves")
	f.StringVar(&canary, "canary-role-arn", "", "role in the platform's account that tells a customer's refusal from our own fault")
	return c
}

func agentRecoverCommand() *cobra.Command {
	var cfg agent.RecoverConfig
	c := &cobra.Command{
		Use: "recover", Short: "Rebuild the wrapped keys of this host", Args: cobra.NoArgs,
		Long: "Puts the wrapped keys of this host back, from the control plane's escrow (--server) or from a bundle that\n" +
			"`keywright key export` wrote (--bundle). Missing ones are added and older ones replaced; nothing is removed, and it\n" +
			"can be repeated. The agent must be stopped and the host enrolled. A bundle needs neither network nor control plane;\n" +
			"only the customer's key opens what is in it, when a node asks.\n\n" +
			"A host that lost everything: `keywright host token NAME --out FILE`, start `keywright agent --enroll-token-file FILE`\n" +
			"under the same name once and stop it, recover, start it again. The nodes' data has to be brought back by other means.",
		Example: "  keywright agent recover --data-dir DATA --server https://127.0.0.1:7443\n  keywright agent recover --data-dir DATA --bundle keys.json",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if cfg.DataDir, err = absolute(cfg.DataDir); err != nil {
				return err
			}
			if (cfg.ServerURL == "") == (cfg.BundleFile == "") {
				return usageError{errors.New("one of --server and --bundle is needed")}
			}
			cfg.Logger = logger(c)
			done, err := agent.Recover(c.Context(), cfg)
			if err != nil {
				return fmt.Errorf("recover keys: %w", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d wrapped keys restored (%d of them records of destroyed keys), %d were here\n", done.Restored, done.Destroyed, done.Kept)
			return err
		},
	}
	c.Flags().StringVar(&cfg.DataDir, "data-dir", "", "directory of this host's keys and nodes (needed)")
	c.Flags().StringVar(&cfg.ServerURL, "server", "", "recover from the control plane at https://host:port")
	c.Flags().StringVar(&cfg.BundleFile, "bundle", "", "recover from a bundle of `keywright key export`")
	return c
}
