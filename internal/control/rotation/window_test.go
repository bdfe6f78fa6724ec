package rotation_test

import (
	"testing"
	"time"

	"github.com/keywright/keywright/internal/agentlink"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/store"
)

// window gives the project a window that begins at a time's hour.
func (l *lab) window(at time.Time, autoDefer bool) {
	l.t.Helper()
	at = at.UTC()
	day, hour := int(at.Weekday())+1, at.Hour()
	l.Must(maintenance.New(l.Store).Set(l.t.Context(), l.Owner, l.project.ID, maintenance.Patch{Day: &day, Hour: &hour, AutoDefer: &autoDefer}))
}

// open and closed give it one that is open for hours to come, and one that is not.
func (l *lab) open()   { l.window(time.Now(), false) }
func (l *lab) closed() { l.window(time.Now().Add(3*24*time.Hour), false) }

func (l *lab) setting() store.MaintenanceWindow {
	l.t.Helper()
	w, err := maintenance.New(l.Store).Get(l.t.Context(), l.Owner, l.project.ID)
	l.Must(err)
	return *w
}

func (l *lab) age(names ...string) {
	for _, name := range names {
		l.give(name, time.Now().Add(-rotation.MaxAge-time.Hour))
	}
	l.Must(l.s.Check(l.t.Context()))
	l.round()
}

func (l *lab) ordered(names ...string) (out []string) {
	for _, name := range names {
		if l.node(name).Rotation > 0 {
			out = append(out, name)
		}
	}
	return out
}

// finish has the node of a cluster carry out what is ordered.
func (l *lab) finish(name string) {
	l.t.Helper()
	old, next := l.get(name).Nodes[0].Status.MasterKey, keys.NewKeyID()
	l.escrow(name, next, keys.StateActive, 1, time.Now())
	l.escrow(name, old, keys.StateDeactivated, 2, time.Now().Add(-rotation.MaxAge-time.Hour))
	l.use(name, next, l.node(name).Rotation, "")
	l.round()
}

func TestOldKeysWaitForTheMaintenanceWindow(t *testing.T) {
	l := newLab(t, "one", "two")
	l.closed()
	l.age("one", "two")
	if got := l.ordered("one", "two"); got != nil {
		t.Fatalf("ordered outside the window: %v", got)
	}
	if v := l.get("one"); v.Rotation == nil || v.Rotation.State != rotation.Pending || v.Rotation.Reason != rotation.Age {
		t.Errorf("not planned: %+v", v.Rotation)
	}
	l.restart()
	l.round()
	if got := l.ordered("one", "two"); got != nil {
		t.Fatalf("ordered outside the window after a restart: %v", got)
	}

	l.open()
	l.round()
	first := l.ordered("one", "two")
	if len(first) != 1 {
		t.Fatalf("ordered in the window: %v", first)
	}
	l.closed() // while a node rotates: it is finished, and no other begins
	l.restart()
	l.finish(first[0])
	if v := l.get(first[0]); v.Rotation.State != rotation.Done {
		t.Errorf("the node in hand was not finished: %+v", v.Rotation)
	}
	if got := l.ordered("one", "two"); len(got) != 1 {
		t.Fatalf("begun outside the window: %v", got)
	}
	l.open()
	l.round()
	if got := l.ordered("one", "two"); len(got) != 2 {
		t.Errorf("not gone on with in the next window: %v", got)
	}
	l.Verify()
}

func TestRotationOnDemandDoesNotWaitForTheWindow(t *testing.T) {
	l := newLab(t, "one", "two")
	l.closed()
	l.age("one")
	l.request("one")
	l.round()
	if v := l.get("one"); v.Rotation.Reason != rotation.OnDemand || l.node("one").Rotation != 1 {
		t.Errorf("the waiting plan was not hurried: %+v", v.Rotation)
	}
	l.finish("one")
	l.request("two")
	l.round()
	if l.node("two").Rotation != 1 {
		t.Error("a plan on demand waits")
	}
}

func TestMaintenanceIsPutOffOnceByItself(t *testing.T) {
	l := newLab(t, "one")
	l.window(time.Now(), true)
	l.age("one")
	if w := l.setting(); l.node("one").Rotation != 0 || w.Deferrals != 1 || w.DeferredUntil.Before(time.Now()) {
		t.Fatalf("not put off: %+v", w)
	}
	l.Must(l.s.Check(t.Context()))
	if n := l.count("ATLAS_MAINTENANCE_DEFERRED"); n != 1 {
		t.Errorf("put off %d times", n)
	}
	// Somebody has it begin at once after all.
	l.Must(maintenance.New(l.Store).Set(t.Context(), l.Owner, l.project.ID, maintenance.Patch{StartASAP: true}))
	l.round()
	l.finish("one")
	if w := l.setting(); l.node("one").Rotation != 1 || w.Deferrals != 0 {
		t.Errorf("%d rotations, %+v", l.node("one").Rotation, w)
	}
}

func TestAllMasterKeysOfAProject(t *testing.T) {
	l := newLab(t, "one", "two")
	l.create("open", "NONE")
	vs, err := l.s.RequestAll(t.Context(), l.Owner, l.project.ID)
	l.Must(err)
	if len(vs) != 2 {
		t.Fatalf("%d clusters", len(vs))
	}
	l.round()
	for range 2 {
		for _, name := range l.ordered("one", "two") {
			if v := l.get(name); v.Rotation.State != rotation.Done {
				l.finish(name)
			}
		}
	}
	for _, name := range []string{"one", "two"} {
		if v := l.get(name); v.Rotation.State != rotation.Done {
			t.Errorf("%s: %+v", name, v.Rotation)
		}
	}
}

func TestAWaitingNodeRotatesWhenItsKeyIsBack(t *testing.T) {
	l := newLab(t, "one")
	l.open()
	for _, stuck := range []agentlink.Phase{agentlink.PhaseStoppedByCustody} {
		l.agent.Stuck = stuck
		l.age("one")
		if l.node("one").Rotation != 0 {
			t.Errorf("%s: ordered", stuck)
		}
	}
	l.restart()
	l.agent.Stuck = ""
	l.round()
	if l.node("one").Rotation != 1 {
		t.Error("not ordered although the node is back")
	}
}
