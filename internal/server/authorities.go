package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
)

// authorities are the four authorities of the deployment.
type authorities map[pki.Kind]*pki.Authority

// openAuthorities loads the authorities from the store; those that are absent are
// made. Their keys lie sealed.
func openAuthorities(ctx context.Context, st *store.Store) (authorities, error) {
	out := authorities{}
	for _, kind := range pki.Kinds() {
		err := st.Tx(ctx, func(tx *store.Tx) error {
			certPEM, keyPEM, err := tx.Authority(string(kind))
			if errors.Is(err, store.ErrNotFound) {
				if certPEM, keyPEM, err = pki.NewAuthority(kind, st.Deployment(), st.Now()); err != nil {
					return err
				}
				if err := tx.AddAuthority(string(kind), certPEM, keyPEM); err != nil {
					return err
				}
				if err := tx.Append(audit.Event{
					Type: "CERTIFICATE_AUTHORITY_CREATED", Message: "The certificate authority for " + string(kind) + " was made.",
					Data: map[string]string{"kind": string(kind), "fingerprint": pki.Fingerprint(certPEM)},
				}); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			defer keyPEM.Wipe()
			out[kind], err = pki.LoadAuthority(kind, certPEM, keyPEM)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("open authority %s: %w", kind, err)
		}
	}
	return out, nil
}

func (a authorities) pem(kind pki.Kind) []byte { return a[kind].CertificatePEM() }

func (a authorities) linkFingerprint() string { return pki.Fingerprint(a.pem(pki.KindLink)) }

// ends gives when the authorities end.
func (a authorities) ends() map[string]time.Time {
	out := map[string]time.Time{}
	for kind := range a {
		if cert, err := pki.ParseCertificate(a.pem(kind)); err == nil {
			out[string(kind)] = cert.NotAfter
		}
	}
	return out
}

// serverKeeper keeps the control plane's own certificate of the agent link.
func (a authorities) serverKeeper(ctx context.Context, file string, log *slog.Logger) (*pki.Keeper, error) {
	return pki.OpenKeeper(ctx, pki.KeeperConfig{
		Kind: pki.KindLink, CAs: a.pem(pki.KindLink), Use: pki.AsServer, File: file, SendCA: true, Logger: log,
		Signer: pki.SignerFunc(func(_ context.Context, csr []byte) ([]byte, error) {
			return a[pki.KindLink].Sign(csr, pki.Leaf{CommonName: "control-plane", DNSNames: []string{agentlink.ServerName}, Server: true}, time.Now())
		}),
	})
}
