package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
)

// drillPoll is how often a drill is looked at.
const drillPoll = 500 * time.Millisecond

func keyRehearseCommand() *cobra.Command {
	var api apiFlags
	var live string
	minutes := 1
	c := &cobra.Command{
		Use: "rehearse PROJECT", Short: "Show what taking the customer key away would do, or try it on one cluster", Args: cobra.ExactArgs(1),
		Long: "Without --live nothing happens: it prints what would stop, how fast, what would stay readable, and what is not\n" +
			"enforced, if the customer took the key of the project (name or id) away now.\n\n" +
			"With --live CLUSTER it is tried: for --minutes the cluster is treated as if the key had been taken away. Its\n" +
			"processes STOP and its clients lose their connections; everything else goes on. It ends by itself, also if the\n" +
			"control plane or this command dies. It is possible only while the key is VALID, needs Project Owner, and is\n" +
			"marked as a drill in all events. The measured times are kept: GET .../clusters/CLUSTER/drills.",
		Example: "  keywright key rehearse Payments\n  keywright key rehearse Payments --live staging --minutes 2",
		RunE: func(c *cobra.Command, args []string) error {
			if live == "" && c.Flags().Changed("minutes") {
				return usageError{errors.New("--minutes goes with --live only")}
			}
			if minutes < 1 || minutes > 5 {
				return usageError{fmt.Errorf("--minutes %d: from 1 to 5", minutes)}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			if live != "" {
				return drill(c, &api, cl, p, live, minutes)
			}
			a, err := ask[rehearsal](c.Context(), cl, http.MethodGet, p.path("/encryptionAtRest:rehearse"), nil)
			if err != nil {
				return fmt.Errorf("rehearse: %w", err)
			}
			return api.show(c, a.raw, func(t *table) { a.value.print(t, p) })
		},
	}
	api.add(c)
	c.Flags().StringVar(&live, "live", "", "cluster to try it on: its processes stop and come back")
	c.Flags().IntVar(&minutes, "minutes", minutes, "how long the drill lasts, 1 to 5")
	return c
}

// rehearsal is the API's answer, as far as the text shows it.
type rehearsal struct {
	Enabled bool   `json:"enabled"`
	KeyARN  string `json:"keyArn"`
	Verdict string `json:"verdict"`
	Policy  struct {
		Mode         string `json:"mode"`
		GraceMinutes int    `json:"gracePeriodMinutes"`
		Interval     string `json:"validationInterval"`
	} `json:"policy"`
	Bounds struct {
		Global float64 `json:"keyItselfSeconds"`
		Local  float64 `json:"roleOrPermissionSeconds"`
		Alone  float64 `json:"roleOrPermissionUnconfirmedSeconds"`
		Grace  float64 `json:"graceSeconds"`
		Kill   float64 `json:"killAfterSeconds"`
	} `json:"bounds"`
	WouldStop     []rehearsedCluster `json:"wouldStop"`
	StaysReadable struct {
		Clusters []rehearsedCluster `json:"clusters"`
	} `json:"staysReadable"`
	Wraps        int                  `json:"wrapsWithoutUse"`
	Hosts        []rehearsedValidator `json:"hosts"`
	ControlPlane *rehearsedValidator  `json:"controlPlane"`
	NotEnforced  []struct {
		NodeID      string `json:"nodeId"`
		ClusterName string `json:"clusterName"`
		Hostname    string `json:"hostname"`
		Why         string `json:"why"`
	} `json:"notEnforced"`
}

type rehearsedCluster struct {
	Name   string `json:"name"`
	State  string `json:"stateName"`
	Paused bool   `json:"paused"`
	Nodes  []struct {
		ID       string `json:"id"`
		Hostname string `json:"hostname"`
		Phase    string `json:"phase"`
	} `json:"nodes"`
}

type rehearsedValidator struct {
	Hostname string `json:"hostname"`
	Verdict  string `json:"verdict"`
	Reason   string `json:"reason"`
	LastRun  string `json:"lastRun"`
	Silent   bool   `json:"silent"`
}

// seconds shows a time of the API.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Millisecond)
}

