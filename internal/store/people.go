package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// Person is somebody who signs in with a password. The hash of the password is kept
// sealed in a column of its own and is no part of the record.
type Person struct {
	ID       string     `json:"id"`
	Org      keys.OrgID `json:"org"`
	Username string     `json:"username"`
	OrgRoles []string   `json:"orgRoles"`
	Created  time.Time  `json:"created"`
	// ProjectRoles are kept in a table of their own.
	ProjectRoles map[keys.ProjectID][]string `json:"-"`
}

// Session is a person's session. Hash is the SHA-256 of its token in hexadecimal; the
// token itself is nowhere but in the browser.
type Session struct {
	Hash    string    `json:"hash"`
	Person  string    `json:"person"`
	Created time.Time `json:"created"`
	// Seen is when it was last used, to the minute; Proven when the password was last given.
	Seen   time.Time `json:"seen"`
	Proven time.Time `json:"proven"`
}

func personPlace(id string) Place { return Place{Table: "people", Row: id, Column: "password"} }

// AddPerson adds a person with the hash of their password; ErrDuplicate if the username
// is taken.
func (t *Tx) AddPerson(p Person, hash secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(personPlace(p.ID), hash)
	if err != nil {
		return err
	}
	d, err := encode(p)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO people (id, org_id, username, password, doc) VALUES (?, ?, ?, ?, ?)`, p.ID, string(p.Org), p.Username, sealed, d)
	return err
}

// SetPersonPassword replaces the hash of a person's password; ErrNotFound.
func (t *Tx) SetPersonPassword(id string, hash secret.Bytes) error {
	sealed, err := t.s.sealer.Seal(personPlace(id), hash)
	if err != nil {
		return err
	}
	return t.must(`UPDATE people SET password = ? WHERE id = ?`, sealed, id)
}

// GrantPerson sets a person's roles in a project; none takes them out of it.
func (t *Tx) GrantPerson(id string, p keys.ProjectID, roles []string) error {
	if len(roles) == 0 {
		_, err := t.exec(`DELETE FROM person_projects WHERE person_id = ? AND project_id = ?`, id, string(p))
		return err
	}
	text, err := encode(roles)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO person_projects (person_id, project_id, roles) VALUES (?, ?, ?)
		ON CONFLICT (person_id, project_id) DO UPDATE SET roles = excluded.roles`, id, string(p), text)
	return err
}

// People lists the people of an organization, oldest first, without their roles in
// projects.
func (t *Tx) People(org keys.OrgID) ([]Person, error) {
	return docs[Person](t, `SELECT doc FROM people WHERE org_id = ? ORDER BY id`, string(org))
}

// Person gives a person with their roles in projects, or ErrNotFound.
func (t *Tx) Person(id string) (Person, error) {
	p, err := doc[Person](t, `SELECT doc FROM people WHERE id = ?`, id)
	if err != nil {
		return Person{}, err
	}
	p.ProjectRoles, err = t.personRoles(id)
	return p, err
}

// PersonByName gives a person and the hash of their password, or ErrNotFound.
func (t *Tx) PersonByName(username string) (Person, secret.Bytes, error) {
	var id, sealed string
	if err := t.row(`SELECT id, password FROM people WHERE username = ?`, []any{username}, &id, &sealed); err != nil {
		return Person{}, secret.Bytes{}, err
	}
	p, err := t.Person(id)
	if err != nil {
		return Person{}, secret.Bytes{}, err
	}
	hash, err := t.s.sealer.Unseal(personPlace(id), sealed)
	return p, hash, err
}

func (t *Tx) personRoles(id string) (map[keys.ProjectID][]string, error) {
	out := map[keys.ProjectID][]string{}
	err := t.each(`SELECT project_id, roles FROM person_projects WHERE person_id = ?`, []any{id}, func(scan func(...any) error) error {
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

// PutSession adds or replaces a session.
func (t *Tx) PutSession(s Session) error {
	d, err := encode(s)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO sessions (hash, person_id, seen, doc) VALUES (?, ?, ?, ?)
		ON CONFLICT (hash) DO UPDATE SET seen = excluded.seen, doc = excluded.doc`, s.Hash, s.Person, s.Seen.UnixMicro(), d)
	return err
}

// Session gives the session of a token's hash, or ErrNotFound.
func (t *Tx) Session(hash string) (Session, error) {
	return doc[Session](t, `SELECT doc FROM sessions WHERE hash = ?`, hash)
}

// Sessions lists a person's sessions, the longest unused first.
func (t *Tx) Sessions(person string) ([]Session, error) {
	return docs[Session](t, `SELECT doc FROM sessions WHERE person_id = ? ORDER BY seen, hash`, person)
}

// DeleteSession removes a session, if it is there.
func (t *Tx) DeleteSession(hash string) error {
	_, err := t.exec(`DELETE FROM sessions WHERE hash = ?`, hash)
	return err
}

// DeleteSessions removes all sessions that were last seen before a time.
func (t *Tx) DeleteSessions(before time.Time) error {
	_, err := t.exec(`DELETE FROM sessions WHERE seen < ?`, before.UnixMicro())
	return err
}
