package custody

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootID names this boot of the machine, "" if it cannot be told.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// SystemClock reads the boot-time clock, which goes on while the machine sleeps.
func SystemClock() Reading {
	r := Reading{Boot: bootID(), Wall: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil || r.Boot == "" {
		return processClock(r.Wall)
	}
	r.Since = time.Duration(ts.Nano())
	return r
}
