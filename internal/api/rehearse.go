package api

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// rehearsalBody is what taking a project's key away would do now.
type rehearsalBody struct {
	GroupID keys.ProjectID `json:"groupId"`
	Enabled bool           `json:"enabled"`
	KeyARN  string         `json:"keyArn,omitempty"`
	Verdict string         `json:"verdict,omitempty"`
	Policy  keyPolicy      `json:"policy"`
	// Bounds are from the revocation to the signal to the processes.
	Bounds boundsBody `json:"bounds"`
	// Stops are the clusters that would stop, StaysReadable what would not.
	Stops         []rehearsedCluster `json:"wouldStop"`
	StaysReadable staysBody          `json:"staysReadable"`
	// Wraps are the wrapped keys in escrow, which nothing opens without the key.
	Wraps int `json:"wrapsWithoutUse"`
	// Hosts are the validators that decide by themselves, and ControlPlane the other.
	Hosts        []rehearsedHost  `json:"hosts"`
	ControlPlane *rehearsedHost   `json:"controlPlane"`
	NotEnforced  []notEnforcedRow `json:"notEnforced"`
	Links        []link           `json:"links"`
}

type boundsBody struct {
	GlobalSeconds float64 `json:"keyItselfSeconds"`
	LocalSeconds  float64 `json:"roleOrPermissionSeconds"`
	AloneSeconds  float64 `json:"roleOrPermissionUnconfirmedSeconds"`
	GraceSeconds  float64 `json:"graceSeconds"`
	KillSeconds   float64 `json:"killAfterSeconds"`
}

type rehearsedCluster struct {
	ID        keys.ClusterID  `json:"id"`
	Name      string          `json:"name"`
	StateName string          `json:"stateName"`
	Paused    bool            `json:"paused"`
	Nodes     []rehearsedNode `json:"nodes,omitempty"`
}

type rehearsedNode struct {
	ID       keys.NodeID `json:"id"`
	HostID   keys.HostID `json:"hostId"`
	Hostname string      `json:"hostname"`
	Phase    string      `json:"phase"`
}

type staysBody struct {
	Clusters []rehearsedCluster `json:"clusters"`
	// Snapshots that another key opens; there are no snapshots yet.
	Snapshots []string `json:"snapshots"`
}

type rehearsedHost struct {
	HostID      string  `json:"hostId,omitempty"`
	Hostname    string  `json:"hostname,omitempty"`
	Verdict     string  `json:"verdict"`
	Reason      string  `json:"reason,omitempty"`
	LastRun     *string `json:"lastRun"`
	LastSuccess *string `json:"lastSuccess"`
	Silent      bool    `json:"silent"`
	Nodes       int     `json:"nodes"`
}

type notEnforcedRow struct {
	NodeID      keys.NodeID `json:"nodeId"`
	ClusterName string      `json:"clusterName"`
	Hostname    string      `json:"hostname"`
	Why         string      `json:"why"`
}

func rehearsedClusters(all []cmk.RehearsedCluster) []rehearsedCluster {
	out := []rehearsedCluster{}
	for _, c := range all {
		x := rehearsedCluster{ID: c.ID, Name: c.Name, StateName: c.State, Paused: c.Settings.Paused}
		for _, n := range c.Nodes {
			x.Nodes = append(x.Nodes, rehearsedNode{ID: n.ID, HostID: n.Host, Hostname: n.Hostname, Phase: n.Status.Phase})
		}
		out = append(out, x)
	}
	return out
}

func rehearsedValidator(v cmk.Validator, hostname string, nodes int) rehearsedHost {
	return rehearsedHost{
		HostID: v.Host, Hostname: hostname, Verdict: string(v.State.Verdict), Reason: string(v.State.Reason),
		LastRun: stampOrNull(v.State.LastRun), LastSuccess: stampOrNull(v.State.LastSuccess), Silent: v.Silent, Nodes: nodes,
	}
}

