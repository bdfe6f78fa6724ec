package access

import (
	"context"
	"slices"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/policydoc"
	"github.com/keywright/keywright/internal/store"
)

// HostPolicy is the identity policy that a host's AWS principal needs now.
type HostPolicy struct {
	Host     keys.HostID
	Hostname string
	// Roles are the ARNs of exactly the roles that the host assumes, sorted: those of the
	// projects with nodes on it, also of a change that is prepared there or kept for a
	// rollback.
	Roles []string
	// Document is the policy; nil while the host needs no role, since a policy without a
	// resource is none.
	Document *policydoc.Document
}

// HostPolicy tells which identity policy a host, named by id or host name, needs
// (key-plane rule 5.1). It changes as projects come to the host and leave it. It needs
// Organization Owner of the host's organization; of a host of the platform only the roles
// of one's own organization are told. USER_UNAUTHORIZED, HOST_NOT_FOUND.
func (s *Service) HostPolicy(ctx context.Context, p tenant.Principal, host string) (out HostPolicy, err error) {
	if !p.HasOrg(tenant.OrgOwner, p.Org) {
		return out, tenant.Unauthorized("A host's policy needs the role ORG_OWNER.")
	}
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Hosts()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(h store.Host) bool {
			return (string(h.ID) == host || h.Hostname == host) && (h.Org == "" || p.HasOrg(tenant.OrgOwner, h.Org))
		})
		if i < 0 {
			return apierr.NotFound("HOST_NOT_FOUND", "There is no host %q.", clip(host)).With(clip(host))
		}
		out.Host, out.Hostname = all[i].ID, all[i].Hostname
		out.Roles, err = rolesOf(tx, p, all[i].ID)
		return err
	})
	if err == nil && len(out.Roles) > 0 {
		out.Document = &policydoc.Document{Version: "2012-10-17", Statement: []policydoc.Statement{{
			Sid: "KeywrightHost", Effect: "Allow", Action: policydoc.Values{"sts:AssumeRole"}, Resource: out.Roles,
		}}}
	}
	return out, err
}

// rolesOf lists the ARNs of the roles that a host assumes, of the projects whose
// organization the principal owns.
func rolesOf(tx *store.Tx, p tenant.Principal, host keys.HostID) ([]string, error) {
	nodes, err := tx.NodesOfHost(host)
	if err != nil {
		return nil, err
	}
	projects := map[keys.ProjectID]bool{}
	for _, n := range nodes {
		projects[n.Project] = true // a node that is being removed may still need its key
	}
	out := []string{}
	for project := range projects {
		pr, err := tx.Project(project)
		if err != nil {
			return nil, err
		}
		if !p.HasOrg(tenant.OrgOwner, pr.Org) {
			continue
		}
		registered, err := tx.Roles(project)
		if err != nil {
			return nil, err
		}
		for _, r := range registered {
			role, err := withUsages(tx, r)
			if err != nil {
				return nil, err
			}
			if role.bound() != "" && r.ARN != "" {
				out = append(out, r.ARN)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
