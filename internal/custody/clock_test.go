package custody_test

import (
	"testing"
	"time"

	"github.com/keywright/keywright/internal/custody"
)

func TestClock(t *testing.T) {
	base := custody.Clock{Elapsed: time.Hour, Boot: "a", Since: 10 * time.Minute, Wall: wall}
	for name, tt := range map[string]struct {
		r    custody.Reading
		want time.Duration
		back bool
	}{
		"one boot":                           {custody.Reading{Boot: "a", Since: 11 * time.Minute, Wall: wall.Add(time.Minute)}, time.Minute, false},
		"one boot, wall clock jumps forward": {custody.Reading{Boot: "a", Since: 11 * time.Minute, Wall: wall.Add(24 * time.Hour)}, time.Minute, false},
		"one boot, wall clock jumps back":    {custody.Reading{Boot: "a", Since: 11 * time.Minute, Wall: wall.Add(-time.Hour)}, time.Minute, false},
		"another boot":                       {custody.Reading{Boot: "b", Since: time.Second, Wall: wall.Add(5 * time.Minute)}, 5 * time.Minute, false},
		"another boot, wall clock went back": {custody.Reading{Boot: "b", Since: time.Second, Wall: wall.Add(-5 * time.Minute)}, 0, true},
	} {
		got, back := base.Advance(tt.r)
		if got.Elapsed-base.Elapsed != tt.want || back != tt.back || got.Boot != tt.r.Boot {
			t.Errorf("%s: advanced by %v (back %v), want %v (%v)", name, got.Elapsed-base.Elapsed, back, tt.want, tt.back)
		}
	}
}

func TestSystemClockGoesForward(t *testing.T) {
	a, b := custody.SystemClock(), custody.SystemClock()
	if a.Boot == "" || a.Boot != b.Boot || b.Since < a.Since || a.Wall.IsZero() {
		t.Errorf("readings %+v, %+v", a, b)
	}
}
