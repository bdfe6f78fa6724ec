package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The states of a cluster.
const (
	Creating  = "CREATING"
	Idle      = "IDLE"
	Updating  = "UPDATING"
	Repairing = "REPAIRING"
	Deleting  = "DELETING"
)

// The values of ClusterSettings.EncryptionProvider.
const (
	ProviderNone = "NONE"
	ProviderAWS  = "AWS"
)

// Custody takes in what hosts say about keys; cmk.Service is one.
type Custody interface {
	// Report is called in the transaction of a host's status.
	Report(tx *store.Tx, host keys.HostID, states []agentlink.CustodyStatus) error
	// Policy, Evidence and Endpoints go into every host's desired state. Evidence is
	// what all validators but the host itself say about a project's key now; Told gives
	// the part of it whose change is news.
	Policy(c store.KeyConfig) custody.Policy
	Evidence(tx *store.Tx, c store.KeyConfig, host keys.HostID) ([]custody.Evidence, error)
	Told(all []custody.Evidence) []custody.Evidence
	Endpoints(region string) (kmsEndpoint, stsEndpoint string, fips bool)
	// Staged is what is prepared, kept and to be dropped beside the configuration in force;
	// Unwanted tells whether a wrap was ordered to be dropped.
	Staged(tx *store.Tx, project keys.ProjectID) (cmk.Staged, error)
	Unwanted(tx *store.Tx, w agentlink.EscrowedWrap) (bool, error)
}

// Config is what the service needs.
type Config struct {
	Store   *store.Store
	Custody Custody
	// LinkCA is the fingerprint of the agent link's authority, for enrolment tokens.
	LinkCA string
	// ShowCreating and ShowDeleting are how long these states last at least, so that
	// clients that look once after their call see them; 0 means 1 s and 2 s.
	ShowCreating, ShowDeleting time.Duration
	// AuditEvery is how often a host is asked to prove that its audit chain is the known
	// one; 0 means ten minutes.
	AuditEvery time.Duration
	Log        *slog.Logger
}

// Service manages clusters and hosts. It is safe for concurrent use.
type Service struct {
	cfg Config
	st  *store.Store
	log *slog.Logger

	mu   sync.Mutex
	due  map[keys.ClusterID]time.Time
	poke chan struct{}
	// asked is when a host was last asked for its audit chain.
	asked map[keys.HostID]time.Time
}

// New makes the service. Its reconciler runs while Run does.
func New(cfg Config) *Service {
	if cfg.AuditEvery == 0 {
		cfg.AuditEvery = auditEvery
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ShowCreating == 0 {
		cfg.ShowCreating = time.Second
	}
	if cfg.ShowDeleting == 0 {
		cfg.ShowDeleting = 2 * time.Second
	}
	return &Service{cfg: cfg, st: cfg.Store, log: cfg.Log, due: map[keys.ClusterID]time.Time{}, poke: make(chan struct{}, 1), asked: map[keys.HostID]time.Time{}}
}

// View is a cluster as people see it.
type View struct {
	store.Cluster
	Nodes []NodeView
	// ConnectionString is empty until the cluster was usable for the first time, and
	// while it is being deleted.
	ConnectionString string
}

// NodeView is a node with what its host last said.
type NodeView struct {
	store.Node
	// Status is zero until the host has reported.
	Status store.NodeStatus
}

func view(tx *store.Tx, c store.Cluster) (View, error) {
	out := View{Cluster: c}
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return out, err
	}
	for _, n := range nodes {
		st, err := tx.NodeStatus(n.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return out, err
		}
		out.Nodes = append(out.Nodes, NodeView{Node: n, Status: st})
		if st.Port > 0 && !c.Ready.IsZero() && !c.Deleting {
			out.ConnectionString = fmt.Sprintf("mongodb://127.0.0.1:%d/?ssl=true&authSource=admin&replicaSet=%s", st.Port, c.ReplicaSet)
		}
	}
	return out, nil
}

// List lists a project's clusters, oldest first: GROUP_NOT_FOUND.
func (s *Service) List(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out []View, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		cs, err := tx.Clusters(project)
		if err != nil {
			return err
		}
		for _, c := range cs {
			v, err := view(tx, c)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

// Get gives a cluster: GROUP_NOT_FOUND, CLUSTER_NOT_FOUND.
func (s *Service) Get(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string) (out View, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		c, err := find(tx, project, name)
		if err != nil {
			return err
		}
		out, err = view(tx, c)
		return err
	})
	return out, err
}

func find(tx *store.Tx, project keys.ProjectID, name string) (store.Cluster, error) {
	c, err := tx.ClusterNamed(project, name)
	if errors.Is(err, store.ErrNotFound) {
		return c, apierr.NotFound("CLUSTER_NOT_FOUND", "No cluster named %s exists in group %s.", name, project).With(name, string(project))
	}
	return c, err
}

// Addresses are the addresses of a cluster's hosts.
type Addresses struct {
	Cluster string
	// Outbound are those from which the hosts call AWS, as far as they know.
	Outbound []string
}

// Addresses lists the addresses by cluster: GROUP_NOT_FOUND.
func (s *Service) Addresses(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out []Addresses, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		cs, err := tx.Clusters(project)
		if err != nil {
			return err
		}
		for _, c := range cs {
			a := Addresses{Cluster: c.Name}
			nodes, err := tx.NodesOfCluster(c.ID)
			if err != nil {
				return err
			}
			for _, n := range nodes {
				h, err := tx.Host(n.Host)
				if err != nil {
					return err
				}
				if !n.Buried {
					a.Outbound = append(a.Outbound, h.Egress...)
				}
			}
			slices.Sort(a.Outbound)
			a.Outbound = slices.Compact(a.Outbound)
			out = append(out, a)
		}
		return nil
	})
	return out, err
}
