package store

import (
	"encoding/json"
	"fmt"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// PutOrg adds or replaces an organization.
func (t *Tx) PutOrg(o Org) error {
	d, err := encode(o)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO organizations (id, name, doc) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, doc = excluded.doc`, string(o.ID), o.Name, d)
	return err
}

// Org gives an organization or ErrNotFound.
func (t *Tx) Org(id keys.OrgID) (Org, error) {
	return doc[Org](t, `SELECT doc FROM organizations WHERE id = ?`, string(id))
}

// Orgs lists all organizations, oldest first.
func (t *Tx) Orgs() ([]Org, error) { return docs[Org](t, `SELECT doc FROM organizations ORDER BY id`) }

// AddProject adds a project; ErrDuplicate if the organization has one of that name.
func (t *Tx) AddProject(p Project) error {
	d, err := encode(p)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO projects (id, org_id, name, doc) VALUES (?, ?, ?, ?)`, string(p.ID), string(p.Org), p.Name, d)
	return err
}

// UpdateProject replaces a project; ErrNotFound, ErrDuplicate.
func (t *Tx) UpdateProject(p Project) error {
	d, err := encode(p)
	if err != nil {
		return err
	}
	return t.must(`UPDATE projects SET name = ?, doc = ? WHERE id = ?`, p.Name, d, string(p.ID))
}

// DeleteProject removes a project with all that belongs to it; ErrReferenced while
// it has clusters.
func (t *Tx) DeleteProject(id keys.ProjectID) error {
	if _, err := t.exec(`DELETE FROM key_configs WHERE project_id = ?`, string(id)); err != nil {
		return err
	}
	return t.must(`DELETE FROM projects WHERE id = ?`, string(id))
}

const selectProject = `SELECT p.doc, (SELECT COUNT(*) FROM clusters c WHERE c.project_id = p.id) FROM projects p`

func (t *Tx) projects(query string, args ...any) ([]Project, error) {
	var out []Project
	err := t.each(query, args, func(scan func(...any) error) error {
		var text string
		var n int
		if err := scan(&text, &n); err != nil {
			return fmt.Errorf("read projects: %w", err)
		}
		p, err := decode[Project](text)
		p.Clusters = n
		out = append(out, p)
		return err
	})
	return out, err
}

// Project gives a project or ErrNotFound.
func (t *Tx) Project(id keys.ProjectID) (Project, error) {
	ps, err := t.projects(selectProject+` WHERE p.id = ?`, string(id))
	if err == nil && len(ps) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Project{}, err
	}
	return ps[0], nil
}

// ProjectsNamed lists the projects of a name, in all organizations.
func (t *Tx) ProjectsNamed(name string) ([]Project, error) {
	return t.projects(selectProject+` WHERE p.name = ? ORDER BY p.id`, name)
}

// Projects lists the projects of an organization, oldest first; of all with "".
func (t *Tx) Projects(org keys.OrgID) ([]Project, error) {
	if org == "" {
		return t.projects(selectProject + ` ORDER BY p.id`)
	}
	return t.projects(selectProject+` WHERE p.org_id = ? ORDER BY p.id`, string(org))
}

// CountProjects counts the projects of an organization.
func (t *Tx) CountProjects(org keys.OrgID) (n int, err error) {
	err = t.row(`SELECT COUNT(*) FROM projects WHERE org_id = ?`, []any{string(org)}, &n)
	return n, err
}

func ha1Place(id string) Place { return Place{Table: "api_keys", Row: id, Column: "ha1"} }

// AddAPIKey adds a key with the digest HA1 of its private key, and its roles in
// projects.
func (t *Tx) AddAPIKey(k APIKey, ha1 secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(ha1Place(k.ID), ha1)
	if err != nil {
		return err
	}
	d, err := encode(k)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO api_keys (id, org_id, public_key, ha1, doc) VALUES (?, ?, ?, ?, ?)`,
		k.ID, string(k.Org), k.PublicKey, sealed, d); err != nil {
		return err
	}
	for p, roles := range k.ProjectRoles {
		if err := t.GrantProject(k.ID, p, roles); err != nil {
			return err
		}
	}
	return nil
}

// UpdateAPIKey replaces a key's record, not its private key and project roles.
func (t *Tx) UpdateAPIKey(k APIKey) error {
	d, err := encode(k)
	if err != nil {
		return err
	}
	return t.must(`UPDATE api_keys SET doc = ? WHERE id = ?`, d, k.ID)
}

// GrantProject sets a key's roles in a project; none removes it from the project.
func (t *Tx) GrantProject(id string, p keys.ProjectID, roles []string) error {
	if len(roles) == 0 {
		_, err := t.exec(`DELETE FROM api_key_projects WHERE key_id = ? AND project_id = ?`, id, string(p))
		return err
	}
	text, err := encode(roles)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO api_key_projects (key_id, project_id, roles) VALUES (?, ?, ?)
		ON CONFLICT (key_id, project_id) DO UPDATE SET roles = excluded.roles`, id, string(p), text)
	return err
}

// DeleteAPIKey removes a key or gives ErrNotFound.
func (t *Tx) DeleteAPIKey(id string) error { return t.must(`DELETE FROM api_keys WHERE id = ?`, id) }

// APIKeys lists the keys of an organization, oldest first.
func (t *Tx) APIKeys(org keys.OrgID) ([]APIKey, error) {
	ks, err := docs[APIKey](t, `SELECT doc FROM api_keys WHERE org_id = ? ORDER BY id`, string(org))
	for i := range ks {
		if err == nil {
			ks[i].ProjectRoles, err = t.projectRoles(ks[i].ID)
		}
	}
	return ks, err
}

