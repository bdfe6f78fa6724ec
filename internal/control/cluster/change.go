package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

const maxClusters = 25

// Patch changes what is not nil.
type Patch struct {
	ClusterType               *string
	EncryptionProvider        *string
	Specs                     *[]store.ReplicationSpec
	BackupEnabled             *bool
	PITEnabled                *bool
	MongoDBMajorVersion       *string
	VersionReleaseSystem      *string
	Paused                    *bool
	TerminationProtection     *bool
	RootCertType              *string
	BIConnectorEnabled        *bool
	BIConnectorReadPreference *string
	Advanced                  *store.AdvancedConfiguration
	ConfigServerManagement    *string
	ReplicaSetScaling         *string
	DiskWarmingMode           *string
	SelfManagedSharding       *bool
	RedactClientLogData       *bool
	Labels                    *[]store.Tag
	Tags                      *[]store.Tag
	// ProcessArgs sets the arguments that it names; null removes one.
	ProcessArgs map[string]any
}

// Apply gives the settings with the patch in them.
func (p Patch) Apply(s store.ClusterSettings) store.ClusterSettings {
	set(&s.ClusterType, p.ClusterType)
	set(&s.EncryptionProvider, p.EncryptionProvider)
	set(&s.Specs, p.Specs)
	set(&s.BackupEnabled, p.BackupEnabled)
	set(&s.PITEnabled, p.PITEnabled)
	set(&s.MongoDBMajorVersion, p.MongoDBMajorVersion)
	set(&s.VersionReleaseSystem, p.VersionReleaseSystem)
	set(&s.Paused, p.Paused)
	set(&s.TerminationProtection, p.TerminationProtection)
	set(&s.RootCertType, p.RootCertType)
	set(&s.BIConnectorEnabled, p.BIConnectorEnabled)
	set(&s.BIConnectorReadPreference, p.BIConnectorReadPreference)
	set(&s.Advanced, p.Advanced)
	set(&s.ConfigServerManagementMode, p.ConfigServerManagement)
	set(&s.ReplicaSetScalingStrategy, p.ReplicaSetScaling)
	set(&s.DiskWarmingMode, p.DiskWarmingMode)
	set(&s.GlobalClusterSelfManagedSharding, p.SelfManagedSharding)
	set(&s.RedactClientLogData, p.RedactClientLogData)
	set(&s.Labels, p.Labels)
	set(&s.Tags, p.Tags)
	if len(p.ProcessArgs) > 0 {
		merged := map[string]any{}
		for k, v := range s.ProcessArgs {
			merged[k] = v
		}
		for k, v := range p.ProcessArgs {
			if v == nil {
				delete(merged, k)
			} else {
				merged[k] = v
			}
		}
		s.ProcessArgs = merged
	}
	return s
}

func set[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

// onlyPaused tells whether the patch speaks of pausing and nothing else.
func (p Patch) onlyPaused() bool {
	p.Paused = nil
	return reflect.ValueOf(p).IsZero()
}

// Create writes down a new cluster; it is CREATING until its node can be used. What
// settings leave out gets defaults. Codes: GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// CLUSTER_NAME_INVALID, DUPLICATE_CLUSTER_NAME, DUPLICATE_CLUSTER_NAME_PREFIX,
// INVALID_ATTRIBUTE, INVALID_ENUM_VALUE, MISSING_ATTRIBUTE, FEATURE_UNSUPPORTED,
// INSUFFICIENT_INSTANCE_SIZE, CANNOT_USE_ENCRYPTION_AT_REST_TENANT,
// ENCRYPTION_AT_REST_NOT_ENABLED, ENCRYPTION_AT_REST_SETTINGS_INVALID,
// ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED, NO_CAPACITY.
func (s *Service) Create(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string, settings store.ClusterSettings) (out View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupOwner, project)
		if err != nil {
			return err
		}
		settings = withDefaults(settings, nil, func() string { return keys.NewID(tx.Now()) })
		if err := checkName(name); err != nil {
			return err
		}
		if err := check(settings, false, true); err != nil {
			return err
		}
		note := ""
		if settings.EncryptionProvider != ProviderNone {
			if _, err := tenant.RequireKeyOwner(tx, p, project); err != nil {
				return err
			}
			if note, err = requireKey(tx, project); err != nil {
				return err
			}
		}
		if err := nameFree(tx, project, name); err != nil {
			return err
		}
		host, err := place(tx, pr.Org)
		if err != nil {
			return err
		}
		now := tx.Now()
		c := store.Cluster{
			ID: keys.ClusterID(keys.NewID(now)), Project: project, Name: name, Created: now, ReplicaSet: replicaSetName(),
			Settings: settings, Generation: 1, State: Creating, StateSince: now,
		}
		if err := tx.AddCluster(c); err != nil {
			return err
		}
		n := store.Node{
			ID: keys.NodeID(keys.NewID(now)), Cluster: c.ID, Project: project, Host: host.ID,
			Encrypted: settings.EncryptionProvider == ProviderAWS, Run: !settings.Paused, Generation: 1,
		}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		e := clusterEvent(p, "CLUSTER_CREATED", pr, c, "Cluster %s is being created with encryption at rest %s. %s%s", name, settings.EncryptionProvider, oneNode(settings), note)
		if err := tx.Append(e); err != nil {
			return err
		}
		out, err = view(tx, c)
		return err
	})
	return out, err
}

