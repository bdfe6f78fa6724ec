package alert

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/store"
)

const (
	// silence is how long a host's last word counts.
	silence = time.Minute
	// outage is how long a key service that cannot be reached is no alert yet: a run that
	// times out is repeated within seconds.
	outage = 5 * time.Minute
)

// keyInvalid: a revocation of the customer's key is confirmed.
func keyInvalid(f Facts, _ time.Duration) []store.Finding {
	if !f.Key.Enabled {
		return nil
	}
	what := ""
	switch custody.Verdict(f.Verdict.Kind) {
	case custody.Invalid:
		what = "Customer key %s cannot be used (%s): all database processes of the project's encrypted clusters are stopped."
	case custody.Grace:
		what = "Customer key %s cannot be used (%s): the project's encrypted clusters go on until the end of the grace period, then they are stopped; a process that ends stays down."
	case custody.Alert:
		what = "Customer key %s cannot be used (%s): by the project's policy its encrypted clusters go on, but a process that ends stays down."
	default:
		return nil
	}
	return []store.Finding{{
		Summary: fmt.Sprintf(what, f.Key.KeyARN, reason(f.Verdict.Reason)), Since: f.Verdict.Since,
		Remedy: sentence(f.Verdict.Remedy, "Make the key usable again in AWS") + " Then press Try Again or wait for the next validation.",
	}}
}

func reason(r string) string {
	if r == "" {
		return "no reason was given"
	}
	return r
}

// sentence gives s, or d without one, with a full stop.
func sentence(s, d string) string {
	if s = strings.TrimSpace(s); s == "" {
		s = d
	}
	return strings.TrimSuffix(s, ".") + "."
}

// networkDenied: a validator is refused where others are not, or has not reached the key
// service for a while.
func networkDenied(f Facts, _ time.Duration) (out []store.Finding) {
	for _, v := range f.Validators {
		h := f.host(v.Host)
		if v.State.Generation != f.Key.Generation {
			continue
		}
		who, from := "The control plane", ""
		if v.Host != "" {
			who = "Host " + h.Hostname
		}
		if len(h.Egress) > 0 {
			from = " (" + strings.Join(h.Egress, ", ") + ")"
		}
		one := store.Finding{Target: v.Host, Host: h.ID, Hostname: h.Hostname, Since: v.State.Since}
		switch {
		case v.State.Verdict == custody.NAD:
			one.Summary = who + from + " is denied access to customer key " + f.Key.KeyARN + " while others can use it. Its running nodes go on, new ones wait."
			one.Remedy = "Allow the host's addresses" + from + " in the policies of the role and the key."
		case v.State.Verdict == custody.Unreachable && f.Now.Sub(v.State.Since) >= outage:
			one.Summary = who + " cannot reach the key service for customer key " + f.Key.KeyARN + " (" + reason(string(v.State.Reason)) + "). Running nodes go on; one that ends stays down until the service answers."
			one.Remedy = sentence(v.State.Remedy, "See to the network between Keywright and AWS KMS and STS, and to the AWS status page")
			one.Since = v.State.Since.Add(outage)
		default:
			continue
		}
		out = append(out, one)
	}
	return out
}

// keyNeedsRotation: the customer's key is the same for longer than the limit.
func keyNeedsRotation(f Facts, limit time.Duration) []store.Finding {
	since := f.Key.KeySince
	if since.IsZero() {
		since = f.Key.Updated
	}
	due := since.Add(limit)
	if !f.Key.Enabled || f.Now.Before(due) {
		return nil
	}
	return []store.Finding{{
		Since: due, Summary: fmt.Sprintf("Customer key %s is the project's since %s, %d days.", f.Key.KeyARN, since.Format(time.DateOnly), days(f.Now.Sub(since))),
		Remedy: "Create a new key in AWS KMS and set it in the project. If AWS rotates the key's material by itself, set this alert's threshold above 365 days or disable it.",
	}}
}

func days(d time.Duration) int { return int(d / (24 * time.Hour)) }

// masterKeyOld: a node's master key is older than the limit although keys are rotated
// by themselves before.
func masterKeyOld(f Facts, limit time.Duration) (out []store.Finding) {
	for _, n := range f.Nodes {
		due := n.KeyCreated.Add(limit)
		if n.KeyCreated.IsZero() || !n.Encrypted || f.Now.Before(due) {
			continue
		}
		out = append(out, store.Finding{
			Target: string(n.ID), Host: n.Host, Hostname: f.host(string(n.Host)).Hostname, Cluster: n.Cluster, ClusterName: n.ClusterName, Since: due,
			Summary: fmt.Sprintf("The master key of a node of cluster %s is %d days old: its rotation did not happen.", n.ClusterName, days(f.Now.Sub(n.KeyCreated))),
			Remedy:  "See why in the cluster's master key rotation; a paused cluster rotates when it runs again, a maintenance window that never comes keeps it back. Start one with a rotation on demand.",
		})
	}
	return out
}

func rotationStuck(f Facts, _ time.Duration) (out []store.Finding) {
	for _, n := range f.Nodes {
		if n.Status.RotationFailure == "" || n.Status.Rotation >= n.Rotation {
			continue
		}
		out = append(out, store.Finding{
			Target: string(n.ID), Host: n.Host, Hostname: f.host(string(n.Host)).Hostname, Cluster: n.Cluster, ClusterName: n.ClusterName,
			Summary: "A node of cluster " + n.ClusterName + " cannot rotate its master key: " + n.Status.RotationFailure,
			Remedy:  "The node goes on with its old key and tries again by itself; mend what the message names.",
		})
	}
	return out
}