// APIKey gives a key by its id, or ErrNotFound.
func (t *Tx) APIKey(id string) (APIKey, error) {
	k, err := doc[APIKey](t, `SELECT doc FROM api_keys WHERE id = ?`, id)
	if err != nil {
		return APIKey{}, err
	}
	k.ProjectRoles, err = t.projectRoles(k.ID)
	return k, err
}

// APIKeyByPublic gives a key and the digest HA1 of its private key by the public
// key, or ErrNotFound.
func (t *Tx) APIKeyByPublic(public string) (APIKey, secret.Bytes, error) {
	var text, sealed string
	if err := t.row(`SELECT doc, ha1 FROM api_keys WHERE public_key = ?`, []any{public}, &text, &sealed); err != nil {
		return APIKey{}, secret.Bytes{}, err
	}
	k, err := decode[APIKey](text)
	if err != nil {
		return APIKey{}, secret.Bytes{}, err
	}
	if k.ProjectRoles, err = t.projectRoles(k.ID); err != nil {
		return APIKey{}, secret.Bytes{}, err
	}
	ha1, err := t.s.sealer.Unseal(ha1Place(k.ID), sealed)
	return k, ha1, err
}

func (t *Tx) projectRoles(id string) (map[keys.ProjectID][]string, error) {
	out := map[keys.ProjectID][]string{}
	err := t.each(`SELECT project_id, roles FROM api_key_projects WHERE key_id = ?`, []any{id}, func(scan func(...any) error) error {
		var p, text string
		if err := scan(&p, &text); err != nil {
			return fmt.Errorf("read roles: %w", err)
		}
		var roles []string
		if err := json.Unmarshal([]byte(text), &roles); err != nil {
			return fmt.Errorf("decode roles: %w", err)
		}
		out[keys.ProjectID(p)] = roles
		return nil
	})
	return out, err
}

func passwordPlace(u DatabaseUser) Place {
	return Place{Table: "database_users", Row: string(u.Project) + "/" + u.Database + "/" + u.Username, Column: "password"}
}

// AddUser adds a database user; ErrDuplicate if there is one of the name.
func (t *Tx) AddUser(u DatabaseUser, password secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(passwordPlace(u), password)
	if err != nil {
		return err
	}
	d, err := encode(u)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO database_users (project_id, database_name, username, password, doc) VALUES (?, ?, ?, ?, ?)`,
		string(u.Project), u.Database, u.Username, sealed, d)
	return err
}

// UpdateUser replaces a database user; an empty password keeps the old one.
func (t *Tx) UpdateUser(u DatabaseUser, password secret.Bytes) error {
	d, err := encode(u)
	if err != nil {
		return err
	}
	if !password.IsEmpty() {
		sealed, err := t.s.sealer.Seal(passwordPlace(u), password)
		if err != nil {
			return err
		}
		if err := t.must(`UPDATE database_users SET password = ? WHERE project_id = ? AND database_name = ? AND username = ?`,
			sealed, string(u.Project), u.Database, u.Username); err != nil {
			return err
		}
	}
	return t.must(`UPDATE database_users SET doc = ? WHERE project_id = ? AND database_name = ? AND username = ?`,
		d, string(u.Project), u.Database, u.Username)
}

// DeleteUser removes a database user or gives ErrNotFound.
func (t *Tx) DeleteUser(p keys.ProjectID, database, username string) error {
	return t.must(`DELETE FROM database_users WHERE project_id = ? AND database_name = ? AND username = ?`, string(p), database, username)
}

// User gives a database user or ErrNotFound.
func (t *Tx) User(p keys.ProjectID, database, username string) (DatabaseUser, error) {
	return doc[DatabaseUser](t, `SELECT doc FROM database_users WHERE project_id = ? AND database_name = ? AND username = ?`,
		string(p), database, username)
}

// Users lists a project's database users by name.
func (t *Tx) Users(p keys.ProjectID) ([]DatabaseUser, error) {
	return docs[DatabaseUser](t, `SELECT doc FROM database_users WHERE project_id = ? ORDER BY database_name, username`, string(p))
}

// Password opens a database user's password.
func (t *Tx) Password(u DatabaseUser) (secret.Bytes, error) {
	var sealed string
	if err := t.row(`SELECT password FROM database_users WHERE project_id = ? AND database_name = ? AND username = ?`,
		[]any{string(u.Project), u.Database, u.Username}, &sealed); err != nil {
		return secret.Bytes{}, err
	}
	return t.s.sealer.Unseal(passwordPlace(u), sealed)
}

// PutAccessEntry adds or replaces an entry of the IP access list.
func (t *Tx) PutAccessEntry(e AccessEntry) error {
	d, err := encode(e)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO access_entries (project_id, entry, doc) VALUES (?, ?, ?)
		ON CONFLICT (project_id, entry) DO UPDATE SET doc = excluded.doc`, string(e.Project), e.Entry, d)
	return err
}

// AccessEntries lists a project's IP access list.
func (t *Tx) AccessEntries(p keys.ProjectID) ([]AccessEntry, error) {
	return docs[AccessEntry](t, `SELECT doc FROM access_entries WHERE project_id = ? ORDER BY entry`, string(p))
}

// DeleteAccessEntry removes an entry or gives ErrNotFound.
func (t *Tx) DeleteAccessEntry(p keys.ProjectID, entry string) error {
	return t.must(`DELETE FROM access_entries WHERE project_id = ? AND entry = ?`, string(p), entry)
}
