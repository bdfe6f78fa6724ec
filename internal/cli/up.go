package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/up"
)

func upCommand() *cobra.Command {
	var cfg up.Config
	c := &cobra.Command{
		Use: "up", Short: "Start everything on this machine: local AWS, control plane, agent, samples", Args: cobra.NoArgs,
		Long: "Starts a whole Keywright on this machine and keeps it running until Ctrl-C. The first start makes a sample\n" +
			"project with a customer key and an encrypted cluster; the next ones find everything as it was.\n" +
			"Programs read the bootstrap file, which appears when everything is ready.",
		RunE: func(c *cobra.Command, _ []string) error {
			exe, err := executable()
			if err != nil {
				return err
			}
			if cfg.DataDir == "" {
				if cfg.DataDir, err = userDataDir(); err != nil {
					return err
				}
			}
			cfg.Executable, cfg.Out = exe, c.OutOrStdout()
			cfg.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			return up.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "directory below which everything lives (default: the user's data directory)")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address of the API")
	f.StringVar(&cfg.AWS, "aws", "local", "local (a built-in AWS for development and tests) or real (the SDK's default credential chain)")
	f.StringVar(&cfg.AWSListen, "aws-listen", "127.0.0.1:4566", "address of the local AWS")
	f.BoolVar(&cfg.AWSControl, "aws-control", false, "let the local AWS serve its control path of tests (token in DATA/aws/control.token)")
	f.StringVar(&cfg.AgentListen, "agent-listen", "127.0.0.1:0", "the control plane's address for agents")
	f.StringVar(&cfg.KMIPListen, "kmip-listen", "127.0.0.1:5696", "the agent's KMIP address")
	f.StringVar(&cfg.NodePorts, "node-ports", "27100-27199", "ports of database nodes; busy ones are skipped; 0 means any free")
	f.DurationVar(&cfg.ValidationInterval, "validation-interval", 15*time.Minute, "how often each customer key is checked, 1s or more")
	f.StringVar(&cfg.BootstrapFile, "bootstrap-file", "", "file for programs, mode 0600 (default DATA/bootstrap.json)")
	f.BoolVar(&cfg.NoSample, "no-sample", false, "make no sample projects and clusters")
	return c
}

// userDataDir follows the XDG base directory specification.
func userDataDir() (string, error) {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "keywright"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's data directory, name one with --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "keywright"), nil
}
