package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/durable"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
)

const identityFormat = 1

// identity is what a host knows of itself after enrolment.
type identity struct {
	Format     int                   `json:"format"`
	Deployment keys.DeploymentID     `json:"deployment"`
	Host       keys.HostID           `json:"host"`
	Hostname   string                `json:"hostname"`
	CAs        agentlink.Authorities `json:"cas"`
}

// loadIdentity reads the identity, or enrols the host with its token.
func loadIdentity(ctx context.Context, cfg Config, dir layout) (identity, error) {
	var id identity
	err := durable.ReadJSON(dir.identity(), &id)
	switch {
	case err == nil && id.Format != identityFormat:
		return id, fmt.Errorf("identity of this host has format %d, this program reads %d", id.Format, identityFormat)
	case err == nil:
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return id, err
	case cfg.EnrollTokenFile == "":
		return id, errors.New("this host is not enrolled: make a token at the control plane and name its file (--enroll-token-file)")
	}
	return enroll(ctx, cfg, dir)
}

// enroll redeems the token. The identity file is written last: a crash before
// leaves a host that is not enrolled, and needs a new token.
func enroll(ctx context.Context, cfg Config, dir layout) (identity, error) {
	raw, err := os.ReadFile(cfg.EnrollTokenFile)
	if err != nil {
		return identity{}, fmt.Errorf("read enrolment token: %w", err)
	}
	key, csr, err := pki.NewKey()
	if err != nil {
		return identity{}, fmt.Errorf("make key of the agent link: %w", err)
	}
	defer key.Wipe()
	resp, err := agentlink.Enroll(ctx, cfg.ServerURL, agentlink.EnrollRequest{
		Token: strings.TrimSpace(string(raw)), Hostname: cfg.Hostname, CSR: string(csr),
	})
	if err != nil {
		return identity{}, err
	}
	id := identity{Format: identityFormat, Deployment: resp.Deployment, Host: resp.Host, Hostname: cfg.Hostname, CAs: resp.CAs}
	if err := errors.Join(
		pki.WriteCombined(dir.linkCert(), key, []byte(resp.Certificate)),
		durable.WriteFile(dir.kmipServerCA(), []byte(resp.CAs.KMIPServer), 0o600),
		durable.WriteFile(dir.databaseCA(), []byte(resp.CAs.Database), 0o600),
	); err != nil {
		return identity{}, fmt.Errorf("store enrolment: %w", err)
	}
	return id, durable.WriteJSON(dir.identity(), id, 0o600)
}
