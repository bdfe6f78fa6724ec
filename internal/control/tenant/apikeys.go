package tenant

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// maxAPIKeys is how many keys an organization may have.
const maxAPIKeys = 500

// NewAPIKey is the wish for a key of an organization.
type NewAPIKey struct {
	Description string
	OrgRoles    []Role
	// Projects gives the key roles in projects of the organization.
	Projects map[keys.ProjectID][]Role
}

// CreateAPIKey makes a key. The private key is given once and never again.
// ORG_NOT_FOUND, USER_UNAUTHORIZED, INVALID_ENUM_VALUE, GROUP_NOT_FOUND.
func (s *Service) CreateAPIKey(ctx context.Context, p Principal, org keys.OrgID, in NewAPIKey) (out store.APIKey, private secret.Bytes, err error) {
	roles, err := fromRoles(in.OrgRoles, orgRoles, "an organization")
	if err != nil {
		return store.APIKey{}, secret.Bytes{}, err
	}
	if len(in.Description) > 250 {
		return store.APIKey{}, secret.Bytes{}, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute desc specified: at most 250 characters.").With("desc")
	}
	private = secret.RandomText(24)
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgOwner, org); err != nil {
			return err
		}
		have, err := tx.APIKeys(org)
		if err != nil {
			return err
		}
		if len(have) >= maxAPIKeys {
			return apierr.Conflict("MAX_API_KEYS_REACHED", "The organization has %d API keys; delete one first.", len(have))
		}
		now := tx.Now()
		out = store.APIKey{
			ID: keys.NewID(now), Org: org, PublicKey: publicKey(), Description: in.Description,
			OrgRoles: roles, Created: now, ProjectRoles: map[keys.ProjectID][]string{},
		}
		for id, r := range in.Projects {
			project, err := Require(tx, p, GroupOwner, id)
			if err != nil {
				return err
			}
			if project.Org != org {
				return apierr.NotFound("GROUP_NOT_FOUND", "No group with ID %s exists in this organization.", id).With(string(id))
			}
			if out.ProjectRoles[id], err = fromRoles(r, groupRoles, "a project"); err != nil {
				return err
			}
		}
		if err := tx.AddAPIKey(out, HA1(out.PublicKey, private)); err != nil {
			return err
		}
		return tx.Append(event(p, "API_KEY_CREATED", org, "API key %s was created.", out.PublicKey))
	})
	if err != nil {
		private.Wipe()
		return store.APIKey{}, secret.Bytes{}, err
	}
	return out, private, nil
}

// publicKey makes eight lower-case letters.
func publicKey() string {
	var b strings.Builder
	for _, c := range []byte(rand.Text()[:8]) {
		if c < 'A' {
			c = c - '2' + 'a'
		}
		b.WriteByte(c)
	}
	return strings.ToLower(b.String())
}

// APIKeys lists an organization's keys: ORG_NOT_FOUND, USER_UNAUTHORIZED.
func (s *Service) APIKeys(ctx context.Context, p Principal, org keys.OrgID) (out []store.APIKey, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgReadOnly, org); err != nil {
			return err
		}
		out, err = tx.APIKeys(org)
		return err
	})
	return out, err
}

// APIKey gives a key of the organization: API_KEY_NOT_FOUND.
func (s *Service) APIKey(ctx context.Context, p Principal, org keys.OrgID, id string) (out store.APIKey, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgReadOnly, org); err != nil {
			return err
		}
		out, err = keyOf(tx, org, id)
		return err
	})
	return out, err
}

func keyOf(tx *store.Tx, org keys.OrgID, id string) (store.APIKey, error) {
	k, err := tx.APIKey(id)
	if isNotFound(err) || (err == nil && k.Org != org) {
		return store.APIKey{}, apierr.NotFound("API_KEY_NOT_FOUND", "No API key with ID %s exists.", id).With(id)
	}
	return k, err
}

// AssignAPIKey sets a key's roles in a project; none takes the key out of it. An
// Organization Owner adds themselves to a project in this way.
func (s *Service) AssignAPIKey(ctx context.Context, p Principal, id keys.ProjectID, keyID string, roles []Role) (out store.APIKey, err error) {
	names, err := fromRoles(roles, groupRoles, "a project")
	if err != nil {
		return store.APIKey{}, err
	}
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		project, err := Require(tx, p, GroupOwner, id)
		if err != nil {
			return err
		}
		if _, err := keyOf(tx, project.Org, keyID); err != nil {
			return err
		}
		if err := tx.GrantProject(keyID, id, names); err != nil {
			return err
		}
		if out, err = tx.APIKey(keyID); err != nil {
			return err
		}
		e := Event(p, "API_KEY_ROLES_CHANGED", project, "API key %s has the roles %s in project %s.", out.PublicKey, strings.Join(names, ", "), project.Name)
		e.Data["targetPublicKey"] = out.PublicKey
		return tx.Append(e)
	})
	return out, err
}

// DeleteAPIKey removes a key; a key cannot remove itself.
func (s *Service) DeleteAPIKey(ctx context.Context, p Principal, org keys.OrgID, id string) error {
	return s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := RequireOrg(tx, p, OrgOwner, org); err != nil {
			return err
		}
		k, err := keyOf(tx, org, id)
		if err != nil {
			return err
		}
		if id == p.KeyID {
			return apierr.Conflict("CANNOT_DELETE_OWN_API_KEY", "An API key cannot delete itself; use another one.")
		}
		if err := tx.DeleteAPIKey(id); err != nil {
			return err
		}
		e := event(p, "API_KEY_DELETED", org, "API key %s was deleted.", k.PublicKey)
		e.Data["targetPublicKey"] = k.PublicKey
		return tx.Append(e)
	})
}
