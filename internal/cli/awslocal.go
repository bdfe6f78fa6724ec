package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/awslocal"
	"github.com/keywright/keywright/internal/durable"
)

func awslocalCommand() *cobra.Command {
	var dir, listen, ready string
	var control bool
	c := &cobra.Command{
		Use: "awslocal", Short: "Run the local AWS (KMS, STS, IAM), for development and tests only", Args: cobra.NoArgs,
		Long: "Runs a local KMS, STS and IAM with signatures checked and policies evaluated on every call. It keeps its keys\n" +
			"on this disk: whoever has the disk has the keys. Credentials of the seeded accounts are in DATA/seed.json.",
		RunE: func(c *cobra.Command, _ []string) error {
			abs, err := absolute(dir)
			if err != nil {
				return err
			}
			log := logger(c)
			protect(log)
			s, err := awslocal.Open(awslocal.Config{DataDir: abs, Listen: listen, Logger: log, Control: control})
			if err != nil {
				return err
			}
			if ready != "" {
				if err := durable.WriteJSON(ready, map[string]any{"endpoint": "http://" + s.Addr(), "pid": os.Getpid()}, 0o600); err != nil {
					return err
				}
			}
			return s.Serve(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "data-dir", "", "directory of accounts, keys and call log (needed)")
	f.StringVar(&listen, "listen", "127.0.0.1:4566", "loopback address to serve at")
	f.BoolVar(&control, "control", false, "serve the control path of tests: delays, faults, moved time (token in DATA/control.token)")
	f.StringVar(&ready, "ready-file", "", "file that is written when it serves")
	return c
}
