package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/store"
)

// Config is what the service needs.
type Config struct {
	Store *store.Store
	// Hostname is the control plane's.
	Hostname string
	// Region is the one whose STS the control plane asks, as AWS names it.
	Region string
	// Addresses gives the addresses from which the control plane calls AWS, in canonical
	// form (agentlink.NormalAddresses). Nil: they are not known.
	Addresses func(context.Context) []string
	// Ask makes all validators of a project run, in a transaction; cmk.Ask is one.
	Ask func(*store.Tx, keys.ProjectID) error
	Log *slog.Logger
}

// Service keeps the addresses. It is safe for concurrent use.
type Service struct {
	cfg Config
	st  *store.Store
	log *slog.Logger
}

// New makes the service. Its reconciler runs while Run does.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addresses == nil {
		cfg.Addresses = func(context.Context) []string { return nil }
	}
	if cfg.Ask == nil {
		cfg.Ask = func(*store.Tx, keys.ProjectID) error { return nil }
	}
	return &Service{cfg: cfg, st: cfg.Store, log: cfg.Log}
}

// ControlPlane gives the addresses from which the control plane calls AWS, and the
// Region that it calls by default. They are no secret: customers need them before they
// have an account.
func (s *Service) ControlPlane(ctx context.Context) (region string, addresses []string, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		all, err := tx.EgressOf("")
		if err == nil && len(all) > 0 {
			addresses = all[len(all)-1].Addresses
		}
		return err
	})
	return s.cfg.Region, addresses, err
}

// Machine is one that uses a project's key.
type Machine struct {
	// Host is "" for the control plane.
	Host     keys.HostID
	Hostname string
	// Addresses are those from which it calls AWS; empty if it does not know them.
	Addresses []string
	// Since is when the addresses began; zero if nobody knows.
	Since time.Time
	// Verdict is its own on the key, "" while it has none; Reason is why.
	Verdict custody.Verdict
	Reason  kms.Reason
	// Denied is since when AWS refuses it although others can use the key; zero while not.
	Denied time.Time
	// History are the periods before, newest first.
	History []store.Egress
}

// View is from where a project's key is used.
type View struct {
	Project keys.ProjectID
	// RoleARN and KeyARN are those in force, "" while key management is off.
	RoleARN, KeyARN string
	// Machines has the control plane first.
	Machines []Machine
	// Addresses are those of all machines, sorted.
	Addresses  []string
	Statements Statements
	// Changes are the newest first; those without Confirmed wait for the customer.
	Changes []store.AddressChange
}

// Access tells from where a project's key is used, what the policies have to allow, and
// who is refused: GROUP_NOT_FOUND.
func (s *Service) Access(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out View, err error) {
	err = s.st.View(ctx, func(tx *store.Tx) error {
		if _, err := tenant.Require(tx, p, tenant.GroupReadOnly, project); err != nil {
			return err
		}
		out, err = s.view(tx, project)
		return err
	})
	return out, err
}

// Acknowledge is a person's word that the changed addresses are taken care of; nothing
// waits afterwards. It needs Project Owner. GROUP_NOT_FOUND, USER_UNAUTHORIZED.
func (s *Service) Acknowledge(ctx context.Context, p tenant.Principal, project keys.ProjectID) (out View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupOwner, project)
		if err != nil {
			return err
		}
		n, err := tx.ProjectNetwork(project)
		if err != nil {
			return err
		}
		told := n
		n.Changes = slices.Clone(n.Changes)
		waited := false
		for i, c := range n.Changes {
			if !c.Confirmed.IsZero() {
				continue
			}
			waited = true
			n.Changes[i].Confirmed, n.Changes[i].By = tx.Now(), "person"
			e := tenant.Event(p, "KMS_ADDRESSES_ACKNOWLEDGED", pr, "The new addresses %s of %s were acknowledged.", list(c.New), nameOf(c.Holder, c.Hostname))
			e.Host = string(c.Holder)
			if err := tx.Append(e); err != nil {
				return err
			}
		}
		if waited {
			if err := errors.Join(tx.PutProjectNetwork(n), alert(tx, told, n)); err != nil {
				return err
			}
		}
		out, err = s.view(tx, project)
		return err
	})
	return out, err
}

// view reads what is true now; what was told adds the changes.
func (s *Service) view(tx *store.Tx, project keys.ProjectID) (View, error) {
	out := View{Project: project}
	c, err := tx.KeyConfig(project)
	if err != nil {
		return out, err
	}
	if c.Enabled {
		role, err := tx.Role(project, c.Role)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return out, err
		}
		out.RoleARN, out.KeyARN = role.ARN, c.KeyARN
	}
	periods, err := periods(tx)
	if err != nil {
		return out, err
	}
	nodes, err := tx.NodesOfProject(project)
	if err != nil {
		return out, err
	}
	validators, err := validatorsOf(tx, c)
	if err != nil {
		return out, err
	}
	told, err := tx.ProjectNetwork(project)
	if err != nil {
		return out, err
	}
	lists := [][]string{}
	for _, h := range holders(nodes) {
		m := Machine{Host: h, Hostname: s.cfg.Hostname, Verdict: validators[h].verdict, Reason: validators[h].reason, Denied: told.Denied[h]}
		if h != "" {
			host, err := tx.Host(h)
			if err != nil {
				return out, err
			}
			m.Hostname = host.Hostname
		}
		if all := periods[h]; len(all) > 0 {
			now := all[len(all)-1]
			m.Addresses, m.Since = now.Addresses, now.Since
			m.History = slices.Clone(all[:len(all)-1])
			slices.Reverse(m.History)
		}
		lists = append(lists, m.Addresses)
		out.Machines = append(out.Machines, m)
	}
	out.Addresses = union(lists...)
	out.Changes = slices.Clone(told.Changes)
	slices.Reverse(out.Changes)
	if c.Enabled && out.RoleARN != "" {
		out.Statements, err = statements(out.RoleARN, out.KeyARN, out.Addresses)
	}
	return out, err
}

// periods gives all holders' periods, oldest first.
func periods(tx *store.Tx) (map[keys.HostID][]store.Egress, error) {
	all, err := tx.Egress()
	out := map[keys.HostID][]store.Egress{}
	for _, e := range all {
		out[e.Holder] = append(out[e.Holder], e)
	}
	return out, err
}

// holders lists who uses the key of a project with these nodes: the control plane first.
func holders(nodes []store.Node) []keys.HostID {
	hosts := map[keys.HostID]bool{}
	for _, n := range nodes {
		if !n.Buried {
			hosts[n.Host] = true
		}
	}
	return append([]keys.HostID{""}, slices.Sorted(maps.Keys(hosts))...)
}

// validatorsOf gives what the validators of the present configuration said last.
func validatorsOf(tx *store.Tx, c store.KeyConfig) (map[keys.HostID]validator, error) {
	out := map[keys.HostID]validator{}
	if !c.Enabled {
		return out, nil
	}
	reports, err := tx.Custody(c.Project)
	if err != nil {
		return nil, err
	}
	for _, r := range reports {
		var st custody.State
		if err := json.Unmarshal(r.State, &st); err != nil {
			return nil, fmt.Errorf("read custody state of %q: %w", r.Validator, err)
		}
		if st.Generation != c.Generation {
			continue
		}
		out[keys.HostID(r.Validator)] = validator{
			verdict: st.Verdict, reason: st.Reason, outcome: st.LastOutcome, lastRun: st.LastRun, finished: r.Validate,
		}
	}
	return out, nil
}
