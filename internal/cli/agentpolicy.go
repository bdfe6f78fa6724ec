package cli

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
)

func agentPolicyCommand() *cobra.Command {
	var api apiFlags
	c := &cobra.Command{
		Use: "aws-policy HOST", Short: "Print the IAM policy that a host's own AWS principal needs", Args: cobra.ExactArgs(1),
		Long: "Prints the identity policy for the AWS principal of a host (an instance role, most often): it allows sts:AssumeRole on\n" +
			"exactly the customers' roles that the host needs now. It changes as projects come to the host and leave it, so put it\n" +
			"up again then:\n" +
			"  keywright agent aws-policy db1 > p.json && aws iam put-role-policy --role-name ROLE --policy-name keywright --policy-document file://p.json\n" +
			"HOST is a host's id or name. It needs Organization Owner.",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			type answer struct {
				Policy json.RawMessage `json:"policy"`
			}
			got, err := ask[answer](c.Context(), cl, "GET", ownAPI+"/hosts/"+url.PathEscape(args[0])+"/awsPolicy", nil)
			if err != nil {
				return fmt.Errorf("host's policy: %w", err)
			}
			if api.output == "text" && string(got.value.Policy) == "null" {
				return fmt.Errorf("host %s needs no role now, and IAM has no policy without a resource; take the old one away", args[0])
			}
			return api.show(c, got.raw, func(t *table) { t.json(got.value.Policy) })
		},
	}
	api.add(c)
	return c
}
