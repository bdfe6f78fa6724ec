package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// Verdict is the answer to "may I delete this key?".
type Verdict string

// The verdicts.
const (
	// MayDelete: everything that could need the key is known, and nothing does.
	MayDelete Verdict = "MAY_DELETE"
	// MustKeep: something needs the key; data would be lost.
	MustKeep Verdict = "MUST_KEEP"
	// Unknown: nothing is known to need the key, but not everything is known.
	Unknown Verdict = "UNKNOWN"
)

// Kind is what a reason is about.
type Kind string

// The kinds of reasons that make a verdict MUST_KEEP.
const (
	ConfigurationInForce  Kind = "CONFIGURATION_IN_FORCE"
	ConfigurationStaged   Kind = "CONFIGURATION_STAGED"
	ConfigurationRetained Kind = "CONFIGURATION_RETAINED"
	ActiveWrap            Kind = "ACTIVE_WRAP"
	DeactivatedWrap       Kind = "DEACTIVATED_WRAP"
	OrphanWrap            Kind = "ORPHAN_WRAP"
	RollbackWrap          Kind = "ROLLBACK_WRAP"
	WrapOnHost            Kind = "WRAP_ON_HOST"
	SnapshotKey           Kind = "SNAPSHOT"
)

// The kinds of reasons that make a verdict UNKNOWN at best.
const (
	HostSilent     Kind = "HOST_SILENT"
	HostFrozen     Kind = "HOST_FROZEN"
	HostBehind     Kind = "HOST_NOT_ACKNOWLEDGED"
	HostUntold     Kind = "HOST_DOES_NOT_TELL"
	HostUnreadable Kind = "HOST_WRAP_UNREADABLE"
	WrapUnreadable Kind = "WRAP_UNREADABLE"
	NotVisible     Kind = "NOT_VISIBLE"
	NeverSeen      Kind = "NEVER_SEEN"
)

// NotNeeded is the one reason of a key that may be deleted.
const NotNeeded Kind = "NOT_NEEDED"

// Reason is one thing that a verdict comes from. Names are of now; what does not apply
// is empty.
type Reason struct {
	Kind        Kind
	Project     keys.ProjectID
	ProjectName string
	Cluster     keys.ClusterID
	ClusterName string
	Node        keys.NodeID
	Host        keys.HostID
	Hostname    string
	// Keys are the wrapped keys that it is about.
	Keys []keys.KeyID
	// Since is when a host was last heard of, Until when a configuration stops to be kept.
	Since, Until time.Time
	// Message says what it is, Remedy what would change it.
	Message, Remedy string
}

// Use is how a project's configuration uses a key.
type Use string

// The uses.
const (
	InForce Use = "IN_FORCE"
	// Staged is a change that is being prepared; Retained one that can be rolled back to.
	Staged   Use = "STAGED"
	Retained Use = "RETAINED"
	// Past is a configuration that is not in force any more.
	Past Use = "PAST"
)

// Configuration is a project that names, or named, the key.
type Configuration struct {
	Project keys.ProjectID
	Name    string
	Use     Use
	// Until is when a Retained one is given up, Seen when a Past one was last in force.
	Until, Seen time.Time
}

// Wrap is one wrapped key in escrow that is under the key.
type Wrap struct {
	Project     keys.ProjectID
	ProjectName string
	Cluster     keys.ClusterID
	ClusterName string
	Node        keys.NodeID
	Host        keys.HostID
	Hostname    string
	Key         keys.KeyID
	State       keys.State
	// InUse tells that the node's keyring names the key now.
	InUse bool
	// Covered tells that the same key is also in escrow under the customer key that is in
	// force, which is another: this wrap serves a rollback only.
	Covered bool
}

// Host is a host that has, or may have, wraps under the key.
type Host struct {
	ID       keys.HostID
	Hostname string
	LastSeen time.Time
	// Silent tells that it has not reported lately, Frozen why no changes go there.
	Silent bool
	Frozen string
	// Behind tells that it has not acknowledged the newest desired state.
	Behind bool
	// Tells is false for an agent that does not say what is on its disk. Holds counts the
	// wraps there that are under the key, Unreadable those of which it cannot say.
	Tells             bool
	Holds, Unreadable int
}

// Snapshot is a kept snapshot whose key is under the customer key.
type Snapshot struct {
	ID          string
	Project     keys.ProjectID
	ProjectName string
	ClusterName string
	Expires     time.Time
}

// Facts is everything that is known about one customer key.
type Facts struct {
	KeyARN         string
	Configurations []Configuration
	Wraps          []Wrap
	Hosts          []Host
	Snapshots      []Snapshot
	// Unreadable counts wraps in escrow whose key cannot be told.
	Unreadable int
	// Hidden tells that something which the caller may not see has to do with the key.
	Hidden bool
}

