package cluster

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// The defaults of what a request leaves out.
const (
	defaultVersion  = "8.0"
	defaultZone     = "Zone 1"
	defaultPriority = 7
)

// sizes are the tiers that can be had, with their least disk in GB.
var sizes = map[string]float64{
	"M10": 10, "M20": 20, "M30": 40, "M40": 80, "M50": 160, "M60": 320, "M80": 750, "M100": 1000, "M140": 1000, "M200": 1500, "M300": 2000,
	"R40": 80, "R50": 160, "R60": 320, "R80": 750, "R200": 1500, "R300": 2000, "R400": 3000, "R700": 4000,
	"M40_NVME": 380, "M50_NVME": 760, "M60_NVME": 1600, "M80_NVME": 1600, "M200_NVME": 3100, "M400_NVME": 4000,
}

// tenantSizes share processes with others and cannot be had here.
var tenantSizes = []string{"M0", "M2", "M5", "FLEX", "SERVERLESS"}

var tenantProviders = []string{"TENANT", "FLEX", "SERVERLESS"}

var clusterName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,63}$`)

func invalid(field, format string, args ...any) *apierr.Error {
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute "+field+" specified: "+format, args...).With(field)
}

func checkName(name string) error {
	if !clusterName.MatchString(name) || strings.HasSuffix(store.NamePrefix(name), "-") {
		return apierr.BadRequest("CLUSTER_NAME_INVALID", "The cluster name %q is invalid: 1 to 64 letters, digits and hyphens, not starting with a hyphen, and no hyphen at the end or in position 23.", name[:min(len(name), 100)]).With(name[:min(len(name), 100)])
	}
	return nil
}

// withDefaults fills in what a request left out. old gives the ids of specs that
// stay; it is nil for a new cluster.
func withDefaults(in store.ClusterSettings, old *store.ClusterSettings, newID func() string) store.ClusterSettings {
	def := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	def(&in.ClusterType, "REPLICASET")
	def(&in.EncryptionProvider, ProviderNone)
	def(&in.MongoDBMajorVersion, defaultVersion)
	def(&in.VersionReleaseSystem, "LTS")
	def(&in.RootCertType, "ISRGROOTX1")
	def(&in.BIConnectorReadPreference, "secondary")
	def(&in.ConfigServerManagementMode, "ATLAS_MANAGED")
	def(&in.ReplicaSetScalingStrategy, "WORKLOAD_TYPE")
	def(&in.DiskWarmingMode, "FULLY_WARMED")
	def(&in.Advanced.MinimumEnabledTLSProtocol, "TLS1_2")
	def(&in.Advanced.TLSCipherConfigMode, "DEFAULT")
	in.Specs = specsWithDefaults(in.Specs, old, newID)
	return in
}

func specsWithDefaults(specs []store.ReplicationSpec, old *store.ClusterSettings, newID func() string) []store.ReplicationSpec {
	out := make([]store.ReplicationSpec, len(specs))
	for i, sp := range specs {
		if sp.ZoneName == "" {
			sp.ZoneName = defaultZone
		}
		if sp.NumShards == 0 {
			sp.NumShards = 1
		}
		sp.ID, sp.ZoneID = "", "" // ids are ours: clients send them or leave them out as they like
		if old != nil && i < len(old.Specs) {
			sp.ID, sp.ZoneID = old.Specs[i].ID, old.Specs[i].ZoneID
		}
		if sp.ID == "" {
			sp.ID, sp.ZoneID = newID(), newID()
		}
		sp.Regions = slices.Clone(sp.Regions)
		for j := range sp.Regions {
			regionDefaults(&sp.Regions[j], j)
		}
		out[i] = sp
	}
	return out
}

func regionDefaults(r *store.RegionConfig, index int) {
	if r.Priority == 0 && index == 0 {
		r.Priority = defaultPriority
	}
	r.RegionName = strings.ToUpper(strings.ReplaceAll(r.RegionName, "-", "_"))
	for _, h := range []**store.HardwareSpec{&r.Electable, &r.ReadOnly, &r.Analytics} {
		if *h == nil {
			continue
		}
		c := **h
		c.DiskSizeGB = max(c.DiskSizeGB, sizes[baseSize(c.InstanceSize)])
		if c.EBSVolumeType == "" {
			c.EBSVolumeType = "STANDARD"
		}
		if c.DiskIOPS == 0 {
			c.DiskIOPS = 3000
		}
		*h = &c
	}
}

func baseSize(size string) string { return strings.TrimSuffix(size, "_GEN_2") }

// check refuses settings that cannot be had. change tells that they belong to an
// existing cluster, whose encryption was asked for before; asked tells that the
// request itself names a provider of encryption.
func check(s store.ClusterSettings, change, asked bool) error {
	switch s.EncryptionProvider {
	case ProviderNone, ProviderAWS:
	case "AZURE", "GCP":
		return apierr.BadRequest("ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", "encryptionAtRestProvider %s is not supported: NONE and AWS are.", s.EncryptionProvider).With("encryptionAtRestProvider")
	default:
		return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified for encryptionAtRestProvider: NONE and AWS are possible.", s.EncryptionProvider).With("encryptionAtRestProvider")
	}
	if len(s.Specs) == 0 || len(s.Specs[0].Regions) == 0 {
		return apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute replicationSpecs was not specified: one spec with one regionConfig at least.").With("replicationSpecs")
	}
	if err := checkSizes(s, change, asked); err != nil {
		return err
	}
	if s.ClusterType != "REPLICASET" || len(s.Specs) != 1 || s.Specs[0].NumShards != 1 {
		return apierr.BadRequest("FEATURE_UNSUPPORTED", "clusterType %s is not supported: clusters are replica sets (REPLICASET) with one shard.", s.ClusterType).With("clusterType")
	}
	if err := checkNodes(s.Specs[0]); err != nil {
		return err
	}
	if err := tenant.CheckTags(s.Tags); err != nil {
		return err
	}
	if !slices.Contains([]string{"4.4", "5.0", "6.0", "7.0", "8.0"}, s.MongoDBMajorVersion) {
		return invalid("mongoDBMajorVersion", "%q is not a version; 8.0 is the default.", s.MongoDBMajorVersion)
	}
	return tenant.CheckTags(s.Labels)
}

// checkSizes refuses tiers below M10: by name where encryption is asked for.
func checkSizes(s store.ClusterSettings, change, asked bool) error {
	encrypted := s.EncryptionProvider != ProviderNone && (asked || !change)
	for _, sp := range s.Specs {
		for _, r := range sp.Regions {
			if slices.Contains(tenantProviders, r.ProviderName) {
				return tooSmall(r.ProviderName, encrypted)
			}
			for _, h := range []*store.HardwareSpec{r.Electable, r.ReadOnly, r.Analytics} {
				if h == nil || (h.InstanceSize == "" && h.NodeCount == 0) {
					continue
				}
				if slices.Contains(tenantSizes, h.InstanceSize) {
					return tooSmall(h.InstanceSize, encrypted)
				}
				if _, ok := sizes[baseSize(h.InstanceSize)]; !ok {
					return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified for instanceSize: M10 is the smallest.", h.InstanceSize).With("instanceSize")
				}
			}
			if r.AutoScaling != nil && slices.Contains(tenantSizes, r.AutoScaling.MinInstanceSize) {
				return tooSmall(r.AutoScaling.MinInstanceSize, encrypted)
			}
		}
	}
	return nil
}

func tooSmall(size string, encrypted bool) error {
	if encrypted {
		return apierr.BadRequest("CANNOT_USE_ENCRYPTION_AT_REST_TENANT", "Cannot use encryption at rest with customer keys on a cluster of tier %s: choose M10 or larger, or encryptionAtRestProvider NONE.", size).With(size)
	}
	return apierr.BadRequest("INSUFFICIENT_INSTANCE_SIZE", "The instance size %s cannot be had: M10 is the smallest, for new clusters and for scaling down.", size).With(size)
}

func checkNodes(sp store.ReplicationSpec) error {
	electable := 0
	for _, r := range sp.Regions {
		if !slices.Contains([]string{"AWS", "AZURE", "GCP"}, r.ProviderName) {
			return apierr.BadRequest("INVALID_ENUM_VALUE", "An invalid enumeration value %q was specified for providerName.", r.ProviderName).With("providerName")
		}
		if r.RegionName == "" || len(r.RegionName) > 64 || (r.ProviderName == "AWS" && !slices.Contains(cmk.Regions(), r.RegionName)) {
			return invalid("regionName", "%q is not a region of %s.", r.RegionName[:min(len(r.RegionName), 64)], r.ProviderName)
		}
		if r.Priority < 0 || r.Priority > 7 {
			return invalid("priority", "0 to 7 are possible.")
		}
		for _, h := range []*store.HardwareSpec{r.Electable, r.ReadOnly, r.Analytics} {
			if h != nil && (h.NodeCount < 0 || h.NodeCount > 50) {
				return invalid("nodeCount", "0 to 50 are possible.")
			}
		}
		if r.Electable != nil {
			electable += r.Electable.NodeCount
		}
	}
	if !slices.Contains([]int{1, 3, 5, 7}, electable) {
		return invalid("nodeCount", "a replica set has 1, 3, 5 or 7 electable nodes, not %d.", electable)
	}
	return nil
}

// electable counts the electable nodes that were asked for.
func electable(s store.ClusterSettings) int {
	n := 0
	for _, sp := range s.Specs {
		for _, r := range sp.Regions {
			if r.Electable != nil {
				n += r.Electable.NodeCount
			}
		}
	}
	return n
}

// requireKey refuses encryption where the project is not ready for it. note tells of a
// key that cannot be checked at present: a node then waits for it instead of failing.
func requireKey(tx *store.Tx, project keys.ProjectID) (note string, err error) {
	c, err := tx.KeyConfig(project)
	if err != nil {
		return "", err
	}
	if !c.Enabled {
		return "", cmk.NotEnabled(project)
	}
	v, err := tx.Verdict(project)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	switch custody.Verdict(v.Kind) {
	case custody.Invalid, custody.Grace, custody.Alert:
		return "", apierr.BadRequest("ENCRYPTION_AT_REST_SETTINGS_INVALID",
			"The project's customer key cannot be used at present (%s), so nothing can be encrypted under it; nothing was changed. %s", v.Reason, v.Remedy).With(string(project))
	case custody.Valid:
		return "", nil
	}
	return fmt.Sprintf(" The verdict on the project's customer key is %s at present (%s): the node waits until the key can be used, then goes on by itself.", v.Kind, v.Reason), nil
}
