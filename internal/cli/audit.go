package cli

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
)

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Check audit logs", Args: cobra.NoArgs}
	c.AddCommand(auditVerifyCommand(), auditHeadCommand())
	return c
}

// auditHeadCommand writes the signed ends of all chains to a file.
func auditHeadCommand() *cobra.Command {
	var api apiFlags
	var org, out string
	c := &cobra.Command{
		Use: "head", Short: "Write the signed ends of all audit chains into a file", Args: cobra.NoArgs,
		Long: "Writes where the control plane's audit chain and those of the hosts end now, signed. Keep the file away from\n" +
			"this installation and make a new one regularly: with it `keywright audit verify --head FILE` finds a history that\n" +
			"was rewritten as a whole. It needs an API key with Organization Owner.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := api.client()
			if err != nil {
				return err
			}
			if out == "" {
				return usageError{errors.New("--out is needed")}
			}
			if org, err = api.organization(c.Context(), cl, org); err != nil {
				return err
			}
			a, err := ask[audit.Heads](c.Context(), cl, http.MethodGet, ownAPI+"/orgs/"+org+"/audit:head", nil)
			if err != nil {
				return fmt.Errorf("fetch audit heads: %w", err)
			}
			if err := durable.WriteJSON(out, a.value, 0o600); err != nil {
				return fmt.Errorf("write audit heads: %w", err)
			}
			return api.show(c, a.raw, func(t *table) {
				for _, h := range a.value.Heads {
					t.row(h.Chain, h.Seq, h.Hash)
				}
				t.line("wrote %s", out)
			})
		},
	}
	api.add(c)
	c.Flags().StringVar(&org, "org-id", "", "organization (default: the only one that the API key sees)")
	c.Flags().StringVar(&out, "out", "", "file to write (needed)")
	return c
}

// verifyFlags are what a chain is held against.
type verifyFlags struct{ head, ca, dataDir string }

func auditVerifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use: "verify [FILE]", Short: "Verify an audit chain", Args: cobra.MaximumNArgs(1),
		Long: "Verifies that no event was changed, dropped, added or moved, and prints the chain's head: of an agent's audit log\n" +
			"(FILE, its DATA/audit.jsonl), or, with --data-dir, of the store of a control plane that is stopped.\n" +
			"With --head, a head that was kept elsewhere must lie on the chain: without one, whoever can write the whole log\n" +
			"can rewrite the whole chain. It is a file of `keywright audit head`, or what this command prints.",
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (f.dataDir != "") {
				return usageError{errors.New("one of FILE and --data-dir is needed")}
			}
			var file string
			if len(args) == 1 {
				file = args[0]
			}
			h, err := f.verify(c.Context(), file)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "{\"seq\":%d,\"hash\":%q}\n", h.Seq, h.Hash)
			return err
		},
	}
	c.Flags().StringVar(&f.head, "head", "", "file with a head kept elsewhere")
	c.Flags().StringVar(&f.ca, "ca-file", "", "certificate (PEM) of the agent link's authority: the kept head must be signed under it")
	c.Flags().StringVar(&f.dataDir, "data-dir", "", "data directory of a stopped control plane")
	return c
}

func (f *verifyFlags) verify(ctx context.Context, file string) (audit.Head, error) {
	if file == "" {
		st, err := store.Open(ctx, store.Config{Dir: f.dataDir})
		if err != nil {
			return audit.Head{}, err
		}
		defer func() { _ = st.Close() }()
		kept, err := f.kept(audit.ControlPlane)
		if err != nil {
			return audit.Head{}, err
		}
		return st.VerifyAudit(ctx, kept)
	}
	// What chain this is, its events say; they are judged before the head is.
	last, err := audit.LastEvent(file)
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Head{}, fmt.Errorf("there is no file %s", file)
	}
	if err != nil {
		return audit.Head{}, err
	}
	kept, err := f.kept(audit.HostChain(last.Host))
	if err != nil {
		return audit.Head{}, err
	}
	return audit.VerifyFile(file, kept)
}

// kept reads the head of a chain from --head; zero without it.
func (f *verifyFlags) kept(chain string) (audit.Head, error) {
	if f.head == "" {
		if f.ca != "" {
			return audit.Head{}, usageError{errors.New("--ca-file needs --head")}
		}
		return audit.Head{}, nil
	}
	heads, err := audit.ReadHeads(f.head)
	if err != nil {
		return audit.Head{}, err
	}
	for _, h := range heads {
		if h.Chain != "" && h.Chain != chain {
			continue
		}
		if f.ca != "" {
			if err := signedUnder(f.ca, h); err != nil {
				return audit.Head{}, err
			}
		}
		return h.Head, nil
	}
	return audit.Head{}, fmt.Errorf("%s has no head of the chain %s", f.head, chain)
}

// signedUnder checks that a head was signed by who may: the control plane, or the host
// whose chain it is.
func signedUnder(caFile string, h audit.SignedHead) error {
	ca, err := os.ReadFile(caFile) //nolint:gosec // named by the operator
	if err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	roots, err := pki.Pool(pki.KindLink, ca)
	if err != nil {
		return fmt.Errorf("--ca-file: %w", err)
	}
	if block, _ := pem.Decode([]byte(h.Certificate)); block == nil || len(h.Signature) == 0 {
		return fmt.Errorf("the head of %s is not signed", h.Chain)
	}
	cert, err := pki.ParseCertificate([]byte(h.Certificate))
	if err != nil {
		return fmt.Errorf("certificate of the head of %s: %w", h.Chain, err)
	}
	want := escrow.HeadSigner
	if host, ok := strings.CutPrefix(h.Chain, audit.HostChain("")); ok {
		want = host
	}
	if err := pki.Verify(pki.KindLink, roots, cert, pki.AsClient, cert.NotBefore); err != nil || cert.Subject.CommonName != want {
		return fmt.Errorf("the head of %s was signed by %q, which is not who may: %w", h.Chain, cert.Subject.CommonName, errors.Join(audit.ErrHeadSignature, err))
	}
	return h.Check(cert)
}