// oneNode says what runs for a node count, as long as replica sets are to come.
func oneNode(s store.ClusterSettings) string {
	return fmt.Sprintf("A node count of %d is stored; one data-bearing node runs until replica sets come.", electable(s))
}

func nameFree(tx *store.Tx, project keys.ProjectID, name string) error {
	have, err := tx.Clusters(project)
	if err != nil {
		return err
	}
	for _, c := range have {
		if c.Name == name {
			return apierr.BadRequest("DUPLICATE_CLUSTER_NAME", "A cluster or serverless instance named %s is already present in group %s.", name, project).With("cluster or serverless instance", name, string(project))
		}
		if store.NamePrefix(c.Name) == store.NamePrefix(name) {
			return apierr.BadRequest("DUPLICATE_CLUSTER_NAME_PREFIX", "The cluster %s has the same first 23 characters as %s; they must differ.", c.Name, name).With(name)
		}
	}
	if len(have) >= maxClusters {
		return apierr.Conflict("MAX_CLUSTERS_REACHED", "The project has %d clusters; that is the most.", len(have))
	}
	return nil
}

// place chooses the host for a node: among the organization's (and the platform's)
// that may be changed, one that was heard of lately, with the fewest nodes.
func place(tx *store.Tx, org keys.OrgID) (store.Host, error) {
	hosts, err := tx.Hosts()
	if err != nil {
		return store.Host{}, err
	}
	hosts = slices.DeleteFunc(hosts, func(h store.Host) bool { return h.Org != "" && h.Org != org })
	type seat struct {
		host  store.Host
		quiet bool
		nodes int
	}
	var seats []seat
	for _, h := range hosts {
		if h.Frozen != "" {
			continue
		}
		nodes, err := tx.NodesOfHost(h.ID)
		if err != nil {
			return store.Host{}, err
		}
		seats = append(seats, seat{host: h, quiet: tx.Now().Sub(h.LastSeen) > time.Minute, nodes: len(nodes)})
	}
	if len(seats) == 0 {
		return store.Host{}, apierr.Conflict("NO_CAPACITY", "There is no host to put the cluster on: enrol one (POST /api/keywright/v1/hosts/enrolmentTokens, then `keywright agent` there)%s.", frozenHint(len(hosts)))
	}
	slices.SortStableFunc(seats, func(a, b seat) int {
		if a.quiet != b.quiet {
			if a.quiet {
				return 1
			}
			return -1
		}
		return a.nodes - b.nodes
	})
	return seats[0].host, nil
}

func frozenHint(hosts int) string {
	if hosts == 0 {
		return ""
	}
	return "; the enrolled ones are frozen, see their events"
}

func replicaSetName() string { return "atlas-" + strings.ToLower(rand.Text()[:6]) + "-shard-0" }

