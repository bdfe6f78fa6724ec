package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/policydoc"
)

func roleCommand() *cobra.Command {
	c := &cobra.Command{Use: "role", Short: "Work with the IAM roles that lead to customer keys", Args: cobra.NoArgs}
	c.AddCommand(roleTrustPolicyCommand())
	return c
}

func roleTrustPolicyCommand() *cobra.Command {
	var api apiFlags
	var form policyForm
	var create bool
	c := &cobra.Command{
		Use: "trust-policy PROJECT ROLE", Short: "Print the trust policy of a registered role", Args: cobra.ExactArgs(2),
		Long: "Prints the trust policy that lets Keywright assume the role of a registration, with its external id. ROLE is the\n" +
			"roleId of the registration. It needs an API key with Project Read Only.",
		Example: "  keywright role trust-policy Shop 65a0f0c2e4b0a1b2c3d4e5f6 --create --form aws-cli",
		RunE: func(c *cobra.Command, args []string) error {
			if err := form.check(); err != nil {
				return err
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			a, err := ask[struct {
				Trust      policydoc.Text `json:"trustPolicy"`
				CreateRole policydoc.Text `json:"createRole"`
			}](c.Context(), cl, http.MethodGet, p.path("/cloudProviderAccess/"+url.PathEscape(args[1])+":trustPolicy"), nil)
			if err != nil {
				return fmt.Errorf("trust policy: %w", err)
			}
			return api.show(c, a.raw, func(t *table) {
				if create {
					form.print(t, a.value.CreateRole)
					return
				}
				form.print(t, a.value.Trust)
			})
		},
	}
	api.add(c)
	form.add(c)
	c.Flags().BoolVar(&create, "create", false, "make a new role with it, instead of changing one that is there")
	return c
}
