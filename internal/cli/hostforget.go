package cli

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func hostForgetCommand() *cobra.Command {
	var api apiFlags
	var confirm string
	c := &cobra.Command{
		Use: "forget NAME", Short: "Give up a dead host, with its nodes and keys", Args: cobra.ExactArgs(1),
		Long: "Gives up a host that will not come back. Its nodes are removed, and the wrapped keys that were kept for it are\n" +
			"destroyed: what was written there can never be opened again. A change of the customer key does not wait for it any\n" +
			"more. Without --confirm it tells what would die, and changes nothing; a host that still reports is refused.\n" +
			"It needs Organization Owner.",
		Example: "  keywright host forget db7\n  keywright host forget db7 --confirm db7",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			all, err := askAll[hostLine](c.Context(), cl, ownAPI+"/hosts")
			if err != nil {
				return fmt.Errorf("find host: %w", err)
			}
			id := ""
			for _, h := range all.value {
				if h.Hostname == args[0] || h.ID == args[0] {
					id = h.ID
				}
			}
			if id == "" {
				return fmt.Errorf("there is no host %s; `keywright host list` shows them", args[0])
			}
			type losses struct {
				Hostname string   `json:"hostname"`
				Clusters []string `json:"clusters"`
				Nodes    []string `json:"nodes"`
				Keys     int      `json:"wrappedKeys"`
			}
			got, err := ask[losses](c.Context(), cl, http.MethodPost, ownAPI+"/hosts/"+id+":forget", map[string]string{"hostname": confirm})
			if err != nil && confirm == "" && isStatus(err, http.StatusBadRequest) {
				return fmt.Errorf("%w\nhint: keywright host forget %s --confirm %s", err, args[0], args[0])
			}
			if err != nil {
				return fmt.Errorf("forget host: %w", err)
			}
			return api.show(c, got.raw, func(t *table) {
				l := got.value
				t.line("host %s is forgotten; with it went %d nodes, %d wrapped keys, and the clusters %v", l.Hostname, len(l.Nodes), l.Keys, l.Clusters)
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&confirm, "confirm", "", "the host's name again: it dies")
	return c
}
