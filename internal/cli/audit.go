package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/durable"
)

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Check audit logs", Args: cobra.NoArgs}
	var head string
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Verify the chain of an agent's audit log", Args: cobra.ExactArgs(1),
		Long: "Verifies that no event of an agent's audit log (DATA/audit.jsonl) was changed, dropped, added or moved, and\n" +
			"prints the chain's head. With --head, a head that was kept elsewhere must lie on the chain: without one,\n" +
			"whoever can write the whole file can rewrite the whole chain.",
		RunE: func(c *cobra.Command, args []string) error {
			var kept audit.Head
			if head != "" {
				if err := durable.ReadJSON(head, &kept); err != nil {
					return fmt.Errorf("read kept head: %w", err)
				}
			}
			h, err := audit.VerifyFile(args[0], kept)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file %s", args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "{\"seq\":%d,\"hash\":%q}\n", h.Seq, h.Hash)
			return err
		},
	}
	verify.Flags().StringVar(&head, "head", "", "file with a head kept elsewhere, as this command prints it")
	c.AddCommand(verify)
	return c
}
