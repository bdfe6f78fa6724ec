package agent

import (
	"context"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
)

const (
	// measureEvery is how exact the times of a drill are.
	measureEvery = 20 * time.Millisecond
	// measureLimit is how long after a drill's end its cluster is watched.
	measureLimit = 10 * time.Minute
)

// order hands the control plane's orders of drills to the loop, which carries each out
// once (key-plane rule 28).
func (c *custodian) order(orders []agentlink.DrillOrder) {
	for _, o := range orders {
		c.loop.Drill(custody.DrillOrdered{ID: o.ID, Cluster: o.Cluster, For: time.Duration(o.For), Age: time.Duration(o.Age)})
	}
}

// unmeasured gives a drill that has a time to be measured still, and which of the two.
func unmeasured(s custody.State) (d custody.Drill, up, ok bool) {
	if len(s.Drills) == 0 {
		return d, false, false
	}
	d = s.Drills[len(s.Drills)-1]
	switch {
	case d.Began.IsZero():
	case d.Ended.IsZero():
		return d, false, d.Down == 0
	case d.Up == 0 && s.Clock.Elapsed-d.Stop < measureLimit:
		return d, true, true
	}
	return d, false, false
}

// lookAtDrill wakes measure.
func (c *custodian) lookAtDrill() {
	select {
	case c.drilled <- struct{}{}:
	default:
	}
}

// measure takes the times of drills until ctx ends. It begins anew after a crash: what
// is to be measured stands in the loop's state.
func (c *custodian) measure(ctx context.Context) {
	for {
		wait := time.Hour
		if d, up, ok := unmeasured(c.loop.Report()); ok {
			wait = measureEvery
			if served, gone := c.processes(d.Cluster); up && served || !up && gone {
				c.loop.DrillMeasured(d.ID, up)
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-c.drilled:
		case <-t.C:
		}
		t.Stop()
	}
}

// serving tells how the nodes of a cluster that are under the project's key are: all of
// those that are to run serve, or none has a process.
func (a *Agent) serving(p keys.ProjectID, cluster keys.ClusterID) (served, gone bool) {
	served, gone = true, true
	for _, n := range a.nodesOf(p) {
		if n.cluster() != cluster {
			continue
		}
		s := n.look()
		if !s.encrypted {
			continue
		}
		n.mu.Lock()
		gone = gone && n.proc == nil && (n.helper == nil || !n.helper.Running())
		up := n.proc != nil && n.phase == agentlink.PhaseRunning
		n.mu.Unlock()
		served = served && (up || s.wanted == nil || !s.wanted.Run)
	}
	return served, gone
}

func (c *custodian) recordDrill(ctx context.Context, d custody.Drill) error {
	e := audit.Event{
		Type: "KEY_DRILL_BEGAN", Project: string(c.project), Cluster: string(d.Cluster),
		Message: agentlink.DrillText + ": the customer key is treated as taken away for one cluster of this project, for a while.",
		Data:    map[string]string{"drill": d.ID},
	}
	if !d.Ended.IsZero() {
		e.Type, e.Message = "KEY_DRILL_ENDED", agentlink.DrillText+": it is over."
	}
	return c.recorder.record(ctx, e)
}
