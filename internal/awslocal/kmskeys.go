package awslocal

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	maxKeysPerRegion = 10000
	maxDescription   = 8192
	maxKeyPolicy     = 32 << 10

	specSymmetric = "SYMMETRIC_DEFAULT"
	usageEncrypt  = "ENCRYPT_DECRYPT"
	usageSign     = "SIGN_VERIFY"
	usageMAC      = "GENERATE_VERIFY_MAC"
)

// keyMetadata is KMS's description of a key.
type keyMetadata struct {
	AWSAccountID          string `json:"AWSAccountId"`
	KeyID                 string `json:"KeyId"`
	Arn                   string
	CreationDate          float64
	Enabled               bool
	Description           string
	KeyUsage              string
	KeyState              string
	Origin                string
	KeyManager            string
	KeySpec               string
	CustomerMasterKeySpec string
	EncryptionAlgorithms  []string `json:",omitempty"`
	SigningAlgorithms     []string `json:",omitempty"`
	MacAlgorithms         []string `json:",omitempty"`
	MultiRegion           bool
	DeletionDate          float64 `json:",omitempty"`
	CurrentKeyMaterialID  string  `json:"CurrentKeyMaterialId,omitempty"`

	MultiRegionConfiguration    *multiRegionConfiguration `json:",omitempty"`
	PendingDeletionWindowInDays int                       `json:",omitempty"`
}

