package store

import (
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// PutRole adds or replaces the registration of an IAM role.
func (t *Tx) PutRole(r AccessRole) error {
	d, err := encode(r)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO access_roles (id, project_id, doc) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`, string(r.ID), string(r.Project), d)
	return err
}

// Role gives a registration of the project, or ErrNotFound.
func (t *Tx) Role(p keys.ProjectID, id keys.RoleID) (AccessRole, error) {
	return doc[AccessRole](t, `SELECT doc FROM access_roles WHERE project_id = ? AND id = ?`, string(p), string(id))
}

// Roles lists a project's registrations, oldest first.
func (t *Tx) Roles(p keys.ProjectID) ([]AccessRole, error) {
	return docs[AccessRole](t, `SELECT doc FROM access_roles WHERE project_id = ? ORDER BY id`, string(p))
}

// AllRoles lists the registrations of all projects, oldest first.
func (t *Tx) AllRoles() ([]AccessRole, error) {
	return docs[AccessRole](t, `SELECT doc FROM access_roles ORDER BY id`)
}

// DeleteRole removes a registration: ErrNotFound, or ErrReferenced while the
// project's key configuration uses it.
func (t *Tx) DeleteRole(p keys.ProjectID, id keys.RoleID) error {
	return t.must(`DELETE FROM access_roles WHERE project_id = ? AND id = ?`, string(p), string(id))
}

// PutKeyConfig writes a project's key configuration. KeySince is set here: to now when
// the key becomes another one. If it names no access key, the secret of one that was there
// before is destroyed.
func (t *Tx) PutKeyConfig(c KeyConfig) error {
	old, err := t.KeyConfig(c.Project)
	if err != nil {
		return err
	}
	if c.KeySince = old.KeySince; c.KeyARN != old.KeyARN {
		c.KeySince = t.Now()
	}
	d, err := encode(c)
	if err != nil {
		return err
	}
	if err := t.noteKeys(c); err != nil {
		return err
	}
	var role any
	if c.Role != "" {
		role = string(c.Role)
	}
	_, err = t.exec(`INSERT INTO key_configs (project_id, role_id, enabled, generation, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (project_id) DO UPDATE SET role_id = excluded.role_id, enabled = excluded.enabled,
		generation = excluded.generation, doc = excluded.doc`,
		string(c.Project), role, flag(c.Enabled), int64(c.Generation), d) //nolint:gosec // counts changes
	if err != nil || c.AccessKeyID != "" {
		return err
	}
	_, err = t.exec(`DELETE FROM access_key_secrets WHERE project_id = ?`, string(c.Project))
	return err
}

func accessKeyPlace(p keys.ProjectID, accessKeyID string) Place {
	return Place{Table: "access_key_secrets", Row: string(p) + "/" + accessKeyID, Column: "secret"}
}

// PutAccessKeySecret seals the secret of a project's access key; it replaces the one of
// another access key.
func (t *Tx) PutAccessKeySecret(p keys.ProjectID, accessKeyID string, v secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(accessKeyPlace(p, accessKeyID), v)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO access_key_secrets (project_id, secret) VALUES (?, ?)
		ON CONFLICT (project_id) DO UPDATE SET secret = excluded.secret`, string(p), sealed)
	return err
}

// AccessKeySecret gives the secret of the access key that a project's configuration
// names. ErrNotFound.
func (t *Tx) AccessKeySecret(p keys.ProjectID, accessKeyID string) (out secret.Bytes, err error) {
	var sealed string
	if err := t.row(`SELECT secret FROM access_key_secrets WHERE project_id = ?`, []any{string(p)}, &sealed); err != nil {
		return out, err
	}
	return t.s.sealer.Unseal(accessKeyPlace(p, accessKeyID), sealed)
}

// KeyConfig gives a project's key configuration; a disabled one of generation 0 if
// there never was one.
func (t *Tx) KeyConfig(p keys.ProjectID) (KeyConfig, error) {
	cs, err := docs[KeyConfig](t, `SELECT doc FROM key_configs WHERE project_id = ?`, string(p))
	if err != nil || len(cs) == 0 {
		return KeyConfig{Project: p}, err
	}
	return cs[0], nil
}

// EnabledKeyConfigs lists the configurations that are switched on.
func (t *Tx) EnabledKeyConfigs() ([]KeyConfig, error) {
	return docs[KeyConfig](t, `SELECT doc FROM key_configs WHERE enabled = 1 ORDER BY project_id`)
}

// PutVerdict records what events were derived from.
func (t *Tx) PutVerdict(v Verdict) error {
	d, err := encode(v)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO verdicts (project_id, doc) VALUES (?, ?)
		ON CONFLICT (project_id) DO UPDATE SET doc = excluded.doc`, string(v.Project), d)
	return err
}

// Verdict gives the recorded verdict, or ErrNotFound.
func (t *Tx) Verdict(p keys.ProjectID) (Verdict, error) {
	return doc[Verdict](t, `SELECT doc FROM verdicts WHERE project_id = ?`, string(p))
}

// DeleteVerdict forgets verdict and custody states: key management was switched off.
func (t *Tx) DeleteVerdict(p keys.ProjectID) error {
	if _, err := t.exec(`DELETE FROM custody WHERE project_id = ?`, string(p)); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM verdicts WHERE project_id = ?`, string(p))
	return err
}

// PutCustody records a validator's custody state.
func (t *Tx) PutCustody(r CustodyReport) error {
	d, err := encode(r)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO custody (project_id, validator, reported, doc) VALUES (?, ?, ?, ?)
		ON CONFLICT (project_id, validator) DO UPDATE SET reported = excluded.reported, doc = excluded.doc`,
		string(r.Project), r.Validator, r.Reported.UnixMicro(), d)
	return err
}

// Custody lists the custody states of a project's validators.
func (t *Tx) Custody(p keys.ProjectID) ([]CustodyReport, error) {
	return docs[CustodyReport](t, `SELECT doc FROM custody WHERE project_id = ? ORDER BY validator`, string(p))
}

// CustodyOf gives one validator's state, or ErrNotFound.
func (t *Tx) CustodyOf(p keys.ProjectID, validator string) (CustodyReport, error) {
	return doc[CustodyReport](t, `SELECT doc FROM custody WHERE project_id = ? AND validator = ?`, string(p), validator)
}
