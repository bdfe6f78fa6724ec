package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// engine is the driver of all nodes so far.
const engine = "bundled"

// Desired gives what a host shall do. If the host has the newest revision already it
// waits for news, at most agentlink.LongPoll. A host that has a newer revision than
// the store remembers is frozen. Codes: HOST_FROZEN, HOST_NOT_ADMITTED.
func (s *Service) Desired(ctx context.Context, host keys.HostID, have uint64) (agentlink.Desired, error) {
	t := time.NewTimer(agentlink.LongPoll)
	defer t.Stop()
	for {
		changed := s.st.Changed()
		d, err := s.desired(ctx, host, have)
		if err != nil || d.Revision != have {
			return d, err
		}
		select {
		case <-changed:
		case <-t.C:
			// Composed anew: the ages of what validators said are of now.
			return s.desired(ctx, host, have)
		case <-ctx.Done():
			return d, ctx.Err()
		}
	}
}

// desired composes the state, and gives it a new revision, durably, if it differs
// from what was handed out last.
func (s *Service) desired(ctx context.Context, host keys.HostID, have uint64) (d agentlink.Desired, err error) {
	var h store.Host
	var digest string
	read := func(tx *store.Tx) error {
		if h, err = tx.Host(host); err != nil {
			return err
		}
		if h.Frozen != "" || have > h.Revision {
			return nil
		}
		d, digest, err = s.compose(tx, h)
		return err
	}
	if err := s.st.View(ctx, read); err != nil {
		return d, err
	}
	if have > h.Revision || h.Frozen != "" {
		return d, s.freeze(ctx, host, have)
	}
	if digest != h.Digest {
		err := s.st.Tx(ctx, func(tx *store.Tx) error {
			if err := read(tx); err != nil || digest == h.Digest || h.Frozen != "" {
				return err
			}
			h.Revision++
			return tx.PutRevision(host, h.Revision, digest)
		})
		if err != nil {
			return d, err
		}
		if h.Frozen != "" {
			return d, s.freeze(ctx, host, have)
		}
	}
	d.Revision = h.Revision
	return d, nil
}

// compose gives the desired state of a host, without revision, and a digest of all
// that matters in it.
func (s *Service) compose(tx *store.Tx, h store.Host) (agentlink.Desired, string, error) {
	d := agentlink.Desired{Version: agentlink.Version, Deployment: s.st.Deployment(), Host: h.ID}
	nodes, err := tx.NodesOfHost(h.ID)
	if err != nil {
		return d, "", err
	}
	projects := map[keys.ProjectID]bool{}
	for _, n := range nodes {
		if n.Buried {
			d.Tombstones = append(d.Tombstones, agentlink.Tombstone{
				Node: n.ID, Project: n.Project, Cluster: n.Cluster, Generation: n.Generation, DestroyKeys: true,
			})
			continue
		}
		c, err := tx.Cluster(n.Cluster)
		if err != nil {
			return d, "", err
		}
		d.Nodes = append(d.Nodes, agentlink.Node{
			ID: n.ID, Project: n.Project, Cluster: n.Cluster, Engine: engine, Run: n.Run, Encrypted: n.Encrypted,
			Generation: n.Generation, ReplicaSet: c.ReplicaSet, KMIPClientFingerprints: n.KMIPFingerprints,
			Rotation: n.Rotation, RetiredKeys: n.RetiredKeys,
			KeysetRotation: n.KeysetRotation, Compaction: n.Compaction,
		})
		if projects[n.Project] {
			continue
		}
		projects[n.Project] = true
		p, err := s.project(tx, n.Project, h.ID)
		if err != nil {
			return d, "", err
		}
		d.Projects = append(d.Projects, p)
	}
	b, err := json.Marshal(s.newsworthy(d))
	if err != nil {
		return d, "", fmt.Errorf("encode desired state: %w", err)
	}
	sum := sha256.Sum256(b)
	return d, hex.EncodeToString(sum[:]), nil
}

// newsworthy is what makes a new revision when it changes: all but passwords (their
// users' revisions tell), secrets of access keys (the generation tells), the ages of what
// validators said, and those of orders.
func (s *Service) newsworthy(d agentlink.Desired) agentlink.Desired {
	projects := make([]agentlink.Project, len(d.Projects))
	for i, p := range d.Projects {
		users := make([]agentlink.DatabaseUser, len(p.Users))
		for j, u := range p.Users {
			u.Password = ""
			users[j] = u
		}
		p.CustomerKey = withoutSecret(p.CustomerKey)
		if k := p.Candidate; k != nil {
			p.Candidate = &agentlink.Candidate{CustomerKey: *withoutSecret(&k.CustomerKey), Paused: k.Paused}
		}
		p.Retained = slices.Clone(p.Retained)
		for j := range p.Retained {
			p.Retained[j].SecretAccessKey = ""
		}
		p.Users, p.Validators = users, s.cfg.Custody.Told(p.Validators)
		p.Drills = slices.Clone(p.Drills)
		for j := range p.Drills {
			p.Drills[j].Age = 0
		}
		projects[i] = p
	}
	d.Projects = projects
	return d
}

