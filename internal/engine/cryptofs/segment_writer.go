package cryptofs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// segmentWriter writes a file of segments once, from start to end. The last
// segment carries a mark and can be written only when the end is known: at the
// sync that Pebble calls before Close, after which nothing may follow.
type segmentWriter struct {
	refusing
	st stream
	g  geometry // only its start is used

	mu          sync.Mutex
	out         *scratch // sealed bytes that are not yet written
	outLen      int
	pending     []byte // plaintext of the segment that is not yet sealed
	index       int64  // of that segment
	plain       int64  // plaintext bytes accepted
	stored      int64  // bytes written below
	finished    bool
	syncAtClose bool
	err         error // the first failure; nothing is written after it
}

func newSegmentWriter(base vfs.File, path string, st stream, l Layout, start []byte) *segmentWriter {
	w := &segmentWriter{
		refusing: refusing{base: base, path: path}, st: st, g: geometry{start: streamStart(l), length: math.MaxInt64 / 2},
		out: scratchPool.Get().(*scratch),
	}
	w.outLen = copy(w.out.buf[:], start)
	return w
}

// Write implements io.Writer. It keeps no reference to p and does not change it.
func (w *segmentWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.poisoned("write")
	}
	if w.finished && len(p) > 0 {
		return 0, fmt.Errorf("write %s: %w", w.path, ErrFinished)
	}
	n := len(p)
	for len(p) > 0 {
		size := segmentPlain
		if w.index == 0 {
			size = firstPlain
		}
		switch {
		case len(w.pending) == size:
			if err := w.seal(w.pending, false); err != nil {
				return 0, err
			}
			w.pending = w.pending[:0]
		case len(w.pending) == 0 && len(p) > size:
			if err := w.seal(p[:size], false); err != nil {
				return 0, err
			}
			p = p[size:]
		default:
			if w.pending == nil {
				w.pending = make([]byte, 0, segmentPlain)
			}
			m := min(size-len(w.pending), len(p))
			w.pending = append(w.pending, p[:m]...)
			p = p[m:]
		}
	}
	w.plain += int64(n)
	return n, nil
}

// seal encrypts the next segment. Its index is used up whatever happens next.
func (w *segmentWriter) seal(pt []byte, last bool) error {
	if w.index >= maxMessages {
		return w.fail("write", errors.New("the file has as many segments as its key allows"))
	}
	if len(w.out.buf)-w.outLen < len(pt)+tagSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	nonce := w.st.nonce(w.out, uint32(w.index), last) //nolint:gosec // checked above
	w.index++
	w.outLen = len(w.st.aead.Seal(w.out.buf[:w.outLen], nonce, pt, nil))
	return nil
}

// flush writes what is sealed.
func (w *segmentWriter) flush() error {
	if w.outLen == 0 {
		return nil
	}
	n, err := w.base.Write(w.out.buf[:w.outLen])
	if err == nil && n < w.outLen {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail("write", err)
	}
	w.stored += int64(n)
	w.outLen = 0
	return nil
}

func (w *segmentWriter) fail(op string, err error) error {
	w.err = fmt.Errorf("%s %s: %w", op, w.path, err)
	return w.err
}

func (w *segmentWriter) poisoned(op string) error {
	return fmt.Errorf("%s %s: %w: %w", op, w.path, ErrPoisoned, w.err)
}

// finish writes the last segment. It is called with the lock held, or before
// anybody else knows the file.
func (w *segmentWriter) finish() error {
	if w.finished {
		return nil
	}
	if err := w.seal(w.pending, true); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.finished = true
	w.release()
	return nil
}

func (w *segmentWriter) release() {
	if w.out != nil {
		scratchPool.Put(w.out)
		w.out, w.outLen, w.pending = nil, 0, nil
	}
}

// Sync implements vfs.File and completes the file.
func (w *segmentWriter) Sync() error { return w.sync(w.base.Sync) }

// SyncData implements vfs.File and completes the file.
func (w *segmentWriter) SyncData() error { return w.sync(w.base.SyncData) }

// sync completes the file, if the sync is known to be the last. Above a base
// without descriptors Pebble also syncs in the middle of a file; there Close
// completes it.
func (w *segmentWriter) sync(do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.poisoned("sync")
	}
	var err error
	switch {
	case w.finished:
	case w.base.Fd() != vfs.InvalidFd:
		err = w.finish()
	default:
		w.syncAtClose = true
		err = w.flush()
	}
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return w.fail("sync", err)
	}
	return nil
}

// SyncTo implements vfs.File. It never claims that the whole file is durable,
// since the segment that is not yet full is not written.
func (w *segmentWriter) SyncTo(length int64) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return false, w.poisoned("sync")
	}
	if !w.finished {
		if err := w.flush(); err != nil {
			return false, err
		}
	}
	to := min(w.g.storedStart(segmentOf(max(length, 0))), w.stored)
	if _, err := w.base.SyncTo(to); err != nil {
		return false, w.fail("sync", err)
	}
	return false, nil
}

// Preallocate implements vfs.File, with plaintext offsets.
func (w *segmentWriter) Preallocate(offset, length int64) error {
	if offset < 0 || length <= 0 {
		return nil
	}
	from := w.g.storedStart(segmentOf(offset))
	return w.base.Preallocate(from, w.g.storedEnd(segmentOf(offset+length-1))-from)
}

// Stat implements vfs.File with the plaintext bytes written so far.
func (w *segmentWriter) Stat() (vfs.FileInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stat(w.plain)
}

// Close completes the file if no sync did.
func (w *segmentWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.err
	if err == nil && !w.finished {
		if err = w.finish(); err == nil && w.syncAtClose {
			err = w.base.SyncData()
		}
	}
	w.release()
	w.finished = true
	defer w.tellClosed()
	return errors.Join(err, w.base.Close())
}
