package custody

import (
	"fmt"
	"math"
	"os"
	"time"
)

// Never is an Elapsed time that does not come.
const Never = time.Duration(math.MaxInt64)

// Instant is a moment as Step sees it.
type Instant struct {
	// Elapsed counts the project's time; only differences mean anything.
	Elapsed time.Duration
	// Wall is for display.
	Wall time.Time
}

// Reading is what the machine's clocks say.
type Reading struct {
	// Boot names the boot of the machine; readings of Since compare within one boot.
	Boot string
	// Since is the time since that boot, sleep included.
	Since time.Duration
	Wall  time.Time
}

// Clock ties Elapsed to the machine's clocks. It is stored with the state.
type Clock struct {
	Elapsed time.Duration `json:"elapsed"`
	Boot    string        `json:"boot"`
	Since   time.Duration `json:"since"`
	Wall    time.Time     `json:"wall"`
}

// Advance carries the clock to a new reading. Within one boot the boot-time clock
// decides, whatever the wall clock does; across boots the wall clock's difference is
// added if it went forward (key-plane rule 27), and back tells if it went back.
func (c Clock) Advance(r Reading) (next Clock, back bool) {
	next = Clock{Elapsed: c.Elapsed, Boot: r.Boot, Since: r.Since, Wall: r.Wall}
	switch c.Boot {
	case "":
	case r.Boot:
		next.Elapsed += max(0, r.Since-c.Since)
	default:
		d := r.Wall.Round(0).Sub(c.Wall.Round(0))
		back = d < 0
		next.Elapsed += max(0, d)
	}
	return next, back
}

// begin is the clock of a project that has none yet.
func (c Clock) begin(r Reading) Clock {
	next, _ := c.Advance(r)
	return next
}

// Instant is the moment of the last reading.
func (c Clock) Instant() Instant { return Instant{Elapsed: c.Elapsed, Wall: c.Wall} }

// started is when this process began, as far as this package can tell; its monotonic
// part is what processClock counts from.
var started = time.Now()

// processClock stands in where there is no boot-time clock: each process is a boot of
// its own.
func processClock(now time.Time) Reading {
	return Reading{Boot: fmt.Sprintf("process-%d-%d", os.Getpid(), started.UnixNano()), Since: now.Sub(started), Wall: now}
}
