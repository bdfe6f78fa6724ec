package cryptofs

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sectorSize is what a disk writes as a whole.
const sectorSize = 512

// readAhead is how much of a log is read with one call below.
const readAhead = 64 << 10

// frameReader reads a log or a manifest in order. Its plaintext ends at the end
// of the file or at the torn tail of a power loss; anything else is an error and
// never shortened data, which Pebble would take for the end of a manifest.
type frameReader struct {
	refusing
	st    stream
	size  int64  // of the file when it was opened
	off   int64  // of the next frame
	index uint64 // of the next frame
	buf   []byte // stored bytes, decrypted in place
	bufAt int64  // where in the file buf begins
	plain []byte // what is left of its payload
	end   error  // io.EOF or the refusal, for good
}

// tornHeader tells whether a log or manifest is empty because a power loss took
// its header: it is short, or its first sector was never written.
func tornHeader(base vfs.File, path string, size int64, s *scratch) (bool, error) {
	b := s.buf[:min(size, sectorSize)]
	if err := readFull(base, path, b, 0); err != nil {
		return false, err
	}
	if zeros(b) {
		return true, nil
	}
	if size >= framesStart {
		return false, nil
	}
	if m := min(len(b), len(fileMagic)); string(b[:m]) != fileMagic[:m] {
		return false, refuse(path, 0, nil, "the magic of an encrypted file")
	}
	return true, nil
}

// Read implements io.Reader.
func (r *frameReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.plain) == 0 {
		if r.end != nil {
			return 0, r.end
		}
		r.end = r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next decrypts the next frame. It returns io.EOF at the end of the data.
func (r *frameReader) next() error {
	rest := r.size - r.off
	if rest == 0 {
		return io.EOF
	}
	head, err := r.stored(min(frameHeaderSize, rest))
	if err != nil {
		return err
	}
	h, ok := parseFrameHeader(head)
	if !ok {
		return r.damaged(frameHeaderSize, "the header of frame %d", r.index)
	}
	if uint64(h.index) != r.index {
		return refuse(r.path, r.off+8, nil, "frame %d, found frame %d", r.index, h.index)
	}
	if h.total() > rest {
		return r.damaged(h.total(), "%d bytes of frame %d", h.total(), r.index)
	}
	frame, err := r.stored(h.total())
	if err != nil {
		return err
	}
	ct := frame[frameHeaderSize:]
	plain, err := r.open(ct[:0], frame[:frameHeaderSize], ct, h.index)
	if err != nil {
		return r.damaged(h.total(), "frame %d to authenticate", r.index)
	}
	if h.flags != 0 {
		return refuse(r.path, r.off+2, ErrNewerFormat, "no flags in frame %d, found %04x", r.index, h.flags)
	}
	if h.durable > h.index {
		return refuse(r.path, r.off+12, nil, "at most %d durable frames before frame %d, found %d", h.index, r.index, h.durable)
	}
	r.plain = plain
	r.off += h.total()
	r.index++
	return nil
}

func (r *frameReader) open(dst, head, ct []byte, index uint32) ([]byte, error) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	return r.st.aead.Open(dst, r.st.nonce(s, index, false), ct, head)
}

// stored gives the n stored bytes at r.off, which are in the file. It reads ahead,
// since frames are small; what it gave before is lost.
func (r *frameReader) stored(n int64) ([]byte, error) {
	if at := r.off - r.bufAt; at >= 0 && at+n <= int64(len(r.buf)) {
		return r.buf[at : at+n], nil
	}
	size := min(max(n, readAhead), r.size-r.off)
	if int64(cap(r.buf)) < size {
		r.buf = make([]byte, size)
	}
	r.buf, r.bufAt = r.buf[:size], r.off
	if err := readFull(r.base, r.path, r.buf, r.off); err != nil {
		r.buf = r.buf[:0]
		return nil, err
	}
	return r.buf[:n], nil
}

// damaged decides about a frame at r.off that cannot be read: io.EOF if a power
// loss explains it, else a refusal. extent is how many bytes of it are known to
// belong to the frame: its header if that is damaged, since the length in it
// means nothing then.
func (r *frameReader) damaged(extent int64, format string, args ...any) error {
	zero, err := r.zeroRange(r.off, r.size)
	if err != nil || zero {
		return endOr(err)
	}
	missing := r.off+extent > r.size
	if !missing {
		if missing, err = r.missingSector(r.off, r.off+extent); err != nil {
			return err
		}
	}
	if !missing {
		return refuse(r.path, r.off, nil, format, args...)
	}
	at, claimed, err := r.laterClaim()
	if err != nil {
		return err
	}
	if claimed {
		return refuse(r.path, r.off, nil, "frame %d, which a frame at offset %d says was durable", r.index, at)
	}
	return io.EOF
}

func endOr(err error) error {
	if err != nil {
		return err
	}
	return io.EOF
}

// missingSector tells whether a sector of the frame in [from, to) was never
// written and therefore reads as zeros. A part of fewer than four bytes could be
// zero by chance: there, all up to the end of the sector must be.
func (r *frameReader) missingSector(from, to int64) (bool, error) {
	for at := from; at < to; {
		sectorEnd := at - at%sectorSize + sectorSize
		end := min(sectorEnd, to)
		zero, err := r.zeroRange(at, end)
		if err != nil {
			return false, err
		}
		if zero && end-at < 4 {
			if zero, err = r.zeroRange(at, min(sectorEnd, r.size)); err != nil {
				return false, err
			}
		}
		if zero {
			return true, nil
		}
		at = end
	}
	return false, nil
}

// zeroRange tells whether the file holds only zeros in [from, to).
func (r *frameReader) zeroRange(from, to int64) (bool, error) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	for from < to {
		b := s.buf[:min(int64(len(s.buf)), to-from)]
		if err := readFull(r.base, r.path, b, from); err != nil {
			return false, err
		}
		if !zeros(b) {
			return false, nil
		}
		from += int64(len(b))
	}
	return true, nil
}

// laterClaim looks for a frame behind the damage that authenticates and says that
// the damaged one was durable when it was written.
func (r *frameReader) laterClaim() (at int64, claimed bool, err error) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	for from := r.off + 1; r.size-from >= frameOverhead; {
		b := s.buf[:min(int64(len(s.buf)), r.size-from)]
		if err := readFull(r.base, r.path, b, from); err != nil {
			return 0, false, err
		}
		steps := len(b) - frameHeaderSize + 1
		for i := range steps {
			h, ok := parseFrameHeader(b[i:])
			if !ok || uint64(h.durable) <= r.index || from+int64(i)+h.total() > r.size {
				continue
			}
			if good, err := r.authenticates(from+int64(i), h); err != nil || good {
				return from + int64(i), good, err
			}
		}
		from += int64(steps)
	}
	return 0, false, nil
}

func (r *frameReader) authenticates(at int64, h frameHeader) (bool, error) {
	frame := make([]byte, h.total())
	if err := readFull(r.base, r.path, frame, at); err != nil {
		return false, err
	}
	ct := frame[frameHeaderSize:]
	_, err := r.open(ct[:0], frame[:frameHeaderSize], ct, h.index)
	return err == nil, nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Stat implements vfs.File with the stored size without the file's headers.
func (r *frameReader) Stat() (vfs.FileInfo, error) { return r.stat(max(0, r.size-framesStart)) }

// Close implements vfs.File.
func (r *frameReader) Close() error {
	if r.end == nil {
		r.end = errors.New("closed")
	}
	r.plain = nil
	if err := r.base.Close(); err != nil {
		return fmt.Errorf("close %s: %w", r.path, err)
	}
	return nil
}
