package cli

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Work with wrapped keys", Args: cobra.NoArgs}
	c.AddCommand(keyExportCommand(), keyGuideCommand(), keyCheckCommand(), keyRotateCommand(), keyInventoryCommand(), keyMayDeleteCommand(), keyRehearseCommand(),
		keyStatusCommand(), keyChangeCommand(), keyAbortCommand(), keyRollbackCommand())
	return c
}

func keyExportCommand() *cobra.Command {
	var api apiFlags
	var org, out string
	c := &cobra.Command{
		Use: "export", Short: "Write all wrapped keys into one signed file", Args: cobra.NoArgs,
		Long: "Writes every wrapped key of the organization, with the ARN of the customer's key and the encryption context that\n" +
			"open it, into one signed bundle. It holds ciphertext only: without the customers' keys nothing opens. Keep it away\n" +
			"from this installation; `keywright agent recover --bundle FILE` rebuilds a host's keys from it. It needs an API key\n" +
			"with Organization Owner and is recorded.",
		Example: "  keywright key export --out keys.json",
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return usageError{errors.New("--out is needed")}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			if org, err = api.organization(c.Context(), cl, org); err != nil {
				return err
			}
			return exportKeys(c, &api, cl, org, out)
		},
	}
	api.add(c)
	c.Flags().StringVar(&org, "org-id", "", "organization (default: the only one that the API key sees)")
	c.Flags().StringVar(&out, "out", "", "file to write (needed)")
	return c
}

// exported is what the command says of a bundle that it wrote.
type exported struct {
	File  string `json:"file"`
	Wraps int    `json:"wraps"`
	Hosts int    `json:"hosts"`
}

func exportKeys(c *cobra.Command, api *apiFlags, cl *client.Client, org, out string) error {
	var b bundle.Bundle
	if err := cl.Do(c.Context(), "POST", "/api/keywright/v1/orgs/"+org+"/keys:export", nil, &b); err != nil {
		return fmt.Errorf("export keys: %w", err)
	}
	if b.Format != bundle.Format || b.Version > bundle.Version {
		return fmt.Errorf("export keys: the answer is a %q of version %d, this program knows version %d", b.Format, b.Version, bundle.Version)
	}
	var p bundle.Payload
	if err := json.Unmarshal(b.Payload, &p); err != nil {
		return fmt.Errorf("export keys: the bundle that came is damaged: %w", err)
	}
	if err := durable.WriteJSON(out, b, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	hosts := map[keys.HostID]bool{}
	for _, w := range p.Wraps {
		hosts[w.Host] = true
	}
	done := exported{File: out, Wraps: len(p.Wraps), Hosts: len(hosts)}
	return api.show(c, done, func(t *table) {
		t.line("wrote %s: %d wrapped keys of %d hosts", done.File, done.Wraps, done.Hosts)
	})
}
