package awslocal

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/keywright/keywright/internal/awslocal/policy"
)

const (
	defaultRotationDays  = 365
	minRotationDays      = 90
	maxRotationDays      = 2560
	maxOnDemandRotations = 25
	// closeRotation is how near an automatic rotation may be to one on demand.
	closeRotation = 20 * time.Minute

	rotatedAutomatic = "AUTOMATIC"
	rotatedOnDemand  = "ON_DEMAND"
)

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// schedule gives a copy of the key's rotation schedule: a multi-Region key has
// its primary's.
func (st *state) schedule(k *key) rotationSchedule {
	if k.Primary != "" {
		k = st.Keys[keyARN(k.Primary, k.Account, k.ID)]
	}
	if k == nil || k.Rotation == nil {
		return rotationSchedule{Days: defaultRotationDays}
	}
	return *k.Rotation
}

// rotates checks that a key's kind and state allow to set its rotation. A
// multi-Region key is set on the primary only.
func (k *key) rotates() error {
	switch {
	case k.Spec != specSymmetric:
		return kmsFail("UnsupportedOperationException", "%s is not a symmetric encryption key: it cannot be rotated.", k.ARN)
	case k.Primary != "" && k.Primary != k.Region:
		return kmsFail("UnsupportedOperationException", "%s is a multi-Region replica key: its primary key in %s sets the rotation.", k.ARN, k.Primary)
	}
	return k.usable()
}

func enableKeyRotation(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		RotationPeriodInDays *int
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if p := in.RotationPeriodInDays; p != nil && (*p < minRotationDays || *p > maxRotationDays) {
		return nil, invalid("1 validation error detected: Value '%d' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value between %d and %d", *p, minRotationDays, maxRotationDays)
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "EnableKeyRotation", false, func(ctx policy.Context) {
		if in.RotationPeriodInDays != nil {
			ctx.Set("kms:RotationPeriodInDays", itoa(*in.RotationPeriodInDays))
		}
	}); err != nil {
		return nil, err
	}
	if err := ref.key.rotates(); err != nil {
		return nil, err
	}
	old := st.schedule(ref.key)
	next := rotationSchedule{Enabled: true, Days: old.Days, Next: old.Next}
	if in.RotationPeriodInDays != nil {
		next.Days = *in.RotationPeriodInDays
	}
	if !old.Enabled || next.Days != old.Days {
		next.Next = c.now.UTC().Add(days(next.Days))
	}
	ref.key.Rotation = &next
	return nil, nil
}

func disableKeyRotation(c *call, st *state, body []byte) (any, error) {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "DisableKeyRotation")
	if err != nil {
		return nil, err
	}
	if err := k.rotates(); err != nil {
		return nil, err
	}
	if k.Rotation != nil {
		k.Rotation = &rotationSchedule{Days: k.Rotation.Days}
	}
	return nil, nil
}

func getKeyRotationStatus(c *call, st *state, body []byte) (any, error) {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	ref, err := c.findKey(st, in.KeyID, false)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeKey(ref, "GetKeyRotationStatus", true, nil); err != nil {
		return nil, err
	}
	k := ref.key
	if k.Spec != specSymmetric {
		return nil, kmsFail("UnsupportedOperationException", "%s is not a symmetric encryption key: it cannot be rotated.", k.ARN)
	}
	out := map[string]any{"KeyId": k.ID, "KeyRotationEnabled": false}
	if r := st.schedule(k); r.Enabled && !k.pending() {
		out["KeyRotationEnabled"], out["RotationPeriodInDays"], out["NextRotationDate"] = true, r.Days, epoch(r.Next)
	}
	return out, nil
}

func rotateKeyOnDemand(c *call, st *state, body []byte) (any, error) {
	var in keyIDInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := c.manage(st, in.KeyID, "RotateKeyOnDemand")
	if err != nil {
		return nil, err
	}
	if err := k.rotates(); err != nil {
		return nil, err
	}
	done, latest := 0, time.Time{}
	for _, r := range k.rotations() {
		if r.RotationType == rotatedOnDemand {
			done++
		} else {
			latest = r.Rotated
		}
	}
	if done >= maxOnDemandRotations {
		return nil, kmsFail("LimitExceededException", "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: %s", k.ARN)
	}
	if r := st.schedule(k); (r.Enabled && r.Next.Sub(c.now) < closeRotation) || (!latest.IsZero() && c.now.Sub(latest) < closeRotation) {
		return nil, kmsFail("ConflictException", "An automatic rotation of %s is too close", k.ARN)
	}
	st.rotate(k, c.now, rotatedOnDemand)
	return map[string]any{"KeyId": k.ARN}, nil
}

