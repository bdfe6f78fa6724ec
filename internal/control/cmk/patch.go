package cmk

import (
	"regexp"
	"slices"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
	"github.com/keywright/keywright/internal/store"
)

// Patch changes a project's key management. What is nil was not sent and keeps its
// value; an object without any field is no change.
type Patch struct {
	AWS *AWSPatch
	// Azure and Google: only being off is supported.
	Azure, Google         *OtherPatch
	EnabledForSearchNodes *bool
	// imports: an operator brings an access key into the project.
	imports bool
}

// AWSPatch is the awsKms object. Valid, which clients send back, is not part of it.
type AWSPatch struct {
	Enabled                  *bool
	CustomerMasterKeyID      *string
	Region                   *string
	RoleID                   *string
	RequirePrivateNetworking *bool
	// AccessKeyID and SecretAccessKey are refused but in projects that have an access key.
	AccessKeyID     *string
	SecretAccessKey *secret.Bytes
}

// OtherPatch is the object of another key service.
type OtherPatch struct {
	Enabled *bool
}

var regions = []string{
	"US_EAST_1", "US_EAST_2", "US_WEST_1", "US_WEST_2", "CA_CENTRAL_1", "CA_WEST_1", "MX_CENTRAL_1", "SA_EAST_1",
	"EU_WEST_1", "EU_WEST_2", "EU_WEST_3", "EU_CENTRAL_1", "EU_CENTRAL_2", "EU_NORTH_1", "EU_SOUTH_1", "EU_SOUTH_2",
	"AP_EAST_1", "AP_EAST_2", "AP_NORTHEAST_1", "AP_NORTHEAST_2", "AP_NORTHEAST_3", "AP_SOUTH_1", "AP_SOUTH_2",
	"AP_SOUTHEAST_1", "AP_SOUTHEAST_2", "AP_SOUTHEAST_3", "AP_SOUTHEAST_4", "AP_SOUTHEAST_5", "AP_SOUTHEAST_6", "AP_SOUTHEAST_7",
	"ME_SOUTH_1", "ME_CENTRAL_1", "AF_SOUTH_1", "IL_CENTRAL_1", "US_GOV_EAST_1", "US_GOV_WEST_1", "CN_NORTH_1", "CN_NORTHWEST_1",
}

// Regions lists the regions that a key may be in, in Atlas's form.
func Regions() []string { return slices.Clone(regions) }

var printable = regexp.MustCompile(`^[!-~]+$`)

// check refuses what is wrong whatever the project has, and brings the region into
// Atlas's form.
func (p *Patch) check() error {
	for name, o := range map[string]*OtherPatch{"azureKeyVault": p.Azure, "googleCloudKms": p.Google} {
		if o != nil && o.Enabled != nil && *o.Enabled {
			return apierr.BadRequest("ENCRYPTION_AT_REST_PROVIDER_NOT_SUPPORTED", "%s cannot be enabled: keys of AWS KMS are supported, use awsKms.", name).With(name)
		}
	}
	a := p.AWS
	if a == nil {
		return nil
	}
	if a.RequirePrivateNetworking != nil && *a.RequirePrivateNetworking {
		return apierr.BadRequest("FEATURE_UNSUPPORTED", "requirePrivateNetworking is not supported: the control plane and the hosts reach AWS KMS through the network that they have. Leave it out or send false.").With("requirePrivateNetworking")
	}
	if a.Region != nil {
		up := strings.ToUpper(strings.ReplaceAll(*a.Region, "-", "_"))
		if !slices.Contains(regions, up) {
			return apierr.BadRequest("AWS_KMS_REGION_NOT_SUPPORTED", "%q is not a region of AWS KMS; write it like US_EAST_1.", (*a.Region)[:min(len(*a.Region), 64)]).With("region")
		}
		a.Region = &up
	}
	if a.RoleID != nil && *a.RoleID != "" && !keys.ValidID(*a.RoleID) {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute roleId specified: 24 lower-case hexadecimal digits are expected, the roleId of a cloud provider access role.").With("roleId")
	}
	if a.CustomerMasterKeyID != nil {
		return checkKeyID(*a.CustomerMasterKeyID)
	}
	return nil
}

