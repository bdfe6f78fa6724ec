package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// Known checks what a host remembers before anything is given to it: a host that
// remembers more than the store, or less than it once told of, is frozen. 0 is a host
// that does not tell. HOST_FROZEN.
func (s *Service) Known(ctx context.Context, host keys.HostID, known uint64) error {
	if known == 0 {
		return nil
	}
	var h store.Host
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		h, err = tx.Host(host)
		return err
	}); err != nil {
		return err
	}
	if h.Frozen == "" && known <= h.Revision && known >= h.Enacted {
		return nil
	}
	return s.freeze(ctx, host, known)
}

// freeze marks a host whose memory and the store's differ, once, with an alarm, and gives
// the refusal (key-plane rule 2.4).
func (s *Service) freeze(ctx context.Context, host keys.HostID, reported uint64) error {
	why := ""
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		h, err := tx.Host(host)
		if err != nil {
			return err
		}
		if h.Frozen == "" {
			if h, err = s.freezeIn(tx, h, reported); err != nil {
				return err
			}
		}
		why = h.Frozen
		return nil
	})
	if err != nil {
		return err
	}
	return apierr.Conflict("HOST_FROZEN", "No changes go to this host: %s", why)
}

// freezeIn freezes a host that knows more than the store or less than it once did.
func (s *Service) freezeIn(tx *store.Tx, h store.Host, reported uint64) (store.Host, error) {
	kind := ""
	switch {
	case reported > h.Revision:
		kind = "HOST_AHEAD_OF_STORE"
		h.Frozen = fmt.Sprintf("the host has carried out revision %d, the store remembers %d only: an older copy of the store was restored.", reported, h.Revision)
	case reported < h.Enacted:
		kind = "HOST_WENT_BACK"
		h.Frozen = fmt.Sprintf("the host remembers revision %d, it had carried out %d: an older copy of its directory was restored.", reported, h.Enacted)
	default:
		return h, nil
	}
	h.Reported = max(h.Reported, reported)
	if err := tx.PutHost(h); err != nil {
		return h, err
	}
	e := hostEvent(h, kind, "Changes to host %s are frozen: %s Its databases go on as they are. Look at what it has, then `keywright host unfreeze %s`.", h.Hostname, h.Frozen, h.Hostname)
	e.Data["alarm"], e.Data["reported"], e.Data["remembered"] = "true", fmt.Sprint(reported), fmt.Sprint(h.Revision)
	return h, tx.Append(e)
}

// Unfreeze is a person's decision that the store and the host belong together again. The
// host gets revisions above all that were ever told of, so that both agree on what is
// newest. No wrap is dropped by it, on either side: the host sends those that escrow
// lacks, and what its nodes' files are newer than the store's wish is taken over from the
// host, not undone. host is an id or a name; confirm must be the host's name. It needs
// Organization Owner. HOST_NOT_FOUND, USER_UNAUTHORIZED, CONFIRMATION_REQUIRED,
// HOST_NOT_FROZEN.
func (s *Service) Unfreeze(ctx context.Context, p tenant.Principal, host, confirm string) (out store.Host, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		h, err := hostFor(tx, p, host)
		switch {
		case err != nil:
			return err
		case confirm != h.Hostname:
			return apierr.BadRequest("CONFIRMATION_REQUIRED", "Send {\"confirm\": %q}, the host's name, to let changes go to it again.", h.Hostname).With("confirm")
		case h.Frozen == "":
			return apierr.Conflict("HOST_NOT_FROZEN", "Host %s is not frozen.", h.Hostname).With(h.Hostname)
		}
		why := h.Frozen
		h.Frozen = ""
		if err := tx.PutHost(h); err != nil {
			return err
		}
		revision := max(h.Revision, h.Reported, h.Enacted) + 1
		if err := tx.PutRevision(h.ID, revision, ""); err != nil {
			return err
		}
		adopted, err := s.adopt(tx, p, h)
		if err != nil {
			return err
		}
		e := tenant.Event(p, "HOST_UNFROZEN", store.Project{Org: h.Org}, "Changes go to host %s again. It was frozen because %s", h.Hostname, why)
		e.Host, e.Data["revision"], e.Data["adoptedNodes"] = string(h.ID), fmt.Sprint(revision), strings.Join(adopted, ",")
		if err := tx.Append(e); err != nil {
			return err
		}
		out, err = tx.Host(h.ID)
		return err
	})
	return out, err
}

// hostFor finds a host of the principal's organization by id or name.
func hostFor(tx *store.Tx, p tenant.Principal, named string) (store.Host, error) {
	h, err := tx.Host(keys.HostID(named))
	if errors.Is(err, store.ErrNotFound) {
		h, err = tx.HostNamed(named)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && h.Org != "" && !p.HasOrg(tenant.OrgMember, h.Org) {
		return h, apierr.NotFound("HOST_NOT_FOUND", "There is no host %q.", clip(named)).With(clip(named))
	}
	if err == nil && !p.HasOrg(tenant.OrgOwner, h.Org) {
		return h, tenant.Unauthorized("It needs the role ORG_OWNER in the organization that enrolled the host.")
	}
	return h, err
}

// adopt takes over what the host says of nodes whose files follow a newer wish than the
// store remembers. The store forgot why they are so; undoing it would write them anew and
// destroy their keys.
func (s *Service) adopt(tx *store.Tx, p tenant.Principal, h store.Host) (adopted []string, err error) {
	nodes, err := tx.NodesOfHost(h.ID)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		st, err := tx.NodeStatus(n.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (n.Buried || st.Generation <= n.Generation) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n.Encrypted, n.Generation = st.Encrypted, st.Generation
		if err := tx.PutNode(n); err != nil {
			return nil, err
		}
		adopted = append(adopted, string(n.ID))
		if err := adoptCluster(tx, p, n); err != nil {
			return nil, err
		}
	}
	return adopted, nil
}

// adoptCluster makes a cluster's settings say what its node is.
func adoptCluster(tx *store.Tx, p tenant.Principal, n store.Node) error {
	c, err := tx.Cluster(n.Cluster)
	if err != nil {
		return err
	}
	is := ProviderNone
	if n.Encrypted {
		is = ProviderAWS
	}
	was := c.Settings.EncryptionProvider
	if was == is && c.Converting == "" {
		return nil
	}
	c.Settings.EncryptionProvider, c.Converting = is, ""
	if err := tx.PutCluster(c); err != nil {
		return err
	}
	pr, err := tx.Project(n.Project)
	if err != nil {
		return err
	}
	return tx.Append(clusterEvent(p, "CLUSTER_ADOPTED", pr, c, "Encryption at rest of cluster %s is %s as its host has it; the store remembered %s.", c.Name, is, was))
}
