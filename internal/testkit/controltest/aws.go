package controltest

import (
	"context"
	"slices"
	"sync"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/kmstest"
)

// AWS is a kmstest.Cloud whose roles trust the external ids that they are told to,
// and may lie in other accounts.
type AWS struct {
	*kmstest.Cloud
	mu    sync.Mutex
	trust map[string]trust
	tried []string
}

type trust struct {
	target   kms.Target
	external string
}

// NewAWS makes a key service without keys and roles.
func NewAWS() *AWS { return &AWS{Cloud: kmstest.NewCloud(), trust: map[string]trust{}} }

// Trust makes the role of a target trust an external id.
func (a *AWS) Trust(t kms.Target, externalID string) { a.TrustAs(t.RoleARN, t, externalID) }

// TrustAs gives the role of a target another ARN, such as one in another account.
func (a *AWS) TrustAs(roleARN string, t kms.Target, externalID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trust[roleARN] = trust{target: t, external: externalID}
}

// inner translates a role and an external id into the Cloud's.
func (a *AWS) inner(roleARN string, externalID *string) (string, *string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.trust[roleARN]
	if !ok {
		return roleARN, externalID
	}
	if externalID != nil && *externalID == t.external {
		return t.target.RoleARN, &t.target.ExternalID
	}
	return t.target.RoleARN, externalID
}

func (a *AWS) target(t kms.Target) kms.Target {
	if !t.AccessKey.IsZero() {
		return t
	}
	if !keys.IsAlias(t.KeyID) {
		t.KeyID = t.KeyARN() // an id is looked up in the account of the role that was typed
	}
	role, ext := a.inner(t.RoleARN, &t.ExternalID)
	t.RoleARN, t.ExternalID = role, *ext
	return t
}

// TryAssume implements kms.Provider.
func (a *AWS) TryAssume(ctx context.Context, roleARN string, externalID *string, region string) error {
	shown := "none"
	if externalID != nil {
		shown = *externalID
	}
	a.mu.Lock()
	a.tried = append(a.tried, shown)
	a.mu.Unlock()
	role, ext := a.inner(roleARN, externalID)
	return a.Cloud.TryAssume(ctx, role, ext, region)
}

// Tried gives the external ids that trust policies were tried with, "none" for none.
func (a *AWS) Tried() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tried)
}

// Assume implements kms.Provider.
func (a *AWS) Assume(ctx context.Context, t kms.Target) (kms.Session, error) {
	return a.Cloud.Assume(ctx, a.target(t))
}

// Session implements kms.Provider.
func (a *AWS) Session(ctx context.Context, t kms.Target) (kms.Session, error) {
	return a.Cloud.Session(ctx, a.target(t))
}
