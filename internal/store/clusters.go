package store

import (
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// HardwareSpec is the size of the nodes of one kind in one region.
type HardwareSpec struct {
	InstanceSize  string  `json:"instanceSize"`
	NodeCount     int     `json:"nodeCount"`
	DiskSizeGB    float64 `json:"diskSizeGB,omitempty"`
	DiskIOPS      int     `json:"diskIOPS,omitempty"`
	EBSVolumeType string  `json:"ebsVolumeType,omitempty"`
}

// AutoScaling is stored and echoed; nothing scales by itself yet.
type AutoScaling struct {
	ComputeEnabled          bool   `json:"computeEnabled"`
	ComputeScaleDownEnabled bool   `json:"computeScaleDownEnabled"`
	MinInstanceSize         string `json:"minInstanceSize,omitempty"`
	MaxInstanceSize         string `json:"maxInstanceSize,omitempty"`
	DiskGBEnabled           bool   `json:"diskGBEnabled"`
}

// RegionConfig is what a cluster has in one region.
type RegionConfig struct {
	ProviderName         string        `json:"providerName"`
	BackingProviderName  string        `json:"backingProviderName,omitempty"`
	RegionName           string        `json:"regionName"`
	Priority             int           `json:"priority"`
	Electable            *HardwareSpec `json:"electable,omitempty"`
	ReadOnly             *HardwareSpec `json:"readOnly,omitempty"`
	Analytics            *HardwareSpec `json:"analytics,omitempty"`
	AutoScaling          *AutoScaling  `json:"autoScaling,omitempty"`
	AnalyticsAutoScaling *AutoScaling  `json:"analyticsAutoScaling,omitempty"`
}

// ReplicationSpec is one shard (or zone) of a cluster.
type ReplicationSpec struct {
	ID        string         `json:"id"`
	ZoneID    string         `json:"zoneId"`
	ZoneName  string         `json:"zoneName"`
	NumShards int            `json:"numShards"`
	Regions   []RegionConfig `json:"regions"`
}

// AdvancedConfiguration are TLS settings that are stored and echoed.
type AdvancedConfiguration struct {
	MinimumEnabledTLSProtocol string   `json:"minimumEnabledTlsProtocol,omitempty"`
	TLSCipherConfigMode       string   `json:"tlsCipherConfigMode,omitempty"`
	CustomCipherTLS12         []string `json:"customCipherTls12,omitempty"`
	CustomCipherTLS13         []string `json:"customCipherTls13,omitempty"`
}

// ClusterSettings are what a customer chooses about a cluster: one model for all
// versions of the API.
type ClusterSettings struct {
	ClusterType string `json:"clusterType"`
	// EncryptionProvider is NONE or AWS.
	EncryptionProvider               string                `json:"encryptionProvider"`
	Specs                            []ReplicationSpec     `json:"specs"`
	BackupEnabled                    bool                  `json:"backupEnabled"`
	PITEnabled                       bool                  `json:"pitEnabled"`
	MongoDBMajorVersion              string                `json:"mongoDBMajorVersion"`
	VersionReleaseSystem             string                `json:"versionReleaseSystem"`
	Paused                           bool                  `json:"paused"`
	TerminationProtection            bool                  `json:"terminationProtection"`
	RootCertType                     string                `json:"rootCertType"`
	BIConnectorEnabled               bool                  `json:"biConnectorEnabled"`
	BIConnectorReadPreference        string                `json:"biConnectorReadPreference"`
	Advanced                         AdvancedConfiguration `json:"advanced"`
	ConfigServerManagementMode       string                `json:"configServerManagementMode"`
	ReplicaSetScalingStrategy        string                `json:"replicaSetScalingStrategy"`
	DiskWarmingMode                  string                `json:"diskWarmingMode,omitempty"`
	GlobalClusterSelfManagedSharding bool                  `json:"globalClusterSelfManagedSharding"`
	RedactClientLogData              bool                  `json:"redactClientLogData"`
	Labels                           []Tag                 `json:"labels"`
	Tags                             []Tag                 `json:"tags"`
	// ProcessArgs are stored and echoed, by the API's field names.
	ProcessArgs map[string]any `json:"processArgs,omitempty"`
}

// Cluster is a cluster with what is wanted and what was last observed.
type Cluster struct {
	ID         keys.ClusterID  `json:"id"`
	Project    keys.ProjectID  `json:"project"`
	Name       string          `json:"name"`
	Created    time.Time       `json:"created"`
	ReplicaSet string          `json:"replicaSet"`
	Settings   ClusterSettings `json:"settings"`
	// Generation grows with every change that nodes must carry out.
	Generation uint64 `json:"generation"`
	// State is CREATING, IDLE, UPDATING, REPAIRING or DELETING.
	State string `json:"state"`
	// StateSince is when State was entered.
	StateSince time.Time `json:"stateSince"`
	// Stopped says why the cluster's processes are down by a custody verdict, "" otherwise.
	Stopped string `json:"stopped,omitempty"`
	// Deleting is set by the customer's wish to delete, for ever.
	Deleting bool `json:"deleting,omitempty"`
	// Converting is the provider that a running conversion leads to, "" when none runs.
	Converting string `json:"converting,omitempty"`
	// Created is followed by Ready when the cluster was usable for the first time.
	Ready time.Time `json:"ready,omitzero"`
	// Rotation is the newest plan to rotate the master keys of the cluster's nodes.
	Rotation *RotationPlan `json:"rotation,omitempty"`
	// DatabaseKeys is the newest plan to rotate the keysets of the cluster's databases.
	DatabaseKeys *DatabaseKeyPlan `json:"databaseKeys,omitempty"`
	// Drills are the newest rehearsals of a revocation, oldest first.
	Drills []Drill `json:"drills,omitempty"`
}

// Drill is a rehearsal of a revocation with one cluster (key-plane rule 28).
type Drill struct {
	ID        string    `json:"id"`
	By        string    `json:"by,omitempty"`
	Requested time.Time `json:"requested"`
	// For is how long it is to last.
	For time.Duration `json:"for"`
	// Hosts are those that had nodes of the cluster then, with what they have reported.
	Hosts []DrillHost `json:"hosts"`
}

// DrillHost is one host's part in a drill.
type DrillHost struct {
	Host keys.HostID `json:"host"`
	// Began is zero until the host has begun; Ended without it means that it dropped the
	// order.
	Began time.Time `json:"began,omitzero"`
	Ended time.Time `json:"ended,omitzero"`
	// Down is from the order until the last process was gone, Up from the end until all
	// could be written to again; 0 if not measured (yet).
	Down time.Duration `json:"down,omitempty"`
	Up   time.Duration `json:"up,omitempty"`
}

// RotationPlan is one rotation of a cluster's master keys, node after node.
type RotationPlan struct {
	// Reason is ON_DEMAND or AGE, By who asked.
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"`
	// State is PENDING, RUNNING or DONE.
	State     string         `json:"state"`
	Requested time.Time      `json:"requested"`
	Started   time.Time      `json:"started,omitzero"`
	Finished  time.Time      `json:"finished,omitzero"`
	Nodes     []NodeRotation `json:"nodes"`
}

// NodeRotation is the part of one node in a plan.
type NodeRotation struct {
	Node keys.NodeID `json:"node"`
	// State is PENDING, RUNNING, DONE or SKIPPED (a node that went, or has no key).
	State string `json:"state"`
	// Counter is the node's Rotation that carries it out.
	Counter  uint64     `json:"counter,omitempty"`
	From     keys.KeyID `json:"from,omitempty"`
	To       keys.KeyID `json:"to,omitempty"`
	Failure  string     `json:"failure,omitempty"`
	Started  time.Time  `json:"started,omitzero"`
	Finished time.Time  `json:"finished,omitzero"`
}

// DatabaseKeyPlan is one rotation of the keysets of a cluster's databases, node after
// node.
type DatabaseKeyPlan struct {
	// By is who asked.
	By string `json:"by,omitempty"`
	// Compact has all files rewritten under the newest keys, and the old keys removed.
	Compact bool `json:"compact,omitempty"`
	// State is PENDING, RUNNING or DONE.
	State     string            `json:"state"`
	Requested time.Time         `json:"requested"`
	Started   time.Time         `json:"started,omitzero"`
	Finished  time.Time         `json:"finished,omitzero"`
	Nodes     []NodeDatabaseKey `json:"nodes"`
}

// NodeDatabaseKey is the part of one node in a plan.
type NodeDatabaseKey struct {
	Node keys.NodeID `json:"node"`
	// State is PENDING, RUNNING, DONE or SKIPPED (a node that went, or has no keysets).
	State string `json:"state"`
	// Rotation and Compaction are the node's counters that carry it out, 0 before the
	// order.
	Rotation   uint64    `json:"rotation,omitempty"`
	Compaction uint64    `json:"compaction,omitempty"`
	Failure    string    `json:"failure,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	Finished   time.Time `json:"finished,omitzero"`
}

// KeysetStatus is what an agent last reported about the keysets of a node's databases.
type KeysetStatus struct {
	// Rotation and Compaction are the newest ordered ones that were carried out, Failure
	// why the newest attempt failed.
	Rotation   uint64 `json:"rotation,omitempty"`
	Compaction uint64 `json:"compaction,omitempty"`
	Failure    string `json:"failure,omitempty"`
	// Bytes of files there are, Newest of them under the newest keys; OldKeys are left.
	Bytes      int64 `json:"bytes,omitempty"`
	Newest     int64 `json:"newest,omitempty"`
	OldKeys    int64 `json:"oldKeys,omitempty"`
	Compacting bool  `json:"compacting,omitempty"`
}

// Node is one database process of a cluster, as the control plane wants it.
type Node struct {
	ID        keys.NodeID    `json:"id"`
	Cluster   keys.ClusterID `json:"cluster"`
	Project   keys.ProjectID `json:"project"`
	Host      keys.HostID    `json:"host"`
	Encrypted bool           `json:"encrypted"`
	Run       bool           `json:"run"`
	// Generation grows with every change of the fields above.
	Generation       uint64   `json:"generation"`
	KMIPFingerprints []string `json:"kmipFingerprints,omitempty"`
	// Rotation counts the rotations of the master key that were ordered.
	Rotation uint64 `json:"rotation,omitempty"`
	// KeysetRotation and Compaction count the rotations of the database keysets and the
	// rewritings of files that were ordered.
	KeysetRotation uint64 `json:"keysetRotation,omitempty"`
	Compaction     uint64 `json:"compaction,omitempty"`
	// RetiredKeys are replaced master keys that the host is to destroy.
	RetiredKeys []keys.KeyID `json:"retiredKeys,omitempty"`
	// Buried marks a tombstone: the agent must remove the node and its keys.
	Buried bool `json:"-"`
}

// NodeStatus is what an agent last reported about a node.
type NodeStatus struct {
	Node       keys.NodeID `json:"node"`
	Phase      string      `json:"phase"`
	Message    string      `json:"message,omitempty"`
	Port       int         `json:"port,omitempty"`
	PID        int         `json:"pid,omitempty"`
	Encrypted  bool        `json:"encrypted"`
	Generation uint64      `json:"generation"`
	Primary    bool        `json:"primary"`
	MasterKey  keys.KeyID  `json:"masterKey,omitempty"`
	Since      time.Time   `json:"since"`
	Users      uint64      `json:"users"`
	// Rotation is the newest ordered rotation of the master key that was carried out,
	// RotationFailure why the newest attempt at one failed.
	Rotation        uint64 `json:"rotation,omitempty"`
	RotationFailure string `json:"rotationFailure,omitempty"`
	// Keysets is about the keys of the node's databases.
	Keysets KeysetStatus `json:"keysets,omitzero"`
	// Told is the phase that an event last told of; a node that runs forgets it.
	Told string `json:"told,omitempty"`
}
