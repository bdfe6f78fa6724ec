package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/doctor"
	"github.com/keywright/keywright/internal/kms/awskms"
)

func doctorCommand() *cobra.Command {
	var cfg doctor.Config
	var region, source, output string
	c := &cobra.Command{
		Use: "doctor server|agent", Short: "Check whether this machine can run a control plane or an agent", Args: cobra.ExactArgs(1),
		ValidArgs: []string{doctor.Server, doctor.Agent},
		Long: "Checks this machine: AWS credentials and who they are, the way to STS and KMS, the clock against theirs, the addresses that\n" +
			"AWS is called from, the data directory, limits, core dumps and ports; for an agent the control plane and the enrolment\n" +
			"too. Run it as the user, and with the environment, that the process has. It changes nothing.\n" +
			"Exit codes: 0 all is well or warnings only, 1 something fails, 2 a wrong command line.",
		RunE: func(c *cobra.Command, args []string) error {
			cfg.Kind = args[0]
			switch {
			case cfg.Kind != doctor.Server && cfg.Kind != doctor.Agent:
				return usageError{fmt.Errorf("%q: server or agent", cfg.Kind)}
			case output != "text" && output != "json":
				return usageError{fmt.Errorf("--output %q: text or json", output)}
			}
			if len(cfg.Listen) == 0 {
				cfg.Listen = map[string][]string{doctor.Server: {"127.0.0.1:8080"}, doctor.Agent: {"127.0.0.1:5696"}}[cfg.Kind]
			}
			bound, err := sourceAddress(source)
			if err != nil {
				return err
			}
			aws, err := awskms.New(c.Context(), awskms.Config{Region: region, SessionName: "keywright-doctor", SourceAddress: bound, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return fmt.Errorf("reach AWS: %w", err)
			}
			defer func() { _ = aws.Close() }()
			cfg.AWS = aws
			found := doctor.Examine(c.Context(), cfg)
			if err := printFindings(c, output, found); err != nil {
				return err
			}
			if doctor.Worst(found) == doctor.Fail {
				return exitCode{code: 1, err: errors.New("this machine is not fit yet")}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "the process's data directory")
	f.StringVar(&cfg.ServerURL, "server", "", "the control plane's address for agents, https://host:port")
	f.StringSliceVar(&cfg.Listen, "listen", nil, "address that the process listens at; may be repeated (default: the process's own)")
	f.StringVar(&region, "aws-region", "", "region whose endpoints are tried (default: the environment's, else us-east-1)")
	f.StringVar(&source, "source-address", "", "local address that AWS is called from")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func printFindings(c *cobra.Command, output string, found []doctor.Finding) error {
	if output == "json" {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Worst  doctor.Level     `json:"worst"`
			Checks []doctor.Finding `json:"checks"`
		}{doctor.Worst(found), found})
	}
	t := &table{w: tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 2, ' ', 0)}
	for _, f := range found {
		t.row(f.Level, f.Check, f.Text)
		if f.Remedy != "" && f.Level != doctor.OK {
			t.row(" ", " ", "-> "+f.Remedy)
		}
	}
	return errors.Join(t.err, t.w.Flush())
}
