package inventory

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/envelope"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// survey is one reading of everything that the store knows of keys, from which the facts
// of each key are taken.
type survey struct {
	who      tenant.Principal
	now      time.Time
	silent   time.Duration
	projects map[keys.ProjectID]store.Project
	clusters map[keys.ClusterID]store.Cluster
	hosts    []store.Host
	names    map[keys.HostID]string
	// living are the hosts that have nodes of a project, tombstones included.
	living map[keys.ProjectID]map[keys.HostID]bool
	past   []store.PastKey
	config map[keys.ProjectID]store.KeyConfig
	// changes are those for which something is left to be done.
	changes []store.KeyChange
	wraps   []readWrap
}

// readWrap is a wrap with the customer key that it is under; "" if it cannot be read.
type readWrap struct {
	store.EscrowedWrap
	arn   string
	inUse bool
}

// look reads the store.
func look(tx *store.Tx, who tenant.Principal, silent time.Duration) (*survey, error) {
	s := &survey{
		who: who, now: tx.Now(), silent: silent, projects: map[keys.ProjectID]store.Project{}, clusters: map[keys.ClusterID]store.Cluster{},
		names: map[keys.HostID]string{}, living: map[keys.ProjectID]map[keys.HostID]bool{}, config: map[keys.ProjectID]store.KeyConfig{},
	}
	projects, err := tx.Projects("")
	if err != nil {
		return nil, err
	}
	for _, p := range projects {
		s.projects[p.ID] = p
	}
	configs, err := tx.EnabledKeyConfigs()
	if err != nil {
		return nil, err
	}
	for _, c := range configs {
		s.config[c.Project] = c
	}
	if s.changes, err = tx.OpenKeyChanges(); err != nil {
		return nil, err
	}
	if s.past, err = tx.PastKeys(); err != nil {
		return nil, err
	}
	if s.hosts, err = tx.Hosts(); err != nil {
		return nil, err
	}
	for _, h := range s.hosts {
		s.names[h.ID] = h.Hostname
		if err := s.lookHost(tx, h.ID); err != nil {
			return nil, err
		}
	}
	clusters, err := tx.Clusters("")
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		s.clusters[c.ID] = c
	}
	return s, s.lookWraps(tx)
}

func (s *survey) lookHost(tx *store.Tx, id keys.HostID) error {
	nodes, err := tx.NodesOfHost(id)
	for _, n := range nodes {
		if s.living[n.Project] == nil {
			s.living[n.Project] = map[keys.HostID]bool{}
		}
		s.living[n.Project][id] = true
	}
	return err
}

func (s *survey) lookWraps(tx *store.Tx) error {
	all, err := tx.Escrow()
	if err != nil {
		return err
	}
	using := map[keys.NodeID]keys.KeyID{}
	for _, w := range all {
		if len(w.Wrapped) == 0 {
			continue // destroyed: nothing is left that the key could open
		}
		if _, known := using[w.Node]; !known {
			st, err := tx.NodeStatus(w.Node)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			using[w.Node] = st.MasterKey
		}
		r := readWrap{EscrowedWrap: w, inUse: using[w.Node] == w.Key}
		var e envelope.Wrapped
		if e.UnmarshalBinary(w.Wrapped) == nil {
			r.arn = e.KeyARN
		}
		s.wraps = append(s.wraps, r)
	}
	return nil
}

// sees tells whether the caller may read a project. One that is gone is its
// organization's.
func (s *survey) sees(p keys.ProjectID, org keys.OrgID) bool {
	if pr, ok := s.projects[p]; ok {
		return s.who.Can(tenant.GroupReadOnly, pr)
	}
	return s.who.HasOrg(tenant.OrgReadOnly, org)
}

// keysOf lists the keys of which the caller may see something, in the order of their
// ARNs.
func (s *survey) keysOf(org keys.OrgID) []string {
	found := map[string]bool{}
	add := func(arn string, p keys.ProjectID, of keys.OrgID) {
		if of == org && arn != "" && s.sees(p, of) {
			found[arn] = true
		}
	}
	for _, k := range s.past {
		add(k.KeyARN, k.Project, k.Org)
	}
	for p, c := range s.config {
		add(c.KeyARN, p, s.projects[p].Org)
	}
	for _, w := range s.wraps {
		add(w.arn, w.Project, s.projects[w.Project].Org)
	}
	return slices.Sorted(maps.Keys(found))
}

