package cli

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func alertCommand() *cobra.Command {
	c := &cobra.Command{Use: "alert", Short: "See and acknowledge alerts, test how they are told", Args: cobra.NoArgs}
	c.AddCommand(alertListCommand(), alertAckCommand(), alertTestCommand())
	return c
}

// alertLine is what of an alert is printed.
type alertLine struct {
	ID      string `json:"id"`
	Type    string `json:"eventTypeName"`
	Status  string `json:"status"`
	Since   string `json:"since"`
	Summary string `json:"summary"`
	Remedy  string `json:"remedy"`
}

func alertListCommand() *cobra.Command {
	var api apiFlags
	var status string
	c := &cobra.Command{
		Use: "list PROJECT", Short: "List a project's alerts", Args: cobra.ExactArgs(1),
		Long: "Lists the alerts of a project (its name or id): what happened, since when, and what to do. --status \"\" lists ended ones too.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			a, err := ask[struct {
				Results []alertLine `json:"results"`
			}](c.Context(), cl, http.MethodGet, atlasAPI+"/groups/"+string(p.ID)+"/alerts?status="+url.QueryEscape(status), nil)
			if err != nil {
				return wrap("list alerts", err)
			}
			return api.show(c, a.raw, func(t *table) {
				if len(a.value.Results) == 0 {
					t.line("no alerts")
				}
				for _, l := range a.value.Results {
					t.line("%s %s %s since %s", l.ID, l.Status, l.Type, l.Since)
					t.line("    %s", l.Summary)
					t.line("    what to do: %s", l.Remedy)
				}
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&status, "status", "OPEN", "OPEN, TRACKING, CLOSED or CANCELLED, or several with commas")
	return c
}

func alertAckCommand() *cobra.Command {
	var api apiFlags
	var lasts time.Duration
	var comment string
	var undo bool
	c := &cobra.Command{
		Use: "ack PROJECT ALERT", Short: "Acknowledge an alert", Args: cobra.ExactArgs(2),
		Long: "Acknowledges an alert: nobody is told of it again for a while. --undo takes that back.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			if lasts <= 0 {
				return usageError{errors.New("--for: a duration such as 4h is needed")}
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			body := map[string]any{"acknowledgedUntil": time.Now().Add(lasts).UTC().Format(time.RFC3339), "acknowledgementComment": comment}
			if undo {
				body = map[string]any{"unacknowledgeAlert": true}
			}
			a, err := ask[alertLine](c.Context(), cl, http.MethodPatch, atlasAPI+"/groups/"+string(p.ID)+"/alerts/"+url.PathEscape(args[1]), body)
			if err != nil {
				return wrap("acknowledge alert", err)
			}
			return api.show(c, a.raw, func(t *table) { t.line("%s %s %s", a.value.ID, a.value.Status, a.value.Type) })
		},
	}
	api.add(c)
	c.Flags().DurationVar(&lasts, "for", 24*time.Hour, "how long")
	c.Flags().StringVar(&comment, "comment", "", "why, at most 200 characters")
	c.Flags().BoolVar(&undo, "undo", false, "take an acknowledgement back")
	return c
}

func alertTestCommand() *cobra.Command {
	var api apiFlags
	c := &cobra.Command{
		Use: "test PROJECT CONFIG", Short: "Send a test message of an alert configuration", Args: cobra.ExactArgs(2),
		Long: "Sends a test message to every target of an alert configuration (its id) and prints what came of each.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			a, err := ask[struct {
				Results []struct {
					TypeName string `json:"typeName"`
					Target   string `json:"target"`
					State    string `json:"state"`
					Attempts []struct {
						Error string `json:"error"`
					} `json:"attempts"`
				} `json:"results"`
			}](c.Context(), cl, http.MethodPost, p.path("/alertConfigs/"+url.PathEscape(args[1])+":test"), nil)
			if err != nil {
				return wrap("test alert configuration", err)
			}
			return api.show(c, a.raw, func(t *table) {
				for _, r := range a.value.Results {
					why := ""
					if n := len(r.Attempts); n > 0 {
						why = r.Attempts[n-1].Error
					}
					t.row(r.TypeName, r.Target, r.State, why)
				}
			})
		},
	}
	api.add(c)
	return c
}
