package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
)

// keyConfiguration is a role, a key and its region, as the API tells of them.
type keyConfiguration struct {
	KeyARN string `json:"keyArn"`
	Region string `json:"region"`
	RoleID string `json:"roleId"`
}

// keyState is a project's customer key as the API tells of it, as far as text shows it.
type keyState struct {
	Enabled       bool              `json:"enabled"`
	Verdict       string            `json:"verdict"`
	Reason        string            `json:"reason"`
	Remedy        string            `json:"remedy"`
	Requested     *keyConfiguration `json:"requested"`
	Effective     *keyConfiguration `json:"effective"`
	RollbackTo    *keyConfiguration `json:"rollbackTo"`
	RollbackUntil string            `json:"rollbackUntil"`
	Change        *struct {
		Generation        uint64 `json:"generation"`
		State             string `json:"state"`
		Since             string `json:"since"`
		Why               string `json:"why"`
		PreviousNotNeeded string `json:"previousNotNeededSince"`
		Hosts             []struct {
			Hostname string `json:"hostname"`
			Silent   bool   `json:"silent"`
			Done     int    `json:"done"`
			Total    int    `json:"total"`
			Ready    bool   `json:"ready"`
			Failure  *struct {
				KeyID  string `json:"keyId"`
				Reason string `json:"reason"`
				Detail string `json:"detail"`
				Remedy string `json:"remedy"`
			} `json:"failure"`
		} `json:"hosts"`
	} `json:"change"`
}

// prepared tells whether a change is being prepared on the hosts.
func (s keyState) prepared() bool {
	return s.Change != nil && (s.Change.State == "STAGING" || s.Change.State == "PAUSED")
}

// print shows the state.
func (s keyState) print(t *table) {
	if !s.Enabled || s.Effective == nil {
		t.line("The project has no customer key.")
		return
	}
	t.row("verdict", s.Verdict, s.Reason)
	if s.Remedy != "" {
		t.line("  %s", s.Remedy)
	}
	show := func(name string, c keyConfiguration) { t.row(name, c.KeyARN, c.Region, "role "+c.RoleID) }
	show("in force", *s.Effective)
	if s.prepared() {
		show("requested", *s.Requested)
	}
	s.printChange(t)
	if s.RollbackTo != nil {
		show("rollback to", *s.RollbackTo)
		t.row("  until", s.RollbackUntil)
	}
}

func (s keyState) printChange(t *table) {
	c := s.Change
	if c == nil {
		return
	}
	t.row("change", c.State, "since "+c.Since, fmt.Sprintf("generation %d", c.Generation))
	if c.Why != "" {
		t.line("  %s", c.Why)
	}
	for _, h := range c.Hosts {
		word := "waiting"
		switch {
		case h.Silent:
			word = "SILENT: if it is dead, `keywright host forget`"
		case h.Ready:
			word = "ready"
		}
		if s.prepared() {
			t.row("  "+h.Hostname, fmt.Sprintf("%d/%d", h.Done, h.Total), word)
		} else if c.State == "COMMITTED" {
			t.row("  "+h.Hostname, word)
		}
		if f := h.Failure; f != nil {
			t.line("    key %s: %s %s %s", f.KeyID, f.Reason, f.Detail, f.Remedy)
		}
	}
	if c.State == "COMMITTED" && c.PreviousNotNeeded == "" {
		t.line("  The configuration before is still needed: leave its key enabled.")
	}
}

func keyStatusCommand() *cobra.Command {
	var api apiFlags
	c := &cobra.Command{
		Use: "status PROJECT", Short: "Show a project's customer key and how far a change of it is", Args: cobra.ExactArgs(1),
		Long: "Shows the verdict on the customer key of a project (id or name), the configuration in force, and while a change is\n" +
			"prepared also what was asked for, with the progress of each host. It needs Project Read Only.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, p, err := api.on(c.Context(), args[0])
			if err != nil {
				return err
			}
			got, err := ask[keyState](c.Context(), cl, "GET", p.path("/encryptionAtRest"), nil)
			if err != nil {
				return fmt.Errorf("read customer key: %w", err)
			}
			return api.show(c, got.raw, got.value.print)
		},
	}
	api.add(c)
	return c
}

// on gives the client and the project that a command is about.
func (f *apiFlags) on(ctx context.Context, named string) (*client.Client, projectRef, error) {
	cl, err := f.client()
	if err != nil {
		return nil, projectRef{}, err
	}
	p, err := f.project(ctx, cl, named)
	return cl, p, err
}

