package rotation

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The states of a plan and of a node's part in it.
const (
	Pending = "PENDING"
	Running = "RUNNING"
	Done    = "DONE"
	Skipped = "SKIPPED" // of a node that went, or that has no key any more
)

// The reasons of a plan.
const (
	OnDemand = "ON_DEMAND"
	Age      = "AGE"
)

// notEncrypted is the code for a cluster without master keys.
const notEncrypted = "CLUSTER_NOT_ENCRYPTED"

// MaxAge is when a master key is rotated by itself.
const MaxAge = 90 * 24 * time.Hour

// Config is what the service needs.
type Config struct {
	Store *store.Store
	// MaxAge is the age at which a master key is rotated by itself; 0 means MaxAge, 90
	// days. CheckEvery is the time between two looks at the ages; 0 means an hour.
	MaxAge, CheckEvery time.Duration
	Log                *slog.Logger
}

// Service plans and follows rotations. It is safe for concurrent use.
type Service struct {
	cfg Config
	st  *store.Store
	log *slog.Logger

	mu   sync.Mutex
	open map[keys.ClusterID]uint64 // clusters to follow, and how often that was asked for
	poke chan struct{}
}

// New makes the service. Plans go on while Run does.
func New(cfg Config) *Service {
	if cfg.MaxAge == 0 {
		cfg.MaxAge = MaxAge
	}
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, st: cfg.Store, log: cfg.Log, open: map[keys.ClusterID]uint64{}, poke: make(chan struct{}, 1)}
}

// View is a cluster with the master keys of its nodes.
type View struct {
	store.Cluster
	Nodes []NodeView
}

// NodeView is a node with its master key.
type NodeView struct {
	store.Node
	// Status is zero until the host has reported.
	Status store.NodeStatus
	// KeyCreated is when the master key in use was made; zero if there is none.
	KeyCreated time.Time
}

// Get gives a cluster with the progress of its newest rotation: GROUP_NOT_FOUND,
// CLUSTER_NOT_FOUND.
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

// Request asks for new master keys of a cluster's nodes. While a rotation of the
// cluster is open, it gives that one: asking twice makes one rotation. It needs
// Project Owner. GROUP_NOT_FOUND, USER_UNAUTHORIZED, CLUSTER_NOT_FOUND,
// CLUSTER_ALREADY_REQUESTED_DELETION, CLUSTER_NOT_ENCRYPTED.
func (s *Service) Request(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string) (out View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		c, err := find(tx, project, name)
		if err != nil {
			return err
		}
		if c.Deleting {
			return apierr.BadRequest("CLUSTER_ALREADY_REQUESTED_DELETION", "The deletion of cluster %s was requested already.", name).With(name)
		}
		if err := s.plan(tx, p, pr, &c, OnDemand); err != nil {
			return err
		}
		out, err = view(tx, c)
		return err
	})
	if err == nil {
		s.follow(out.ID)
	}
	return out, err
}

// RequestAll is Request for every cluster of a project that has a node under a customer
// key. PROJECT_NOT_ENCRYPTED if there is none.
func (s *Service) RequestAll(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out []View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		out = nil
		pr, err := tenant.RequireKeyOwner(tx, p, project)
		if err != nil {
			return err
		}
		all, err := tx.Clusters(project)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Deleting {
				continue
			}
			if err := s.plan(tx, p, pr, &c, OnDemand); apierr.Code(err) == notEncrypted {
				continue
			} else if err != nil {
				return err
			}
			v, err := view(tx, c)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		if len(out) == 0 {
			return apierr.Conflict("PROJECT_NOT_ENCRYPTED", "No cluster of the project has a node under a customer key: there is no master key to rotate.")
		}
		return nil
	})
	for _, v := range out {
		s.follow(v.ID)
	}
	return out, err
}

