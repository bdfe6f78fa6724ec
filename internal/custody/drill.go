package custody

import (
	"slices"
	"time"

	"github.com/keywright/keywright/internal/keys"
)

// The bounds of drills (rule 28).
const (
	// MaxDrill is the longest a drill lasts.
	MaxDrill = 5 * time.Minute
	// DrillLate is the age at which an order is dropped.
	DrillLate = time.Minute
	// keptDrills is how many are remembered. An order that is repeated after so many
	// others is late.
	keptDrills = 64
)

// Drill is a rehearsal of a revocation with effect: one cluster is treated as under
// INVALID for a while. An order that was not carried out is kept too, with its end and
// without a beginning: each id runs once.
type Drill struct {
	ID      string         `json:"id"`
	Cluster keys.ClusterID `json:"cluster"`
	// Began and Ended are by the wall clock, Start and Until on the Elapsed clock.
	Began time.Time     `json:"began,omitzero"`
	Ended time.Time     `json:"ended,omitzero"`
	Start time.Duration `json:"start,omitempty"`
	Until time.Duration `json:"until,omitempty"`
	// Down and Up are the measured times: from the order (Start) until the cluster's
	// processes were gone, and from the end until they served again; 0 if not measured.
	Down time.Duration `json:"down,omitempty"`
	Up   time.Duration `json:"up,omitempty"`
	// Stop is when the drill ended (Elapsed).
	Stop time.Duration `json:"stop,omitempty"`
}

// Drilled tells whether the cluster is denied its key by a drill now.
func (s State) Drilled(c keys.ClusterID) bool {
	d := s.drill()
	return d != nil && d.Cluster == c
}

// drill is the one under way, nil if there is none.
func (s State) drill() *Drill {
	if n := len(s.Drills); n > 0 && s.Drills[n-1].Ended.IsZero() {
		return &s.Drills[n-1]
	}
	return nil
}

// beginDrill carries an order out, or drops it.
func (s State) beginDrill(e DrillOrdered, now Instant) State {
	if e.ID == "" || slices.ContainsFunc(s.Drills, func(d Drill) bool { return d.ID == e.ID }) {
		return s
	}
	d := Drill{ID: e.ID, Cluster: e.Cluster}
	if s.drill() != nil {
		return s // one at a time; the order is late when this one has ended
	}
	if s.Verdict == Valid && s.AwaitOK && e.Age <= DrillLate {
		return s // just restarted: the order comes again, or grows late
	}
	if e.Age > DrillLate || e.For <= 0 || !s.MayStart() {
		d.Ended = now.Wall
	} else {
		d.Began, d.Start, d.Until = now.Wall, now.Elapsed-max(0, e.Age), now.Elapsed+min(e.For, MaxDrill)
	}
	kept := s.Drills[max(0, len(s.Drills)+1-keptDrills):]
	s.Drills = append(slices.Clone(kept), d)
	return s
}

func (s State) endDrill(now Instant) State {
	s.Drills = slices.Clone(s.Drills)
	d := s.drill()
	d.Ended, d.Stop = now.Wall, now.Elapsed
	return s
}

// measure keeps a drill's times, each once.
func (s State) measure(e DrillMeasured, now Instant) State {
	i := slices.IndexFunc(s.Drills, func(d Drill) bool { return d.ID == e.ID && !d.Began.IsZero() })
	if i < 0 {
		return s
	}
	s.Drills = slices.Clone(s.Drills)
	d := &s.Drills[i]
	if !e.Up && d.Down == 0 && d.Ended.IsZero() {
		d.Down = max(1, now.Elapsed-d.Start)
	}
	if e.Up && d.Up == 0 && !d.Ended.IsZero() {
		d.Up = max(1, now.Elapsed-d.Stop)
	}
	return s
}
