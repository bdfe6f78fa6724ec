package inventory

import (
	"context"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// silentAfter is after how long without a report a host counts as one that cannot be
// asked; hosts report every ten seconds.
const silentAfter = 30 * time.Second

// Service answers about keys. It is safe for concurrent use.
type Service struct{ st *store.Store }

// New makes the service.
func New(st *store.Store) *Service { return &Service{st: st} }

// Entry is one customer key with everything that needs it.
type Entry struct {
	Facts
	Verdict Verdict
	// Reasons are those of the verdict, the weightiest first.
	Reasons []Reason
	// OnlyRollback tells that nothing but the possibility of a rollback needs the key.
	OnlyRollback bool
}

// Counts says how much needs a key.
type Counts struct {
	Projects, Clusters, Nodes, Wraps, Hosts, Snapshots int
}

// Counts counts what needs the key. Projects that only had it before are not among them.
func (e Entry) Counts() Counts {
	projects, clusters, nodes, hosts := map[keys.ProjectID]bool{}, map[keys.ClusterID]bool{}, map[keys.NodeID]bool{}, map[keys.HostID]bool{}
	for _, c := range e.Configurations {
		if c.Use != Past {
			projects[c.Project] = true
		}
	}
	for _, w := range e.Wraps {
		projects[w.Project], clusters[w.Cluster], nodes[w.Node], hosts[w.Host] = true, true, true, true
	}
	for _, h := range e.Hosts {
		if h.Holds > 0 {
			hosts[h.ID] = true
		}
	}
	return Counts{Projects: len(projects), Clusters: len(clusters), Nodes: len(nodes), Wraps: len(e.Wraps), Hosts: len(hosts), Snapshots: len(e.Snapshots)}
}

func entry(f Facts) Entry {
	e := Entry{Facts: f}
	e.Verdict, e.Reasons = Judge(f)
	e.OnlyRollback = OnlyRollback(e.Verdict, e.Reasons)
	return e
}

// List gives every customer key that a project of the organization has or had, in the
// order of the ARNs, of the projects that the caller may read. ORG_NOT_FOUND.
func (s *Service) List(ctx context.Context, p tenant.Principal, org keys.OrgID) (out []Entry, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.RequireOrg(tx, p, tenant.OrgMember, org); err != nil {
			return err
		}
		seen, err := look(tx, p, silentAfter)
		if err != nil {
			return err
		}
		for _, arn := range seen.keysOf(org) {
			out = append(out, entry(seen.facts(arn)))
		}
		return nil
	})
	return out, err
}

// Get answers about one key, known or not. What other organizations have to do with it
// is not told, but it keeps the answer from being MAY_DELETE. ORG_NOT_FOUND,
// INVALID_ATTRIBUTE.
func (s *Service) Get(ctx context.Context, p tenant.Principal, org keys.OrgID, arn string) (out Entry, err error) {
	if err := CheckARN(arn); err != nil {
		return out, err
	}
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.RequireOrg(tx, p, tenant.OrgMember, org); err != nil {
			return err
		}
		seen, err := look(tx, p, silentAfter)
		if err == nil {
			out = entry(seen.facts(arn))
		}
		return err
	})
	return out, err
}

// CheckARN refuses what is not the ARN of a KMS key: INVALID_ATTRIBUTE.
func CheckARN(arn string) error {
	bad := func(why string) error {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute keyArn specified: %s", why).With("keyArn")
	}
	if keys.IsAlias(arn) {
		return bad("an alias can be pointed at another key; give the key's own ARN (aws kms describe-key --key-id ALIAS).")
	}
	a, err := keys.ParseARN(arn)
	if err != nil || a.Service != "kms" || a.Region == "" || a.Account == "" || !strings.HasPrefix(a.Resource, "key/") || a.Resource == "key/" || len(arn) > 2048 {
		return bad("the full ARN of a KMS key is needed (arn:aws:kms:REGION:ACCOUNT:key/ID).")
	}
	return nil
}
