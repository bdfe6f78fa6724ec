package awslocal

import (
	"sync/atomic"
	"time"
)

const (
	maxPast      = 64
	maxPastBytes = 64 << 20
)

// history lets calls that read see an older state for a while: AWS's eventual
// consistency. The store's lock guards it.
type history struct {
	delay Delay
	past  []pastState   // oldest first
	turn  atomic.Uint32 // counts the calls, for Delay.Alternate
}

// pastState is the state before a change.
type pastState struct {
	until time.Time // the change
	size  int
	state *state
}

func (h *history) wait() time.Duration { return time.Duration(h.delay.Millis) * time.Millisecond }

// keep remembers what was before a change. It forgets what nobody sees any more,
// and the oldest if there is too much: those changes are seen early.
func (h *history) keep(now time.Time, before *state, size int) {
	h.past = append(h.past, pastState{until: now, size: size, state: before})
	total := 0
	for _, p := range h.past {
		total += p.size
	}
	for len(h.past) > 0 && (!now.Before(h.past[0].until.Add(h.wait())) || len(h.past) > maxPast || total > maxPastBytes) {
		total -= h.past[0].size
		h.past = append([]pastState(nil), h.past[1:]...)
	}
}

// seen gives the state that a call sees, nil for the newest.
func (h *history) seen(now time.Time) *state {
	for _, p := range h.past {
		if now.Before(p.until.Add(h.wait())) {
			return p.state
		}
	}
	return nil
}

// sees gives the time for view: of every other call, if that is set, one at which
// all changes are seen.
func (s *store) sees(now time.Time) time.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.history.delay.Alternate && s.history.turn.Add(1)%2 == 0 {
		return now.Add(maxDelay)
	}
	return now
}

// setDelay changes the delay; without one everything is seen at once.
func (s *store) setDelay(d Delay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.delay = d
	if d.Millis == 0 {
		s.history.past = nil
	}
}

func (s *store) delay() Delay {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.history.delay
}

// offset is how far the time in the local AWS is from the real time.
func (s *store) offset() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return time.Duration(s.state.ClockOffset) * time.Second
}