// rotate gives a key and its replicas the same new material; the old one stays.
func (st *state) rotate(k *key, at time.Time, how string) {
	material, id := randomBytes(32), hex.EncodeToString(randomBytes(materialIDLen))
	for _, r := range st.related(k) {
		r.Older = append(slices.Clone(r.Older), keyMaterial{ID: r.MaterialID, Material: r.Material, Rotated: r.Rotated, RotationType: r.RotationType})
		r.Material, r.MaterialID, r.Rotated, r.RotationType = bytes.Clone(material), id, at.UTC(), how
	}
}

// rotations are the materials that came by a rotation, oldest first.
func (k *key) rotations() []keyMaterial {
	return slices.DeleteFunc(k.materials(), func(m keyMaterial) bool { return m.Rotated.IsZero() })
}

// materials are all, oldest first; the last is the current one.
func (k *key) materials() []keyMaterial {
	return append(slices.Clone(k.Older), keyMaterial{ID: k.MaterialID, Rotated: k.Rotated, RotationType: k.RotationType})
}

func listKeyRotations(c *call, st *state, body []byte) (any, error) {
	var in struct {
		keyIDInput
		IncludeKeyMaterial string
		Limit              *int
		Marker             string
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
	if !slices.Contains([]string{"", "ROTATIONS_ONLY", "ALL_KEY_MATERIAL"}, in.IncludeKeyMaterial) {
		return nil, invalid("1 validation error detected: Value '%.100s' at 'includeKeyMaterial' failed to satisfy constraint: Member must satisfy enum value set: [ROTATIONS_ONLY, ALL_KEY_MATERIAL]", in.IncludeKeyMaterial)
	}
	k, err := c.manage(st, in.KeyID, "ListKeyRotations")
	if err != nil {
		return nil, err
	}
	if k.Spec != specSymmetric {
		return nil, kmsFail("UnsupportedOperationException", "%s is not a symmetric encryption key: it cannot be rotated.", k.ARN)
	}
	list := k.rotations()
	if in.IncludeKeyMaterial == "ALL_KEY_MATERIAL" {
		list = k.materials()
	}
	from := 0
	if in.Marker != "" {
		if from, err = strconv.Atoi(in.Marker); err != nil || from < 0 || from > len(list) {
			return nil, kmsFail("InvalidMarkerException", "Could not deserialize marker")
		}
	}
	rotations := []map[string]any{}
	for _, m := range list[from:min(len(list), from+limit)] {
		rotations = append(rotations, k.rotationEntry(m))
	}
	out := map[string]any{"Rotations": rotations, "Truncated": from+limit < len(list)}
	if from+limit < len(list) {
		out["NextMarker"] = itoa(from + limit)
	}
	return out, nil
}

func (k *key) rotationEntry(m keyMaterial) map[string]any {
	e := map[string]any{"KeyId": k.ID, "KeyMaterialId": m.ID, "KeyMaterialState": "NON_CURRENT"}
	if m.ID == k.MaterialID {
		e["KeyMaterialState"] = "CURRENT"
	}
	if !m.Rotated.IsZero() {
		e["RotationDate"], e["RotationType"] = epoch(m.Rotated), m.RotationType
	}
	return e
}

// nextDue gives the time at which settle has something to do, zero for never.
func (st *state) nextDue() time.Time {
	var due time.Time
	for _, k := range st.Keys {
		at, ok := time.Time{}, false
		switch {
		case k.State == stateEnabled && k.Rotation != nil && k.Rotation.Enabled:
			at, ok = k.Rotation.Next, true
		case k.State == statePendingReplicaDeletion:
			at, ok = st.replicasGone(k)
		}
		if ok && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	return due
}

// settle does what time brings: it rotates keys whose rotation is due (a
// disabled key once it is enabled again), and starts the waiting period of a
// primary key whose replicas are gone.
func (st *state) settle(now time.Time) {
	for _, k := range st.Keys {
		switch {
		case k.State == stateEnabled && k.Rotation != nil && k.Rotation.Enabled:
			r := *k.Rotation
			for !now.Before(r.Next) {
				st.rotate(k, r.Next, rotatedAutomatic)
				r.Next = r.Next.Add(days(max(r.Days, minRotationDays)))
			}
			k.Rotation = &r
		case k.State == statePendingReplicaDeletion:
			if at, ok := st.replicasGone(k); ok && !now.Before(at) {
				k.State, k.Deletion, k.WindowDays = statePendingDeletion, at.Add(days(k.WindowDays)), 0
			}
		}
	}
}