func checkKeyID(id string) error {
	bad := func(format string, args ...any) error {
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute customerMasterKeyID specified: "+format, args...).With("customerMasterKeyID")
	}
	if len(id) > 2048 || !printable.MatchString(id) {
		return bad("1 to 2048 printable characters are expected, the key's id or its full ARN.")
	}
	if keys.IsAlias(id) {
		return bad("%s is an alias, and an alias can be pointed at another key. Give the key's id, or its full ARN.", id[:min(len(id), 300)])
	}
	if strings.HasPrefix(id, "arn:") {
		if a, err := keys.ParseARN(id); err != nil || a.Service != "kms" || !strings.HasPrefix(a.Resource, "key/") {
			return bad("it is not the ARN of a KMS key (arn:aws:kms:REGION:ACCOUNT:key/ID).")
		}
	}
	return nil
}

// disables tells whether the patch switches key management off.
func (p Patch) disables() bool { return p.AWS != nil && p.AWS.Enabled != nil && !*p.AWS.Enabled }

// apply merges the patch into a configuration. keyChanged tells whether role (or access
// key), key or region are others than before, so that a validation run is needed.
func (p Patch) apply(old store.KeyConfig) (c store.KeyConfig, keyChanged bool, err error) {
	c = old
	if p.EnabledForSearchNodes != nil {
		c.SearchNodes = *p.EnabledForSearchNodes
	}
	a := p.AWS
	if a == nil || *a == (AWSPatch{}) {
		return c, false, nil
	}
	if err := p.credentialsAllowed(old); err != nil {
		return c, false, err
	}
	set := func(into *string, v *string) {
		if v != nil && *v != "" {
			*into = *v
		}
	}
	set(&c.KeyID, a.CustomerMasterKeyID)
	set(&c.Region, a.Region)
	if err := p.applyReach(old, &c); err != nil {
		return c, false, err
	}
	if a.RequirePrivateNetworking != nil {
		c.PrivateNetworking = *a.RequirePrivateNetworking
	}
	if !old.Enabled {
		if a.Enabled == nil {
			return c, false, missing("awsKms.enabled", "the project's key management is off; send true to switch it on")
		}
		c.Enabled = true
	}
	for _, f := range []struct{ name, value, what string }{
		{"awsKms.roleId", string(c.Role) + c.AccessKeyID, "the roleId of an authorized cloud provider access role"},
		{"awsKms.customerMasterKeyID", c.KeyID, "the id or ARN of the KMS key"},
		{"awsKms.region", c.Region, "the key's region, such as US_EAST_1"},
	} {
		if f.value == "" {
			return c, false, missing(f.name, f.what)
		}
	}
	if arn, err := keys.ParseARN(c.KeyID); err == nil && arn.Region != AWSRegion(c.Region) && !keys.MultiRegion(arn) {
		return c, false, apierr.NotFound("AWS_CUSTOMER_MASTER_KEY_NOT_FOUND",
			"The key %s is in region %s, not in %s (%s). Send the region that the ARN names.", c.KeyID, arn.Region, c.Region, AWSRegion(c.Region)).With(c.KeyID)
	}
	reached := c.Role != old.Role || c.AccessKeyID != old.AccessKeyID || c.AccessKeyID != "" && a.SecretAccessKey != nil
	return c, !old.Enabled || reached || c.KeyID != old.KeyID || c.Region != old.Region, nil
}

func missing(field, what string) error {
	return apierr.BadRequest("MISSING_ATTRIBUTE", "The required attribute %s was not specified: %s.", field, what).With(field)
}
