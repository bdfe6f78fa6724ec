package api

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// controlPlaneAddresses answers without authentication, as Atlas does: customers need
// the addresses before they have an account.
func controlPlaneAddresses(c *call) (int, any, error) {
	type byRegion map[string][]string
	type direction struct {
		AWS   byRegion `json:"aws"`
		Azure byRegion `json:"azure"`
		GCP   byRegion `json:"gcp"`
	}
	in := direction{AWS: byRegion{}, Azure: byRegion{}, GCP: byRegion{}}
	out := direction{AWS: byRegion{}, Azure: byRegion{}, GCP: byRegion{}}
	region, addresses, err := c.cfg.Network.ControlPlane(c.ctx())
	for _, a := range addresses {
		out.AWS[region] = append(out.AWS[region], block(a))
	}
	return http.StatusOK, map[string]any{"inbound": in, "outbound": out, "gateways": []string{}}, err
}

// block writes an address as the block of one that it is.
func block(a string) string {
	switch {
	case strings.Contains(a, "/"):
		return a
	case strings.Contains(a, ":"):
		return a + "/128"
	}
	return a + "/32"
}

// networkBody is from where a project's key is used.
type networkBody struct {
	GroupID keys.ProjectID `json:"groupId"`
	RoleARN string         `json:"roleArn,omitempty"`
	KeyARN  string         `json:"keyArn,omitempty"`
	// Addresses are those of the control plane and of all hosts of the project.
	Addresses    []string      `json:"addresses"`
	ControlPlane machineBody   `json:"controlPlane"`
	Hosts        []machineBody `json:"hosts"`
	// Denied are the hosts that AWS refuses now although others can use the key.
	Denied []deniedBody `json:"denied"`
	// Changes are the newest first; those with confirmedAt null wait for the customer.
	Changes []addressChangeBody `json:"changes"`
	// Statements are what allows exactly the addresses; null while there are none or
	// key management is off.
	Statements *statementsBody `json:"statements"`
	Links      []link          `json:"links"`
}

type machineBody struct {
	ID        keys.HostID  `json:"id,omitempty"`
	Hostname  string       `json:"hostname"`
	Addresses []string     `json:"addresses"`
	Since     *string      `json:"since"`
	Verdict   string       `json:"verdict,omitempty"`
	Reason    string       `json:"reason,omitempty"`
	History   []periodBody `json:"history"`
}

type periodBody struct {
	Addresses []string `json:"addresses"`
	Since     string   `json:"since"`
}

type deniedBody struct {
	ID       keys.HostID `json:"id"`
	Hostname string      `json:"hostname"`
	// Allow are the addresses to allow.
	Allow  []string `json:"allow"`
	Since  *string  `json:"since"`
	Reason string   `json:"reason,omitempty"`
}

type addressChangeBody struct {
	ID           keys.HostID `json:"id,omitempty"`
	Hostname     string      `json:"hostname"`
	Old          []string    `json:"oldAddresses"`
	New          []string    `json:"newAddresses"`
	ChangedAt    string      `json:"changedAt"`
	ConfirmedAt  *string     `json:"confirmedAt"`
	ConfirmedBy  string      `json:"confirmedBy,omitempty"`
	ControlPlane bool        `json:"controlPlane"`
}

type statementsBody struct {
	RolePolicy     json.RawMessage `json:"rolePolicy"`
	KeyPolicy      json.RawMessage `json:"keyPolicy"`
	TrustCondition json.RawMessage `json:"trustPolicyCondition"`
}

func some(in []string) []string { return append([]string{}, in...) }

func toMachineBody(m network.Machine) machineBody {
	b := machineBody{
		ID: m.Host, Hostname: m.Hostname, Addresses: some(m.Addresses), Since: stampOrNull(m.Since), Verdict: string(m.Verdict), Reason: string(m.Reason),
		History: []periodBody{},
	}
	for _, h := range m.History {
		b.History = append(b.History, periodBody{Addresses: some(h.Addresses), Since: stamp(h.Since)})
	}
	return b
}

func toChangeBody(x store.AddressChange) addressChangeBody {
	return addressChangeBody{
		ID: x.Holder, Hostname: x.Hostname, Old: some(x.Old), New: some(x.New), ChangedAt: stamp(x.Changed), ConfirmedAt: stampOrNull(x.Confirmed),
		ConfirmedBy: x.By, ControlPlane: x.Holder == "",
	}
}

func (c *call) networkBody(v network.View) networkBody {
	out := networkBody{
		GroupID: v.Project, RoleARN: v.RoleARN, KeyARN: v.KeyARN, Addresses: some(v.Addresses), Hosts: []machineBody{}, Denied: []deniedBody{},
		Changes: []addressChangeBody{}, Links: c.self("groups", string(v.Project), "networkAccess"),
	}
	for _, m := range v.Machines {
		if m.Host == "" {
			out.ControlPlane = toMachineBody(m)
			continue
		}
		out.Hosts = append(out.Hosts, toMachineBody(m))
		if !m.Denied.IsZero() {
			out.Denied = append(out.Denied, deniedBody{ID: m.Host, Hostname: m.Hostname, Allow: some(m.Addresses), Since: stampOrNull(m.Denied), Reason: string(m.Reason)})
		}
	}
	for _, x := range v.Changes {
		out.Changes = append(out.Changes, toChangeBody(x))
	}
	if s := v.Statements; s.RolePolicy != nil {
		out.Statements = &statementsBody{RolePolicy: s.RolePolicy, KeyPolicy: s.KeyPolicy, TrustCondition: s.TrustCondition}
	}
	return out
}

func getNetworkAccess(c *call) (int, any, error) {
	v, err := c.cfg.Network.Access(c.ctx(), c.who, c.project())
	return http.StatusOK, c.networkBody(v), err
}

func acknowledgeAddresses(c *call) (int, any, error) {
	v, err := c.cfg.Network.Acknowledge(c.ctx(), c.who, c.project())
	return http.StatusOK, c.networkBody(v), err
}
