package api

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/store"
)

// legacyRegion is one region of a cluster in 2023-01-01.
type legacyRegion struct {
	Electable int `json:"electableNodes"`
	ReadOnly  int `json:"readOnlyNodes"`
	Analytics int `json:"analyticsNodes"`
	Priority  int `json:"priority"`
}

type legacySpec struct {
	ID        string                   `json:"id,omitempty"`
	NumShards *int                     `json:"numShards,omitempty"`
	ZoneName  *string                  `json:"zoneName,omitempty"`
	Regions   *map[string]legacyRegion `json:"regionsConfig,omitempty"`
}

type legacyLimits struct {
	Compute *struct {
		Min *string `json:"minInstanceSize,omitempty"`
		Max *string `json:"maxInstanceSize,omitempty"`
	} `json:"compute,omitempty"`
}

type legacyProvider struct {
	ProviderName        *string         `json:"providerName,omitempty"`
	BackingProviderName *string         `json:"backingProviderName,omitempty"`
	RegionName          *string         `json:"regionName,omitempty"`
	InstanceSize        *string         `json:"instanceSizeName,omitempty"`
	VolumeType          *string         `json:"volumeType,omitempty"`
	DiskIOPS            *int            `json:"diskIOPS,omitempty"`
	AutoScaling         *legacyLimits   `json:"autoScaling,omitempty"`
	EncryptVolume       json.RawMessage `json:"encryptEBSVolume,omitempty"`
	DiskTypeName        json.RawMessage `json:"diskTypeName,omitempty"`
}

type legacyScaling struct {
	Compute *struct {
		Enabled   *bool `json:"enabled,omitempty"`
		ScaleDown *bool `json:"scaleDownEnabled,omitempty"`
	} `json:"compute,omitempty"`
	DiskGBEnabled *bool `json:"diskGBEnabled,omitempty"`
}

// legacyRequest is a cluster in a request of 2023-01-01, which is v1.0.
type legacyRequest struct {
	commonRequest
	LegacyBackup  *bool                    `json:"backupEnabled"`
	BackupEnabled *bool                    `json:"providerBackupEnabled"`
	DiskSizeGB    *float64                 `json:"diskSizeGB"`
	NumShards     *int                     `json:"numShards"`
	Factor        *int                     `json:"replicationFactor"`
	Regions       *map[string]legacyRegion `json:"replicationSpec"`
	Specs         *[]legacySpec            `json:"replicationSpecs"`
	Provider      *legacyProvider          `json:"providerSettings"`
	AutoScaling   *legacyScaling           `json:"autoScaling"`
	URI           json.RawMessage          `json:"mongoURI"`
	URIUpdated    json.RawMessage          `json:"mongoURIUpdated"`
	URIOptions    json.RawMessage          `json:"mongoURIWithOptions"`
	SRVAddress    json.RawMessage          `json:"srvAddress"`
}

// legacyShape is what 2023-01-01 can say of a cluster's nodes: one size for all.
type legacyShape struct {
	provider, backing, size, volume, zone string
	iops, shards                          int
	disk                                  float64
	scaling                               store.AutoScaling
	regions                               map[string]legacyRegion
}

// shapeOf looks at a cluster as 2023-01-01 does; without specs it gives what a new
// cluster has.
func shapeOf(s store.ClusterSettings) legacyShape {
	out := legacyShape{shards: 1, regions: map[string]legacyRegion{}}
	if len(s.Specs) == 0 {
		return out
	}
	sp := s.Specs[0]
	out.zone, out.shards = sp.ZoneName, sp.NumShards
	count := func(h *store.HardwareSpec) int {
		if h == nil {
			return 0
		}
		return h.NodeCount
	}
	for i, r := range sp.Regions {
		out.regions[r.RegionName] = legacyRegion{Electable: count(r.Electable), ReadOnly: count(r.ReadOnly), Analytics: count(r.Analytics), Priority: r.Priority}
		if i > 0 {
			continue
		}
		out.provider, out.backing = r.ProviderName, r.BackingProviderName
		if h := r.Electable; h != nil {
			out.size, out.volume, out.iops, out.disk = h.InstanceSize, h.EBSVolumeType, h.DiskIOPS, h.DiskSizeGB
		}
		if r.AutoScaling != nil {
			out.scaling = *r.AutoScaling
		}
	}
	return out
}

