package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/agent/durable"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/client"
	"github.com/keywright/keywright/internal/secret"
)

// apiFlags are how a command reaches the HTTP API.
type apiFlags struct {
	base, publicFile, privateFile string
}

func (f *apiFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.base, "base-url", "http://127.0.0.1:8080", "address of the API")
	c.Flags().StringVar(&f.publicFile, "public-key-file", "", "file with the public key of an API key (needed)")
	c.Flags().StringVar(&f.privateFile, "private-key-file", "", "file with its private key (needed)")
}

func (f *apiFlags) client() (*client.Client, error) {
	public, err := keyFile("--public-key-file", f.publicFile)
	if err != nil {
		return nil, err
	}
	private, err := keyFile("--private-key-file", f.privateFile)
	if err != nil {
		return nil, err
	}
	return client.New(f.base, string(public.Reveal()), private), nil
}

// keyFile reads a short text; secrets never stand on a command line.
func keyFile(flag, path string) (secret.Bytes, error) {
	if path == "" {
		return secret.Bytes{}, usageError{fmt.Errorf("%s is needed", flag)}
	}
	b, err := os.ReadFile(path) //nolint:gosec // named by the operator
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%s: %w", flag, err)
	}
	defer clear(b)
	text := bytes.TrimSpace(b)
	if len(text) == 0 {
		return secret.Bytes{}, fmt.Errorf("%s: %s is empty", flag, path)
	}
	return secret.Copy(text), nil
}

func keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Work with wrapped keys", Args: cobra.NoArgs}
	c.AddCommand(keyExportCommand())
	return c
}

func keyExportCommand() *cobra.Command {
	var api apiFlags
	var org, out string
	c := &cobra.Command{
		Use: "export", Short: "Write all wrapped keys into one signed file", Args: cobra.NoArgs,
		Long: "Writes every wrapped key of the organization, with the ARN of the customer's key and the encryption context that\n" +
			"open it, into one signed bundle. It holds ciphertext only: without the customers' keys nothing opens. Keep it away\n" +
			"from this installation; `keywright agent recover --bundle FILE` rebuilds a host's keys from it. It needs an API key\n" +
			"with Organization Owner and is recorded.",
		RunE: func(c *cobra.Command, _ []string) error {
			if org == "" || out == "" {
				return usageError{errors.New("--org-id and --out are needed")}
			}
			cl, err := api.client()
			if err != nil {
				return err
			}
			var b bundle.Bundle
			if err := cl.Do(c.Context(), "POST", "/api/keywright/v1/orgs/"+org+"/keys:export", nil, &b); err != nil {
				return fmt.Errorf("export keys: %w", err)
			}
			if b.Format != bundle.Format || b.Version > bundle.Version {
				return fmt.Errorf("export keys: the answer is a %q of version %d, this program knows version %d", b.Format, b.Version, bundle.Version)
			}
			if err := durable.WriteJSON(out, b, 0o600); err != nil {
				return fmt.Errorf("write bundle: %w", err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "wrote %s\n", out)
			return err
		},
	}
	api.add(c)
	c.Flags().StringVar(&org, "org-id", "", "organization (needed)")
	c.Flags().StringVar(&out, "out", "", "file to write (needed)")
	return c
}
