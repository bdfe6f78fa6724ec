package awslocal

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

type multiRegionKey struct{ Arn, Region string }

// multiRegionConfiguration is KMS's description of a key's relatives.
type multiRegionConfiguration struct {
	MultiRegionKeyType string
	PrimaryKey         multiRegionKey
	ReplicaKeys        []multiRegionKey
}

func (k *key) multiRegionType() string {
	if k.Primary == k.Region {
		return "PRIMARY"
	}
	return "REPLICA"
}

// related gives a key and, if it is a multi-Region key, its relatives in all
// Regions, sorted by Region.
func (st *state) related(k *key) []*key {
	if k.Primary == "" {
		return []*key{k}
	}
	var out []*key
	for _, r := range st.Keys {
		if r.ID == k.ID && r.Account == k.Account {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *key) int { return cmp.Compare(a.Region, b.Region) })
	return out
}

// replicas gives the replicas of a multi-Region key that exist.
func (st *state) replicas(k *key, now time.Time) []*key {
	return slices.DeleteFunc(st.related(k), func(r *key) bool { return r.Region == k.Primary || r.gone(now) })
}

// replicasGone gives the time at which the last replica of a primary key is
// gone; false if one of them stays.
func (st *state) replicasGone(k *key) (time.Time, bool) {
	last := k.Created
	for _, r := range st.related(k) {
		if r.Region == k.Primary {
			continue
		}
		if r.State != statePendingDeletion {
			return time.Time{}, false
		}
		if r.Deletion.After(last) {
			last = r.Deletion
		}
	}
	return last, true
}

func (k *key) regions(st *state, now time.Time) *multiRegionConfiguration {
	if k.Primary == "" {
		return nil
	}
	m := &multiRegionConfiguration{
		MultiRegionKeyType: k.multiRegionType(),
		PrimaryKey:         multiRegionKey{keyARN(k.Primary, k.Account, k.ID), k.Primary}, ReplicaKeys: []multiRegionKey{},
	}
	for _, r := range st.replicas(k, now) {
		m.ReplicaKeys = append(m.ReplicaKeys, multiRegionKey{r.ARN, r.Region})
	}
	return m
}

// madeBlobOf tells whether a blob that names an ARN can be this key's: related
// multi-Region keys have ARNs that differ in the Region only.
func (k *key) madeBlobOf(arn string) bool {
	if arn == k.ARN || k.Primary == "" {
		return arn == k.ARN
	}
	p := strings.SplitN(arn, ":", 6)
	return len(p) == 6 && keyARN(p[3], k.Account, k.ID) == arn
}

// primary checks that a key is a multi-Region primary key.
func (k *key) primary() error {
	if k.Primary == "" || k.Primary != k.Region {
		return kmsFail("UnsupportedOperationException", "%s is not a multi-region primary key.", k.ARN)
	}
	return k.usable()
}

func replicateKey(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		ReplicaRegion                  string
		Policy                         *string
		Description                    string
		Tags                           []kmsTag
		BypassPolicyLockoutSafetyCheck bool
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	tags, err := tagsFromKMS(in.Tags)
	if err != nil {
		return nil, err
	}
	if !regionForm.MatchString(in.ReplicaRegion) {
		return nil, invalid("1 validation error detected: Value '%.50s' at 'replicaRegion' failed to satisfy constraint: it must be a Region", in.ReplicaRegion)
	}
	if len(in.Description) > maxDescription {
		return nil, tooLong("description", maxDescription)
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "ReplicateKey", false, func(ctx policy.Context) { ctx.Set("kms:ReplicaRegion", in.ReplicaRegion) }); err != nil {
		return nil, err
	}
	k := ref.key
	if err := k.primary(); err != nil {
		return nil, err
	}
	r := *k
	r.Region, r.ARN = in.ReplicaRegion, keyARN(in.ReplicaRegion, k.Account, k.ID)
	r.Description, r.Created, r.State, r.Tags, r.Rotation = in.Description, c.now.UTC(), stateEnabled, asMap(tags), nil
	if err := c.authorizeCreate(&r, tags, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	if !st.Keys[r.ARN].gone(c.now) {
		return nil, kmsFail("AlreadyExistsException", "%s already exists", r.ARN)
	}
	text := defaultKeyPolicy(k.Account)
	if in.Policy != nil {
		text = *in.Policy
	}
	if err := c.setKeyPolicy(st, &r, text, in.Policy == nil || in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	st.dropGoneKeys(c.now)
	if st.countKeys(r.Account, r.Region) >= maxKeysPerRegion {
		return nil, kmsFail("LimitExceededException", "The local AWS holds at most %d keys per account and Region", maxKeysPerRegion)
	}
	r.Material, r.Older = bytes.Clone(k.Material), slices.Clone(k.Older)
	for i := range r.Older {
		r.Older[i].Material = bytes.Clone(r.Older[i].Material)
	}
	st.Keys[r.ARN] = &r
	return map[string]any{"ReplicaKeyMetadata": r.metadata(st, c.now), "ReplicaPolicy": st.readBack(r.Policy), "ReplicaTags": tagsForKMS(r.Tags)}, nil
}

// updatePrimaryRegion makes a replica the primary key. It needs a permission on
// both keys.
func updatePrimaryRegion(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		PrimaryRegion string
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	more := func(ctx policy.Context) { ctx.Set("kms:PrimaryRegion", in.PrimaryRegion) }
	if err := c.authorizeKey(ref, "UpdatePrimaryRegion", false, more); err != nil {
		return nil, err
	}
	old := ref.key
	if err := old.primary(); err != nil {
		return nil, err
	}
	next := st.Keys[keyARN(in.PrimaryRegion, old.Account, old.ID)]
	if next.gone(c.now) {
		return nil, kmsFail("NotFoundException", "%s has no replica in %.50s", old.ARN, in.PrimaryRegion)
	}
	if err := c.authorizeKey(keyRef{arn: next.ARN, account: next.Account, key: next}, "UpdatePrimaryRegion", false, more); err != nil {
		return nil, err
	}
	if err := next.usable(); err != nil {
		return nil, err
	}
	schedule := old.Rotation
	old.Rotation = nil
	next.Rotation = schedule
	for _, r := range st.related(next) {
		r.Primary = next.Region
	}
	return nil, nil
}