// facts gathers what is known about one key.
func (s *survey) facts(arn string) Facts {
	f := Facts{KeyARN: arn}
	related := s.configurations(&f)
	for _, w := range s.wraps {
		if w.arn == "" {
			f.Unreadable++
			continue
		}
		if !keys.SameKey(w.arn, arn) {
			continue
		}
		related[w.Project] = true
		if !s.sees(w.Project, s.projects[w.Project].Org) {
			f.Hidden = true
			continue
		}
		f.Wraps = append(f.Wraps, s.wrap(w))
	}
	s.hostFacts(&f, related)
	return f
}

// configurations adds the configurations that name the key, and gives all projects that
// have or had to do with it.
func (s *survey) configurations(f *Facts) map[keys.ProjectID]bool {
	related, named := map[keys.ProjectID]bool{}, map[keys.ProjectID]bool{}
	add := func(p keys.ProjectID, org keys.OrgID, c Configuration) {
		related[p] = true
		if !s.sees(p, org) {
			f.Hidden = true
			return
		}
		if c.Name = s.projects[p].Name; c.Name == "" {
			c.Name = string(p)
		}
		c.Project = p
		f.Configurations = append(f.Configurations, c)
		named[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(s.config)) {
		if c := s.config[p]; keys.SameKey(c.KeyARN, f.KeyARN) {
			add(p, s.projects[p].Org, Configuration{Use: InForce})
		}
	}
	for _, c := range s.changes {
		org := s.projects[c.Project].Org
		switch {
		case c.Staged() && keys.SameKey(c.Candidate.KeyARN, f.KeyARN):
			add(c.Project, org, Configuration{Use: Staged})
		case c.State == store.ChangeCommitted && keys.SameKey(c.Previous.KeyARN, f.KeyARN) && !keys.SameKey(s.config[c.Project].KeyARN, f.KeyARN):
			add(c.Project, org, Configuration{Use: Retained, Until: c.Retires})
		}
	}
	for _, k := range s.past {
		if keys.SameKey(k.KeyARN, f.KeyARN) && !named[k.Project] {
			add(k.Project, k.Org, Configuration{Use: Past, Seen: k.Last})
		}
	}
	return related
}

func (s *survey) wrap(w readWrap) Wrap {
	out := Wrap{
		Project: w.Project, ProjectName: s.projects[w.Project].Name, Cluster: w.Cluster, ClusterName: s.clusters[w.Cluster].Name,
		Node: w.Node, Host: w.Host, Hostname: s.names[w.Host], Key: w.Key, State: w.State, InUse: w.inUse,
	}
	if c, ok := s.config[w.Project]; ok && !keys.SameKey(c.KeyARN, w.arn) {
		out.Covered = slices.ContainsFunc(s.wraps, func(o readWrap) bool {
			return o.Key == w.Key && o.State != keys.StateDestroyed && keys.SameKey(o.arn, c.KeyARN)
		})
	}
	return out
}

// hostFacts adds the hosts that may have wraps under the key: those with nodes of a
// project that has to do with it, those that say so, and those that know more than the
// store does.
func (s *survey) hostFacts(f *Facts, related map[keys.ProjectID]bool) {
	for _, h := range s.hosts {
		x := Host{
			ID: h.ID, Hostname: h.Hostname, LastSeen: h.LastSeen, Silent: s.now.Sub(h.LastSeen) > s.silent, Frozen: h.Frozen,
			Behind: h.Enacted < h.Revision, Tells: h.Holdings != nil,
		}
		for _, k := range h.Holdings {
			switch {
			case k.KeyARN == "":
				x.Unreadable += k.Wraps
			case keys.SameKey(k.KeyARN, f.KeyARN):
				x.Holds += k.Wraps
			}
		}
		concerns := x.Holds > 0 || x.Frozen != ""
		for p := range related {
			concerns = concerns || s.living[p][h.ID]
		}
		switch {
		case !concerns:
		case h.Org != "" && !s.who.HasOrg(tenant.OrgMember, h.Org):
			f.Hidden = f.Hidden || x.Frozen == "" // another organization's frozen host says nothing of ours
		default:
			f.Hosts = append(f.Hosts, x)
		}
	}
}
