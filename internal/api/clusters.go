package api

import (
	"encoding/json"
	"net/http"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// oneNodeNote is what every description of a cluster says as long as replica
// sets are to come.
const oneNodeNote = "The node count is stored; one data-bearing node runs until replica sets come."

type hardwareBody struct {
	InstanceSize  string   `json:"instanceSize"`
	NodeCount     int      `json:"nodeCount"`
	DiskSizeGB    *float64 `json:"diskSizeGB,omitempty"`
	DiskIOPS      int      `json:"diskIOPS,omitempty"`
	EBSVolumeType string   `json:"ebsVolumeType,omitempty"`
}

type computeBody struct {
	Enabled          bool    `json:"enabled"`
	ScaleDownEnabled bool    `json:"scaleDownEnabled"`
	Min              *string `json:"minInstanceSize,omitempty"`
	Max              *string `json:"maxInstanceSize,omitempty"`
}

type scalingBody struct {
	Compute *computeBody `json:"compute,omitempty"`
	Disk    *struct {
		Enabled bool `json:"enabled"`
	} `json:"diskGB,omitempty"`
}

type regionBody struct {
	ProviderName         string          `json:"providerName"`
	BackingProviderName  string          `json:"backingProviderName,omitempty"`
	RegionName           string          `json:"regionName"`
	Priority             int             `json:"priority"`
	Electable            *hardwareBody   `json:"electableSpecs,omitempty"`
	ReadOnly             *hardwareBody   `json:"readOnlySpecs,omitempty"`
	Analytics            *hardwareBody   `json:"analyticsSpecs,omitempty"`
	AutoScaling          *scalingBody    `json:"autoScaling,omitempty"`
	AnalyticsAutoScaling *scalingBody    `json:"analyticsAutoScaling,omitempty"`
	EffectiveElectable   json.RawMessage `json:"effectiveElectableSpecs,omitempty"`
	EffectiveReadOnly    json.RawMessage `json:"effectiveReadOnlySpecs,omitempty"`
	EffectiveAnalytics   json.RawMessage `json:"effectiveAnalyticsSpecs,omitempty"`
}

type specBody struct {
	ID       string `json:"id,omitempty"`
	ZoneID   string `json:"zoneId,omitempty"`
	ZoneName string `json:"zoneName,omitempty"`
	// NumShards exists in 2023-02-01 only.
	NumShards int          `json:"numShards,omitempty"`
	Regions   []regionBody `json:"regionConfigs"`
}

type advancedBody struct {
	MinimumTLS string    `json:"minimumEnabledTlsProtocol,omitempty"`
	CipherMode string    `json:"tlsCipherConfigMode,omitempty"`
	Ciphers12  *[]string `json:"customOpensslCipherConfigTls12,omitempty"`
	Ciphers13  *[]string `json:"customOpensslCipherConfigTls13,omitempty"`
}

type connectorBody struct {
	Enabled        *bool   `json:"enabled,omitempty"`
	ReadPreference *string `json:"readPreference,omitempty"`
}

// clusterRequest is a cluster in a request, in either version. What an answer
// has beside it is read-only.
type clusterRequest struct {
	Name                  *string         `json:"name"`
	ClusterType           *string         `json:"clusterType"`
	Encryption            *string         `json:"encryptionAtRestProvider"`
	Specs                 *[]specBody     `json:"replicationSpecs"`
	DiskSizeGB            *float64        `json:"diskSizeGB"` // 2023-02-01 only
	BackupEnabled         *bool           `json:"backupEnabled"`
	PITEnabled            *bool           `json:"pitEnabled"`
	MajorVersion          *string         `json:"mongoDBMajorVersion"`
	ReleaseSystem         *string         `json:"versionReleaseSystem"`
	Paused                *bool           `json:"paused"`
	TerminationProtection *bool           `json:"terminationProtectionEnabled"`
	RootCertType          *string         `json:"rootCertType"`
	Connector             *connectorBody  `json:"biConnector"`
	Advanced              *advancedBody   `json:"advancedConfiguration"`
	ConfigServer          *string         `json:"configServerManagementMode"`
	ScalingStrategy       *string         `json:"replicaSetScalingStrategy"`
	DiskWarming           *string         `json:"diskWarmingMode"`
	SelfManagedSharding   *bool           `json:"globalClusterSelfManagedSharding"`
	RedactLogs            *bool           `json:"redactClientLogData"`
	Labels                *[]store.Tag    `json:"labels"`
	Tags                  *[]store.Tag    `json:"tags"`
	ID                    json.RawMessage `json:"id"`
	GroupID               json.RawMessage `json:"groupId"`
	State                 json.RawMessage `json:"stateName"`
	Created               json.RawMessage `json:"createDate"`
	Strings               json.RawMessage `json:"connectionStrings"`
	Version               json.RawMessage `json:"mongoDBVersion"`
	FCV                   json.RawMessage `json:"featureCompatibilityVersion"`
	FCVExpires            json.RawMessage `json:"featureCompatibilityVersionExpirationDate"`
	InternalRole          json.RawMessage `json:"internalClusterRole"`
	EffectiveSpecs        json.RawMessage `json:"effectiveReplicationSpecs"`
	ConfigServerType      json.RawMessage `json:"configServerType"`
	AcceptRisks           json.RawMessage `json:"acceptDataRisksAndForceReplicaSetReconfig"`
	RetainBackups         json.RawMessage `json:"retainBackups"`
	Links                 json.RawMessage `json:"links"`
	Keywright             json.RawMessage `json:"keywright"`
}

// patch turns a request into a change of the one internal model.
func (in clusterRequest) patch(version string) (cluster.Patch, error) {
	p := cluster.Patch{
		ClusterType: in.ClusterType, EncryptionProvider: in.Encryption, BackupEnabled: in.BackupEnabled, PITEnabled: in.PITEnabled,
		MongoDBMajorVersion: in.MajorVersion, VersionReleaseSystem: in.ReleaseSystem, Paused: in.Paused,
		TerminationProtection: in.TerminationProtection, RootCertType: in.RootCertType, ConfigServerManagement: in.ConfigServer,
		ReplicaSetScaling: in.ScalingStrategy, DiskWarmingMode: in.DiskWarming, SelfManagedSharding: in.SelfManagedSharding,
		RedactClientLogData: in.RedactLogs, Labels: in.Labels, Tags: in.Tags,
	}
	if in.Connector != nil {
		p.BIConnectorEnabled, p.BIConnectorReadPreference = in.Connector.Enabled, in.Connector.ReadPreference
	}
	if a := in.Advanced; a != nil {
		p.Advanced = &store.AdvancedConfiguration{MinimumEnabledTLSProtocol: a.MinimumTLS, TLSCipherConfigMode: a.CipherMode}
		if a.Ciphers12 != nil {
			p.Advanced.CustomCipherTLS12 = *a.Ciphers12
		}
		if a.Ciphers13 != nil {
			p.Advanced.CustomCipherTLS13 = *a.Ciphers13
		}
	}
	if version != advancedVersion && in.DiskSizeGB != nil {
		return p, wrongVersion("diskSizeGB", "put it into electableSpecs")
	}
	if in.Specs == nil {
		if in.DiskSizeGB != nil {
			return p, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute diskSizeGB specified: send replicationSpecs along with it.").With("diskSizeGB")
		}
		return p, nil
	}
	specs := make([]store.ReplicationSpec, 0, len(*in.Specs))
	for _, s := range *in.Specs {
		if version != advancedVersion && s.NumShards != 0 {
			return p, wrongVersion("replicationSpecs.numShards", "send one element of replicationSpecs a shard")
		}
		specs = append(specs, s.internal(in.DiskSizeGB))
	}
	p.Specs = &specs
	return p, nil
}

func wrongVersion(field, instead string) error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: it belongs to version 2023-02-01; %s.", field, instead).With(field)
}

