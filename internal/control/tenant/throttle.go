package tenant

import (
	"net/netip"
	"sync"
	"time"
)

// Wrong passwords in a window: of one user from one address, of one address, and of
// one user from everywhere. The last is far above what a person mistypes, so that a
// stranger cannot easily lock somebody out, and far below what guessing needs.
const (
	throttleWindow = 5 * time.Minute
	maxPerPair     = 5
	maxPerAddress  = 30
	maxPerUser     = 100
	// maxThrottled bounds what is remembered. When it is full, whoever is not in it yet
	// waits for the window's end.
	maxThrottled = 1 << 14
)

// throttle counts attempts to sign in before they are decided, so that attempts at the
// same time count too. A right password takes its own attempt back.
type throttle struct {
	mu    sync.Mutex
	since time.Time
	count map[string]int
}

// sourceOf is what counts as one address: IPv6 hosts own a /64 each.
func sourceOf(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return ""
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func throttleKeys(username, remote string) [3]string {
	from := sourceOf(remote)
	return [3]string{"p " + from + " " + username, "a " + from, "u " + username}
}

// take counts an attempt. If there were too many it counts nothing and tells when to
// try again.
func (t *throttle) take(now time.Time, username, remote string) (again time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == nil || now.Sub(t.since) >= throttleWindow || now.Before(t.since) {
		t.since, t.count = now, map[string]int{}
	}
	ks := throttleKeys(username, remote)
	for i, limit := range [3]int{maxPerPair, maxPerAddress, maxPerUser} {
		n, known := t.count[ks[i]]
		if n >= limit || (!known && len(t.count) >= maxThrottled) {
			return t.since.Add(throttleWindow), false
		}
	}
	for _, k := range ks {
		t.count[k]++
	}
	return time.Time{}, true
}

// giveBack forgets one attempt.
func (t *throttle) giveBack(username, remote string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range throttleKeys(username, remote) {
		if t.count[k]--; t.count[k] <= 0 {
			delete(t.count, k)
		}
	}
}
