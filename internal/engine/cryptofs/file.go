package cryptofs

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	tagSize     = 16
	framesStart = headerSize + streamHeaderSize
	pageSize    = 4096
)

// scratchSegments is how many segments are read or written with one call below.
const scratchSegments = 16

// scratch is the working memory of one read or write. The nonce lives in it
// because an array on the stack would escape through the cipher's interface.
type scratch struct {
	buf   [scratchSegments * segmentSize]byte
	nonce [12]byte
}

// scratchPool shares working memory between files: an idle open log keeps none.
var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// stream is the cipher of one file with the file's nonce prefix.
type stream struct {
	aead   cipher.AEAD
	prefix [prefixSize]byte
}

// nonce fills s.nonce: prefix, message index, and whether it is the last.
func (st *stream) nonce(s *scratch, index uint32, last bool) []byte {
	copy(s.nonce[:], st.prefix[:])
	binary.BigEndian.PutUint32(s.nonce[prefixSize:], index)
	s.nonce[11] = 0
	if last {
		s.nonce[11] = 1
	}
	return s.nonce[:]
}

// newWriter makes the header, the salt and the key of a new file. claims holds
// the log fields of its header.
func (fs *FS) newWriter(base vfs.File, path string, n fileName, claims FileHeader) (vfs.File, error) {
	o := fs.opts.Keyset.begin(path)
	f, err := fs.writeHeaders(base, path, n, claims, o)
	if err != nil {
		fs.opts.Keyset.end(o)
	}
	return f, err
}

func (fs *FS) writeHeaders(base vfs.File, path string, n fileName, claims FileHeader, o *openFile) (vfs.File, error) {
	h := FileHeader{
		Version: formatVersion, Layout: n.kind.layout(), Kind: n.kind, KeyID: o.key,
		Database: fs.opts.Database, Number: n.number,
		PreviousLog: claims.PreviousLog, LowestLog: claims.LowestLog, PreviousDurable: claims.PreviousDurable,
	}
	header := h.encode()
	var sh [streamHeaderSize]byte
	sh[0] = streamHeaderSize
	if _, err := io.ReadFull(fs.random, sh[1:]); err != nil {
		return nil, fmt.Errorf("create %s: salt: %w", path, err)
	}
	aead, err := fs.opts.Keyset.aead(h.KeyID, header[:], sh[:], n.canonical)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	st := stream{aead: aead}
	copy(st.prefix[:], sh[1+saltSize:])
	start := slices.Concat(header[:], sh[:])
	closed := func() { fs.opts.Keyset.end(o) }
	if h.Layout == LayoutFrames {
		w, err := newFrameWriter(base, path, st, start)
		if err != nil {
			return nil, err
		}
		w.closed = closed
		fs.opts.Keyset.watch(o, w)
		return w, nil
	}
	if h.Layout == LayoutAligned {
		start = slices.Concat(header[:], make([]byte, pageSize-headerSize), sh[:])
	}
	w := newSegmentWriter(base, path, st, h.Layout, start)
	w.closed = closed
	return w, nil
}

// newReader checks the headers of an existing file and derives its key.
func (fs *FS) newReader(base vfs.File, path string, n fileName, opts []vfs.OpenOption) (vfs.File, error) {
	info, err := base.Stat()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("open %s: is a directory", path)
	}
	layout := n.kind.layout()
	size := info.Size()
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	if layout == LayoutFrames {
		empty, err := tornHeader(base, path, size, s)
		if err != nil {
			return nil, err
		}
		if empty {
			return &frameReader{refusing: refusing{base: base, path: path}, end: io.EOF}, nil
		}
	}
	st, err := fs.readHeaders(base, path, n, size, s)
	if err != nil {
		return nil, err
	}
	if layout == LayoutFrames {
		return &frameReader{
			refusing: refusing{base: base, path: path}, st: st, size: size, off: framesStart,
		}, nil
	}
	g, err := newGeometry(path, layout, size)
	if err != nil {
		return nil, err
	}
	sequential := slices.Contains(opts, vfs.SequentialReadsOption)
	return newSegmentReader(base, path, st, g, sequential, s)
}

