package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"

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
	MinimumTLS *string   `json:"minimumEnabledTlsProtocol,omitempty"`
	CipherMode *string   `json:"tlsCipherConfigMode,omitempty"`
	Ciphers12  *[]string `json:"customOpensslCipherConfigTls12,omitempty"`
	Ciphers13  *[]string `json:"customOpensslCipherConfigTls13,omitempty"`
}

type connectorBody struct {
	Enabled        *bool   `json:"enabled,omitempty"`
	ReadPreference *string `json:"readPreference,omitempty"`
}

// clusterRequest is a cluster in a request, in 2023-02-01 or later.
type clusterRequest struct {
	commonRequest
	Specs         *[]specBody `json:"replicationSpecs"`
	DiskSizeGB    *float64    `json:"diskSizeGB"` // 2023-02-01 only
	BackupEnabled *bool       `json:"backupEnabled"`
}

// commonRequest is what all versions of a request have. What an answer has beside
// it is read-only.
type commonRequest struct {
	Name                  *string         `json:"name"`
	ClusterType           *string         `json:"clusterType"`
	Encryption            *string         `json:"encryptionAtRestProvider"`
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

// change is a request for a cluster, in some version.
type change interface {
	common() *commonRequest
	// patch turns the request into a change of the one internal model. Where the
	// request has only a part of something, the rest comes from old.
	patch(version string, old store.ClusterSettings) (cluster.Patch, error)
}

func (in *commonRequest) common() *commonRequest { return in }

// patch gives the part that all versions have.
func (in *commonRequest) patch(old store.ClusterSettings) (cluster.Patch, error) {
	p := cluster.Patch{
		ClusterType: in.ClusterType, EncryptionProvider: in.Encryption, PITEnabled: in.PITEnabled,
		MongoDBMajorVersion: in.MajorVersion, VersionReleaseSystem: in.ReleaseSystem, Paused: in.Paused,
		TerminationProtection: in.TerminationProtection, RootCertType: in.RootCertType, ConfigServerManagement: in.ConfigServer,
		ReplicaSetScaling: in.ScalingStrategy, DiskWarmingMode: in.DiskWarming, SelfManagedSharding: in.SelfManagedSharding,
		RedactClientLogData: in.RedactLogs, Labels: orNil(in.Labels), Tags: orNil(in.Tags),
	}
	if in.Connector != nil {
		p.BIConnectorEnabled, p.BIConnectorReadPreference = in.Connector.Enabled, in.Connector.ReadPreference
	}
	if a := in.Advanced; a != nil {
		if err := checkTLS(a.MinimumTLS, a.CipherMode, a.Ciphers12, a.Ciphers13); err != nil {
			return p, err
		}
		p.Advanced = mergeTLS(old.Advanced, a.MinimumTLS, a.CipherMode, a.Ciphers12, a.Ciphers13)
	}
	return p, in.checkEnums()
}

// checkEnums refuses values of the settings that are stored and given back only.
func (in *commonRequest) checkEnums() error {
	return errors.Join(
		oneOf("versionReleaseSystem", in.ReleaseSystem, "LTS", "CONTINUOUS"),
		oneOf("rootCertType", in.RootCertType, "ISRGROOTX1"),
		oneOf("configServerManagementMode", in.ConfigServer, "ATLAS_MANAGED", "FIXED_TO_DEDICATED"),
		oneOf("replicaSetScalingStrategy", in.ScalingStrategy, "SEQUENTIAL", "WORKLOAD_TYPE", "NODE_TYPE"),
		oneOf("diskWarmingMode", in.DiskWarming, "FULLY_WARMED", "VISIBLE_EARLIER", "ENHANCED_FULLY_WARMED"),
	)
}

func (in *clusterRequest) patch(version string, old store.ClusterSettings) (cluster.Patch, error) {
	p, err := in.commonRequest.patch(old)
	if err != nil {
		return p, err
	}
	p.BackupEnabled = in.BackupEnabled
	if version != advancedVersion && in.DiskSizeGB != nil {
		return p, wrongVersion("diskSizeGB", "put it into electableSpecs")
	}
	switch {
	case in.Specs != nil:
		specs := make([]store.ReplicationSpec, 0, len(*in.Specs))
		for i, s := range *in.Specs {
			if version != advancedVersion && s.NumShards != 0 {
				return p, wrongVersion("replicationSpecs.numShards", "send one element of replicationSpecs a shard")
			}
			spec := s.internal(in.DiskSizeGB)
			if i < len(old.Specs) {
				inherit(&spec, old.Specs[i])
			}
			specs = append(specs, spec)
		}
		p.Specs = &specs
	case in.DiskSizeGB != nil && len(old.Specs) > 0:
		specs := resized(old.Specs, *in.DiskSizeGB)
		p.Specs = &specs
	}
	return p, nil
}

// inherit fills in what a request leaves out of a spec that there is: a field that
// is not sent is no change.
func inherit(spec *store.ReplicationSpec, old store.ReplicationSpec) {
	if spec.ZoneName == "" {
		spec.ZoneName = old.ZoneName
	}
	for i := range spec.Regions {
		if i >= len(old.Regions) || spec.Regions[i].RegionName != old.Regions[i].RegionName {
			continue
		}
		r, o := &spec.Regions[i], old.Regions[i]
		if r.AutoScaling == nil {
			r.AutoScaling = o.AutoScaling
		}
		if r.AnalyticsAutoScaling == nil {
			r.AnalyticsAutoScaling = o.AnalyticsAutoScaling
		}
		for _, pair := range [][2]*store.HardwareSpec{{r.Electable, o.Electable}, {r.ReadOnly, o.ReadOnly}, {r.Analytics, o.Analytics}} {
			if pair[0] != nil && pair[1] != nil {
				inheritHardware(pair[0], *pair[1])
			}
		}
	}
}

func inheritHardware(h *store.HardwareSpec, old store.HardwareSpec) {
	if h.DiskSizeGB == 0 {
		h.DiskSizeGB = old.DiskSizeGB
	}
	if h.DiskIOPS == 0 {
		h.DiskIOPS = old.DiskIOPS
	}
	if h.EBSVolumeType == "" {
		h.EBSVolumeType = old.EBSVolumeType
	}
}

// resized gives the specs with another size of all disks.
func resized(old []store.ReplicationSpec, disk float64) []store.ReplicationSpec {
	out := slices.Clone(old)
	for i := range out {
		out[i].Regions = slices.Clone(out[i].Regions)
		for j := range out[i].Regions {
			r := &out[i].Regions[j]
			for _, h := range []**store.HardwareSpec{&r.Electable, &r.ReadOnly, &r.Analytics} {
				if *h != nil {
					c := **h
					c.DiskSizeGB = disk
					*h = &c
				}
			}
		}
	}
	return out
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

// change reads a request in the version of the call.
func (c *call) change() (change, error) {
	if c.version == legacyVersion {
		in := &legacyRequest{}
		return in, decode(c.r, in)
	}
	in := &clusterRequest{}
	return in, decode(c.r, in)
}

func createCluster(c *call) (int, any, error) {
	in, err := c.change()
	if err != nil {
		return 0, nil, err
	}
	name := in.common().Name
	if name == nil {
		return 0, nil, missingAttribute("name")
	}
	p, err := in.patch(c.version, store.ClusterSettings{})
	if err != nil {
		return 0, nil, err
	}
	v, err := c.cfg.Cluster.Create(c.ctx(), c.who, c.project(), *name, p.Apply(store.ClusterSettings{}))
	return http.StatusCreated, c.cluster(v), err
}

func updateCluster(c *call) (int, any, error) {
	in, err := c.change()
	if err != nil {
		return 0, nil, err
	}
	name := c.vars["clusterName"]
	if n := in.common().Name; n != nil && *n != name {
		return 0, nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute name specified: a cluster's name cannot be changed.").With("name")
	}
	// Only what a request names a part of is completed from here (sizes, TLS): of two
	// such changes at the same time the later one counts.
	old, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), name)
	if err != nil {
		return 0, nil, err
	}
	p, err := in.patch(c.version, old.Settings)
	if err != nil {
		return 0, nil, err
	}
	v, err := c.cfg.Cluster.Update(c.ctx(), c.who, c.project(), name, p)
	return http.StatusOK, c.cluster(v), err
}

func listClusters(c *call) (int, any, error) {
	all, err := c.cfg.Cluster.List(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	return pagedAs(c, all, c.cluster)
}

func getCluster(c *call) (int, any, error) {
	v, err := c.cfg.Cluster.Get(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	return http.StatusOK, c.cluster(v), err
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