// rehearse tells what a revocation would do, and does nothing.
func rehearse(c *call) (int, any, error) {
	r, err := c.cfg.CMK.Rehearse(c.ctx(), c.who, c.project())
	if err != nil {
		return 0, nil, err
	}
	out := rehearsalBody{
		GroupID: r.Project, Enabled: r.View.Enabled, KeyARN: r.View.KeyARN, Verdict: r.View.Verdict.Kind, Policy: c.keyPolicy(r.Policy),
		Bounds: boundsBody{
			GlobalSeconds: r.Bounds.Global.Seconds(), LocalSeconds: r.Bounds.Local.Seconds(), AloneSeconds: r.Bounds.Alone.Seconds(),
			GraceSeconds: r.Bounds.Grace.Seconds(), KillSeconds: r.Bounds.Kill.Seconds(),
		},
		Stops: rehearsedClusters(r.Stops), StaysReadable: staysBody{Clusters: rehearsedClusters(r.Stays), Snapshots: []string{}},
		Wraps: r.Wraps, Hosts: []rehearsedHost{}, NotEnforced: []notEnforcedRow{},
		Links: c.self("groups", string(c.project()), "encryptionAtRest:rehearse"),
	}
	for _, h := range r.Hosts {
		out.Hosts = append(out.Hosts, rehearsedValidator(h.Validator, h.Hostname, h.Nodes))
	}
	for _, v := range r.View.Validators {
		if v.Host == "" {
			x := rehearsedValidator(v, "", 0)
			out.ControlPlane = &x
		}
	}
	names := map[keys.ClusterID]string{}
	for _, x := range r.Stops {
		names[x.ID] = x.Name
	}
	for _, n := range r.NotEnforced() {
		out.NotEnforced = append(out.NotEnforced, notEnforcedRow{NodeID: n.ID, ClusterName: names[n.Cluster], Hostname: n.Hostname, Why: n.Gap})
	}
	return http.StatusOK, out, nil
}

type drillRequest struct {
	Minutes *int `json:"minutes"`
}

// drillBody is a rehearsal with effect. DrillID names it in all events.
type drillBody struct {
	ID        string          `json:"id"`
	State     string          `json:"state"`
	By        string          `json:"by,omitempty"`
	Requested string          `json:"requestedAt"`
	Minutes   int             `json:"minutes"`
	Hosts     []drillHostBody `json:"hosts"`
	// The slowest host's times; null until every host that took part has measured.
	StopSeconds   *float64 `json:"orderToStoppedSeconds"`
	ReturnSeconds *float64 `json:"endToWritableSeconds"`
}

type drillHostBody struct {
	HostID        keys.HostID `json:"hostId"`
	State         string      `json:"state"`
	Began         *string     `json:"beganAt"`
	Ended         *string     `json:"endedAt"`
	StopSeconds   *float64    `json:"orderToStoppedSeconds"`
	ReturnSeconds *float64    `json:"endToWritableSeconds"`
}

func secondsOrNull(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	s := d.Seconds()
	return &s
}

func toDrillBody(d store.Drill, now time.Time) drillBody {
	out := drillBody{ID: d.ID, State: cmk.DrillState(d, now), By: d.By, Requested: stamp(d.Requested), Minutes: int(d.For / time.Minute), Hosts: []drillHostBody{}}
	var down, up time.Duration
	downs, ups := true, true
	for _, h := range d.Hosts {
		one := d
		one.Hosts = []store.DrillHost{h}
		out.Hosts = append(out.Hosts, drillHostBody{
			HostID: h.Host, State: cmk.DrillState(one, now), Began: stampOrNull(h.Began), Ended: stampOrNull(h.Ended),
			StopSeconds: secondsOrNull(h.Down), ReturnSeconds: secondsOrNull(h.Up),
		})
		if h.Began.IsZero() && !h.Ended.IsZero() {
			continue
		}
		down, up = max(down, h.Down), max(up, h.Up)
		downs, ups = downs && h.Down != 0, ups && h.Up != 0
	}
	if downs {
		out.StopSeconds = secondsOrNull(down)
	}
	if ups {
		out.ReturnSeconds = secondsOrNull(up)
	}
	return out
}

// orderDrill makes a cluster rehearse a revocation with effect.
func orderDrill(c *call) (int, any, error) {
	var in drillRequest
	if err := decode(c.r, &in); err != nil {
		return 0, nil, err
	}
	length := 1
	if in.Minutes != nil {
		length = *in.Minutes
	}
	if length < 0 || length > maxMinutes {
		length = 0 // refused below, with the bounds
	}
	d, err := c.cfg.CMK.Drill(c.ctx(), c.who, c.project(), c.vars["clusterName"], length)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, toDrillBody(d, c.now()), nil
}

type drillList struct {
	Results []drillBody `json:"results"`
	Links   []link      `json:"links"`
}

// listDrills gives a cluster's drills, newest first.
func listDrills(c *call) (int, any, error) {
	all, err := c.cfg.CMK.Drills(c.ctx(), c.who, c.project(), c.vars["clusterName"])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, drillList{Results: drillBodies(all, c.now()), Links: c.self("groups", string(c.project()), "clusters", c.vars["clusterName"], "drills")}, nil
}

func drillBodies(all []store.Drill, now time.Time) []drillBody {
	out := []drillBody{}
	for _, d := range all {
		out = append(out, toDrillBody(d, now))
	}
	slices.SortStableFunc(out, func(a, b drillBody) int { return cmp.Compare(b.Requested, a.Requested) })
	return out
}

// newestDrill is the newest one of a cluster, nil if there was none.
func newestDrill(c store.Cluster, now time.Time) *drillBody {
	if len(c.Drills) == 0 {
		return nil
	}
	b := toDrillBody(c.Drills[len(c.Drills)-1], now)
	return &b
}
