package escrow

import (
	"context"
	"errors"
	"fmt"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
)

// Service exports wrapped keys. It is safe for concurrent use.
type Service struct {
	st   *store.Store
	link *pki.Authority
}

// New makes the service; link is the authority of the agent link, which certifies what
// signs the bundles.
func New(st *store.Store, link *pki.Authority) *Service { return &Service{st: st, link: link} }

// Export makes a signed bundle of every wrap of the organization's projects, destroyed
// ones without ciphertext included. It needs Organization Owner, and is recorded before
// anything leaves. ORG_NOT_FOUND, USER_UNAUTHORIZED.
func (s *Service) Export(ctx context.Context, p tenant.Principal, org keys.OrgID) (bundle.Bundle, error) {
	payload := bundle.Payload{Deployment: s.st.Deployment(), Wraps: []bundle.Wrap{}}
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tenant.RequireOrg(tx, p, tenant.OrgOwner, org); err != nil {
			return err
		}
		payload.Created = tx.Now()
		wraps, err := s.wraps(tx, org)
		if err != nil {
			return err
		}
		payload.Wraps = wraps
		e := tenant.Event(p, "KEYS_EXPORTED", store.Project{Org: org}, "The wrapped keys were exported (%d, ciphertext only).", len(wraps))
		e.Data["wraps"] = fmt.Sprint(len(wraps))
		return tx.Append(e)
	})
	if err != nil {
		return bundle.Bundle{}, err
	}
	return bundle.Sign(payload, s.link, s.st.Now())
}

// HeadSigner is the common name of a certificate that signs heads of the control plane's
// audit chain.
const HeadSigner = "keywright audit head"

// Heads gives the end of the control plane's audit chain, signed, and the newest ends of
// the chains of the organization's hosts (and the platform's) as those have signed them.
// It needs Organization Owner. ORG_NOT_FOUND, USER_UNAUTHORIZED.
func (s *Service) Heads(ctx context.Context, p tenant.Principal, org keys.OrgID) (audit.Heads, error) {
	out := audit.Heads{Format: audit.HeadFormat, Version: audit.HeadVersion}
	own := audit.SignedHead{Deployment: string(s.st.Deployment()), Chain: audit.ControlPlane}
	err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		if _, err := tenant.RequireOrg(tx, p, tenant.OrgOwner, org); err != nil {
			return err
		}
		if own.Head, err = tx.AuditHead(); err != nil {
			return err
		}
		hosts, err := tx.Hosts()
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Org != "" && h.Org != org {
				continue
			}
			known, err := tx.HostHeads(h.ID)
			if err != nil {
				return err
			}
			if len(known) == 0 {
				continue
			}
			hash, err := audit.ParseHash(known[0].Hash)
			if err != nil {
				continue
			}
			out.Heads = append(out.Heads, audit.SignedHead{
				Deployment: own.Deployment, Chain: audit.HostChain(string(h.ID)), Head: audit.Head{Seq: known[0].Seq, Hash: hash},
				Time: known[0].Signed, Certificate: known[0].Certificate, Signature: known[0].Signature,
			})
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	signer, cert, err := s.link.Signer(HeadSigner, s.st.Now())
	if err != nil {
		return out, fmt.Errorf("sign audit head: %w", err)
	}
	if own, err = own.Sign(signer, s.st.Now()); err != nil {
		return out, err
	}
	own.Certificate = string(cert)
	out.Heads = append([]audit.SignedHead{own}, out.Heads...)
	return out, nil
}

func (s *Service) wraps(tx *store.Tx, org keys.OrgID) ([]bundle.Wrap, error) {
	all, err := tx.Escrow()
	if err != nil {
		return nil, err
	}
	out, mine := []bundle.Wrap{}, map[keys.ProjectID]bool{}
	for _, w := range all {
		belongs, known := mine[w.Project]
		if !known {
			pr, err := tx.Project(w.Project)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
			belongs = err == nil && pr.Org == org
			mine[w.Project] = belongs
		}
		if !belongs {
			continue
		}
		out = append(out, bundle.Describe(s.st.Deployment(), w.Host, agentlink.EscrowedWrap{
			Node: w.Node, Project: w.Project, Cluster: w.Cluster, Key: w.Key, Purpose: w.Purpose, State: w.State, Generation: w.Generation,
			Revision: w.Revision, Wrapped: w.Wrapped, Created: w.Created, Activated: w.Activated, Meta: w.Meta,
		}))
	}
	return out, nil
}