func (s specBody) internal(disk *float64) store.ReplicationSpec {
	out := store.ReplicationSpec{ZoneName: s.ZoneName, NumShards: s.NumShards}
	for _, r := range s.Regions {
		out.Regions = append(out.Regions, store.RegionConfig{
			ProviderName: r.ProviderName, BackingProviderName: r.BackingProviderName, RegionName: r.RegionName, Priority: r.Priority,
			Electable: r.Electable.internal(disk), ReadOnly: r.ReadOnly.internal(disk), Analytics: r.Analytics.internal(disk),
			AutoScaling: r.AutoScaling.internal(), AnalyticsAutoScaling: r.AnalyticsAutoScaling.internal(),
		})
	}
	return out
}

func (h *hardwareBody) internal(disk *float64) *store.HardwareSpec {
	if h == nil {
		return nil
	}
	out := &store.HardwareSpec{InstanceSize: h.InstanceSize, NodeCount: h.NodeCount, DiskIOPS: h.DiskIOPS, EBSVolumeType: h.EBSVolumeType}
	switch {
	case h.DiskSizeGB != nil:
		out.DiskSizeGB = *h.DiskSizeGB
	case disk != nil:
		out.DiskSizeGB = *disk
	}
	return out
}

func (s *scalingBody) internal() *store.AutoScaling {
	if s == nil {
		return nil
	}
	out := &store.AutoScaling{}
	if c := s.Compute; c != nil {
		out.ComputeEnabled, out.ComputeScaleDownEnabled = c.Enabled, c.ScaleDownEnabled
		if c.Min != nil {
			out.MinInstanceSize = *c.Min
		}
		if c.Max != nil {
			out.MaxInstanceSize = *c.Max
		}
	}
	out.DiskGBEnabled = s.Disk != nil && s.Disk.Enabled
	return out
}

