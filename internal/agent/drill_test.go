package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/custody"
	"github.com/keywright/keywright/internal/keys"
)

// rehearse gives an order for a drill; the plane's scripted control plane keeps naming it.
func (r *rig) rehearse(id string, cluster keys.ClusterID, length, age time.Duration) {
	r.change(func(d *agentlink.Desired) {
		d.Projects[0].Drills = []agentlink.DrillOrder{{ID: id, Cluster: cluster, For: agentlink.Duration(length), Age: agentlink.Duration(age)}}
	})
}

// drill is what the host reports about a drill.
func (r *rig) drill(id string) (out custody.Drill) {
	for _, c := range r.last().Custody {
		for _, d := range c.State.Drills {
			if d.ID == id {
				out = d
			}
		}
	}
	return out
}

// A drill stops the one cluster and nothing else, and ends by itself, also when the
// agent goes in between; its times are measured.
func TestDrillWithAnAgentThatGoesInBetween(t *testing.T) {
	r := newRig(t)
	r.start()
	victim, open := r.add(true), r.add(false)
	other := r.cluster
	r.cluster = keys.ClusterID(keys.NewID(time.Now()))
	bystander := r.add(true)
	before := map[keys.NodeID]int{}
	for _, id := range []keys.NodeID{victim, open, bystander} {
		before[id] = r.await(id, agentlink.PhaseRunning).PID
	}
	r.rehearse("one", other, 20*time.Second, 0)
	eventually(t, "the node is stopped", func() bool { return r.node(victim).Phase == agentlink.PhaseStoppedByCustody && !alive(before[victim]) })
	if n := r.node(victim); !strings.HasPrefix(n.Message, agentlink.DrillText) {
		t.Errorf("the phase does not say that it is a drill: %q", n.Message)
	}
	eventually(t, "the stop is measured", func() bool { return r.drill("one").Down > 0 })
	r.end()
	if alive(before[victim]) {
		t.Fatal("the node runs")
	}
	r.start()
	eventually(t, "the drill goes on", func() bool { return r.node(victim).Phase == agentlink.PhaseStoppedByCustody })
	eventually(t, "the drill is over and measured", func() bool { d := r.drill("one"); return !d.Ended.IsZero() && d.Up > 0 })
	r.await(victim, agentlink.PhaseRunning)
	for _, id := range []keys.NodeID{open, bystander} {
		if n := r.await(id, agentlink.PhaseRunning); n.PID != before[id] || !alive(before[id]) {
			t.Errorf("node %s was stopped too", id)
		}
	}
	d := r.drill("one")
	if d.Down > time.Minute || d.Up > 5*time.Minute || d.Stop-d.Start < 20*time.Second {
		t.Errorf("times: %+v", d)
	}
	pid := r.node(victim).PID
	r.rehearse("one", other, 20*time.Second, 0)      // once only
	r.rehearse("two", other, time.Minute, time.Hour) // late
	eventually(t, "the late order is dropped", func() bool { d := r.drill("two"); return d.Began.IsZero() && !d.Ended.IsZero() })
	if !alive(pid) {
		t.Error("a drill was carried out twice, or late")
	}
}

// Leaving VALID ends a drill, and its end starts nothing then.
func TestDrillEndsWhenTheKeyIsTakenAway(t *testing.T) {
	r := newRig(t)
	r.start()
	id := r.add(true)
	pid := r.await(id, agentlink.PhaseRunning).PID
	r.rehearse("one", r.cluster, 5*time.Minute, 0)
	eventually(t, "the node is stopped", func() bool { return !alive(pid) && r.node(id).Phase == agentlink.PhaseStoppedByCustody })
	r.cloud.SetState(r.target.KeyID, "Disabled")
	eventually(t, "the drill is over", func() bool { return !r.drill("one").Ended.IsZero() })
	eventually(t, "the node stays down for the real reason", func() bool {
		n := r.node(id)
		return n.Phase == agentlink.PhaseStoppedByCustody && !strings.HasPrefix(n.Message, agentlink.DrillText)
	})
	r.cloud.SetState(r.target.KeyID, "Enabled")
	r.await(id, agentlink.PhaseRunning)
}
