package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/policydoc"
)

// policyForm is the form in which policies are printed.
type policyForm struct{ form string }

func (f *policyForm) add(c *cobra.Command) {
	c.Flags().StringVar(&f.form, "form", "json", "form of the policies in text: json, aws-cli or terraform")
}

func (f *policyForm) check() error {
	switch f.form {
	case "json", "aws-cli", "terraform":
		return nil
	}
	return usageError{fmt.Errorf("--form %q: json, aws-cli or terraform", f.form)}
}

// print writes a text in the chosen form, ready to be copied.
func (f *policyForm) print(t *table, x policydoc.Text) {
	body := x.JSON
	switch {
	case f.form == "terraform":
		body = x.Terraform
	case f.form == "aws-cli" || body == "":
		body = x.AWSCLI
	}
	t.line("# %s", x.Where)
	if body == "" {
		t.line("# It has no form %s; see --form json.", f.form)
	}
	for line := range strings.Lines(body) {
		t.line("%s", strings.TrimSuffix(line, "\n"))
	}
	t.line("")
}

// candidateFlags name a key that is thought about.
type candidateFlags struct{ role, key, region string }

func (f *candidateFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.role, "role-id", "", "roleId of a registered role (default: the project's)")
	c.Flags().StringVar(&f.key, "key", "", "id of the KMS key, or its ARN if it is in another account than the role (default: the project's)")
	c.Flags().StringVar(&f.region, "region", "", "region of the key, such as EU_WEST_1 (default: the project's)")
}

func keyGuideCommand() *cobra.Command {
	var api apiFlags
	var form policyForm
	var cand candidateFlags
	var limited bool
	c := &cobra.Command{
		Use: "guide PROJECT", Short: "Print the policies that let Keywright use a key", Args: cobra.ExactArgs(1),
		Long: "Prints the policies that must be in place before a key is saved: the role's trust policy, its permissions and, when\n" +
			"key and role are in different accounts, the key's policy. Words in capitals stand for what is not known yet. Nothing\n" +
			"is changed and AWS is not asked. It needs an API key with Project Read Only.",
		Example: "  keywright key guide Shop --region EU_WEST_1 --form aws-cli\n  keywright key guide Shop --key arn:aws:kms:eu-west-1:222222222222:key/... --form terraform",
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
			q := url.Values{"roleId": {cand.role}, "customerMasterKeyID": {cand.key}, "region": {cand.region}, "limitToProject": {fmt.Sprint(limited)}}
			a, err := ask[guidance](c.Context(), cl, http.MethodGet, p.path("/encryptionAtRest:guidance?"+q.Encode()), nil)
			if err != nil {
				return fmt.Errorf("guide: %w", err)
			}
			return api.show(c, a.raw, func(t *table) { a.value.print(t, &form) })
		},
	}
	api.add(c)
	form.add(c)
	cand.add(c)
	c.Flags().BoolVar(&limited, "limit-to-project", false, "allow Encrypt and Decrypt with this project's encryption context only")
	return c
}

type guidance struct {
	CrossAccount *bool            `json:"crossAccount"`
	Placeholders []string         `json:"placeholders"`
	Policies     []policydoc.Text `json:"policies"`
	CreateKey    policydoc.Text   `json:"createKey"`
}

func (g guidance) print(t *table, form *policyForm) {
	switch {
	case g.CrossAccount == nil:
		t.line("# Give --key as a full ARN, and a role, to see whether the key's policy is needed too.")
	case *g.CrossAccount:
		t.line("# Key and role are in different accounts: the role's and the key's policy are both needed.")
	default:
		t.line("# Key and role are in the same account: the key's default policy and the role's policy are enough.")
	}
	if len(g.Placeholders) > 0 {
		t.line("# Replace %s.", strings.Join(g.Placeholders, ", "))
	}
	t.line("")
	form.print(t, g.CreateKey)
	for _, x := range g.Policies {
		form.print(t, x)
	}
}

// unusable is the exit code of check for a key that cannot be used, or of which AWS
// did not tell.
const unusable = 3

func keyCheckCommand() *cobra.Command {
	var api apiFlags
	var form policyForm
	var cand candidateFlags
	c := &cobra.Command{
		Use: "check PROJECT", Short: "Try whether a key could be used, and change nothing", Args: cobra.ExactArgs(1),
		Long: "Makes one validation run with a key and a role, as saving them would, and prints each permission with the statement\n" +
			"that is missing. Without flags the project's own key is tried. Nothing is changed. It needs an API key with Project\n" +
			"Owner. The exit code is 0 if the key can be used, 3 if not.",
		Example: "  keywright key check Shop --key arn:aws:kms:eu-west-1:222222222222:key/... --region EU_WEST_1",
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
			in := map[string]string{"customerMasterKeyID": cand.key, "region": cand.region, "roleId": cand.role}
			a, err := ask[checked](c.Context(), cl, http.MethodPost, p.path("/encryptionAtRest:check"), in)
			if err != nil {
				return fmt.Errorf("check: %w", err)
			}
			if err := api.show(c, a.raw, func(t *table) { a.value.print(t, &form) }); err != nil || a.value.Outcome == "OK" {
				return err
			}
			return exitCode{code: unusable}
		},
	}
	api.add(c)
	form.add(c)
	cand.add(c)
	return c
}

type checked struct {
	Outcome     string `json:"outcome"`
	Reason      string `json:"reason"`
	Detail      string `json:"detail"`
	KeyARN      string `json:"keyArn"`
	RoleARN     string `json:"roleArn"`
	Permissions []struct {
		Action    string           `json:"action"`
		Result    string           `json:"result"`
		Remedy    string           `json:"remedy"`
		Statement *policydoc.Text  `json:"remedyStatement"`
		Further   []policydoc.Text `json:"furtherStatements"`
	} `json:"permissions"`
}

func (x checked) print(t *table, form *policyForm) {
	t.row("KEY", x.KeyARN)
	t.row("ROLE", x.RoleARN)
	t.row("OUTCOME", strings.TrimSpace(x.Outcome+" "+x.Reason))
	for _, p := range x.Permissions {
		t.row(p.Action, p.Result)
	}
	if x.Detail != "" {
		t.line("")
		t.line("%s", x.Detail)
	}
	shown := map[policydoc.Kind]bool{}
	for _, p := range x.Permissions {
		if p.Statement == nil {
			continue
		}
		for _, s := range append([]policydoc.Text{*p.Statement}, p.Further...) {
			if !shown[s.Kind] {
				shown[s.Kind] = true
				t.line("")
				form.print(t, s)
			}
		}
	}
}
