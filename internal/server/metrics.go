package server

import (
	"context"
	"time"

	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
	"github.com/keywright/keywright/internal/telemetry"
)

// linked is how long a host counts as linked after its last word; it reports every ten
// seconds.
const linked = time.Minute

// counts gathers samples of one name by their labels.
type counts struct {
	name, help string
	labels     []string
	values     map[[2]string]float64
}

func newCounts(name, help string, labels ...string) *counts {
	return &counts{name: name, help: help, labels: labels, values: map[[2]string]float64{}}
}

func (c *counts) add(a, b string) { c.values[[2]string{a, b}]++ }

func (c *counts) samples() (out []telemetry.Sample) {
	for k, v := range c.values {
		s := telemetry.Sample{Name: c.name, Help: c.help, Value: v}
		for i, l := range c.labels {
			s.Labels = append(s.Labels, l, k[i])
		}
		out = append(out, s)
	}
	return out
}

// samples reads what the metrics show of the store.
func (p *plane) samples(ctx context.Context) (out []telemetry.Sample, err error) {
	err = p.services.Store.View(ctx, func(tx *store.Tx) error {
		for _, read := range []func(*store.Tx) ([]telemetry.Sample, error){verdictSamples, hostSamples, keySamples, alertSamples} {
			got, err := read(tx)
			if err != nil {
				return err
			}
			out = append(out, got...)
		}
		return nil
	})
	return out, err
}

func verdictSamples(tx *store.Tx) ([]telemetry.Sample, error) {
	configs, err := tx.EnabledKeyConfigs()
	if err != nil {
		return nil, err
	}
	enabled := map[keys.ProjectID]bool{}
	for _, c := range configs {
		enabled[c.Project] = true
	}
	verdicts, err := tx.AllVerdicts("")
	if err != nil {
		return nil, err
	}
	var out []telemetry.Sample
	sum := newCounts("projects", "Projects with customer keys by verdict and reason.", "verdict", "reason")
	for _, v := range verdicts {
		if !enabled[v.Project] {
			continue
		}
		sum.add(v.Kind, v.Reason)
		out = append(out,
			telemetry.Sample{Name: "custody_verdict", Help: "The verdict on a project's customer key, with the reason; always 1.", Labels: []string{"project", string(v.Project), "verdict", v.Kind, "reason", v.Reason}, Value: 1},
			telemetry.Sample{Name: "custody_verdict_since_seconds", Help: "When the verdict was entered, in seconds since 1970.", Labels: []string{"project", string(v.Project)}, Value: float64(v.Since.Unix())})
	}
	return append(out, sum.samples()...), nil
}

func hostSamples(tx *store.Tx) ([]telemetry.Sample, error) {
	hosts, err := tx.Hosts()
	if err != nil {
		return nil, err
	}
	states := map[string]float64{"linked": 0, "silent": 0, "frozen": 0, "alarm": 0}
	for _, h := range hosts {
		if tx.Now().Sub(h.LastSeen) <= linked {
			states["linked"]++
		} else {
			states["silent"]++
		}
		if h.Frozen != "" {
			states["frozen"]++
		}
		if len(h.Alarms) > 0 || h.AuditDoubt != "" {
			states["alarm"]++
		}
	}
	var out []telemetry.Sample
	for state, n := range states {
		out = append(out, telemetry.Sample{Name: "hosts", Help: "Hosts by state; one may be in several.", Labels: []string{"state", state}, Value: n})
	}
	return out, nil
}

func keySamples(tx *store.Tx) ([]telemetry.Sample, error) {
	wraps, err := tx.WrapStates()
	if err != nil {
		return nil, err
	}
	var out []telemetry.Sample
	for k, n := range wraps {
		out = append(out, telemetry.Sample{Name: "wraps", Help: "Wrapped keys in escrow by purpose and state.", Labels: []string{"purpose", string(k.Purpose), "state", string(k.State)}, Value: float64(n)})
	}
	nodes, err := tx.AllNodes("")
	if err != nil {
		return nil, err
	}
	statuses, err := tx.NodeStatuses()
	if err != nil {
		return nil, err
	}
	made, err := tx.KeyTimes()
	if err != nil {
		return nil, err
	}
	key := map[keys.NodeID]keys.KeyID{}
	phases := newCounts("nodes", "Database nodes by phase.", "phase")
	for _, s := range statuses {
		key[s.Node] = s.MasterKey
		phases.add(s.Phase, "")
	}
	oldest := map[keys.ProjectID]time.Time{}
	for _, n := range nodes {
		at, ok := made[key[n.ID]]
		if have, any := oldest[n.Project]; ok && !n.Buried && (!any || at.Before(have)) {
			oldest[n.Project] = at
		}
	}
	for p, at := range oldest {
		out = append(out, telemetry.Sample{
			Name: "master_key_oldest_age_seconds", Help: "Age of the oldest master key in use of a project.", Labels: []string{"project", string(p)}, Value: tx.Now().Sub(at).Seconds(),
		})
	}
	return append(out, phases.samples()...), nil
}

func alertSamples(tx *store.Tx) ([]telemetry.Sample, error) {
	open, _, err := tx.Alerts(store.AlertFilter{Statuses: []string{alert.Open, alert.Tracking}})
	if err != nil {
		return nil, err
	}
	sum := newCounts("alerts", "Alerts that have not ended, by type of event and status.", "event_type", "status")
	for _, a := range open {
		sum.add(a.Kind, a.Status)
	}
	pending, err := tx.CountPending("")
	if err != nil {
		return nil, err
	}
	head, err := tx.AuditHead()
	if err != nil {
		return nil, err
	}
	return append(sum.samples(),
		telemetry.Sample{Name: "alert_deliveries_pending", Help: "Messages of alerts that wait to be sent.", Value: float64(pending)},
		telemetry.Sample{Name: "audit_events", Help: "Length of the control plane's audit chain.", Value: float64(head.Seq)}), nil
}
