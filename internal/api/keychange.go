package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// keyConfiguration is a role, a key and where the key is.
type keyConfiguration struct {
	KeyID      string      `json:"customerMasterKeyID"`
	KeyARN     string      `json:"keyArn"`
	Region     string      `json:"region"`
	RoleID     keys.RoleID `json:"roleId"`
	Generation uint64      `json:"generation"`
}

// keyChange is a change that had to be prepared on the hosts.
type keyChange struct {
	Generation uint64 `json:"generation"`
	// State is STAGING, PAUSED, COMMITTED, ABORTED or RETIRED; Why says why it is PAUSED
	// or ABORTED, Code which kind of refusal that was.
	State string  `json:"state"`
	Since *string `json:"since"`
	Why   string  `json:"why,omitempty"`
	Code  string  `json:"errorCode,omitempty"`
	// Rewrap: kept keys are wrapped anew; otherwise they are only opened.
	Rewrap    bool             `json:"rewrap"`
	Rollback  bool             `json:"rollback"`
	Candidate keyConfiguration `json:"candidate"`
	Previous  keyConfiguration `json:"previous"`
	Requested *string          `json:"requestedAt"`
	By        string           `json:"requestedBy,omitempty"`
	Committed *string          `json:"committedAt"`
	// PreviousNotNeeded is since when nothing but a rollback needs the configuration
	// before.
	PreviousNotNeeded *string        `json:"previousNotNeededSince"`
	Hosts             []hostProgress `json:"hosts"`
}

// hostProgress is how far a host is.
type hostProgress struct {
	ID       keys.HostID `json:"id"`
	Hostname string      `json:"hostname"`
	Silent   bool        `json:"silent"`
	// Done of Total kept keys are proven for the candidate; Committed is the generation
	// that the host acts on.
	Done      int          `json:"done"`
	Total     int          `json:"total"`
	Ready     bool         `json:"ready"`
	Committed uint64       `json:"committedGeneration"`
	Failure   *wrapFailure `json:"failure,omitempty"`
}

type wrapFailure struct {
	KeyID      keys.KeyID `json:"keyId,omitempty"`
	Candidate  bool       `json:"ofCandidate"`
	Outcome    string     `json:"outcome,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Operation  string     `json:"operation,omitempty"`
	Permission string     `json:"missingPermission,omitempty"`
	Detail     string     `json:"detail,omitempty"`
	Remedy     string     `json:"remedy,omitempty"`
	Confirmed  bool       `json:"confirmed"`
}

func configurationOf(c store.KeyConfig) keyConfiguration {
	return keyConfiguration{KeyID: c.KeyID, KeyARN: c.KeyARN, Region: c.Region, RoleID: c.Role, Generation: c.Generation}
}

func changeOf(v cmk.View) *keyChange {
	c := v.Change
	if c == nil {
		return nil
	}
	out := &keyChange{
		Generation: c.Generation, State: c.State, Since: stampOrNull(c.Since), Why: c.Why, Code: c.Code, Rewrap: c.Rewrap, Rollback: c.Rollback,
		Candidate: configurationOf(c.Candidate), Previous: configurationOf(c.Previous), Requested: stampOrNull(c.Requested), By: c.By,
		Committed: stampOrNull(c.Committed), PreviousNotNeeded: stampOrNull(c.Safe), Hosts: []hostProgress{},
	}
	for _, h := range v.Hosts {
		b := hostProgress{ID: h.Host, Hostname: h.Hostname, Silent: h.Silent, Committed: h.Committed}
		switch {
		case c.Staged() && h.Staging == c.Generation:
			b.Done, b.Total, b.Ready = h.Done, h.Total, h.Done == h.Total && h.Failure == nil
		case !c.Committed.IsZero():
			b.Ready = h.Committed >= c.Generation
		}
		if f := h.Failure; f != nil && c.Staged() && h.Staging == c.Generation {
			b.Failure = &wrapFailure{
				KeyID: f.Key, Candidate: f.Candidate, Outcome: string(f.Outcome), Reason: string(f.Reason), Operation: string(f.Operation),
				Permission: f.Permission, Detail: f.Detail, Remedy: f.Remedy, Confirmed: f.Confirmed,
			}
		}
		out.Hosts = append(out.Hosts, b)
	}
	return out
}

func abortKeyChange(c *call) (int, any, error) {
	v, err := c.cfg.CMK.AbortChange(c.ctx(), c.who, c.project())
	return http.StatusOK, c.keyStatus(v), err
}

func rollbackKeyChange(c *call) (int, any, error) {
	v, err := c.cfg.CMK.Rollback(c.ctx(), c.who, c.project())
	return http.StatusAccepted, c.keyStatus(v), err
}
