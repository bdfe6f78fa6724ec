package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/policydoc"
)

// hostPolicyBody is the identity policy that a host's AWS principal needs now.
type hostPolicyBody struct {
	ID       keys.HostID `json:"id"`
	Hostname string      `json:"hostname"`
	Roles    []string    `json:"roleArns"`
	// Policy is null while the host needs no role.
	Policy *policydoc.Document `json:"policy"`
}

func getHostPolicy(c *call) (int, any, error) {
	v, err := c.cfg.Access.HostPolicy(c.ctx(), c.who, c.vars["hostId"])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, hostPolicyBody{ID: v.Host, Hostname: v.Hostname, Roles: v.Roles, Policy: v.Document}, nil
}
