package cli

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func projectCommand() *cobra.Command {
	c := &cobra.Command{Use: "project", Short: "Work with projects", Args: cobra.NoArgs}
	c.AddCommand(importCredentialsCommand())
	return c
}

func importCredentialsCommand() *cobra.Command {
	var api apiFlags
	var id, secretFile, key, region string
	c := &cobra.Command{
		Use: "import-credentials PROJECT", Short: "Reach a project's key with an access key of an IAM user", Args: cobra.ExactArgs(1),
		Long: "Switches a project's key management on with an access key of an IAM user, for projects that come from an installation\n" +
			"without roles, and for tries. Use a role instead wherever you can: an access key does not expire, and its secret lies on\n" +
			"every host of the project. It is refused for a project that has, or had, a role. The switch to a role (PATCH\n" +
			"encryptionAtRest with a roleId) is one way: the secret is destroyed then, and access keys are never accepted again.\n" +
			"The access key is tried before anything is stored. It needs an API key with Organization Owner and Project Owner and is\n" +
			"recorded; the secret is never shown again.",
		Example: "  keywright project import-credentials Legacy --access-key-id AKIAIOSFODNN7EXAMPLE --secret-file secret.txt \\\n" +
			"    --key arn:aws:kms:us-east-1:111122223333:key/12345678-1234-1234-1234-123456781234 --region US_EAST_1",
		RunE: func(c *cobra.Command, args []string) error {
			for flag, v := range map[string]string{"--access-key-id": id, "--key": key, "--region": region} {
				if v == "" {
					return usageError{errors.New(flag + " is needed")}
				}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			secret, err := keyFile("--secret-file", secretFile)
			if err != nil {
				return err
			}
			defer secret.Wipe()
			p, err := api.project(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			var out importedCredentials
			if err := cl.Do(c.Context(), http.MethodPost, p.path("/encryptionAtRest:importCredentials"), map[string]string{
				"accessKeyId": id, "secretAccessKey": string(secret.Reveal()), "customerMasterKeyId": key, "region": region,
			}, &out); err != nil {
				return fmt.Errorf("import credentials: %w", err)
			}
			return api.show(c, out, func(t *table) {
				t.line("project %s uses the key %s with the access key %s (%s)", p.Name, out.KeyARN, out.AccessKeyID, out.Verdict)
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&id, "access-key-id", "", "id of the access key (needed)")
	c.Flags().StringVar(&secretFile, "secret-file", "", "file with its secret (needed); secrets never stand on a command line")
	c.Flags().StringVar(&key, "key", "", "id or ARN of the KMS key (needed)")
	c.Flags().StringVar(&region, "region", "", "region of the key, such as US_EAST_1 (needed)")
	return c
}

// importedCredentials is what the command shows of the answer.
type importedCredentials struct {
	Enabled     bool   `json:"enabled"`
	KeyARN      string `json:"keyArn"`
	AccessKeyID string `json:"accessKeyId"`
	Migrated    bool   `json:"migratedFromCredentials"`
	Generation  uint64 `json:"generation"`
	Verdict     string `json:"verdict"`
}
