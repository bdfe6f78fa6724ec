package store

import (
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// keptEgress is how many periods of one holder's addresses are kept.
const keptEgress = 50

// Egress is from where somebody called AWS, and since when. The holder is a host's id,
// or "" for the control plane.
type Egress struct {
	Holder   keys.HostID `json:"holder,omitempty"`
	Hostname string      `json:"hostname"`
	// Addresses are sorted addresses and blocks in canonical form.
	Addresses []string  `json:"addresses"`
	Since     time.Time `json:"since"`
}

// ProjectNetwork is what was told of the addresses from which a project's key is used.
type ProjectNetwork struct {
	Project keys.ProjectID `json:"project"`
	// Sources are the addresses that the customer was last told of, by holder.
	Sources map[keys.HostID]Source `json:"sources,omitempty"`
	// Changes are those that are not confirmed, and the last few that are.
	Changes []AddressChange `json:"changes,omitempty"`
	// Denied are the hosts that are refused although others are not, since when.
	Denied map[keys.HostID]time.Time `json:"denied,omitempty"`
}

// Source is a machine that uses a project's key, and its addresses.
type Source struct {
	Hostname  string   `json:"hostname"`
	Addresses []string `json:"addresses"`
}

// AddressChange is a change of a machine's addresses that the customer may have to
// follow in their policies.
type AddressChange struct {
	Holder   keys.HostID `json:"holder,omitempty"`
	Hostname string      `json:"hostname"`
	// Old is empty for a machine that is new to the project.
	Old     []string  `json:"old,omitempty"`
	New     []string  `json:"new"`
	Changed time.Time `json:"changed"`
	// Validate is the asked-for run that may confirm the change, LastRun the newest run
	// of the machine when it changed, by its own clock.
	Validate uint64    `json:"validate,omitempty"`
	LastRun  time.Time `json:"lastRun,omitzero"`
	// Confirmed is zero while the change waits; By is who or what confirmed it.
	Confirmed time.Time `json:"confirmed,omitzero"`
	By        string    `json:"by,omitempty"`
}

// PutEgress adds a period, which is the present one of its holder, and forgets the
// oldest ones.
func (t *Tx) PutEgress(e Egress) error {
	d, err := encode(e)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO egress (holder, since, doc) VALUES (?, ?, ?) ON CONFLICT (holder, since) DO UPDATE SET doc = excluded.doc`,
		string(e.Holder), e.Since.UnixMicro(), d); err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM egress WHERE holder = ? AND since NOT IN (SELECT since FROM egress WHERE holder = ? ORDER BY since DESC LIMIT ?)`,
		string(e.Holder), string(e.Holder), keptEgress)
	return err
}

// Egress lists the periods of all holders, oldest first: the last one of each is the
// present.
func (t *Tx) Egress() ([]Egress, error) {
	return docs[Egress](t, `SELECT doc FROM egress ORDER BY since, holder`)
}

// EgressOf lists one holder's periods, oldest first.
func (t *Tx) EgressOf(holder keys.HostID) ([]Egress, error) {
	return docs[Egress](t, `SELECT doc FROM egress WHERE holder = ? ORDER BY since`, string(holder))
}

// PutProjectNetwork writes what was told of a project's addresses.
func (t *Tx) PutProjectNetwork(n ProjectNetwork) error {
	d, err := encode(n)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO project_networks (project_id, doc) VALUES (?, ?) ON CONFLICT (project_id) DO UPDATE SET doc = excluded.doc`, string(n.Project), d)
	return err
}

// ProjectNetwork gives what was told of a project's addresses; nothing if nothing was.
func (t *Tx) ProjectNetwork(p keys.ProjectID) (ProjectNetwork, error) {
	ns, err := docs[ProjectNetwork](t, `SELECT doc FROM project_networks WHERE project_id = ?`, string(p))
	if err != nil || len(ns) == 0 {
		return ProjectNetwork{Project: p}, err
	}
	return ns[0], nil
}

// DeleteProjectNetwork forgets a project's addresses: its key management is off.
func (t *Tx) DeleteProjectNetwork(p keys.ProjectID) error {
	_, err := t.exec(`DELETE FROM project_networks WHERE project_id = ?`, string(p))
	return err
}

// ProjectNetworks lists all projects of which addresses were told.
func (t *Tx) ProjectNetworks() ([]ProjectNetwork, error) {
	return docs[ProjectNetwork](t, `SELECT doc FROM project_networks ORDER BY project_id`)
}