// names lists the regions, the preferred first.
func (s legacyShape) names() []string {
	var out []string
	for name := range s.regions {
		out = append(out, name)
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.regions[b].Priority, s.regions[a].Priority), cmp.Compare(a, b))
	})
	return out
}

// specs turns the shape into the internal model.
func (s legacyShape) specs() []store.ReplicationSpec {
	out := store.ReplicationSpec{ZoneName: s.zone, NumShards: s.shards}
	hardware := func(n int) *store.HardwareSpec {
		if n == 0 {
			return nil
		}
		return &store.HardwareSpec{InstanceSize: s.size, NodeCount: n, DiskSizeGB: s.disk, DiskIOPS: s.iops, EBSVolumeType: s.volume}
	}
	for _, name := range s.names() {
		r, scaling := s.regions[name], s.scaling
		out.Regions = append(out.Regions, store.RegionConfig{
			ProviderName: s.provider, BackingProviderName: s.backing, RegionName: name, Priority: r.Priority,
			Electable: hardware(r.Electable), ReadOnly: hardware(r.ReadOnly), Analytics: hardware(r.Analytics), AutoScaling: &scaling,
		})
	}
	return []store.ReplicationSpec{out}
}

func (in *legacyRequest) patch(_ string, old store.ClusterSettings) (cluster.Patch, error) {
	p, err := in.commonRequest.patch(old)
	if err != nil {
		return p, err
	}
	if in.LegacyBackup != nil && *in.LegacyBackup {
		return p, apierr.BadRequest("FEATURE_UNSUPPORTED", "backupEnabled is the legacy kind of backup, which cannot be had: set providerBackupEnabled for cloud backups.").With("backupEnabled")
	}
	p.BackupEnabled = in.BackupEnabled
	before, after := shapeOf(old), shapeOf(old)
	if err := in.reshape(&after); err != nil {
		return p, err
	}
	// What 2023-01-01 cannot say is lost only where something else is asked for.
	if !reflect.DeepEqual(before, after) {
		specs := after.specs()
		p.Specs = &specs
	}
	return p, nil
}

// reshape puts what the request says about nodes into a shape.
func (in *legacyRequest) reshape(s *legacyShape) error {
	region := ""
	if v := in.Provider; v != nil {
		put(&s.provider, v.ProviderName)
		put(&s.backing, v.BackingProviderName)
		put(&s.size, v.InstanceSize)
		put(&s.volume, v.VolumeType)
		put(&s.iops, v.DiskIOPS)
		put(&region, v.RegionName)
		if v.AutoScaling != nil && v.AutoScaling.Compute != nil {
			put(&s.scaling.MinInstanceSize, v.AutoScaling.Compute.Min)
			put(&s.scaling.MaxInstanceSize, v.AutoScaling.Compute.Max)
		}
	}
	if v := in.AutoScaling; v != nil {
		put(&s.scaling.DiskGBEnabled, v.DiskGBEnabled)
		if v.Compute != nil {
			put(&s.scaling.ComputeEnabled, v.Compute.Enabled)
			put(&s.scaling.ComputeScaleDownEnabled, v.Compute.ScaleDown)
		}
	}
	put(&s.disk, in.DiskSizeGB)
	put(&s.shards, in.NumShards)
	return in.reshapeRegions(s, region)
}