// readHeaders reads the clear header, the padding and the stream header.
func (fs *FS) readHeaders(base vfs.File, path string, n fileName, size int64, s *scratch) (stream, error) {
	streamAt := int64(headerSize)
	if n.kind.layout() == LayoutAligned {
		streamAt = pageSize
	}
	b := s.buf[:min(streamAt+streamHeaderSize, size)]
	if err := readFull(base, path, b, 0); err != nil {
		return stream{}, err
	}
	h, err := parseHeader(path, b)
	if err != nil {
		return stream{}, err
	}
	if err := h.fits(path, n); err != nil {
		return stream{}, err
	}
	if h.Database != fs.opts.Database {
		return stream{}, refuse(path, 16, ErrOtherDatabase, "database %s, found %s", fs.opts.Database, h.Database)
	}
	if int64(len(b)) < streamAt+streamHeaderSize {
		return stream{}, refuse(path, size, nil, "a stream header of %d bytes at %d", streamHeaderSize, streamAt)
	}
	for i := int64(headerSize); i < streamAt; i++ {
		if b[i] != 0 {
			return stream{}, refuse(path, i, nil, "padding of zeros")
		}
	}
	sh := b[streamAt:]
	if sh[0] != streamHeaderSize {
		return stream{}, refuse(path, streamAt, nil, "a stream header of %d bytes, found %d", streamHeaderSize, sh[0])
	}
	aead, err := fs.opts.Keyset.aead(h.KeyID, b[:headerSize], sh, n.canonical)
	if errors.Is(err, ErrUnknownKey) {
		return stream{}, refuse(path, 12, ErrUnknownKey, "a key of the keyset, found key id %08x", h.KeyID)
	}
	if err != nil {
		return stream{}, fmt.Errorf("open %s: %w", path, err)
	}
	st := stream{aead: aead}
	copy(st.prefix[:], sh[1+saltSize:])
	return st, nil
}

// readFull reads exactly b at off. A file that became shorter is refused.
func readFull(base vfs.File, path string, b []byte, off int64) error {
	n, err := base.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return refuse(path, off+int64(n), nil, "%d more bytes, as there were when the file was opened", len(b)-n)
	}
	return fmt.Errorf("read %s at %d: %w", path, off, err)
}

// refusing is the part of vfs.File that most of this package's files refuse.
type refusing struct {
	base   vfs.File
	path   string
	closed func() // of a file that is written: tells its keyset; may be nil
}

func (f *refusing) tellClosed() {
	if f.closed != nil {
		f.closed()
	}
}

func (f *refusing) unsupported(op string) error {
	return fmt.Errorf("%s %s: %w", op, f.path, vfs.ErrUnsupported)
}

func (f *refusing) Read([]byte) (int, error) { return 0, f.unsupported("read") }
func (f *refusing) ReadAt([]byte, int64) (int, error) {
	return 0, f.unsupported("read at an offset of")
}
func (f *refusing) Write([]byte) (int, error) { return 0, f.unsupported("write") }
func (f *refusing) WriteAt([]byte, int64) (int, error) {
	return 0, f.unsupported("write at an offset of")
}
func (f *refusing) Preallocate(_, _ int64) error { return nil }
func (f *refusing) Prefetch(_, _ int64) error    { return nil }
func (f *refusing) Sync() error                  { return f.base.Sync() }
func (f *refusing) SyncData() error              { return f.base.SyncData() }
func (f *refusing) SyncTo(int64) (bool, error)   { return false, nil }
func (f *refusing) Close() error {
	defer f.tellClosed()
	return f.base.Close()
}

// Fd is the base's descriptor: Pebble uses it for advice to the kernel, and what
// it does in the middle of a file depends on there being one.
func (f *refusing) Fd() uintptr { return f.base.Fd() }

func (f *refusing) stat(size int64) (vfs.FileInfo, error) {
	info, err := f.base.Stat()
	if err != nil {
		return nil, err
	}
	return sizedInfo{FileInfo: info, size: size}, nil
}
