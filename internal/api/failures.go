package api

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxFailures is how many wrong credentials one address may send in a window.
	maxFailures   = 100
	failureWindow = time.Minute
	// maxAddresses bounds what is remembered; above it no new address is counted
	// until the window ends.
	maxAddresses = 1 << 14
)

// failures counts wrong credentials by remote address, so that keys cannot be tried
// without end. Requests without credentials are no failures: every call of Atlas's
// clients begins with one.
type failures struct {
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	count map[netip.Addr]int
}

func newFailures(now func() time.Time) *failures {
	return &failures{now: now, since: now(), count: map[netip.Addr]int{}}
}

// source is what counts as one address: IPv6 hosts own a /64 each.
func source(remote string) netip.Addr {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// wait tells how long an address is refused, 0 if it is not.
func (f *failures) wait(remote string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := failureWindow - f.now().Sub(f.since)
	if rest <= 0 || f.count[source(remote)] < maxFailures {
		return 0
	}
	return rest
}

// add counts a failure.
func (f *failures) add(remote string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.since) >= failureWindow {
		f.since, f.count = now, map[netip.Addr]int{}
	}
	a := source(remote)
	if _, have := f.count[a]; have || len(f.count) < maxAddresses {
		f.count[a]++
	}
}