func (r rehearsal) print(t *table, p projectRef) {
	if !r.Enabled {
		t.line("Project %s has no customer key: there is nothing to take away.", p.Name)
		return
	}
	t.line("If the key %s of project %s were taken away now (it is %s):", r.KeyARN, p.Name, r.Verdict)
	t.line("")
	switch r.Policy.Mode {
	case "ALERT":
		t.line("NOTHING WOULD STOP: the policy is ALERT. An alert would come, and no node could start again.")
	case "GRACE":
		t.line("The policy is GRACE: processes would go on for %v after the confirmation; none could start again meanwhile.", seconds(r.Bounds.Grace))
	}
	t.row("WOULD STOP", "NODE", "HOST", "PHASE")
	for _, c := range r.WouldStop {
		for _, n := range c.Nodes {
			t.row(c.Name, n.ID, n.Hostname, n.Phase)
		}
	}
	if len(r.WouldStop) == 0 {
		t.row("nothing: no cluster is encrypted with the customer key")
	}
	t.line("")
	t.row("WHAT IS TAKEN AWAY", "ENFORCED WITHIN")
	t.row("the key itself (disabled, deleted)", seconds(r.Bounds.Global))
	t.row("role or permission, confirmed by a second validator", seconds(r.Bounds.Local))
	t.row("role or permission, no other validator can tell", seconds(r.Bounds.Alone))
	t.line("Validation runs each %s; a process that does not end by itself is killed %v later.", r.Policy.Interval, seconds(r.Bounds.Kill))
	t.line("")
	t.row("STAYS READABLE", "STATE")
	for _, c := range r.StaysReadable.Clusters {
		t.row(c.Name, c.State)
	}
	if len(r.StaysReadable.Clusters) == 0 {
		t.row("nothing: all clusters of the project are encrypted")
	}
	t.line("%d wrapped keys in escrow would open for nobody.", r.Wraps)
	t.line("")
	t.row("WHO WOULD TELL", "VERDICT", "REASON", "LAST RUN")
	for _, h := range r.Hosts {
		verdict := h.Verdict
		if h.Silent {
			verdict += " (silent)"
		}
		t.row("host "+h.Hostname, verdict, h.Reason, h.LastRun)
	}
	if c := r.ControlPlane; c != nil {
		t.row("control plane", c.Verdict, c.Reason, c.LastRun)
	}
	if len(r.NotEnforced) == 0 {
		return
	}
	t.line("")
	t.row("NOT ENFORCED", "NODE", "HOST", "WHY")
	for _, n := range r.NotEnforced {
		t.row(n.ClusterName, n.NodeID, n.Hostname, n.Why)
	}
}

// drillAnswer is a drill as the API shows it.
type drillAnswer struct {
	ID      string   `json:"id"`
	State   string   `json:"state"`
	Minutes int      `json:"minutes"`
	Stop    *float64 `json:"orderToStoppedSeconds"`
	Return  *float64 `json:"endToWritableSeconds"`
}

// drill orders a drill and follows it to its end. Progress goes to standard error.
func drill(c *cobra.Command, api *apiFlags, cl *client.Client, p projectRef, cluster string, minutes int) error {
	path := p.path("/clusters/" + url.PathEscape(cluster))
	a, err := ask[drillAnswer](c.Context(), cl, http.MethodPost, path+":drill", map[string]int{"minutes": minutes})
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintln(c.ErrOrStderr(), printable(fmt.Sprintf(format, args...)))
	}
	say("drill %s ordered: cluster %s stops for %d min and comes back by itself", a.value.ID, cluster, minutes)
	state := a.value.State
	for last := a.value; ; {
		if d := a.value; d.State != state || d.Stop != nil && last.Stop == nil {
			text := strings.ToLower(d.State)
			if d.Stop != nil && d.State == "RUNNING" {
				text = fmt.Sprintf("all processes were gone %v after the order", seconds(*d.Stop))
			}
			say("%s", text)
			state, last = d.State, d
		}
		switch a.value.State {
		case "DONE", "DROPPED", "UNCLEAR":
			return a.value.over(c, api, cluster)
		}
		if err := pause(c.Context(), drillPoll); err != nil {
			return fmt.Errorf("stop watching: %w\nhint: the drill ends by itself; GET %s/drills shows its times", err, path)
		}
		if a, err = newestDrill(c.Context(), cl, path, a); err != nil {
			return fmt.Errorf("watch drill: %w\nhint: the drill ends by itself; GET %s/drills shows its times", err, path)
		}
	}
}

// newestDrill reads the drill anew; what is not listed any more is as it was.
func newestDrill(ctx context.Context, cl *client.Client, path string, was answer[drillAnswer]) (answer[drillAnswer], error) {
	all, err := ask[struct {
		Results []drillAnswer `json:"results"`
	}](ctx, cl, http.MethodGet, path+"/drills", nil)
	if err != nil {
		return was, err
	}
	for _, d := range all.value.Results {
		if d.ID == was.value.ID {
			was.value, was.raw = d, all.raw
		}
	}
	return was, nil
}

// over prints how a drill went; one that did not take place is an error.
func (d drillAnswer) over(c *cobra.Command, api *apiFlags, cluster string) error {
	if d.State != "DONE" {
		return fmt.Errorf("the drill with cluster %s is %s: its host was silent, or the key was not VALID there any more", cluster, d.State)
	}
	return api.show(c, d, func(t *table) {
		t.row("CLUSTER", "ORDER TO LAST PROCESS GONE", "END TO WRITABLE")
		t.row(cluster, secondsOr(d.Stop), secondsOr(d.Return))
	})
}

func secondsOr(s *float64) string {
	if s == nil {
		return "not measured"
	}
	return seconds(*s).String()
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