func epoch(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (k *key) metadata(st *state, now time.Time) keyMetadata {
	m := keyMetadata{
		AWSAccountID: k.Account, KeyID: k.ID, Arn: k.ARN, CreationDate: epoch(k.Created),
		Enabled: k.State == stateEnabled, Description: k.Description, KeyUsage: k.Usage, KeyState: k.State,
		Origin: "AWS_KMS", KeyManager: "CUSTOMER", KeySpec: k.Spec, CustomerMasterKeySpec: k.Spec,
		CurrentKeyMaterialID: k.MaterialID, MultiRegion: k.Primary != "", MultiRegionConfiguration: k.regions(st, now),
		PendingDeletionWindowInDays: k.WindowDays,
	}
	if k.State == statePendingDeletion {
		m.DeletionDate = epoch(k.Deletion)
	}
	switch algorithms := algorithmsOf(k.Spec, k.Usage); k.Usage {
	case usageEncrypt:
		m.EncryptionAlgorithms = algorithms
	case usageSign:
		m.SigningAlgorithms = algorithms
	case usageMAC:
		m.MacAlgorithms = algorithms
	}
	return m
}

// algorithmsOf gives the algorithms of a pair of spec and usage, nil if there is
// no such key.
func algorithmsOf(spec, usage string) []string {
	family, _, _ := strings.Cut(spec, "_")
	switch family + " " + usage {
	case "SYMMETRIC " + usageEncrypt:
		return []string{specSymmetric}
	case "RSA " + usageEncrypt:
		return []string{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"}
	case "RSA " + usageSign:
		return []string{
			"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
			"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
		}
	case "ECC " + usageSign:
		return []string{map[string]string{
			"ECC_NIST_P256": "ECDSA_SHA_256", "ECC_SECG_P256K1": "ECDSA_SHA_256",
			"ECC_NIST_P384": "ECDSA_SHA_384", "ECC_NIST_P521": "ECDSA_SHA_512",
		}[spec]}
	case "HMAC " + usageMAC:
		return []string{"HMAC_SHA_" + strings.TrimPrefix(spec, "HMAC_")}
	}
	return nil
}

func knownSpec(spec string) bool {
	return slices.Contains([]string{
		specSymmetric, "RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
		"ECC_SECG_P256K1", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512",
	}, spec)
}

type createKeyInput struct {
	Policy                         *string
	Description                    string
	KeyUsage                       string
	KeySpec                        string
	CustomerMasterKeySpec          string
	Origin                         string
	MultiRegion                    bool
	Tags                           []kmsTag
	BypassPolicyLockoutSafetyCheck bool
}

func (in *createKeyInput) check() error {
	if in.KeySpec == "" {
		in.KeySpec = in.CustomerMasterKeySpec
	}
	if in.KeySpec == "" {
		in.KeySpec = specSymmetric
	}
	if in.KeyUsage == "" {
		if in.KeySpec != specSymmetric {
			return invalid("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
		}
		in.KeyUsage = usageEncrypt
	}
	switch {
	case !knownSpec(in.KeySpec):
		return kmsFail("UnsupportedOperationException", "The local AWS has no keys of spec %.100q", in.KeySpec)
	case algorithmsOf(in.KeySpec, in.KeyUsage) == nil:
		return invalid("KeyUsage %.100s is not compatible with KeySpec %s", in.KeyUsage, in.KeySpec)
	case in.Origin != "" && in.Origin != "AWS_KMS":
		return kmsFail("UnsupportedOperationException", "The local AWS has no keys of origin %.100q", in.Origin)
	case len(in.Description) > maxDescription:
		return tooLong("description", maxDescription)
	}
	return nil
}

func createKey(c *call, st *state, body []byte) (any, error) {
	var in createKeyInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	tags, err := tagsFromKMS(in.Tags)
	if err != nil {
		return nil, err
	}
	id, primary := newRequestID(), ""
	if in.MultiRegion {
		id, primary = "mrk-"+strings.ReplaceAll(id, "-", ""), c.region
	}
	k := &key{
		ARN: keyARN(c.region, c.caller.Account, id), Account: c.caller.Account, Region: c.region, ID: id, Primary: primary,
		Description: in.Description, Spec: in.KeySpec, Usage: in.KeyUsage, State: stateEnabled, Created: c.now.UTC(), Tags: asMap(tags),
	}
	if err := c.authorizeCreate(k, tags, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	text := defaultKeyPolicy(k.Account)
	if in.Policy != nil {
		text = *in.Policy
	}
	if err := c.setKeyPolicy(st, k, text, in.Policy == nil || in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	st.dropGoneKeys(c.now)
	if st.countKeys(k.Account, k.Region) >= maxKeysPerRegion {
		return nil, kmsFail("LimitExceededException", "The local AWS holds at most %d keys per account and Region", maxKeysPerRegion)
	}
	if k.Spec == specSymmetric {
		k.Material, k.MaterialID = randomBytes(32), hex.EncodeToString(randomBytes(32))
	}
	c.entry.KeyARN = k.ARN
	st.Keys[k.ARN] = k
	return map[string]any{"KeyMetadata": k.metadata(st, c.now)}, nil
}

// authorizeCreate asks the caller's own policies whether a key may be made; its
// tags need a permission of their own.
func (c *call) authorizeCreate(k *key, tags []tag, bypass bool) error {
	inRegion := func(ctx policy.Context) {
		k.conditions(ctx)
		ctx.Set("kms:BypassPolicyLockoutSafetyCheck", boolText(bypass))
		ctx.Set("aws:RequestedRegion", k.Region)
	}
	if len(tags) > 0 {
		if err := c.authorizeIAM("TagResource", inRegion, requestTags(tags)); err != nil {
			return err
		}
	}
	return c.authorizeIAM("CreateKey", inRegion, requestTags(tags))
}

func updateKeyDescription(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		Description string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if len(in.Description) > maxDescription {
		return nil, tooLong("description", maxDescription)
	}
	k, err := c.manage(st, in.KeyID, "UpdateKeyDescription")
	if err != nil {
		return nil, err
	}
	if k.pending() {
		return nil, pendingDeletion(k)
	}
	k.Description = in.Description
	return nil, nil
}

func tooLong(name string, most int) error {
	return invalid("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must have length less than or equal to %d", name, most)
}

// dropGoneKeys forgets the keys whose waiting period is over, with their
// material and aliases.
func (st *state) dropGoneKeys(now time.Time) {
	for arn, k := range st.Keys {
		if k.gone(now) {
			clear(k.Material)
			for _, m := range k.Older {
				clear(m.Material)
			}
			delete(st.Keys, arn)
		}
	}
	for arn, a := range st.Aliases {
		if st.Keys[a.KeyARN] == nil {
			delete(st.Aliases, arn)
		}
	}
}

func (st *state) countKeys(account, region string) int {
	n := 0
	for _, k := range st.Keys {
		if k.Account == account && k.Region == region {
			n++
		}
	}
	return n
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func describeKey(c *call, st *state, body []byte) (any, error) {
	var in struct {
		KeyID       string `json:"KeyId"`
		GrantTokens []string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := noGrants(in.GrantTokens); err != nil {
		return nil, err
	}
	ref, err := c.findKey(st, in.KeyID, true)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "DescribeKey", true, nil); err != nil {
		return nil, err
	}
	return map[string]any{"KeyMetadata": ref.key.metadata(st, c.now)}, nil
}

func noGrants(tokens []string) error {
	if len(tokens) > 0 {
		return kmsFail("InvalidGrantTokenException", "The local AWS has no grants, so no grant token is valid")
	}
	return nil
}

func listKeys(c *call, st *state, body []byte) (any, error) {
	var in struct {
		Limit  *int
		Marker string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	limit := 100
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 || limit > 1000 {
			return nil, invalid("1 validation error detected: Value at 'limit' failed to satisfy constraint: Member must have value between 1 and 1000")
		}
	}
	if in.Marker != "" && !keyIDForm.MatchString(in.Marker) {
		return nil, kmsFail("InvalidMarkerException", "Could not deserialize marker")
	}
	if err := c.authorizeIAM("ListKeys", nil); err != nil {
		return nil, err
	}
	type entry struct {
		KeyID  string `json:"KeyId"`
		KeyArn string
	}
	keys := []entry{}
	for _, k := range st.Keys {
		if k.Account == c.caller.Account && k.Region == c.region && k.ID > in.Marker && !k.gone(c.now) {
			keys = append(keys, entry{k.ID, k.ARN})
		}
	}
	slices.SortFunc(keys, func(a, b entry) int { return strings.Compare(a.KeyID, b.KeyID) })
	out := map[string]any{"Keys": keys, "Truncated": false}
	if len(keys) > limit {
		out["Keys"], out["Truncated"], out["NextMarker"] = keys[:limit], true, keys[limit-1].KeyID
	}
	return out, nil
}

type keyIDInput struct {
	KeyID string `json:"KeyId"`
}

func enableKey(c *call, st *state, body []byte) (any, error) {
	return nil, c.setState(st, body, "EnableKey", stateEnabled)
}

func disableKey(c *call, st *state, body []byte) (any, error) {
	return nil, c.setState(st, body, "DisableKey", stateDisabled)
}

func (c *call) setState(st *state, body []byte, operation, to string) error {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return err
	}
	k, err := c.manage(st, in.KeyID, operation)
	if err != nil {
		return err
	}
	if k.pending() {
		return pendingDeletion(k)
	}
	k.State = to
	return nil
}

func scheduleKeyDeletion(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		PendingWindowInDays *int
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	days := 30
	if in.PendingWindowInDays != nil {
		if days = *in.PendingWindowInDays; days < 7 || days > 30 {
			return nil, invalid("1 validation error detected: Value '%d' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value between 7 and 30", days)
		}
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "ScheduleKeyDeletion", false, func(ctx policy.Context) {
		ctx.Set("kms:ScheduleKeyDeletionPendingWindowInDays", itoa(days))
	}); err != nil {
		return nil, err
	}
	k := ref.key
	if k.pending() {
		return nil, pendingDeletion(k)
	}
	if k.Primary == k.Region && len(st.replicas(k, c.now)) > 0 {
		k.State, k.WindowDays = statePendingReplicaDeletion, days
		return map[string]any{"KeyId": k.ARN, "KeyState": k.State, "PendingWindowInDays": days}, nil
	}
	k.State, k.Deletion = statePendingDeletion, c.now.UTC().Add(time.Duration(days)*24*time.Hour)
	return map[string]any{"KeyId": k.ARN, "DeletionDate": epoch(k.Deletion), "KeyState": k.State, "PendingWindowInDays": days}, nil
}

func cancelKeyDeletion(c *call, st *state, body []byte) (any, error) {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "CancelKeyDeletion")
	if err != nil {
		return nil, err
	}
	if !k.pending() {
		return nil, kmsFail("KMSInvalidStateException", "%s is not pending deletion.", k.ARN)
	}
	k.State, k.Deletion, k.WindowDays = stateDisabled, time.Time{}, 0
	return map[string]any{"KeyId": k.ARN}, nil
}
