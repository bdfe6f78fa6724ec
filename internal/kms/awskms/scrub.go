package awskms

import (
	"runtime"
	"sync"
	"time"
)

// scrubDelay is how long after the use of a plaintext its copies may stay.
const scrubDelay = time.Second

// scrubber removes the copies of plaintexts that are out of reach: the buffers in which
// the AWS client and its connections held a request or an answer. It ends idle
// connections, whose buffers are overwritten only by their next use, and lets the
// garbage collector find what is left. Only a process that runs with
// GODEBUG=clobberfree=1 then has it overwritten; in others it goes when the memory
// is used again.
type scrubber struct {
	forget func()

	mu     sync.Mutex
	timer  *time.Timer
	closed bool
}

// used notes that a plaintext passed.
func (s *scrubber) used() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(scrubDelay, s.scrub)
	}
}

func (s *scrubber) scrub() {
	s.mu.Lock()
	s.timer = nil
	s.mu.Unlock()
	s.forget()
	runtime.GC()
	runtime.GC() // what finalizers and pools held through the first
}

func (s *scrubber) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
