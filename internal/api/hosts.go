package api

import (
	"net/http"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

type tokenRequest struct {
	Hostname string `json:"hostname"`
}

type tokenBody struct {
	Token       string `json:"token"`
	Expires     string `json:"expiresAt"`
	Fingerprint string `json:"serverCAFingerprint"`
}

func createEnrolmentToken(c *call) (int, any, error) {
	var in tokenRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	t, err := c.cfg.Cluster.CreateToken(c.ctx(), c.who, in.Hostname)
	return http.StatusCreated, tokenBody{Token: string(t.Token.Reveal()), Expires: stamp(t.Expires), Fingerprint: t.Fingerprint}, err
}

type hostBody struct {
	ID          keys.HostID `json:"id"`
	Hostname    string      `json:"hostname"`
	Enrolled    string      `json:"enrolledAt"`
	LastSeen    *string     `json:"lastSeenAt"`
	KMIPAddress string      `json:"kmipAddress,omitempty"`
	Egress      []string    `json:"egressAddresses"`
	Frozen      string      `json:"frozen,omitempty"`
	// Alarms are those that the host reported last; Acknowledged tells that it has taken
	// over the newest desired state.
	Alarms       []string `json:"alarms"`
	Acknowledged bool     `json:"acknowledged"`
}

func hostOf(h store.Host) hostBody {
	b := hostBody{
		ID: h.ID, Hostname: h.Hostname, Enrolled: stamp(h.Enrolled), LastSeen: stampOrNull(h.LastSeen), KMIPAddress: h.KMIPAddress,
		Egress: h.Egress, Frozen: h.Frozen, Alarms: h.Alarms, Acknowledged: h.Frozen == "" && h.Enacted >= h.Revision,
	}
	if b.Egress == nil {
		b.Egress = []string{}
	}
	if b.Alarms == nil {
		b.Alarms = []string{}
	}
	return b
}

func listHosts(c *call) (int, any, error) {
	all, err := c.cfg.Cluster.Hosts(c.ctx(), c.who)
	if err != nil {
		return 0, nil, err
	}
	return pagedAs(c, all, hostOf)
}

type confirmRequest struct {
	Confirm string `json:"confirm"`
}

func unfreezeHost(c *call) (int, any, error) {
	var in confirmRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	h, err := c.cfg.Cluster.Unfreeze(c.ctx(), c.who, c.vars["host"], in.Confirm)
	return http.StatusOK, hostOf(h), err
}

type forgetRequest struct {
	Hostname string `json:"hostname"`
}

// lossesBody is what died with a host.
type lossesBody struct {
	ID       keys.HostID   `json:"id"`
	Hostname string        `json:"hostname"`
	Clusters []string      `json:"clusters"`
	Nodes    []keys.NodeID `json:"nodes"`
	Keys     int           `json:"wrappedKeys"`
}

// forgetHost gives up a host that will not come back. Without its name in the body the
// refusal says what would die with it.
func forgetHost(c *call) (int, any, error) {
	var in forgetRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	l, err := c.cfg.Cluster.Forget(c.ctx(), c.who, keys.HostID(c.vars["hostId"]), in.Hostname)
	if err != nil {
		return 0, nil, err
	}
	out := lossesBody{ID: l.Host.ID, Hostname: l.Host.Hostname, Clusters: l.Clusters, Nodes: l.Nodes, Keys: l.Keys}
	if out.Clusters == nil {
		out.Clusters = []string{}
	}
	if out.Nodes == nil {
		out.Nodes = []keys.NodeID{}
	}
	return http.StatusOK, out, nil
}
