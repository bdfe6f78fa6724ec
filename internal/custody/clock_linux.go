package custody

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock reads the boot-time clock, which goes on while the machine sleeps.
func SystemClock() Reading {
	r := Reading{Wall: time.Now()}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		r.Boot = strings.TrimSpace(string(b))
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil || r.Boot == "" {
		return processClock(r.Wall)
	}
	r.Since = time.Duration(ts.Nano())
	return r
}
