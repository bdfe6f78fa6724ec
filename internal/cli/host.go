package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/durable"
)

// hostLine is a host as the API tells of it, as far as text shows it.
type hostLine struct {
	ID           string   `json:"id"`
	Hostname     string   `json:"hostname"`
	LastSeen     string   `json:"lastSeenAt"`
	KMIP         string   `json:"kmipAddress"`
	Frozen       string   `json:"frozen"`
	Alarms       []string `json:"alarms"`
	Acknowledged bool     `json:"acknowledged"`
}

func (h hostLine) state() string {
	switch {
	case h.Frozen != "":
		return "FROZEN"
	case len(h.Alarms) > 0:
		return "ALARM"
	case h.LastSeen == "":
		return "NEVER SEEN"
	case !h.Acknowledged:
		return "BEHIND"
	}
	return "OK"
}

func hostCommand() *cobra.Command {
	c := &cobra.Command{Use: "host", Short: "Look at database hosts, enrol them, unfreeze or forget them", Args: cobra.NoArgs}
	c.AddCommand(hostListCommand(), hostTokenCommand(), hostUnfreezeCommand(), hostForgetCommand())
	return c
}

func hostListCommand() *cobra.Command {
	var api apiFlags
	c := &cobra.Command{
		Use: "list", Short: "List the hosts with their alarms", Args: cobra.NoArgs,
		Long: "Lists the hosts of the organization. BEHIND has not acknowledged the newest changes, ALARM needs a person, FROZEN\n" +
			"gets no changes until `keywright host unfreeze NAME`.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			all, err := askAll[hostLine](c.Context(), cl, ownAPI+"/hosts")
			if err != nil {
				return fmt.Errorf("list hosts: %w", err)
			}
			return api.show(c, all.raw, func(t *table) {
				t.row("HOST", "ID", "STATE", "LAST REPORT", "KMIP")
				for _, h := range all.value {
					t.row(h.Hostname, h.ID, h.state(), h.LastSeen, h.KMIP)
				}
				for _, h := range all.value {
					if h.Frozen != "" {
						t.line("%s is frozen: %s", h.Hostname, h.Frozen)
					}
					for _, a := range h.Alarms {
						t.line("%s: %s", h.Hostname, a)
					}
				}
			})
		},
	}
	api.add(c)
	return c
}

func hostTokenCommand() *cobra.Command {
	var api apiFlags
	var out string
	c := &cobra.Command{
		Use: "token NAME", Short: "Make an enrolment token for a host", Args: cobra.ExactArgs(1),
		Long: "Makes a token with which one agent enrols once, within an hour, under this host name, and writes it to a file of mode\n" +
			"0600 for `keywright agent --enroll-token-file`. A host that is enrolled under the name already comes back as the\n" +
			"same host with a new certificate, its nodes and its wrapped keys (`keywright agent --re-enroll`); the certificates\n" +
			"that it had are admitted no more. It needs an API key with Organization Owner.",
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return usageError{errors.New("--out is needed: the token is never printed")}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			var made struct {
				Token   string `json:"token"`
				Expires string `json:"expiresAt"`
			}
			if err := cl.Do(c.Context(), "POST", ownAPI+"/hosts/enrolmentTokens", map[string]string{"hostname": args[0]}, &made); err != nil {
				return fmt.Errorf("make enrolment token: %w", err)
			}
			if err := durable.WriteFile(out, []byte(made.Token+"\n"), 0o600); err != nil {
				return err
			}
			done := map[string]string{"file": out, "hostname": args[0], "expiresAt": made.Expires}
			return api.show(c, done, func(t *table) {
				t.line("wrote %s: for host %s, once, until %s", out, args[0], made.Expires)
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&out, "out", "", "file to write the token to (needed)")
	return c
}

func hostUnfreezeCommand() *cobra.Command {
	var api apiFlags
	var confirm string
	c := &cobra.Command{
		Use: "unfreeze NAME", Short: "Let changes go to a frozen host again", Args: cobra.ExactArgs(1),
		Long: "A host is frozen when it and the control plane remember different things: one of them was restored from an older\n" +
			"copy. Its databases go on, but no change reaches it. Look at what happened first (`keywright host list`, the events\n" +
			"HOST_AHEAD_OF_STORE, HOST_WENT_BACK and HOST_AUDIT_WENT_BACK). If the host's directory is the older one, stop its\n" +
			"agent and run `keywright agent recover` there before.\n\n" +
			"Unfreezing makes both agree on what is newest. It drops no wrapped key: the host sends those that the store has\n" +
			"forgotten, a node whose files are newer than the store remembers stays as it is, and what the store does not name is\n" +
			"left alone. It is recorded, and needs an API key with Organization Owner.",
		Example: "  keywright host unfreeze db1 --confirm db1",
		RunE: func(c *cobra.Command, args []string) error {
			if confirm == "" {
				return usageError{fmt.Errorf("this lets changes go to host %s again: type its name to confirm, --confirm %s", args[0], args[0])}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			got, err := ask[hostLine](c.Context(), cl, "POST", ownAPI+"/hosts/"+strings.ReplaceAll(url.PathEscape(args[0]), ":", "%3A")+":unfreeze", map[string]string{"confirm": confirm})
			if err != nil {
				return fmt.Errorf("unfreeze host: %w", err)
			}
			return api.show(c, got.raw, func(t *table) {
				t.line("changes go to host %s (%s) again", got.value.Hostname, got.value.ID)
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&confirm, "confirm", "", "the host's name, typed (needed)")
	return c
}
