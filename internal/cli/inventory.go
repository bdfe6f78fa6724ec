package cli

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// keyUse is a customer key as the API tells of it, as far as text shows it.
type keyUse struct {
	KeyARN       string `json:"keyArn"`
	Verdict      string `json:"verdict"`
	OnlyRollback bool   `json:"onlyRollbackNeedsIt"`
	NeededBy     struct {
		Projects, Clusters, Nodes, Wraps, Hosts, Snapshots int
	} `json:"neededBy"`
	Reasons []struct {
		Kind    string `json:"kind"`
		Message string `json:"message"`
		Remedy  string `json:"remedy"`
	} `json:"reasons"`
	Note string `json:"note"`
}

func keyInventoryCommand() *cobra.Command {
	var api apiFlags
	var org string
	c := &cobra.Command{
		Use: "inventory", Short: "List the customer keys and what needs them", Args: cobra.NoArgs,
		Long: "Lists every AWS KMS key that a project of the organization has or had as its customer key, with what needs it and\n" +
			"whether it may be deleted. `keywright key may-delete ARN` gives the reasons.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			if org, err = api.organization(c.Context(), cl, org); err != nil {
				return err
			}
			all, err := askAll[keyUse](c.Context(), cl, ownAPI+"/orgs/"+org+"/keys")
			if err != nil {
				return fmt.Errorf("list keys: %w", err)
			}
			return api.show(c, all.raw, func(t *table) {
				if len(all.value) == 0 {
					t.line("no project has or had a customer key")
					return
				}
				t.row("KEY", "VERDICT", "PROJECTS", "CLUSTERS", "NODES", "WRAPS", "HOSTS")
				for _, k := range all.value {
					n := k.NeededBy
					t.row(k.KeyARN, k.Verdict, n.Projects, n.Clusters, n.Nodes, n.Wraps, n.Hosts)
				}
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&org, "org-id", "", "organization (default: the only one that the API key sees)")
	return c
}

// mayNot is the exit code of may-delete for a key that must be kept or of which not
// everything is known: scripts must not take it for a yes.
const mayNot = 3

func keyMayDeleteCommand() *cobra.Command {
	var api apiFlags
	var org string
	c := &cobra.Command{
		Use: "may-delete ARN", Short: "Tell whether a customer key may be deleted, and why not", Args: cobra.ExactArgs(1),
		Long: "Tells what needs an AWS KMS key: configurations of projects, wrapped keys in escrow and on hosts, and hosts that\n" +
			"cannot be asked. The verdict is MAY_DELETE, MUST_KEEP or UNKNOWN, each with reasons and what would change it. What\n" +
			"is not known never gives MAY_DELETE.\n\n" +
			"Exit codes: 0 MAY_DELETE, 3 MUST_KEEP or UNKNOWN, 1 an error, 2 a wrong command line.",
		Example: "  keywright key may-delete arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			if org, err = api.organization(c.Context(), cl, org); err != nil {
				return err
			}
			got, err := ask[keyUse](c.Context(), cl, "GET", ownAPI+"/orgs/"+org+"/keys/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return fmt.Errorf("ask about key: %w", err)
			}
			if err := api.show(c, got.raw, func(t *table) { showVerdict(t, got.value) }); err != nil {
				return err
			}
			if got.value.Verdict != "MAY_DELETE" {
				return exitCode{code: mayNot}
			}
			return nil
		},
	}
	api.add(c)
	c.Flags().StringVar(&org, "org-id", "", "organization (default: the only one that the API key sees)")
	return c
}

func showVerdict(t *table, k keyUse) {
	t.line("%s  %s", strings.ReplaceAll(k.Verdict, "_", " "), k.KeyARN)
	if k.OnlyRollback {
		t.line("Nothing but a possible rollback needs it: it may be disabled now.")
	}
	for _, r := range k.Reasons {
		t.line("")
		t.line("  %s", r.Message)
		t.line("    %s", r.Remedy)
	}
	if k.Note != "" {
		t.line("")
		t.line("%s", k.Note)
	}
}