func keyChangeCommand() *cobra.Command {
	var api apiFlags
	var key, role, region string
	var wait bool
	c := &cobra.Command{
		Use: "change PROJECT", Short: "Change a project's customer key, role or region", Args: cobra.ExactArgs(1),
		Long: "Asks for another customer key, IAM role or region for a project (id or name); what is not named stays. The new\n" +
			"configuration is validated first. Where nodes keep keys, each host then proves that it opens every one of them, by\n" +
			"wrapping them anew if it is another key; only when all hosts have done so is it in force. Until then nothing\n" +
			"changes, and `keywright key abort` takes it back; for 30 days after that `keywright key rollback` does.\n" +
			"Leave the old key enabled until `keywright key may-delete` says that nothing needs it. It needs Project Owner.",
		Example: "  keywright key change Shop --key arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab --wait",
		RunE: func(c *cobra.Command, args []string) error {
			aws := map[string]string{}
			for name, v := range map[string]string{"customerMasterKeyID": key, "roleId": role, "region": region} {
				if v != "" {
					aws[name] = v
				}
			}
			if len(aws) == 0 {
				return usageError{errors.New("name what changes: --key, --role-id, --region")}
			}
			cl, p, err := api.on(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := cl.Do(c.Context(), "PATCH", atlasAPI+"/groups/"+string(p.ID)+"/encryptionAtRest", map[string]any{"awsKms": aws}, nil); err != nil {
				return fmt.Errorf("change customer key: %w", err)
			}
			return api.follow(c, cl, p, wait)
		},
	}
	api.add(c)
	c.Flags().StringVar(&key, "key", "", "id or ARN of the new customer key")
	c.Flags().StringVar(&role, "role-id", "", "roleId of another authorized cloud provider access role")
	c.Flags().StringVar(&region, "region", "", "region of the key, such as US_EAST_1")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the change is in force on every host, or aborted")
	return c
}

func keyAbortCommand() *cobra.Command {
	var api apiFlags
	c := &cobra.Command{
		Use: "abort PROJECT", Short: "Abort a change of the customer key that is being prepared", Args: cobra.ExactArgs(1),
		Long: "Ends the change that is being prepared for a project (id or name): the configuration in force stays, and what was\n" +
			"wrapped for the new one is dropped. It needs Project Owner.",
		RunE: func(c *cobra.Command, args []string) error {
			return api.tell(c, args[0], ":abortChange", "abort change", false)
		},
	}
	api.add(c)
	return c
}

func keyRollbackCommand() *cobra.Command {
	var api apiFlags
	var wait bool
	c := &cobra.Command{
		Use: "rollback PROJECT", Short: "Go back to the customer key, role and region before the last change", Args: cobra.ExactArgs(1),
		Long: "Asks for the configuration that was in force before the last change, within 30 days of it. Each host proves first\n" +
			"that it opens every kept key; wraps from before are still there, so nothing but keys made since is wrapped anew.\n" +
			"It needs Project Owner.",
		RunE: func(c *cobra.Command, args []string) error {
			return api.tell(c, args[0], ":rollback", "roll back", wait)
		},
	}
	api.add(c)
	c.Flags().BoolVar(&wait, "wait", false, "wait until the rollback is in force on every host, or aborted")
	return c
}

// tell makes one of the calls about a change and shows what comes of it.
func (f *apiFlags) tell(c *cobra.Command, named, call, what string, wait bool) error {
	cl, p, err := f.on(c.Context(), named)
	if err != nil {
		return err
	}
	if err := cl.Do(c.Context(), "POST", p.path("/encryptionAtRest"+call), nil, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return f.follow(c, cl, p, wait)
}

// followEvery is the time between two looks at a change.
const followEvery = 500 * time.Millisecond

// follow shows how a change is, and with wait until it has ended; then one that was not
// committed is an error.
func (f *apiFlags) follow(c *cobra.Command, cl *client.Client, p projectRef, wait bool) error {
	last := ""
	for {
		got, err := ask[keyState](c.Context(), cl, "GET", p.path("/encryptionAtRest"), nil)
		if err != nil {
			return fmt.Errorf("read customer key: %w", err)
		}
		s := got.value
		settled := s.Change == nil || !s.prepared() && (s.Change.State != "COMMITTED" || s.Change.PreviousNotNeeded != "" || s.everyHostActs())
		if !wait || settled {
			if err := f.show(c, got.raw, s.print); err != nil {
				return err
			}
			if wait && s.Change != nil && s.Change.State == "ABORTED" {
				return fmt.Errorf("the change was aborted: %s", printable(s.Change.Why))
			}
			return nil
		}
		if line := s.progress(); f.output == "text" && line != last {
			last = line
			_, _ = fmt.Fprint(c.ErrOrStderr(), line)
		}
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(followEvery):
		}
	}
}

func (s keyState) everyHostActs() bool {
	for _, h := range s.Change.Hosts {
		if !h.Ready {
			return false
		}
	}
	return true
}

// progress is a line per host.
func (s keyState) progress() string {
	out := s.Change.State + "\n"
	for _, h := range s.Change.Hosts {
		word := ""
		switch {
		case h.Failure != nil:
			word = "  " + h.Failure.Reason + " " + h.Failure.Detail
		case h.Silent:
			word = "  silent"
		case h.Ready:
			word = "  ready"
		}
		out += printable(fmt.Sprintf("  %s %d/%d%s", h.Hostname, h.Done, h.Total, word)) + "\n"
	}
	return out
}