func createCluster(c *call) (int, any, error) {
	var in clusterRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	if in.Name == nil {
		return 0, nil, apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute name was not specified.").With("name")
	}
	p, err := in.patch(c.version)
	if err != nil {
		return 0, nil, err
	}
	v, err := c.cfg.Cluster.Create(c.ctx(), c.who, c.project(), *in.Name, p.Apply(store.ClusterSettings{}))
	return http.StatusCreated, c.clusterBody(v), err
}

func updateCluster(c *call) (int, any, error) {
	var in clusterRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	name := c.vars["clusterName"]
	if in.Name != nil && *in.Name != name {
		return 0, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute name specified: a cluster's name cannot be changed.").With("name")
	}
	p, err := in.patch(c.version)
	if err != nil {
		return 0, nil, err
	}
	v, err := c.cfg.Cluster.Update(c.ctx(), c.who, c.project(), name, p)
	return http.StatusOK, c.clusterBody(v), err
}

func listClusters(c *call) (int, any, error) {
	all, err := c.cfg.Cluster.List(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	out := []clusterBody{}
	for _, v := range all {
		out = append(out, c.clusterBody(v))
	}
	return paged(c, out)
}

func getCluster(c *call) (int, any, error) {
	v, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	return http.StatusOK, c.clusterBody(v), err
}

func deleteCluster(c *call) (int, any, error) {
	return http.StatusAccepted, struct{}{}, c.cfg.Cluster.Delete(c.ctx(), c.who, c.project(), c.vars["clusterName"])
}

func clusterStatus(c *call) (int, any, error) {
	v, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	status := "PENDING"
	if v.State == cluster.Idle {
		status = "APPLIED"
	}
	return http.StatusOK, map[string]string{"changeStatus": status}, err
}

func ipAddresses(c *call) (int, any, error) {
	type body struct {
		Cluster        string   `json:"clusterName"`
		Inbound        []string `json:"inbound"`
		Outbound       []string `json:"outbound"`
		FutureInbound  []string `json:"futureInbound"`
		FutureOutbound []string `json:"futureOutbound"`
	}
	all, err := c.cfg.Cluster.Addresses(c.ctx(), c.who, c.project())
	out := []body{}
	for _, a := range all {
		b := body{Cluster: a.Cluster, Inbound: []string{}, Outbound: []string{}, FutureInbound: []string{}, FutureOutbound: []string{}}
		b.Outbound = append(b.Outbound, a.Outbound...)
		out = append(out, b)
	}
	return http.StatusOK, map[string]any{"groupId": keys.ProjectID(c.vars["groupId"]), "services": map[string]any{"clusters": out}}, err
}
