package alert

import (
	"encoding/json"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Facts are what the store knows of one project, as far as conditions need it.
type Facts struct {
	Now     time.Time
	Project store.Project
	Key     store.KeyConfig
	// Verdict is the recorded one; zero while there is none.
	Verdict store.Verdict
	// Validators are the hosts with nodes of the project that have reported, and the
	// control plane (Host "").
	Validators []Validator
	Roles      []store.AccessRole
	// Nodes are those that are not tombstones.
	Nodes []Node
	// Hosts are those with nodes of the project.
	Hosts []store.Host
	// Authorities are the ends of the deployment's own authorities, by name.
	Authorities map[string]time.Time
	Raised      []store.Finding
}

// Validator is one validator's custody state.
type Validator struct {
	Host     string
	Reported time.Time
	State    custody.State
}

// Node is a node with its last report.
type Node struct {
	store.Node
	ClusterName string
	Status      store.NodeStatus
	// KeyCreated is when the master key in use was made; zero if that is not known.
	KeyCreated time.Time
}

// host gives a host of the facts.
func (f Facts) host(id string) store.Host {
	for _, h := range f.Hosts {
		if string(h.ID) == id {
			return h
		}
	}
	return store.Host{ID: keys.HostID(id), Hostname: id}
}

// silent tells whether a host was not heard of for so long that what it said last is
// no news any more.
func (f Facts) silent(h store.Host) bool { return f.Now.Sub(heard(h)) > silence }

func heard(h store.Host) time.Time {
	if h.LastSeen.IsZero() {
		return h.Enrolled
	}
	return h.LastSeen
}

// gather reads the facts of one project, or of all with "".
func gather(tx *store.Tx, only keys.ProjectID, authorities map[string]time.Time) (map[keys.ProjectID]*Facts, error) {
	out := map[keys.ProjectID]*Facts{}
	var projects []store.Project
	var err error
	if only == "" {
		projects, err = tx.Projects("")
	} else {
		var p store.Project
		p, err = tx.Project(only)
		projects = []store.Project{p}
	}
	if err != nil {
		return nil, err
	}
	for _, p := range projects {
		out[p.ID] = &Facts{Now: tx.Now(), Project: p, Key: store.KeyConfig{Project: p.ID}, Authorities: authorities}
	}
	for _, read := range []func(*store.Tx, keys.ProjectID, map[keys.ProjectID]*Facts) error{readKeys, readCustody, readNodes, readRaised} {
		if err := read(tx, only, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readKeys(tx *store.Tx, only keys.ProjectID, out map[keys.ProjectID]*Facts) error {
	var configs []store.KeyConfig
	var roles []store.AccessRole
	var err error
	if only == "" {
		if configs, err = tx.EnabledKeyConfigs(); err == nil {
			roles, err = tx.AllRoles()
		}
	} else {
		var c store.KeyConfig
		c, err = tx.KeyConfig(only)
		configs = []store.KeyConfig{c}
		if err == nil {
			roles, err = tx.Roles(only)
		}
	}
	if err != nil {
		return err
	}
	for _, c := range configs {
		if f := out[c.Project]; f != nil {
			f.Key = c
		}
	}
	for _, r := range roles {
		if f := out[r.Project]; f != nil {
			f.Roles = append(f.Roles, r)
		}
	}
	return nil
}

func readCustody(tx *store.Tx, only keys.ProjectID, out map[keys.ProjectID]*Facts) error {
	verdicts, err := tx.AllVerdicts(only)
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		if f := out[v.Project]; f != nil {
			f.Verdict = v
		}
	}
	reports, err := tx.AllCustody(only)
	if err != nil {
		return err
	}
	for _, r := range reports {
		f := out[r.Project]
		if f == nil || !f.Key.Enabled {
			continue
		}
		v := Validator{Host: r.Validator, Reported: r.Reported}
		if json.Unmarshal(r.State, &v.State) == nil { // what one host has sent must not keep alerts back
			f.Validators = append(f.Validators, v)
		}
	}
	return nil
}

func readNodes(tx *store.Tx, only keys.ProjectID, out map[keys.ProjectID]*Facts) error {
	nodes, err := tx.AllNodes(only)
	if err != nil || len(nodes) == 0 {
		return err
	}
	clusters, err := tx.Clusters(only)
	if err != nil {
		return err
	}
	names := make(map[keys.ClusterID]string, len(clusters))
	for _, c := range clusters {
		names[c.ID] = c.Name
	}
	all, err := tx.Hosts()
	if err != nil {
		return err
	}
	hosts := make(map[keys.HostID]store.Host, len(all))
	for _, h := range all {
		hosts[h.ID] = h
	}
	statuses, err := tx.NodeStatuses()
	if err != nil {
		return err
	}
	status := make(map[keys.NodeID]store.NodeStatus, len(statuses))
	for _, s := range statuses {
		status[s.Node] = s
	}
	made, err := tx.KeyTimes()
	if err != nil {
		return err
	}
	type pair struct {
		p keys.ProjectID
		h keys.HostID
	}
	seen := map[pair]bool{}
	for _, n := range nodes {
		f := out[n.Project]
		if f == nil || n.Buried {
			continue
		}
		st := status[n.ID]
		f.Nodes = append(f.Nodes, Node{Node: n, ClusterName: names[n.Cluster], Status: st, KeyCreated: made[st.MasterKey]})
		if k := (pair{n.Project, n.Host}); !seen[k] {
			seen[k] = true
			f.Hosts = append(f.Hosts, hosts[n.Host])
		}
	}
	return nil
}

func readRaised(tx *store.Tx, only keys.ProjectID, out map[keys.ProjectID]*Facts) error {
	raised, err := tx.Findings(only)
	if err != nil {
		return err
	}
	for _, r := range raised {
		if f := out[r.Project]; f != nil {
			f.Raised = append(f.Raised, r)
		}
	}
	return nil
}
