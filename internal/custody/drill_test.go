package custody_test

import (
	"slices"
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
)

func order(d time.Duration, id string, length time.Duration) when {
	return when{d, custody.DrillOrdered{ID: id, Cluster: "c", For: length}}
}

// TestDrill: rule 28.
func TestDrill(t *testing.T) {
	invalid := []any{revoked(60 * sec), revoked(65 * sec), revoked(70 * sec)}
	for name, tt := range map[string]struct {
		steps   []any
		drilled bool
		want    custody.Verdict
		effect  custody.Effect // of the last event
	}{
		"begins while VALID":                   {[]any{ok(0), order(10*sec, "a", minute)}, true, custody.Valid, custody.BeginDrill},
		"ends by itself":                       {[]any{ok(0), order(10*sec, "a", minute), passed(70 * sec)}, false, custody.Valid, custody.EndDrill},
		"not before":                           {[]any{ok(0), order(10*sec, "a", minute), passed(69 * sec)}, true, custody.Valid, ""},
		"lasts five minutes at most":           {[]any{ok(0), order(10*sec, "a", time.Hour), passed(310 * sec)}, false, custody.Valid, custody.EndDrill},
		"each id once":                         {[]any{ok(0), order(10*sec, "a", minute), passed(70 * sec), order(80*sec, "a", minute)}, false, custody.Valid, ""},
		"another id again":                     {[]any{ok(0), order(10*sec, "a", minute), passed(70 * sec), order(80*sec, "b", minute)}, true, custody.Valid, custody.BeginDrill},
		"a late order is dropped":              {[]any{ok(0), when{10 * sec, custody.DrillOrdered{ID: "a", Cluster: "c", For: minute, Age: 2 * minute}}}, false, custody.Valid, custody.Persist},
		"not while SUSPECT":                    {[]any{ok(0), revoked(5 * sec), order(10*sec, "a", minute)}, false, custody.Suspect, custody.Persist},
		"nor later by the same order":          {[]any{ok(0), revoked(5 * sec), order(6*sec, "a", minute), ok(10 * sec), order(11*sec, "a", minute)}, false, custody.Valid, ""},
		"leaving VALID ends it":                {[]any{ok(0), order(10*sec, "a", minute), lost(20 * sec)}, false, custody.Unreachable, custody.EndDrill},
		"goes on after a crash":                {[]any{ok(0), order(10*sec, "a", minute), when{30 * sec, custody.Restarted{}}}, true, custody.Valid, custody.BeginDrill},
		"ends after a crash":                   {[]any{ok(0), order(10*sec, "a", minute), when{90 * sec, custody.Restarted{}}}, false, custody.Valid, custody.EndDrill},
		"its end in INVALID: down":             {append(append([]any{ok(0), order(50*sec, "a", minute)}, invalid...), passed(120*sec)), false, custody.Invalid, ""},
		"one at a time, the second is dropped": {[]any{ok(0), order(10*sec, "a", minute), order(20*sec, "b", 5*minute), passed(70 * sec)}, false, custody.Valid, custody.EndDrill},
	} {
		t.Run(name, func(t *testing.T) {
			s, eff := play(fresh(minute), tt.steps...)
			if s.Verdict != tt.want || s.Drilled("c") != tt.drilled || s.Drilled("other") {
				t.Errorf("%s, drilled %v", s.Verdict, s.Drilled("c"))
			}
			if tt.effect != "" && !slices.Contains(eff, tt.effect) {
				t.Errorf("effects %v", eff)
			}
			if tt.effect == "" && (slices.Contains(eff, custody.BeginDrill) || slices.Contains(eff, custody.EndDrill)) {
				t.Errorf("effects %v", eff)
			}
			if tt.want == custody.Invalid && (!s.MustBeDown() || s.MayStart()) {
				t.Error("the end of the drill lifted more than its own denial")
			}
		})
	}
}

func TestDrillKeepsItsTimes(t *testing.T) {
	s, _ := play(fresh(minute), ok(0), order(10*sec, "a", minute), when{12 * sec, custody.DrillMeasured{ID: "a"}}, when{30 * sec, custody.DrillMeasured{ID: "a"}},
		passed(70*sec), when{73 * sec, custody.DrillMeasured{ID: "a", Up: true}}, when{90 * sec, custody.DrillMeasured{ID: "b", Up: true}})
	if d := s.Drills[0]; len(s.Drills) != 1 || d.Down != 2*sec || d.Up != 3*sec || !d.Began.Equal(wall.Add(10*sec)) || !d.Ended.Equal(wall.Add(70*sec)) {
		t.Errorf("%+v", s.Drills)
	}
}
