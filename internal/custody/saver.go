package custody

import (
	"context"
	"sync"
	"time"
)

// saver writes states in the background, the newest only, so that a disk which hangs
// holds nothing up.
type saver struct {
	store Store
	wake  chan struct{}
	quit  chan struct{}
	gone  chan struct{}

	mu    sync.Mutex
	next  State
	want  uint64 // number of the state in next
	has   uint64 // number of the newest state that is stored
	tried uint64 // number of the newest state that was tried
	err   error
	turn  chan struct{} // closed and renewed after each attempt
}

func newSaver(store Store) *saver {
	s := &saver{store: store, wake: make(chan struct{}, 1), quit: make(chan struct{}), gone: make(chan struct{}), turn: make(chan struct{})}
	go s.run()
	return s
}

// save hands a state over and returns its number.
func (s *saver) save(st State) uint64 {
	s.mu.Lock()
	s.next = st
	s.want++
	n := s.want
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return n
}

// saveFor hands a state over and waits for it, but not longer than d nor after an
// error. It gives the state's number and tells whether it, or a newer one, is stored.
func (s *saver) saveFor(st State, d time.Duration) (number uint64, stored bool) {
	n := s.save(st)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		has, tried, turn := s.progress()
		if has >= n || tried >= n {
			return n, has >= n
		}
		select {
		case <-turn:
		case <-timer.C:
			return n, false
		}
	}
}

// await waits until the state with this number, or a newer one, is stored. It tells
// whether it came to that before ctx ended.
func (s *saver) await(ctx context.Context, n uint64) bool {
	for {
		has, _, turn := s.progress()
		if has >= n {
			return true
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return false
		}
	}
}

// progress also gives a channel that closes at the end of the next attempt.
func (s *saver) progress() (has, tried uint64, turn <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has, s.tried, s.turn
}

// number is that of the newest state handed over.
func (s *saver) number() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

func (s *saver) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// close stores what is still to be stored and waits for it.
func (s *saver) close() {
	close(s.quit)
	<-s.gone
}

func (s *saver) run() {
	defer close(s.gone)
	for {
		var retry <-chan time.Time
		if has, _, _ := s.progress(); has < s.number() {
			retry = time.After(retryPause)
		}
		select {
		case <-s.wake:
			s.once()
		case <-retry:
			s.once()
		case <-s.quit:
			s.once()
			return
		}
	}
}

// once stores the newest state, if it is not yet.
func (s *saver) once() {
	s.mu.Lock()
	st, n := s.next, s.want
	todo := s.has < n
	s.mu.Unlock()
	if !todo {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	err := s.store.Save(ctx, st)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried, s.err = n, err
	if err == nil {
		s.has = n
	}
	close(s.turn)
	s.turn = make(chan struct{})
}