// Judge gives the verdict with all its reasons, the weightiest first.
func Judge(f Facts) (Verdict, []Reason) {
	needs := slices.Concat(configurationReasons(f.Configurations), wrapReasons(f.Wraps), snapshotReasons(f.Snapshots))
	var gaps []Reason
	escrowed := map[keys.HostID]int{}
	for _, w := range f.Wraps {
		escrowed[w.Host]++
	}
	for _, h := range f.Hosts {
		need, gap := hostReasons(h, escrowed[h.ID])
		needs, gaps = append(needs, need...), append(gaps, gap...)
	}
	gaps = append(gaps, otherGaps(f)...)
	switch {
	case len(needs) > 0:
		return MustKeep, append(needs, gaps...)
	case len(gaps) > 0:
		return Unknown, gaps
	}
	return MayDelete, []Reason{{
		Kind:    NotNeeded,
		Message: "Nothing that Keywright keeps is under this key: no configuration names it, no wrapped key in escrow or on a host is under it, and every host that could have one has said so.",
		Remedy:  "Disable the key first and delete it some days later: disabling can be undone. Whatever else you encrypt with this key is not known here.",
	}}
}

// OnlyRollback tells whether all that needs the key is the possibility of a rollback:
// the key can be disabled at once, and deleted when that is given up.
func OnlyRollback(v Verdict, reasons []Reason) bool {
	return v == MustKeep && !slices.ContainsFunc(reasons, func(r Reason) bool {
		return r.Kind != ConfigurationRetained && r.Kind != RollbackWrap
	})
}

func configurationReasons(all []Configuration) (out []Reason) {
	for _, c := range all {
		r := Reason{Project: c.Project, ProjectName: c.Name, Until: c.Until}
		switch c.Use {
		case InForce:
			r.Kind = ConfigurationInForce
			r.Message = fmt.Sprintf("Project %s uses this key now.", c.Name)
			r.Remedy = "Change the project's customer key, or switch encryption at rest off in all its clusters and then for the project."
		case Staged:
			r.Kind = ConfigurationStaged
			r.Message = fmt.Sprintf("Project %s is changing to this key.", c.Name)
			r.Remedy = "Abort the change."
		case Retained:
			r.Kind = ConfigurationRetained
			r.Message = fmt.Sprintf("Project %s can be rolled back to this key until %s.", c.Name, c.Until.UTC().Format(time.RFC3339))
			r.Remedy = "Wait until then: the wraps that are kept for the rollback go by themselves."
		default:
			continue
		}
		out = append(out, r)
	}
	return out
}

// wrapReasons gives one reason for each node and kind of wrap.
func wrapReasons(all []Wrap) []Reason {
	type place struct {
		node keys.NodeID
		kind Kind
	}
	at := map[place]int{}
	var out []Reason
	for _, w := range all {
		k := kindOf(w)
		p := place{w.Node, k}
		i, ok := at[p]
		if !ok {
			i = len(out)
			at[p] = i
			out = append(out, Reason{
				Kind: k, Project: w.Project, ProjectName: w.ProjectName, Cluster: w.Cluster, ClusterName: w.ClusterName,
				Node: w.Node, Host: w.Host, Hostname: w.Hostname,
			})
		}
		out[i].Keys = append(out[i].Keys, w.Key)
	}
	for i := range out {
		describeWraps(&out[i])
	}
	slices.SortStableFunc(out, func(a, b Reason) int { return cmp.Compare(weight(a.Kind), weight(b.Kind)) })
	return out
}

func kindOf(w Wrap) Kind {
	switch {
	case w.Covered:
		return RollbackWrap
	case w.InUse:
		return ActiveWrap
	case w.State == keys.StateDeactivated || w.State == keys.StatePendingDestruction || w.State == keys.StateCompromised:
		return DeactivatedWrap
	}
	return OrphanWrap
}

func weight(k Kind) int {
	return slices.Index([]Kind{ActiveWrap, DeactivatedWrap, OrphanWrap, RollbackWrap}, k)
}

