package cryptofs

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	frameHeaderSize = 36
	frameOverhead   = frameHeaderSize + tagSize
	maxFramePayload = 1 << 20
	frameMagic0     = 'K'
	frameMagic1     = 'F'
)

// castagnoli is the table of CRC-32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pins are what a frame claims to be durable. Zeros claim nothing.
type pins struct {
	durable     uint32 // frames of this file, synced when this one was written
	lowest      uint64 // lowest log that must exist
	peer        uint32 // number of the current manifest in a log, of the newest log in a manifest
	peerDurable uint32 // durable frames of the peer
}

// frameHeader is the clear header of a frame, and its associated data.
type frameHeader struct {
	flags  uint16
	length uint32
	index  uint32
	pins
}

func (h *frameHeader) encode(b []byte) {
	b[0], b[1] = frameMagic0, frameMagic1
	binary.BigEndian.PutUint16(b[2:], h.flags)
	binary.BigEndian.PutUint32(b[4:], h.length)
	binary.BigEndian.PutUint32(b[8:], h.index)
	binary.BigEndian.PutUint32(b[12:], h.durable)
	binary.BigEndian.PutUint64(b[16:], h.lowest)
	binary.BigEndian.PutUint32(b[24:], h.peer)
	binary.BigEndian.PutUint32(b[28:], h.peerDurable)
	binary.BigEndian.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
}

// parseFrameHeader tells whether b begins with the header of some frame: magic,
// checksum, and a length that a frame can have. It proves nothing.
func parseFrameHeader(b []byte) (frameHeader, bool) {
	if len(b) < frameHeaderSize || b[0] != frameMagic0 || b[1] != frameMagic1 ||
		binary.BigEndian.Uint32(b[32:]) != crc32.Checksum(b[:32], castagnoli) {
		return frameHeader{}, false
	}
	h := frameHeader{
		flags:  binary.BigEndian.Uint16(b[2:]),
		length: binary.BigEndian.Uint32(b[4:]),
		index:  binary.BigEndian.Uint32(b[8:]),
		pins: pins{
			durable:     binary.BigEndian.Uint32(b[12:]),
			lowest:      binary.BigEndian.Uint64(b[16:]),
			peer:        binary.BigEndian.Uint32(b[24:]),
			peerDurable: binary.BigEndian.Uint32(b[28:]),
		},
	}
	return h, h.length <= maxFramePayload
}

// total is the stored size of the frame.
func (h *frameHeader) total() int64 { return frameOverhead + int64(h.length) }
