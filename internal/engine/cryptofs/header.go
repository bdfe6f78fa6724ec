package cryptofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	fileMagic     = "KWEF\r\n\x1a\n"
	formatVersion = 1

	headerSize       = 64
	streamHeaderSize = 40 // length byte, salt, nonce prefix
	saltSize         = 32
	prefixSize       = 7
	segmentLog       = 12
)

// FileHeader is the clear header at the start of every encrypted file. It is
// bound into the file's key, so a changed header makes the file unreadable; read
// without a key (InspectFile) it is a claim, not a proof.
type FileHeader struct {
	// Version is the format version, 1.
	Version uint8
	// Layout and Kind follow from the file's name.
	Layout Layout
	Kind   Kind
	// KeyID is the Tink key id of the data key in the database's keyset.
	KeyID uint32
	// Database is the database that the file belongs to.
	Database DatabaseID
	// Number is the file number, a marker's iteration, 0 for other files.
	Number uint64
	// PreviousLog is the number of the log before; 0 is no claim.
	PreviousLog uint64
	// LowestLog is the lowest log that must exist; 0 is no claim.
	LowestLog uint64
	// PreviousDurable is how many frames of the log before are durable; 0 is no claim.
	PreviousDurable uint64
}

func (h *FileHeader) encode() [headerSize]byte {
	var b [headerSize]byte
	copy(b[:8], fileMagic)
	b[8] = h.Version
	b[9] = byte(h.Layout)
	b[10] = byte(h.Kind)
	if h.Layout != LayoutFrames {
		b[11] = segmentLog
	}
	binary.BigEndian.PutUint32(b[12:], h.KeyID)
	copy(b[16:32], h.Database[:])
	binary.BigEndian.PutUint64(b[32:], h.Number)
	binary.BigEndian.PutUint64(b[40:], h.PreviousLog)
	binary.BigEndian.PutUint64(b[48:], h.LowestLog)
	binary.BigEndian.PutUint64(b[56:], h.PreviousDurable)
	return b
}

// parseHeader reads the clear header of the file at path. It refuses what no
// file of this format can say; whether the header fits the name is fits.
func parseHeader(path string, b []byte) (FileHeader, error) {
	if len(b) < headerSize {
		return FileHeader{}, refuse(path, int64(len(b)), nil, "a header of %d bytes", headerSize)
	}
	if !bytes.Equal(b[:8], []byte(fileMagic)) {
		return FileHeader{}, refuse(path, 0, nil, "the magic of an encrypted file")
	}
	if b[8] > formatVersion {
		return FileHeader{}, refuse(path, 8, ErrNewerFormat, "format version %d, found %d", formatVersion, b[8])
	}
	if b[8] != formatVersion {
		return FileHeader{}, refuse(path, 8, nil, "format version %d, found %d", formatVersion, b[8])
	}
	h := FileHeader{
		Version:         b[8],
		Layout:          Layout(b[9]),
		Kind:            Kind(b[10]),
		KeyID:           binary.BigEndian.Uint32(b[12:]),
		Number:          binary.BigEndian.Uint64(b[32:]),
		PreviousLog:     binary.BigEndian.Uint64(b[40:]),
		LowestLog:       binary.BigEndian.Uint64(b[48:]),
		PreviousDurable: binary.BigEndian.Uint64(b[56:]),
	}
	copy(h.Database[:], b[16:32])
	if !h.Layout.valid() {
		return FileHeader{}, refuse(path, 9, nil, "a layout from 1 to 3, found %d", b[9])
	}
	if !h.Kind.valid() {
		return FileHeader{}, refuse(path, 10, nil, "a kind from 1 to 7, found %d", b[10])
	}
	wantLog := byte(segmentLog)
	if h.Layout == LayoutFrames {
		wantLog = 0
	}
	if b[11] != wantLog {
		return FileHeader{}, refuse(path, 11, nil, "segment size exponent %d, found %d", wantLog, b[11])
	}
	if h.Kind != KindWAL && (h.PreviousLog != 0 || h.LowestLog != 0 || h.PreviousDurable != 0) {
		return FileHeader{}, refuse(path, 40, nil, "zeros, since only logs have a log before them")
	}
	return h, nil
}

// fits refuses a header that contradicts the name of its file.
func (h *FileHeader) fits(path string, n fileName) error {
	if h.Kind != n.kind {
		return refuse(path, 10, nil, "kind %s as the name says, found %s", n.kind, h.Kind)
	}
	if h.Layout != n.kind.layout() {
		return refuse(path, 9, nil, "layout %d for a file of kind %s, found %d", n.kind.layout(), n.kind, h.Layout)
	}
	if h.Number != n.number {
		return refuse(path, 32, nil, "number %d as the name says, found %d", n.number, h.Number)
	}
	return nil
}

// InspectFile reads the clear header of an encrypted file from the underlying
// file system, without any key. It checks the header against the file's name. A
// log or manifest that a power loss left without a header is a FileError too.
func InspectFile(fs vfs.FS, path string) (FileHeader, error) {
	n, err := parseName(fs.PathBase(path))
	if err != nil {
		return FileHeader{}, fmt.Errorf("inspect %s: %w", path, err)
	}
	f, err := fs.Open(path)
	if err != nil {
		return FileHeader{}, fmt.Errorf("inspect %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, headerSize)
	read, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return FileHeader{}, fmt.Errorf("inspect %s: %w", path, err)
	}
	h, err := parseHeader(path, b[:read])
	if err != nil {
		return FileHeader{}, err
	}
	return h, h.fits(path, n)
}
