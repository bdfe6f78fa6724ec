package cryptofs

// maxMessages is how many messages one file key may seal: the counter of 32 bits
// in the nonce.
const maxMessages = 1 << 32

const (
	// segmentPlain and firstPlain are the plaintext bytes in a full segment, and
	// in a full first one, which holds the stream header too.
	segmentPlain = segmentSize - tagSize
	firstPlain   = segmentPlain - streamHeaderSize
)

// geometry maps plaintext offsets of a file of segments to stored ones.
type geometry struct {
	start  int64 // where the stream begins in the file
	length int64 // of the stream
	count  int64 // of segments
	plain  int64 // bytes of plaintext
}

// streamStart is where the stream begins in a layout of segments.
func streamStart(l Layout) int64 {
	if l == LayoutAligned {
		return pageSize
	}
	return headerSize
}

// newGeometry refuses a stored size that no whole file can have.
func newGeometry(path string, l Layout, stored int64) (geometry, error) {
	g := geometry{start: streamStart(l)}
	g.length = stored - g.start
	if g.length < streamHeaderSize+tagSize {
		return g, refuse(path, max(stored, 0), nil, "at least %d bytes", g.start+streamHeaderSize+tagSize)
	}
	g.count = (g.length + segmentSize - 1) / segmentSize
	if last := g.length - (g.count-1)*segmentSize; last < tagSize {
		return g, refuse(path, stored, nil, "a last segment of %d bytes or more, found %d", tagSize, last)
	}
	if g.count > maxMessages {
		return g, refuse(path, stored, nil, "at most %d segments", int64(maxMessages))
	}
	g.plain = g.length - streamHeaderSize - tagSize*g.count
	return g, nil
}

// segmentOf is the segment that holds plaintext offset p.
func segmentOf(p int64) int64 {
	if p < firstPlain {
		return 0
	}
	return 1 + (p-firstPlain)/segmentPlain
}

// plainStart is the plaintext offset at which segment i begins.
func plainStart(i int64) int64 {
	if i == 0 {
		return 0
	}
	return firstPlain + (i-1)*segmentPlain
}

// storedStart and storedEnd bound the ciphertext of segment i in the file.
func (g *geometry) storedStart(i int64) int64 {
	if i == 0 {
		return g.start + streamHeaderSize
	}
	return g.start + i*segmentSize
}

func (g *geometry) storedEnd(i int64) int64 {
	return g.start + min((i+1)*segmentSize, g.length)
}