// validationLate: a host that is heard of has not finished a run for two intervals.
func validationLate(f Facts, _ time.Duration) (out []store.Finding) {
	for _, v := range f.Validators {
		h := f.host(v.Host)
		if v.Host == "" || f.silent(h) || v.State.Generation != f.Key.Generation {
			continue // the control plane runs only where no host does
		}
		last := v.State.LastRun
		if last.IsZero() {
			last = v.State.Since
		}
		due := last.Add(2*v.State.InForce().Interval + time.Minute)
		if f.Now.Before(due) {
			continue
		}
		out = append(out, store.Finding{
			Target: v.Host, Host: h.ID, Hostname: h.Hostname, Since: due,
			Summary: fmt.Sprintf("Host %s has not validated customer key %s since %s; it should every %s.", h.Hostname, f.Key.KeyARN, last.Format(time.RFC3339), v.State.InForce().Interval),
			Remedy:  "Look at the agent's log on the host: its clock may have jumped, or the agent hangs. Restarting the agent harms no node.",
		})
	}
	return out
}

func validationAlarm(f Facts, _ time.Duration) (out []store.Finding) {
	for _, v := range f.Validators {
		h := f.host(v.Host)
		if v.State.Alarm == "" || v.State.Generation != f.Key.Generation {
			continue
		}
		out = append(out, store.Finding{Target: v.Host, Host: h.ID, Hostname: h.Hostname, Summary: v.State.Alarm, Remedy: sentence(v.State.Remedy, "Look at the project's validation status and decide")})
	}
	return out
}

func roleInDoubt(f Facts, _ time.Duration) (out []store.Finding) {
	for _, r := range f.Roles {
		if r.Doubt == "" {
			continue
		}
		out = append(out, store.Finding{
			Target: string(r.ID), Summary: "The daily proof of AWS IAM role " + r.ARN + " failed: " + r.Doubt + ".",
			Remedy: "Correct the role's trust policy: it must allow the platform's account to assume the role with the external id, and only with it. Nothing was stopped because of this.",
		})
	}
	return out
}

func hostSilent(f Facts, limit time.Duration) (out []store.Finding) {
	for _, h := range f.Hosts {
		due := heard(h).Add(limit)
		if f.Now.Before(due) {
			continue
		}
		out = append(out, onHost(h, store.Finding{
			Since: due, Summary: "Host " + h.Hostname + " was last heard of at " + heard(h).Format(time.RFC3339) + ". Its nodes go on by what it knew then; changes wait for it.",
			Remedy: "Look whether the host runs, its agent runs, and it reaches the control plane's agent port.",
		}))
	}
	return out
}

func hostAlarm(f Facts, _ time.Duration) (out []store.Finding) {
	for _, h := range f.Hosts {
		if len(h.Alarms) == 0 {
			continue
		}
		out = append(out, onHost(h, store.Finding{
			Summary: "Host " + h.Hostname + " raises an alarm: " + strings.Join(h.Alarms, "; "),
			Remedy:  "Mend what the alarm names, then restart the host's agent.",
		}))
	}
	return out
}

func hostFrozen(f Facts, _ time.Duration) (out []store.Finding) {
	for _, h := range f.Hosts {
		if h.Frozen == "" {
			continue
		}
		out = append(out, onHost(h, store.Finding{
			Summary: "Host " + h.Hostname + " is frozen, no change reaches it: " + h.Frozen,
			Remedy:  "The store or the host was rolled back. Put the newer state back; wrapped keys of the host can be recovered with `keywright agent recover`.",
		}))
	}
	return out
}

func auditMismatch(f Facts, _ time.Duration) (out []store.Finding) {
	for _, h := range f.Hosts {
		if h.AuditDoubt == "" {
			continue
		}
		out = append(out, onHost(h, store.Finding{
			Summary: h.AuditDoubt,
			Remedy:  "Keep a copy of the host's audit.jsonl and check it with `keywright audit verify FILE --head HEAD` against a head kept elsewhere. Enrolling the host again begins a new chain.",
		}))
	}
	return out
}

func certificateExpiring(f Facts, limit time.Duration) (out []store.Finding) {
	for _, h := range f.Hosts {
		for _, name := range slices.Sorted(maps.Keys(h.CertificateEnds)) {
			end := h.CertificateEnds[name]
			if f.Now.Before(end.Add(-limit)) {
				continue
			}
			one := onHost(h, store.Finding{
				Since: end.Add(-limit), Summary: "Certificate " + name + " of host " + h.Hostname + " ends at " + end.Format(time.RFC3339) + "; its agent should have renewed it long before.",
				Remedy: "See that the host reaches the control plane; its log says why renewing fails. An ended link certificate needs the host to be enrolled again.",
			})
			one.Target += "/" + name
			out = append(out, one)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Authorities)) {
		end := f.Authorities[name]
		if len(f.Nodes) == 0 || f.Now.Before(end.Add(-limit)) {
			continue
		}
		out = append(out, store.Finding{
			Target: "authority/" + name, Since: end.Add(-limit), Summary: "The deployment's certificate authority " + name + " ends at " + end.Format(time.RFC3339) + ".",
			Remedy: "Certificates cannot outlive their authority: plan its replacement now.",
		})
	}
	return out
}

func onHost(h store.Host, f store.Finding) store.Finding {
	f.Target, f.Host, f.Hostname = string(h.ID), h.ID, h.Hostname
	return f
}
