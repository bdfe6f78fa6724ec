package escrow_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/bundle"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/pki"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/testkit/controltest"
)

func TestExportIsTheOrganizationsOwnSignedAndRecorded(t *testing.T) {
	w := controltest.New(t)
	p := w.Project("p")
	w.Enable(p.ID)
	host := w.Host("h")
	c, err := w.Cluster.Create(t.Context(), w.Owner, p.ID, "c", store.ClusterSettings{EncryptionProvider: "AWS", Specs: []store.ReplicationSpec{{
		Regions: []store.RegionConfig{{ProviderName: "AWS", RegionName: "US_EAST_1", Electable: &store.HardwareSpec{InstanceSize: "M10", NodeCount: 3}}},
	}}})
	w.Must(err)
	mine := agentlink.EscrowedWrap{
		Node: c.Nodes[0].ID, Project: p.ID, Cluster: c.ID, Key: keys.NewKeyID(), Purpose: keys.PurposeMasterKey, State: keys.StateActive, Generation: 1, Revision: 1,
		Wrapped: []byte("wrapped"), Created: time.Now(), Meta: json.RawMessage(`{"type":"SymmetricKey"}`),
	}
	w.Must(w.Cluster.Escrow(t.Context(), host, []agentlink.EscrowedWrap{mine}))
	// A wrap of a project that is not the organization's.
	w.Must(w.Store.Tx(t.Context(), func(tx *store.Tx) error {
		return tx.PutEscrow(store.EscrowedWrap{Key: keys.NewKeyID(), Generation: 1, Revision: 1, Node: "x", Host: host, Project: keys.ProjectID(keys.NewID(time.Now())), Wrapped: []byte("another's")})
	}))
	cert, key, err := pki.NewAuthority(pki.KindLink, w.Store.Deployment(), time.Now())
	w.Must(err)
	link, err := pki.LoadAuthority(pki.KindLink, cert, key)
	w.Must(err)
	s := escrow.New(w.Store, link)

	for _, c := range []struct {
		who  tenant.Principal
		org  keys.OrgID
		code string
	}{
		{w.Key([]tenant.Role{tenant.OrgReadOnly}, ""), w.Org, "USER_UNAUTHORIZED"},
		{w.Owner, keys.OrgID(keys.NewID(time.Now())), "ORG_NOT_FOUND"},
	} {
		if b, err := s.Export(t.Context(), c.who, c.org); apierr.Code(err) != c.code || len(b.Payload) > 0 {
			t.Errorf("%s: %v", c.code, err)
		}
	}
	b, err := s.Export(t.Context(), w.Owner, w.Org)
	w.Must(err)
	raw, err := json.Marshal(b)
	w.Must(err)
	got, err := bundle.Open(raw, link.CertificatePEM())
	w.Must(err)
	if len(got.Wraps) != 1 || got.Wraps[0].Key != mine.Key || got.Wraps[0].Host != host || string(got.Wraps[0].Wrapped) != "wrapped" || len(got.Wraps[0].Meta) == 0 || got.Deployment != w.Store.Deployment() {
		t.Errorf("exported %+v", got)
	}
	events, _, err := w.Tenant.OrgEvents(t.Context(), w.Owner, w.Org, store.EventFilter{Types: []string{"KEYS_EXPORTED"}})
	if err != nil || len(events) != 1 || events[0].Data["wraps"] != "1" {
		t.Errorf("recorded %+v, %v", events, err)
	}
	w.Verify()
}
