//go:build !linux

package custody

import "time"

// SystemClock reads the process's monotonic clock.
func SystemClock() Reading { return processClock(time.Now()) }
