package store

import (
	"encoding/json"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// KeyChange is a change of a project's customer key that has to be prepared on the
// hosts before it is in force.
type KeyChange struct {
	Project keys.ProjectID `json:"project"`
	// Generation is that of Candidate. It is never used again, also if the change is
	// aborted: wraps name it.
	Generation uint64 `json:"generation"`
	// State is STAGING, PAUSED, COMMITTED, ABORTED or RETIRED.
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// Why says why the change is PAUSED or ABORTED, Code which kind of refusal that was.
	Why  string `json:"why,omitempty"`
	Code string `json:"code,omitempty"`
	// Rewrap: kept keys have to be wrapped anew, since the candidate is another CMK.
	Rewrap bool `json:"rewrap,omitempty"`
	// Rollback: the candidate was in force before, its wraps are kept.
	Rollback bool `json:"rollback,omitempty"`
	// ViaCandidate: the CMK in force is reached through the candidate's role, since its
	// own cannot be used (key-plane rule 24).
	ViaCandidate bool `json:"viaCandidate,omitempty"`
	// Candidate is what is asked for; Previous what was in force when it was committed.
	Candidate KeyConfig `json:"candidate"`
	Previous  KeyConfig `json:"previous,omitzero"`
	Requested time.Time `json:"requested"`
	By        string    `json:"by,omitempty"`
	Committed time.Time `json:"committed,omitzero"`
	// Retires is when the wraps of Previous go, Safe since when nothing needs it but a
	// rollback.
	Retires time.Time `json:"retires,omitzero"`
	Safe    time.Time `json:"safe,omitzero"`
	// Drop orders hosts to remove wraps; Dropped is when all had done so.
	Drop    *WrapDrop `json:"drop,omitempty"`
	Dropped time.Time `json:"dropped,omitzero"`
}

// WrapDrop names the wraps under one CMK that the generations From to To made.
type WrapDrop struct {
	Order  uint64 `json:"order"`
	KeyARN string `json:"keyArn"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
}

// Covers tells whether a wrap under the key and of the generation is to go.
func (d WrapDrop) Covers(keyARN string, generation uint64) bool {
	return generation >= d.From && generation <= d.To && keys.SameKey(d.KeyARN, keyARN)
}

// The states of a KeyChange.
const (
	ChangeStaging   = "STAGING"
	ChangePaused    = "PAUSED"
	ChangeCommitted = "COMMITTED"
	ChangeAborted   = "ABORTED"
	ChangeRetired   = "RETIRED"
)

// Staged tells whether the change is being prepared.
func (c KeyChange) Staged() bool { return c.State == ChangeStaging || c.State == ChangePaused }

// Open tells whether something is left to be done for the change.
func (c KeyChange) Open() bool {
	return c.Staged() || c.State == ChangeCommitted || c.Drop != nil && c.Dropped.IsZero()
}

// KeyProgress is what a host said last about the wraps of a project.
type KeyProgress struct {
	Project  keys.ProjectID  `json:"project"`
	Host     keys.HostID     `json:"host"`
	Reported time.Time       `json:"reported"`
	Wraps    json.RawMessage `json:"wraps"`
}

// PutKeyChange adds or replaces a change. The roles of a candidate that is being
// prepared and of a configuration that is kept for a rollback cannot be removed.
func (t *Tx) PutKeyChange(c KeyChange) error {
	if err := t.NoteKey(c.Project, c.Candidate.KeyARN); err != nil {
		return err
	}
	d, err := encode(c)
	if err != nil {
		return err
	}
	var role, previous any
	if c.Staged() && c.Candidate.Role != "" {
		role = string(c.Candidate.Role)
	}
	if c.State == ChangeCommitted && c.Previous.Role != "" {
		previous = string(c.Previous.Role)
	}
	_, err = t.exec(`INSERT INTO key_changes (project_id, generation, open, role_id, previous_role, doc) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (project_id, generation) DO UPDATE SET open = excluded.open, role_id = excluded.role_id,
		previous_role = excluded.previous_role, doc = excluded.doc`,
		string(c.Project), int64(c.Generation), flag(c.Open()), role, previous, d) //nolint:gosec // counts changes
	return err
}

// KeyChanges lists a project's changes, oldest first.
func (t *Tx) KeyChanges(p keys.ProjectID) ([]KeyChange, error) {
	return docs[KeyChange](t, `SELECT doc FROM key_changes WHERE project_id = ? ORDER BY generation`, string(p))
}

// OpenKeyChanges lists the changes of all projects for which something is left to be
// done.
func (t *Tx) OpenKeyChanges() ([]KeyChange, error) {
	return docs[KeyChange](t, `SELECT doc FROM key_changes WHERE open = 1 ORDER BY project_id, generation`)
}

// PutKeyProgress records what a host says about the wraps of a project.
func (t *Tx) PutKeyProgress(p KeyProgress) error {
	d, err := encode(p)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO key_progress (project_id, host_id, doc) VALUES (?, ?, ?)
		ON CONFLICT (project_id, host_id) DO UPDATE SET doc = excluded.doc`, string(p.Project), string(p.Host), d)
	return err
}

// KeyProgress lists what the hosts said last about the wraps of a project.
func (t *Tx) KeyProgress(p keys.ProjectID) ([]KeyProgress, error) {
	return docs[KeyProgress](t, `SELECT doc FROM key_progress WHERE project_id = ? ORDER BY host_id`, string(p))
}

// DropEscrow removes the wrap that one generation made of a key; the caller has made
// sure that another wrap of the key opens.
func (t *Tx) DropEscrow(key keys.KeyID, generation uint64) error {
	return t.must(`DELETE FROM escrow WHERE key_id = ? AND generation = ?`, string(key), int64(generation)) //nolint:gosec // counts changes
}

// DeleteHost removes the record of a host that has no nodes left.
func (t *Tx) DeleteHost(h keys.HostID) error {
	return t.must(`DELETE FROM hosts WHERE id = ?`, string(h))
}
