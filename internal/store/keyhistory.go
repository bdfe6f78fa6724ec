package store

import (
	"fmt"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// PastKey is a customer key that a project had in its configuration, now or before. It
// outlives the project: who asks whether a key may go has to be told apart from who
// asks about a key that was never here.
type PastKey struct {
	KeyARN  string
	Project keys.ProjectID
	Org     keys.OrgID
	// First and Last are when a configuration with it was first and last written.
	First, Last time.Time
}

// noteKeys remembers the keys of a project's configuration and of the one that it
// replaces.
func (t *Tx) noteKeys(next KeyConfig) error {
	old, err := t.KeyConfig(next.Project)
	if err != nil {
		return err
	}
	for _, arn := range []string{old.KeyARN, next.KeyARN} {
		if err := t.NoteKey(next.Project, arn); err != nil {
			return err
		}
	}
	return nil
}

// NoteKey remembers that a project has, or is about to have, a customer key; "" is none.
func (t *Tx) NoteKey(project keys.ProjectID, arn string) error {
	if arn == "" {
		return nil
	}
	p, err := t.Project(project)
	if err != nil {
		return fmt.Errorf("note key: %w", err)
	}
	now := t.Now().UnixMicro()
	_, err = t.exec(`INSERT INTO key_history (key_arn, project_id, org_id, first_seen, last_seen) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (key_arn, project_id) DO UPDATE SET last_seen = excluded.last_seen`, arn, string(project), string(p.Org), now, now)
	return err
}

// PastKeys lists the keys that projects have or had, by key and project.
func (t *Tx) PastKeys() ([]PastKey, error) {
	var out []PastKey
	err := t.each(`SELECT key_arn, project_id, org_id, first_seen, last_seen FROM key_history ORDER BY key_arn, project_id`, nil, func(scan func(...any) error) error {
		var k PastKey
		var project, org string
		var first, last int64
		if err := scan(&k.KeyARN, &project, &org, &first, &last); err != nil {
			return fmt.Errorf("read key history: %w", err)
		}
		k.Project, k.Org, k.First, k.Last = keys.ProjectID(project), keys.OrgID(org), time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		out = append(out, k)
		return nil
	})
	return out, err
}
