package awslocal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/keywright/keywright/internal/durable"
)

const (
	stateFile = "state.json"
	lockFile  = "lock"
	callsFile = "calls.jsonl"
)

// store holds the state in memory and on disk. Readers take view, writers
// change; a change that cannot be made durable is undone in memory.
type store struct {
	dir  string
	lock *os.File

	mu    sync.RWMutex
	state *state
	saved []byte // the last durable state.json

	history history
}

// openStore locks dir and reads its state, making it on the first start.
func openStore(dir string, now time.Time) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, lock: lock}
	if err := s.load(now); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// lockDir holds the directory for this process: flock ends with the process,
// so a kill -9 leaves nothing behind.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own data directory
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another local AWS: stop it or choose another directory", dir)
		}
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return f, nil
}

func (s *store) load(now time.Time) error {
	path := filepath.Join(s.dir, stateFile)
	raw, err := os.ReadFile(path) //nolint:gosec // the operator's own data directory
	if errors.Is(err, fs.ErrNotExist) {
		if s.state, err = firstState(now); err != nil {
			return fmt.Errorf("make first state: %w", err)
		}
		return s.save()
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if s.state, err = decodeState(raw); err != nil {
		return fmt.Errorf("read state %s: %w", path, err)
	}
	s.saved = raw
	return nil
}

// view runs f with the state that is seen at now; f must not change or keep it.
func (s *store) view(now time.Time, f func(*state) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if old := s.history.seen(now); old != nil {
		return f(old)
	}
	return f(s.state)
}

// change runs f with the newest state and makes its changes durable before it
// returns. An f that returns an error must have changed nothing. If the disk
// fails, the change is undone in memory. Calls that read see the change after
// the delay that is set.
func (s *store) change(now time.Time, f func(*state) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.saved
	if err := s.apply(f); err != nil || s.history.delay.Millis == 0 {
		return err
	}
	old, err := decodeState(before)
	if err != nil {
		return fmt.Errorf("keep the state before the change: %w", err)
	}
	s.history.keep(now, old, len(before))
	return nil
}

// changeAtOnce is change for what everybody sees at once.
func (s *store) changeAtOnce(f func(*state) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply(f)
}

func (s *store) apply(f func(*state) error) error {
	if err := f(s.state); err != nil {
		return err
	}
	s.state.due = s.state.nextDue()
	err := s.save()
	if err == nil {
		return nil
	}
	before, undo := decodeState(s.saved)
	if undo != nil {
		return errors.Join(err, fmt.Errorf("undo change: %w", undo))
	}
	s.state = before
	return err
}

// settle does what time has brought by now: see state.settle.
func (s *store) settle(now time.Time) error {
	s.mu.RLock()
	due := s.state.due
	s.mu.RUnlock()
	if due.IsZero() || now.Before(due) {
		return nil
	}
	return s.change(now, func(st *state) error {
		st.settle(now)
		return nil
	})
}

func (s *store) save() error {
	raw, err := json.MarshalIndent(s.state, "", " ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(s.dir, stateFile), raw, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	s.saved = raw
	return nil
}

// writeSeed brings the seed file up to date.
func (s *store) writeSeed(seed Seed) error {
	if err := durable.WriteJSON(filepath.Join(s.dir, SeedFile), seed, 0o600); err != nil {
		return fmt.Errorf("write seed file: %w", err)
	}
	return nil
}

func (s *store) close() error { return s.lock.Close() }
