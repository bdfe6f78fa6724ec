package api

import (
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// engineVersion is what the bundled engine claims to be (its wire protocol is
// that of 7.0), in the form of mongoDBVersion.
const engineVersion = "7.0.0"

type stringsBody struct {
	Standard string `json:"standard,omitempty"`
}

type biBody struct {
	Enabled        bool   `json:"enabled"`
	ReadPreference string `json:"readPreference"`
}

// clusterBody is a cluster in an answer, in 2023-02-01 or later.
type clusterBody struct {
	ID                    keys.ClusterID `json:"id"`
	GroupID               keys.ProjectID `json:"groupId"`
	Name                  string         `json:"name"`
	ClusterType           string         `json:"clusterType"`
	State                 string         `json:"stateName"`
	Created               string         `json:"createDate"`
	Encryption            string         `json:"encryptionAtRestProvider"`
	Specs                 []specBody     `json:"replicationSpecs"`
	DiskSizeGB            *float64       `json:"diskSizeGB,omitempty"`
	Strings               stringsBody    `json:"connectionStrings"`
	BackupEnabled         bool           `json:"backupEnabled"`
	PITEnabled            bool           `json:"pitEnabled"`
	MajorVersion          string         `json:"mongoDBMajorVersion"`
	Version               string         `json:"mongoDBVersion"`
	ReleaseSystem         string         `json:"versionReleaseSystem"`
	Paused                bool           `json:"paused"`
	TerminationProtection bool           `json:"terminationProtectionEnabled"`
	RootCertType          string         `json:"rootCertType"`
	Connector             biBody         `json:"biConnector"`
	Advanced              advancedBody   `json:"advancedConfiguration"`
	ConfigServer          string         `json:"configServerManagementMode"`
	ScalingStrategy       string         `json:"replicaSetScalingStrategy"`
	DiskWarming           string         `json:"diskWarmingMode"`
	SelfManagedSharding   bool           `json:"globalClusterSelfManagedSharding"`
	RedactLogs            bool           `json:"redactClientLogData"`
	Labels                []store.Tag    `json:"labels"`
	Tags                  []store.Tag    `json:"tags"`
	Links                 []link         `json:"links"`
	// Keywright is what Atlas has no field for.
	Keywright ownClusterBody `json:"keywright"`
}

type ownClusterBody struct {
	// Stopped says why the cluster's processes are down, empty if they are not.
	Stopped string `json:"stopped,omitempty"`
	// Drill is the newest rehearsal of a revocation with the cluster.
	Drill *drillBody `json:"drill,omitempty"`
	Nodes []nodeBody `json:"nodes"`
	Note  string     `json:"note"`
}

type nodeBody struct {
	ID        keys.NodeID `json:"id"`
	Phase     string      `json:"phase"`
	Message   string      `json:"message,omitempty"`
	Port      int         `json:"port,omitempty"`
	PID       int         `json:"pid,omitempty"`
	Encrypted bool        `json:"encrypted"`
	MasterKey keys.KeyID  `json:"masterKeyId,omitempty"`
}

// cluster shows a cluster in the version of the call.
func (c *call) cluster(v cluster.View) any {
	if c.version == legacyVersion {
		return c.legacyBody(v)
	}
	return c.clusterBody(v)
}

func (c *call) clusterBody(v cluster.View) clusterBody {
	s := v.Settings
	b := clusterBody{
		ID: v.ID, GroupID: v.Project, Name: v.Name, ClusterType: s.ClusterType, State: v.State, Created: stamp(v.Created),
		Encryption: s.EncryptionProvider, Strings: stringsBody{Standard: v.ConnectionString}, BackupEnabled: s.BackupEnabled, PITEnabled: s.PITEnabled,
		MajorVersion: s.MongoDBMajorVersion, Version: engineVersion, ReleaseSystem: s.VersionReleaseSystem, Paused: s.Paused,
		TerminationProtection: s.TerminationProtection, RootCertType: s.RootCertType,
		Connector: biBody{Enabled: s.BIConnectorEnabled, ReadPreference: s.BIConnectorReadPreference},
		Advanced: advancedBody{
			MinimumTLS: &s.Advanced.MinimumEnabledTLSProtocol, CipherMode: &s.Advanced.TLSCipherConfigMode,
			Ciphers12: orEmpty(s.Advanced.CustomCipherTLS12), Ciphers13: orEmpty(s.Advanced.CustomCipherTLS13),
		},
		ConfigServer: s.ConfigServerManagementMode, ScalingStrategy: s.ReplicaSetScalingStrategy, DiskWarming: s.DiskWarmingMode,
		SelfManagedSharding: s.GlobalClusterSelfManagedSharding, RedactLogs: s.RedactClientLogData,
		Labels: *orEmpty(s.Labels), Tags: *orEmpty(s.Tags), Specs: []specBody{},
		Links:     c.self("groups", string(v.Project), "clusters", v.Name),
		Keywright: ownClusterBody{Stopped: v.Stopped, Drill: newestDrill(v.Cluster, c.now()), Nodes: []nodeBody{}, Note: oneNodeNote},
	}
	old := c.version < currentVersion // dates sort as text
	for _, sp := range s.Specs {
		b.Specs = append(b.Specs, toSpecBody(sp, old))
	}
	if old && len(s.Specs) > 0 && len(s.Specs[0].Regions) > 0 && s.Specs[0].Regions[0].Electable != nil {
		b.DiskSizeGB = &s.Specs[0].Regions[0].Electable.DiskSizeGB
	}
	for _, n := range v.Nodes {
		b.Keywright.Nodes = append(b.Keywright.Nodes, nodeBody{
			ID: n.ID, Phase: n.Status.Phase, Message: n.Status.Message, Port: n.Status.Port, PID: n.Status.PID,
			Encrypted: n.Status.Encrypted, MasterKey: n.Status.MasterKey,
		})
	}
	return b
}

func orEmpty[T any](s []T) *[]T {
	if s == nil {
		s = []T{}
	}
	return &s
}

func toSpecBody(sp store.ReplicationSpec, old bool) specBody {
	b := specBody{ID: sp.ID, ZoneName: sp.ZoneName, Regions: []regionBody{}}
	if old {
		b.NumShards = sp.NumShards
	} else {
		b.ZoneID = sp.ZoneID
	}
	for _, r := range sp.Regions {
		b.Regions = append(b.Regions, regionBody{
			ProviderName: r.ProviderName, BackingProviderName: r.BackingProviderName, RegionName: r.RegionName, Priority: r.Priority,
			Electable: toHardwareBody(r.Electable, old), ReadOnly: toHardwareBody(r.ReadOnly, old), Analytics: toHardwareBody(r.Analytics, old),
			AutoScaling: toScalingBody(r.AutoScaling), AnalyticsAutoScaling: toScalingBody(r.AnalyticsAutoScaling),
		})
	}
	return b
}

func toHardwareBody(h *store.HardwareSpec, old bool) *hardwareBody {
	if h == nil {
		return nil
	}
	b := &hardwareBody{InstanceSize: h.InstanceSize, NodeCount: h.NodeCount, DiskIOPS: h.DiskIOPS, EBSVolumeType: h.EBSVolumeType}
	if !old {
		b.DiskSizeGB = &h.DiskSizeGB
	}
	return b
}

func toScalingBody(s *store.AutoScaling) *scalingBody {
	if s == nil {
		return nil
	}
	b := &scalingBody{Compute: &computeBody{Enabled: s.ComputeEnabled, ScaleDownEnabled: s.ComputeScaleDownEnabled}}
	if s.MinInstanceSize != "" {
		b.Compute.Min = &s.MinInstanceSize
	}
	if s.MaxInstanceSize != "" {
		b.Compute.Max = &s.MaxInstanceSize
	}
	b.Disk = &struct {
		Enabled bool `json:"enabled"`
	}{s.DiskGBEnabled}
	return b
}
