package cryptofs

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// frameWriter writes a log or a manifest: one frame for each Write. Sync may run
// beside Write.
type frameWriter struct {
	refusing
	st stream

	swap   sync.RWMutex // read-held while the base is used without mu
	mu     sync.Mutex
	index  uint64 // of the next frame
	plain  int64
	stored int64
	err    error // the first failure; nothing is written after it
}

// newFrameWriter writes the headers of the file at once, so that an inspection
// sees whose file it is.
func newFrameWriter(base vfs.File, path string, st stream, start []byte) (*frameWriter, error) {
	w := &frameWriter{refusing: refusing{base: base, path: path}, st: st}
	if err := w.put(start); err != nil {
		return nil, err
	}
	return w, nil
}

// Write implements io.Writer. It keeps no reference to p and does not change it.
func (w *frameWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := 0; ; {
		m := min(len(p)-n, maxFramePayload)
		if err := w.frame(p[n:n+m], pins{}); err != nil {
			return n, err
		}
		n += m
		if n == len(p) {
			return n, nil
		}
	}
}

// frame seals and writes one frame. Its index is used up before the write is
// tried: what a failed write left on the disk is unknown.
func (w *frameWriter) frame(payload []byte, claims pins) error {
	if w.err != nil {
		return fmt.Errorf("write %s: %w: %w", w.path, ErrPoisoned, w.err)
	}
	if w.index >= maxMessages {
		return w.fail("write", errors.New("the file has as many frames as its key allows"))
	}
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	buf := s.buf[:]
	if frameOverhead+len(payload) > len(buf) {
		buf = make([]byte, frameOverhead+len(payload))
	}
	h := frameHeader{length: uint32(len(payload)), index: uint32(w.index), pins: claims} //nolint:gosec // both are bounded
	h.encode(buf)
	nonce := w.st.nonce(s, h.index, false)
	w.index++
	out := w.st.aead.Seal(buf[:frameHeaderSize], nonce, payload, buf[:frameHeaderSize])
	if err := w.put(out); err != nil {
		return err
	}
	w.plain += int64(len(payload))
	return nil
}

func (w *frameWriter) put(b []byte) error {
	size := len(b)
	n, err := w.base.Write(b)
	if err == nil && n < size {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail("write", err)
	}
	w.stored += int64(size)
	return nil
}

func (w *frameWriter) fail(op string, err error) error {
	w.err = fmt.Errorf("%s %s: %w", op, w.path, err)
	return w.err
}

// Sync implements vfs.File.
func (w *frameWriter) Sync() error { return w.sync(vfs.File.Sync) }

// SyncData implements vfs.File.
func (w *frameWriter) SyncData() error { return w.sync(vfs.File.SyncData) }

// Fd implements vfs.File.
func (w *frameWriter) Fd() uintptr {
	w.swap.RLock()
	defer w.swap.RUnlock()
	return w.base.Fd()
}

// Close implements vfs.File.
func (w *frameWriter) Close() error {
	w.swap.Lock()
	defer w.swap.Unlock()
	return w.refusing.Close()
}

// sync runs beside writes. After a failure it is never tried again: the kernel
// may have dropped what it could not write.
func (w *frameWriter) sync(do func(vfs.File) error) error {
	w.swap.RLock()
	defer w.swap.RUnlock()
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err != nil {
		return fmt.Errorf("sync %s: %w: %w", w.path, ErrPoisoned, err)
	}
	if err := do(w.base); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.fail("sync", err)
	}
	return nil
}

// SyncTo implements vfs.File. It asks for all that is written, since plaintext
// offsets are not kept by frame.
func (w *frameWriter) SyncTo(int64) (bool, error) {
	w.swap.RLock()
	defer w.swap.RUnlock()
	w.mu.Lock()
	stored, err := w.stored, w.err
	w.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("sync %s: %w: %w", w.path, ErrPoisoned, err)
	}
	full, err := w.base.SyncTo(stored)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		return false, w.fail("sync", err)
	}
	return full, nil
}

// Preallocate implements vfs.File; the size of the file does not grow by it.
func (w *frameWriter) Preallocate(offset, length int64) error {
	w.swap.RLock()
	defer w.swap.RUnlock()
	if offset == 0 {
		return w.base.Preallocate(0, length+framesStart)
	}
	return w.base.Preallocate(offset+framesStart, length)
}

// Stat implements vfs.File with the plaintext bytes written so far.
func (w *frameWriter) Stat() (vfs.FileInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stat(w.plain)
}
