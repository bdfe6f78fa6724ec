package cryptofs

import (
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// segmentReader reads a file of segments. ReadAt is safe for concurrent use,
// takes no lock, and allocates nothing.
type segmentReader struct {
	refusing
	st     stream
	g      geometry
	pos    int64   // of Read
	window *window // of a handle that is read in order, else nil
}

// window is decrypted plaintext around the last read of a sequential handle:
// neighbouring blocks share a segment, which would be decrypted twice.
type window struct {
	mu    sync.Mutex
	buf   []byte
	start int64 // plaintext offset of data
	data  []byte
}

// newSegmentReader authenticates the last segment, so that a file that was cut,
// extended, renamed or exchanged is refused before anything of it is used.
func newSegmentReader(base vfs.File, path string, st stream, g geometry, sequential bool, s *scratch) (vfs.File, error) {
	r := &segmentReader{refusing: refusing{base: base, path: path}, st: st, g: g}
	last := g.count - 1
	ct := s.buf[:g.storedEnd(last)-g.storedStart(last)]
	if err := readFull(base, path, ct, g.storedStart(last)); err != nil {
		return nil, err
	}
	if _, err := r.open(s, ct[:0], ct, last); err != nil {
		return nil, err
	}
	if sequential {
		r.window = &window{}
	}
	return r, nil
}

// open decrypts segment i from ct to dst.
func (r *segmentReader) open(s *scratch, dst, ct []byte, i int64) ([]byte, error) {
	nonce := r.st.nonce(s, uint32(i), i == r.g.count-1) //nolint:gosec // newGeometry bounds the count
	out, err := r.st.aead.Open(dst, nonce, ct, nil)
	if err != nil {
		return nil, refuse(r.path, r.g.storedStart(i), nil, "segment %d of %d to authenticate", i, r.g.count)
	}
	return out, nil
}

// Read implements io.Reader.
func (r *segmentReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.pos >= r.g.plain {
		return 0, io.EOF
	}
	n, err := r.read(p[:min(int64(len(p)), r.g.plain-r.pos)], r.pos)
	r.pos += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (r *segmentReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", r.path, off)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= r.g.plain {
		return 0, io.EOF
	}
	if rest := r.g.plain - off; int64(len(p)) > rest {
		n, err := r.read(p[:rest], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return r.read(p, off)
}

// read fills p, which lies within the file.
func (r *segmentReader) read(p []byte, off int64) (int, error) {
	if r.window != nil && r.fromWindow(p, off) {
		return len(p), nil
	}
	return r.decrypt(p, off)
}

// fromWindow serves p from the window, moving it if p fits one. Anything else,
// errors too, is left to decrypt: a damaged neighbour must not fail this read.
func (r *segmentReader) fromWindow(p []byte, off int64) bool {
	w := r.window
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	end := off + int64(len(p))
	if off >= w.start && end <= w.start+int64(len(w.data)) {
		copy(p, w.data[off-w.start:])
		return true
	}
	first := segmentOf(off)
	from, to := plainStart(first), min(plainStart(first+scratchSegments), r.g.plain)
	if end > to {
		return false
	}
	if w.buf == nil {
		w.buf = make([]byte, min(scratchSegments*segmentPlain, r.g.plain))
	}
	n, err := r.decrypt(w.buf[:to-from], from)
	if err != nil {
		w.data = nil
		return false
	}
	w.start, w.data = from, w.buf[:n]
	copy(p, w.data[off-from:])
	return true
}

// decrypt fills p from off on. Whole segments are decrypted into p itself, the
// edges in pooled memory.
func (r *segmentReader) decrypt(p []byte, off int64) (int, error) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	final := segmentOf(off + int64(len(p)) - 1)
	done := 0
	for done < len(p) {
		first := segmentOf(off + int64(done))
		last := min(final, first+scratchSegments-1)
		from := r.g.storedStart(first)
		buf := s.buf[:r.g.storedEnd(last)-from]
		if err := readFull(r.base, r.path, buf, from); err != nil {
			return done, err
		}
		for i := first; i <= last; i++ {
			ct := buf[r.g.storedStart(i)-from : r.g.storedEnd(i)-from]
			size := len(ct) - tagSize
			inner := off + int64(done) - plainStart(i)
			if inner == 0 && len(p)-done >= size {
				if _, err := r.open(s, p[done:done:done+size], ct, i); err != nil {
					return done, err
				}
				done += size
				continue
			}
			pt, err := r.open(s, ct[:0], ct, i)
			if err != nil {
				return done, err
			}
			done += copy(p[done:], pt[inner:])
		}
	}
	return done, nil
}

// Prefetch implements vfs.File, with plaintext offsets.
func (r *segmentReader) Prefetch(offset, length int64) error {
	end := min(offset+length, r.g.plain)
	if offset < 0 || end <= offset {
		return nil
	}
	from := r.g.storedStart(segmentOf(offset))
	return r.base.Prefetch(from, r.g.storedEnd(segmentOf(end-1))-from)
}

// Stat implements vfs.File with the size of the plaintext.
func (r *segmentReader) Stat() (vfs.FileInfo, error) { return r.stat(r.g.plain) }
