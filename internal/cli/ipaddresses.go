package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/secret"
)

// networkAccess is what the command reads of a project's addresses.
type networkAccess struct {
	ControlPlane machine         `json:"controlPlane"`
	Hosts        []machine       `json:"hosts"`
	Changes      []addressChange `json:"changes"`
	Denied       []struct {
		ID string `json:"id"`
	} `json:"denied"`
	Statements *struct {
		RolePolicy     json.RawMessage `json:"rolePolicy"`
		TrustCondition json.RawMessage `json:"trustPolicyCondition"`
	} `json:"statements"`
}

type addressChange struct {
	Hostname    string   `json:"hostname"`
	Old         []string `json:"oldAddresses"`
	New         []string `json:"newAddresses"`
	ConfirmedAt *string  `json:"confirmedAt"`
}

type machine struct {
	ID        string   `json:"id"`
	Hostname  string   `json:"hostname"`
	Addresses []string `json:"addresses"`
	Verdict   string   `json:"verdict"`
}

func ipAddressesCommand() *cobra.Command {
	var api apiFlags
	var acknowledge bool
	c := &cobra.Command{
		Use: "ip-addresses [PROJECT]", Short: "List the addresses from which AWS is called", Args: cobra.MaximumNArgs(1),
		Long: "Lists the addresses from which the control plane calls AWS; with a project, those of its hosts too, which of them AWS\n" +
			"refuses, and the policy statement that allows exactly these addresses to use the project's key. The control plane's\n" +
			"own need no API key. With a project it needs Project Read Only; --acknowledge, which says that changed addresses are\n" +
			"taken care of, needs Project Owner.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				if acknowledge {
					return usageError{fmt.Errorf("--acknowledge needs a project")}
				}
				return controlPlaneAddresses(c, &api)
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			method, path := "GET", p.path("/networkAccess")
			if acknowledge {
				method, path = "POST", path+":acknowledge"
			}
			got, err := ask[networkAccess](c.Context(), cl, method, path, nil)
			if err != nil {
				return fmt.Errorf("list addresses: %w", err)
			}
			return api.show(c, got.raw, got.value.print)
		},
	}
	api.add(c)
	c.Flags().BoolVar(&acknowledge, "acknowledge", false, "say that changed addresses are taken care of")
	return c
}

// controlPlaneAddresses makes the one call that needs no API key; with --base-url none
// is looked for.
func controlPlaneAddresses(c *cobra.Command, api *apiFlags) error {
	cl := client.New(api.base, "", secret.Bytes{})
	if api.base == "" {
		var err error
		if cl, err = api.client(); err != nil {
			return err
		}
	}
	type answer struct {
		Outbound struct {
			AWS map[string][]string `json:"aws"`
		} `json:"outbound"`
	}
	var raw json.RawMessage
	if err := cl.DoVersion(c.Context(), "application/vnd.atlas.2023-11-15+json", "GET", atlasAPI+"/unauth/controlPlaneIPAddresses", nil, &raw); err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("decode addresses: %w", err)
	}
	return api.show(c, raw, func(t *table) {
		t.row("WHO", "REGION", "CALLS AWS FROM")
		for region, all := range a.Outbound.AWS {
			t.row("control plane", region, strings.Join(all, " "))
		}
	})
}

func (n networkAccess) print(t *table) {
	t.row("WHO", "NAME", "CALLS AWS FROM", "VERDICT")
	t.row("control plane", n.ControlPlane.Hostname, strings.Join(n.ControlPlane.Addresses, " "), n.ControlPlane.Verdict)
	for _, h := range n.Hosts {
		verdict := h.Verdict
		for _, d := range n.Denied {
			if d.ID == h.ID {
				verdict += ": allow " + strings.Join(h.Addresses, " ")
			}
		}
		t.row("host", h.Hostname, strings.Join(h.Addresses, " "), verdict)
	}
	waiting := slices.DeleteFunc(slices.Clone(n.Changes), func(x addressChange) bool { return x.ConfirmedAt != nil })
	if len(waiting) > 0 {
		t.line("")
		t.line("Changed, and not confirmed by a run with the key yet:")
	}
	for _, x := range waiting {
		t.row("", x.Hostname, strings.Join(x.Old, " "), "-> "+strings.Join(x.New, " "))
	}
	if n.Statements == nil {
		return
	}
	t.line("")
	t.line("To restrict the role to these addresses, add this statement to its policy:")
	t.json(n.Statements.RolePolicy)
	t.line("and beside sts:ExternalId in the Condition of its trust policy:")
	t.json(n.Statements.TrustCondition)
}

// json writes a document as people paste it.
func (t *table) json(doc json.RawMessage) {
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil {
		t.err = fmt.Errorf("print document: %w", err)
		return
	}
	for l := range strings.Lines(b.String()) {
		t.line("%s", strings.TrimRight(l, "\n"))
	}
}
