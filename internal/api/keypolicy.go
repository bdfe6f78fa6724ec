package api

import (
	"net/http"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/custody"
)

// keyPolicy is what a confirmed revocation of a project's key does. Atlas has no call
// for it: there it always stops at once.
type keyPolicy struct {
	// Mode is STOP, GRACE or ALERT.
	Mode string `json:"mode"`
	// GraceMinutes is how long GRACE lasts; 0 in the other modes.
	GraceMinutes int `json:"gracePeriodMinutes"`
	// UnreachableMinutes is how long a host that reaches neither AWS nor the control
	// plane goes on; 0 is for ever.
	UnreachableMinutes int    `json:"unreachableLimitMinutes"`
	Interval           string `json:"validationInterval"`
	Links              []link `json:"links"`
}

type keyPolicyRequest struct {
	Mode               *string `json:"mode"`
	GraceMinutes       *int    `json:"gracePeriodMinutes"`
	UnreachableMinutes *int    `json:"unreachableLimitMinutes"`
}

// maxMinutes is the longest duration of the request; it keeps the product in range.
const maxMinutes = 7 * 24 * 60

func (c *call) keyPolicy(p custody.Policy) keyPolicy {
	return keyPolicy{
		Mode: string(p.Mode), GraceMinutes: int(p.Grace / time.Minute), UnreachableMinutes: int(p.UnreachableLimit / time.Minute),
		Interval: p.Interval.String(), Links: c.self("groups", string(c.project()), "keyPolicy"),
	}
}

func getKeyPolicy(c *call) (int, any, error) {
	p, err := c.cfg.CMK.KeyPolicy(c.ctx(), c.who, c.project())
	return http.StatusOK, c.keyPolicy(p), err
}

func updateKeyPolicy(c *call) (int, any, error) {
	var in keyPolicyRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	patch := cmk.PolicyPatch{Mode: in.Mode}
	var err error
	if patch.Grace, err = minutes("gracePeriodMinutes", in.GraceMinutes); err != nil {
		return 0, nil, err
	}
	if patch.UnreachableLimit, err = minutes("unreachableLimitMinutes", in.UnreachableMinutes); err != nil {
		return 0, nil, err
	}
	p, err := c.cfg.CMK.SetKeyPolicy(c.ctx(), c.who, c.project(), patch)
	return http.StatusOK, c.keyPolicy(p), err
}

func minutes(name string, v *int) (*time.Duration, error) {
	if v == nil {
		return nil, nil //nolint:nilnil // not sent
	}
	if *v < 0 || *v > maxMinutes {
		return nil, apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: %d minutes are out of range.", name, *v).With(name)
	}
	d := time.Duration(*v) * time.Minute
	return &d, nil
}
