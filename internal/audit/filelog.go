package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/keywright/keywright/internal/durable"
)

// maxLine bounds one event in a file.
const maxLine = 1 << 20

// FileLog is a chain in a file of JSON lines, one event each. It is safe for
// concurrent use by one process; the owner of the directory keeps others out.
type FileLog struct {
	mu   sync.Mutex
	f    *os.File
	head Head
	size int64
	bad  error
}

// OpenFile opens or makes the log at path (mode 0600) and verifies its chain. A
// last line that a crash left unfinished is cut off: it was never acknowledged.
// Any other damage is an error of class ErrBroken.
func OpenFile(path string) (*FileLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the caller's own path
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &FileLog{f: f}
	if err := l.recover(path); err != nil {
		_ = f.Close()
		return nil, err
	}
	return l, nil
}

func (l *FileLog) recover(path string) error {
	var v Verifier
	end, err := readEvents(l.f, func(e Event) error { return v.Check(e) })
	if err != nil {
		return fmt.Errorf("audit log %s: %w", path, err)
	}
	if err := l.f.Truncate(end); err != nil {
		return fmt.Errorf("cut torn line of audit log: %w", err)
	}
	if _, err := l.f.Seek(end, io.SeekStart); err != nil {
		return fmt.Errorf("seek audit log: %w", err)
	}
	l.head, l.size = v.Head(), end
	return durable.SyncDir(filepath.Dir(path))
}

// readEvents calls fn for each whole line and gives the offset of their end.
func readEvents(r io.Reader, fn func(Event) error) (int64, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var end int64
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil // what has no newline was never acknowledged
		}
		if err != nil {
			return end, err
		}
		if len(line) > maxLine {
			return end, fmt.Errorf("%w: a line of %d bytes at offset %d", ErrBroken, len(line), end)
		}
		var e Event
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			return end, fmt.Errorf("%w: unreadable line at offset %d", ErrBroken, end)
		}
		if err := fn(e); err != nil {
			return end, err
		}
		end += int64(len(line))
	}
}

// Append chains an event, writes it and syncs. When it returns an error the
// event did not happen and the effect that it announces must not either.
func (l *FileLog) Append(_ context.Context, e Event) (Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return Event{}, l.bad
	}
	e = Chain(l.head, e)
	line, err := json.Marshal(e)
	if err != nil {
		return Event{}, fmt.Errorf("encode audit event: %w", err)
	}
	line = append(line, '\n')
	_, err = l.f.Write(line)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		l.rewind()
		return Event{}, fmt.Errorf("write audit event: %w", err)
	}
	l.head, l.size = e.Head(), l.size+int64(len(line))
	return e, nil
}

// rewind drops a half-written event. If even that fails the log stays closed to
// writers: after a failed sync nobody knows what the file holds.
func (l *FileLog) rewind() {
	err := l.f.Truncate(l.size)
	if err == nil {
		_, err = l.f.Seek(l.size, io.SeekStart)
	}
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		l.bad = fmt.Errorf("audit log is not writable, restart the process: %w", err)
	}
}

// Head is the end of the chain.
func (l *FileLog) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close closes the file.
func (l *FileLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = errors.New("audit log is closed")
	return l.f.Close()
}

// VerifyFile checks a whole log file and gives its head. If kept is not zero it
// must lie on the chain.
func VerifyFile(path string, kept Head) (Head, error) {
	f, err := os.Open(path) //nolint:gosec // the caller's own path
	if err != nil {
		return Head{}, fmt.Errorf("open audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	var v Verifier
	var at Hash
	if _, err := readEvents(f, func(e Event) error {
		if e.Seq == kept.Seq {
			at = e.Hash
		}
		return v.Check(e)
	}); err != nil {
		return v.Head(), err
	}
	return v.Head(), Covers(kept, at, v.Head().Seq)
}