func describeWraps(r *Reason) {
	where := fmt.Sprintf("of node %s (cluster %s, project %s, host %s)", r.Node, orID(r.ClusterName, string(r.Cluster)), orID(r.ProjectName, string(r.Project)), orID(r.Hostname, string(r.Host)))
	n := len(r.Keys)
	switch r.Kind {
	case ActiveWrap:
		r.Message = fmt.Sprintf("The master key in use %s is under this key: without it the node's data cannot be opened.", where)
		r.Remedy = "Change the project's customer key, switch the cluster's encryption to another provider, or delete the cluster."
	case DeactivatedWrap:
		r.Message = fmt.Sprintf("%d replaced keys %s are under this key and not destroyed yet.", n, where)
		r.Remedy = "Wait until the rotation that replaced them is acknowledged: they are destroyed then. A change of the project's customer key wraps them anew too."
	case RollbackWrap:
		r.Message = fmt.Sprintf("%d wraps %s under this key are kept for a rollback; the same keys are wrapped under the key in force.", n, where)
		r.Remedy = "Wait until the rollback is given up: they go by themselves."
	default:
		r.Message = fmt.Sprintf("%d keys %s are under this key, and no keyring is known to name them: what an interrupted creation or rotation left, or what the host said was destroyed without an order.", n, where)
		r.Remedy = "Rotate the cluster's master keys, change the project's customer key, or delete the cluster. Keys are never destroyed because they look unused."
	}
}

func orID(name, id string) string {
	if name == "" {
		return id
	}
	return name
}

func snapshotReasons(all []Snapshot) (out []Reason) {
	for _, s := range all {
		out = append(out, Reason{
			Kind: SnapshotKey, Project: s.Project, ProjectName: s.ProjectName, ClusterName: s.ClusterName, Until: s.Expires,
			Message: fmt.Sprintf("Snapshot %s of cluster %s (project %s) can be restored with this key only.", s.ID, s.ClusterName, s.ProjectName),
			Remedy:  "Delete the snapshot, or wait until it expires.",
		})
	}
	return out
}

// hostReasons gives what a host needs, and what it leaves unknown. Wraps that are in
// escrow too are reasons of their own.
func hostReasons(h Host, escrowed int) (needs, gaps []Reason) {
	add := func(into *[]Reason, kind Kind, remedy, format string, args ...any) {
		*into = append(*into, Reason{Kind: kind, Host: h.ID, Hostname: h.Hostname, Since: h.LastSeen, Message: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	if h.Holds > escrowed {
		add(&needs, WrapOnHost, "Look at the host's alarms. If its project changed to another key, wait until the host has dropped the old wraps; otherwise delete the cluster that they belong to.",
			"Host %s has %d wraps under this key on its disk that the control plane does not keep.", h.Hostname, h.Holds-escrowed)
	}
	last := "it was enrolled and has never reported"
	if !h.LastSeen.IsZero() {
		last = "it has not been heard of since " + h.LastSeen.UTC().Format(time.RFC3339)
	}
	switch {
	case h.Frozen != "":
		add(&gaps, HostFrozen, "Find out what it has, then `keywright host unfreeze "+h.Hostname+"`.", "Host %s is frozen: %s It may have wraps that the control plane does not know.", h.Hostname, h.Frozen)
	case h.Silent:
		add(&gaps, HostSilent, "Bring the host's agent back, or forget the host if it is lost for good.", "Host %s cannot be asked: %s. It may have wraps under this key.", h.Hostname, last)
	case h.Behind:
		add(&gaps, HostBehind, "Wait until it has: this takes seconds. If it does not, look at the host's alarms.", "Host %s has not acknowledged the newest changes.", h.Hostname)
	case !h.Tells:
		add(&gaps, HostUntold, "Update the agent on this host.", "The agent of host %s does not say which wraps are on its disk.", h.Hostname)
	case h.Unreadable > 0:
		add(&gaps, HostUnreadable, "Run `keywright agent recover` on this host.", "Host %s has %d wraps that it cannot read.", h.Hostname, h.Unreadable)
	}
	return needs, gaps
}

func otherGaps(f Facts) (out []Reason) {
	if f.Unreadable > 0 {
		out = append(out, Reason{
			Kind: WrapUnreadable, Message: fmt.Sprintf("%d wraps in escrow cannot be read: under which key they are cannot be told.", f.Unreadable),
			Remedy: "Have their hosts send them again (restart the agents), or restore the control plane's store.",
		})
	}
	if f.Hidden {
		out = append(out, Reason{
			Kind: NotVisible, Message: "Something that you may not see has, or had, to do with this key.",
			Remedy: "Ask with an API key that has the role ORG_READ_ONLY in the organization that owns the key.",
		})
	}
	if len(f.Configurations) == 0 && len(f.Wraps) == 0 && !f.Hidden && !slices.ContainsFunc(f.Hosts, func(h Host) bool { return h.Holds > 0 }) {
		out = append(out, Reason{
			Kind: NeverSeen, Message: "This key has never been in a project's configuration here, so nothing can be said about it.",
			Remedy: "Check the ARN: region, account and key id. `keywright key inventory` lists the keys that are known.",
		})
	}
	return out
}
