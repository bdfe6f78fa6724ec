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
	"github.com/keywright/keywright/internal/secret"
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
	case err == nil && cfg.Reenroll:
		return reenroll(ctx, cfg, dir, id)
	case err == nil:
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return id, err
	case cfg.EnrollTokenFile == "":
		return id, errors.New("this host is not enrolled: make a token at the control plane and name its file (--enroll-token-file)")
	}
	return enroll(ctx, cfg, dir)
}

// reenroll redeems a token for a host that is enrolled already. Its name is the one of
// then, and it must be the same host that comes back: its wraps are bound to it.
func reenroll(ctx context.Context, cfg Config, dir layout, was identity) (identity, error) {
	if cfg.EnrollTokenFile == "" {
		return identity{}, errors.New("--re-enroll needs a new token of this host's name: name its file with --enroll-token-file")
	}
	cfg.Hostname = was.Hostname
	id, key, cert, err := redeem(ctx, cfg)
	if err != nil {
		return identity{}, err
	}
	defer key.Wipe()
	if id.Host != was.Host || id.Deployment != was.Deployment {
		return identity{}, fmt.Errorf("the control plane calls this host %s of deployment %s, this directory is of host %s of %s: nothing was changed; a store that forgot the host was restored, or the directory is another's", id.Host, id.Deployment, was.Host, was.Deployment)
	}
	return id, join(dir, id, key, cert)
}

// enroll redeems the token. The identity file is written last: a crash before
// leaves a host that is not enrolled, and needs a new token.
func enroll(ctx context.Context, cfg Config, dir layout) (identity, error) {
	id, key, cert, err := redeem(ctx, cfg)
	if err != nil {
		return identity{}, err
	}
	defer key.Wipe()
	return id, join(dir, id, key, cert)
}

// redeem makes a key of the agent link and has it certified for the token.
func redeem(ctx context.Context, cfg Config) (id identity, key secret.Bytes, cert []byte, err error) {
	raw, err := os.ReadFile(cfg.EnrollTokenFile)
	if err != nil {
		return id, key, nil, fmt.Errorf("read enrolment token: %w", err)
	}
	key, csr, err := pki.NewKey()
	if err != nil {
		return id, key, nil, fmt.Errorf("make key of the agent link: %w", err)
	}
	resp, err := agentlink.Enroll(ctx, cfg.ServerURL, agentlink.EnrollRequest{
		Token: strings.TrimSpace(string(raw)), Hostname: cfg.Hostname, CSR: string(csr),
	})
	if err != nil {
		key.Wipe()
		return id, secret.Bytes{}, nil, err
	}
	id = identity{Format: identityFormat, Deployment: resp.Deployment, Host: resp.Host, Hostname: cfg.Hostname, CAs: resp.CAs}
	return id, key, []byte(resp.Certificate), nil
}

// join writes down what enrolment gave, the identity last.
func join(dir layout, id identity, key secret.Bytes, cert []byte) error {
	if err := errors.Join(
		pki.WriteCombined(dir.linkCert(), key, cert),
		durable.WriteFile(dir.kmipServerCA(), []byte(id.CAs.KMIPServer), 0o600),
		durable.WriteFile(dir.databaseCA(), []byte(id.CAs.Database), 0o600),
	); err != nil {
		return fmt.Errorf("store enrolment: %w", err)
	}
	return durable.WriteJSON(dir.identity(), id, 0o600)
}