func (s *Service) project(tx *store.Tx, id keys.ProjectID, host keys.HostID) (agentlink.Project, error) {
	out := agentlink.Project{ID: id}
	c, err := tx.KeyConfig(id)
	if err != nil {
		return out, err
	}
	out.Validate = c.Validate
	if c.Enabled {
		if out.CustomerKey, err = s.customerKey(tx, c); err != nil {
			return out, err
		}
		if err := s.staged(tx, &out); err != nil {
			return out, err
		}
		if out.Validators, err = s.cfg.Custody.Evidence(tx, c, host); err != nil {
			return out, err
		}
		if out.Drills, err = cmk.DrillOrders(tx, id, host); err != nil {
			return out, err
		}
	}
	out.Users, err = s.users(tx, id)
	return out, err
}

func withoutSecret(k *agentlink.CustomerKey) *agentlink.CustomerKey {
	if k == nil {
		return nil
	}
	out := *k
	out.SecretAccessKey = ""
	return &out
}

// customerKey is a configuration as hosts are told it.
func (s *Service) customerKey(tx *store.Tx, c store.KeyConfig) (*agentlink.CustomerKey, error) {
	role, access, err := cmk.Reach(tx, c)
	if err != nil {
		return nil, err
	}
	defer access.Secret.Wipe()
	kmsEndpoint, stsEndpoint, fips := s.cfg.Custody.Endpoints(cmk.AWSRegion(c.Region))
	policy := s.cfg.Custody.Policy(c)
	out := &agentlink.CustomerKey{
		Generation: c.Generation, RoleARN: role.ARN, ExternalID: role.ExternalID, KeyARN: c.KeyARN, Region: cmk.AWSRegion(c.Region),
		Probe: c.Probe, ProbeSHA256: c.ProbeSHA256, Interval: agentlink.Duration(policy.Interval),
		KMSEndpoint: kmsEndpoint, STSEndpoint: stsEndpoint, FIPS: fips,
		AccessKeyID: access.ID, SecretAccessKey: string(access.Secret.Reveal()),
	}
	if policy.Mode != custody.ModeStop || policy.UnreachableLimit != 0 {
		out.Policy = agentlink.KeyPolicy{
			Mode: policy.Mode, Grace: agentlink.Duration(policy.Grace), UnreachableLimit: agentlink.Duration(policy.UnreachableLimit),
		}
	}
	return out, nil
}

// staged adds what is prepared, kept and to be dropped beside the configuration in force.
func (s *Service) staged(tx *store.Tx, out *agentlink.Project) error {
	st, err := s.cfg.Custody.Staged(tx, out.ID)
	if err != nil {
		return err
	}
	if st.Candidate != nil {
		k, err := s.customerKey(tx, *st.Candidate)
		if err != nil {
			return err
		}
		out.Candidate = &agentlink.Candidate{CustomerKey: *k, Paused: st.Paused}
	}
	for _, c := range st.Retained {
		k, err := s.customerKey(tx, c)
		if err != nil {
			return err
		}
		out.Retained = append(out.Retained, *k)
	}
	for _, d := range st.Drops {
		out.Dropped = append(out.Dropped, agentlink.WrapDrop(d))
	}
	return nil
}

// users gives a project's database users. One that is limited to clusters which do
// not exist (yet) is left out: an empty list would mean all clusters.
func (s *Service) users(tx *store.Tx, id keys.ProjectID) ([]agentlink.DatabaseUser, error) {
	all, err := tx.Users(id)
	if err != nil {
		return nil, err
	}
	var out []agentlink.DatabaseUser
	for _, u := range all {
		if !u.DeleteAfter.IsZero() && !tx.Now().Before(u.DeleteAfter) {
			continue
		}
		x := agentlink.DatabaseUser{Database: u.Database, Username: u.Username, Revision: u.Revision}
		for _, r := range u.Roles {
			x.Roles = append(x.Roles, agentlink.DatabaseRole{Role: r.Role, Database: r.Database})
		}
		for _, sc := range u.Scopes {
			c, err := tx.ClusterNamed(id, sc.Name)
			if errors.Is(err, store.ErrNotFound) || sc.Type != "CLUSTER" {
				continue
			}
			if err != nil {
				return nil, err
			}
			x.Clusters = append(x.Clusters, c.ID)
		}
		if len(u.Scopes) > 0 && len(x.Clusters) == 0 {
			continue
		}
		pw, err := tx.Password(u)
		if err != nil {
			return nil, err
		}
		x.Password = string(pw.Reveal())
		pw.Wipe()
		out = append(out, x)
	}
	return out, nil
}