// Update changes a cluster. A change of the encryption provider rewrites the node
// beside itself, with a short interruption that is announced by an event. Changes of
// a cluster that a custody verdict has stopped are accepted and carried out once the
// key is back. Codes as for Create, and CLUSTER_NOT_FOUND,
// CLUSTER_ALREADY_REQUESTED_DELETION, CANNOT_UPDATE_PAUSED_CLUSTER.
func (s *Service) Update(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string, patch Patch) (out View, err error) {
	err = s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupClusterManager, project)
		if err != nil {
			return err
		}
		c, err := find(tx, project, name)
		if err != nil {
			return err
		}
		if c.Deleting {
			return alreadyDeleting(c)
		}
		next := withDefaults(patch.Apply(c.Settings), &c.Settings, func() string { return keys.NewID(tx.Now()) })
		if reflect.DeepEqual(next, c.Settings) {
			out, err = view(tx, c)
			return err
		}
		if c.Settings.Paused && !patch.onlyPaused() {
			return apierr.Conflict("CANNOT_UPDATE_PAUSED_CLUSTER", "Cluster %s is paused and cannot be changed; resume it first ({\"paused\": false} alone).", name).With(name)
		}
		if err := check(next, true, patch.EncryptionProvider != nil && *patch.EncryptionProvider != c.Settings.EncryptionProvider); err != nil {
			return err
		}
		note := ""
		if next.EncryptionProvider != c.Settings.EncryptionProvider {
			if _, err := tenant.RequireKeyOwner(tx, p, project); err != nil {
				return err
			}
			if next.EncryptionProvider != ProviderNone {
				if note, err = requireKey(tx, project); err != nil {
					return err
				}
			}
		}
		if err := s.change(tx, p, pr, &c, next, note); err != nil {
			return err
		}
		out, err = view(tx, c)
		return err
	})
	return out, err
}

// change writes new settings down, with what nodes must do because of them. note is
// added to the event.
func (s *Service) change(tx *store.Tx, p tenant.Principal, pr store.Project, c *store.Cluster, next store.ClusterSettings, note string) error {
	old := c.Settings
	c.Settings = next
	text := fmt.Sprintf("A change of cluster %s was submitted.", c.Name)
	converts := old.EncryptionProvider != next.EncryptionProvider
	if converts || old.Paused != next.Paused {
		nodes, err := tx.NodesOfCluster(c.ID)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Buried {
				continue
			}
			n.Encrypted, n.Run = next.EncryptionProvider == ProviderAWS, !next.Paused
			n.Generation++
			if err := tx.PutNode(n); err != nil {
				return err
			}
		}
		c.Generation++
		if c.State != Creating {
			c.State, c.StateSince = Updating, tx.Now()
		}
	}
	if converts {
		c.Converting = next.EncryptionProvider
		text = fmt.Sprintf("Encryption at rest of cluster %s changes from %s to %s: its node is rewritten beside itself and swapped in; it is down while its files are copied. All data stays.", c.Name, old.EncryptionProvider, next.EncryptionProvider)
	}
	if err := tx.PutCluster(*c); err != nil {
		return err
	}
	if electable(old) != electable(next) {
		text += " " + oneNode(next)
	}
	e := clusterEvent(p, "CLUSTER_UPDATE_SUBMITTED", pr, *c, "%s", text+note)
	if converts {
		e.Data["conversion"] = next.EncryptionProvider
	}
	return tx.Append(e)
}

func alreadyDeleting(c store.Cluster) error {
	return apierr.BadRequest("CLUSTER_ALREADY_REQUESTED_DELETION", "The deletion of cluster %s was requested already.", c.Name).With(c.Name)
}

// Delete asks for the removal of a cluster with its processes, files and keys. It is
// DELETING until its host has acknowledged. GROUP_NOT_FOUND, USER_UNAUTHORIZED,
// CLUSTER_NOT_FOUND, CLUSTER_ALREADY_REQUESTED_DELETION,
// CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED.
func (s *Service) Delete(ctx context.Context, p tenant.Principal, project keys.ProjectID, name string) error {
	var id keys.ClusterID
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		pr, err := tenant.Require(tx, p, tenant.GroupOwner, project)
		if err != nil {
			return err
		}
		c, err := find(tx, project, name)
		if err != nil {
			return err
		}
		id = c.ID
		if c.Deleting {
			return alreadyDeleting(c)
		}
		if c.Settings.TerminationProtection {
			return apierr.BadRequest("CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", "Cluster %s is protected against termination; set terminationProtectionEnabled to false first.", name).With(name)
		}
		nodes, err := tx.NodesOfCluster(c.ID)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			n.Buried, n.Run = true, false
			n.Generation++
			if err := tx.PutNode(n); err != nil {
				return err
			}
		}
		c.Deleting, c.State, c.StateSince = true, Deleting, tx.Now()
		c.Generation++
		if err := tx.PutCluster(c); err != nil {
			return err
		}
		return tx.Append(clusterEvent(p, "CLUSTER_DELETE_SUBMITTED", pr, c, "The deletion of cluster %s was requested: its processes, files and keys go.", name))
	})
	if err == nil {
		s.later(id, s.st.Now().Add(s.cfg.ShowDeleting))
	}
	return err
}