// reshapeRegions sets the regions: from replicationSpecs, or replicationSpec, or
// the one region of providerSettings with replicationFactor nodes.
func (in *legacyRequest) reshapeRegions(s *legacyShape, region string) error {
	switch {
	case in.Specs != nil && len(*in.Specs) > 0:
		if len(*in.Specs) > 1 {
			return apierr.BadRequest("FEATURE_UNSUPPORTED", "%d replicationSpecs are not supported: clusters are replica sets (REPLICASET) with one.", len(*in.Specs)).With("replicationSpecs")
		}
		sp := (*in.Specs)[0]
		put(&s.zone, sp.ZoneName)
		put(&s.shards, sp.NumShards)
		if sp.Regions != nil && len(*sp.Regions) > 0 {
			s.regions = *sp.Regions
			return nil
		}
	case in.Regions != nil && len(*in.Regions) > 0:
		s.regions = *in.Regions
		return nil
	}
	if len(s.regions) > 1 || (region == "" && len(s.regions) == 0) {
		return nil // control refuses a new cluster without a region
	}
	nodes := 3
	for name, r := range s.regions {
		nodes = r.Electable
		if region == "" || region == name {
			region = name
		}
	}
	put(&nodes, in.Factor)
	r := s.regions[region]
	if r.Priority == 0 {
		r.Priority = 7
	}
	r.Electable = nodes
	s.regions = map[string]legacyRegion{region: r}
	return nil
}

func put[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

// legacyBody is a cluster in an answer of 2023-01-01: fields here take the place of
// those of the same name in later versions.
type legacyBody struct {
	clusterBody
	LegacyBackup  bool                    `json:"backupEnabled"`
	BackupEnabled bool                    `json:"providerBackupEnabled"`
	NumShards     int                     `json:"numShards"`
	Factor        int                     `json:"replicationFactor"`
	Regions       map[string]legacyRegion `json:"replicationSpec"`
	Specs         []legacySpec            `json:"replicationSpecs"`
	Provider      legacyProvider          `json:"providerSettings"`
	AutoScaling   legacyScaling           `json:"autoScaling"`
	URI           string                  `json:"mongoURI,omitempty"`
	URIUpdated    string                  `json:"mongoURIUpdated,omitempty"`
	URIOptions    string                  `json:"mongoURIWithOptions,omitempty"`
}

func (c *call) legacyBody(v cluster.View) legacyBody {
	s := shapeOf(v.Settings)
	b := legacyBody{clusterBody: c.clusterBody(v), BackupEnabled: v.Settings.BackupEnabled, NumShards: s.shards, Regions: s.regions}
	for _, r := range s.regions {
		b.Factor += r.Electable
	}
	for _, sp := range v.Settings.Specs[:min(1, len(v.Settings.Specs))] {
		b.Specs = append(b.Specs, legacySpec{ID: sp.ID, NumShards: &s.shards, ZoneName: &s.zone, Regions: &s.regions})
	}
	b.Provider = legacyProvider{ProviderName: &s.provider, InstanceSize: &s.size, VolumeType: &s.volume, DiskIOPS: &s.iops}
	if s.backing != "" {
		b.Provider.BackingProviderName = &s.backing
	}
	if names := s.names(); len(names) == 1 {
		b.Provider.RegionName = &names[0]
	}
	if a := s.scaling; a.MinInstanceSize != "" || a.MaxInstanceSize != "" {
		b.Provider.AutoScaling = &legacyLimits{}
		b.Provider.AutoScaling.Compute = &struct {
			Min *string `json:"minInstanceSize,omitempty"`
			Max *string `json:"maxInstanceSize,omitempty"`
		}{&a.MinInstanceSize, &a.MaxInstanceSize}
	}
	b.AutoScaling.DiskGBEnabled = &s.scaling.DiskGBEnabled
	b.AutoScaling.Compute = &struct {
		Enabled   *bool `json:"enabled,omitempty"`
		ScaleDown *bool `json:"scaleDownEnabled,omitempty"`
	}{&s.scaling.ComputeEnabled, &s.scaling.ComputeScaleDownEnabled}
	if v.ConnectionString != "" {
		b.URIOptions, b.URIUpdated = v.ConnectionString, b.Created
		b.URI, _, _ = strings.Cut(v.ConnectionString, "/?")
	}
	return b
}