// plan writes down a new plan for the cluster's nodes under a customer key, unless
// one is open.
func (s *Service) plan(tx *store.Tx, p tenant.Principal, pr store.Project, c *store.Cluster, reason string) error {
	if isOpen(*c) {
		return hurry(tx, p, pr, c, reason)
	}
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return err
	}
	next := store.RotationPlan{Reason: reason, By: p.Name, State: Pending, Requested: tx.Now()}
	for _, n := range nodes {
		if n.Encrypted && !n.Buried {
			next.Nodes = append(next.Nodes, store.NodeRotation{Node: n.ID, State: Pending})
		}
	}
	if len(next.Nodes) == 0 {
		return apierr.Conflict(notEncrypted, "Cluster %s is not encrypted with a customer key: it has no master keys to rotate.", c.Name).With(c.Name)
	}
	c.Rotation = &next
	if err := tx.PutCluster(*c); err != nil {
		return err
	}
	text := "A rotation of the master keys of cluster %s was requested."
	if reason == Age {
		text = "A rotation of the master keys of cluster %s is due: a key is older than allowed."
	}
	e := event(p, "MASTER_KEY_ROTATION_REQUESTED", pr, *c, text, c.Name)
	e.Data["reason"] = reason
	return tx.Append(e)
}

// hurry makes an open plan one on demand when somebody asks for it: it waits for no
// maintenance window any more.
func hurry(tx *store.Tx, p tenant.Principal, pr store.Project, c *store.Cluster, reason string) error {
	if reason != OnDemand || c.Rotation.Reason == OnDemand {
		return nil
	}
	next := *c.Rotation
	next.Reason, next.By = OnDemand, p.Name
	c.Rotation = &next
	if err := tx.PutCluster(*c); err != nil {
		return err
	}
	e := event(p, "MASTER_KEY_ROTATION_REQUESTED", pr, *c, "A rotation of the master keys of cluster %s was requested; it does not wait for the maintenance window.", c.Name)
	e.Data["reason"] = reason
	return tx.Append(e)
}

func isOpen(c store.Cluster) bool { return c.Rotation != nil && c.Rotation.State != Done }

func event(p tenant.Principal, kind string, pr store.Project, c store.Cluster, format string, args ...any) audit.Event {
	e := tenant.Event(p, kind, pr, format, args...)
	e.Cluster = string(c.ID)
	e.Data["clusterName"] = c.Name
	return e
}

func find(tx *store.Tx, project keys.ProjectID, name string) (store.Cluster, error) {
	c, err := tx.ClusterNamed(project, name)
	if errors.Is(err, store.ErrNotFound) {
		return c, apierr.NotFound("CLUSTER_NOT_FOUND", "No cluster named %s exists in group %s.", name, project).With(name, string(project))
	}
	return c, err
}

func view(tx *store.Tx, c store.Cluster) (View, error) {
	out := View{Cluster: c}
	nodes, err := tx.NodesOfCluster(c.ID)
	if err != nil {
		return out, err
	}
	for _, n := range nodes {
		st, err := status(tx, n.ID)
		if err != nil {
			return out, err
		}
		held, err := heldBy(tx, n.ID)
		if err != nil {
			return out, err
		}
		out.Nodes = append(out.Nodes, NodeView{Node: n, Status: st, KeyCreated: held[st.MasterKey].Created})
	}
	return out, nil
}

// status is the last report about a node; zero before the first.
func status(tx *store.Tx, id keys.NodeID) (store.NodeStatus, error) {
	st, err := tx.NodeStatus(id)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return st, err
}

// heldBy gives a node's master keys in escrow that are not destroyed.
func heldBy(tx *store.Tx, id keys.NodeID) (map[keys.KeyID]store.EscrowedWrap, error) {
	wraps, err := tx.EscrowOfNode(id)
	if err != nil {
		return nil, err
	}
	out := map[keys.KeyID]store.EscrowedWrap{}
	for _, w := range wraps {
		if w.Purpose == keys.PurposeMasterKey && w.State.Readable() {
			out[w.Key] = w
		}
	}
	return out, nil
}
