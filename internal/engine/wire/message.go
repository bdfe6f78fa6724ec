package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Limits of the protocol.
const (
	// MaxMessageSize is the largest message in bytes, header included; hello
	// tells it to clients as maxMessageSizeBytes.
	MaxMessageSize = 48_000_000
	// MaxAnonymousSize bounds the messages of a connection that has not logged
	// in: a handshake needs less than a tenth of it.
	MaxAnonymousSize = 64 << 10
	// MaxDepth bounds the nesting of documents and arrays.
	MaxDepth = 200

	headerSize   = 16
	maxSequences = 16 // no command knows more than two
)

type opCode int32

const (
	opReply      opCode = 1
	opQuery      opCode = 2004
	opCompressed opCode = 2012
	opMsg        opCode = 2013
)

const (
	flagChecksum   uint32 = 1 << 0
	flagMoreToCome uint32 = 1 << 1
	flagExhaust    uint32 = 1 << 16
	flagsRequired  uint32 = 0xffff // unknown flags in the lower half are errors
)

// ErrProtocol marks every message that breaks the protocol. The connection that
// it came from must be closed.
var ErrProtocol = errors.New("wire protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Request is one command as a client sent it. Its documents are well-formed BSON
// of bounded depth, and stay valid as long as the request is referenced.
type Request struct {
	// ID is the client's request id; replies name it.
	ID int32
	// Legacy tells that the request came as OP_QUERY.
	Legacy bool
	// DB is the database that an OP_QUERY named; OP_MSG has it in the body.
	DB string
	// Body is the command document.
	Body bson.Raw
	// Sequences are the document sequences, each standing for an array field
	// of the command. Names are distinct.
	Sequences []Sequence
	// NoReply tells that the client wants no reply, not even an error.
	NoReply bool
	// Exhaust permits several replies.
	Exhaust bool
}

// Sequence is an array field of a command that was sent beside its body.
type Sequence struct {
	Name      string
	Documents []bson.Raw
}

type header struct {
	length     int32
	requestID  int32
	responseTo int32
	code       opCode
}

func parseHeader(b []byte) header {
	return header{
		length:     int32(binary.LittleEndian.Uint32(b[0:])),   //nolint:gosec // reinterpreted on purpose
		requestID:  int32(binary.LittleEndian.Uint32(b[4:])),   //nolint:gosec // reinterpreted on purpose
		responseTo: int32(binary.LittleEndian.Uint32(b[8:])),   //nolint:gosec // reinterpreted on purpose
		code:       opCode(binary.LittleEndian.Uint32(b[12:])), //nolint:gosec // reinterpreted on purpose
	}
}

// ReadMessage reads one request of at most limit bytes. The error is io.EOF when
// the peer closed between messages, wraps ErrProtocol when the message is
// malformed, and is the reader's otherwise.
func ReadMessage(r io.Reader, limit int) (*Request, error) {
	return readMessage(r, func() int { return limit }, nil)
}

// readMessage asks for the limit only when the header is there, and calls begun
// (if any) at the same moment.
func readMessage(r io.Reader, limit func() int, begun func()) (*Request, error) {
	var hb [headerSize]byte
	if _, err := io.ReadFull(r, hb[:]); err != nil {
		return nil, err
	}
	if begun != nil {
		begun()
	}
	h := parseHeader(hb[:])
	if most := limit(); h.length < headerSize || int(h.length) > most {
		return nil, protocolError("message of %d bytes; between %d and %d are allowed here", h.length, headerSize, most)
	}
	switch h.code {
	case opMsg, opQuery:
	case opCompressed:
		return nil, protocolError("compressed message, but no compressor was negotiated")
	default:
		return nil, protocolError("opcode %d is not supported", h.code)
	}
	body, err := readBody(r, int(h.length)-headerSize)
	if err != nil {
		return nil, err
	}
	if h.code == opQuery {
		return parseQuery(h, body)
	}
	return parseMsg(h, hb[:], body)
}

// readBody grows its buffer with what arrives: a length that is only claimed
// costs no memory.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	buf := make([]byte, min(n, step))
	have := 0
	for {
		m, err := io.ReadFull(r, buf[have:])
		have += m
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if have == n {
			return buf, nil
		}
		grown := make([]byte, min(n, 2*have))
		copy(grown, buf)
		buf = grown
	}
}

func parseMsg(h header, hb, body []byte) (*Request, error) {
	if len(body) < 5 {
		return nil, protocolError("OP_MSG of %d bytes is too short", h.length)
	}
	flags := binary.LittleEndian.Uint32(body)
	if unknown := flags & flagsRequired &^ (flagChecksum | flagMoreToCome); unknown != 0 {
		return nil, protocolError("unknown required flags %#x", unknown)
	}
	rest := body[4:]
	if flags&flagChecksum != 0 {
		if len(rest) < 5 {
			return nil, protocolError("no room for the checksum")
		}
		end := len(body) - 4
		table := crc32.MakeTable(crc32.Castagnoli)
		sum := crc32.Update(crc32.Checksum(hb, table), table, body[:end])
		if sum != binary.LittleEndian.Uint32(body[end:]) {
			return nil, protocolError("checksum does not match")
		}
		rest = rest[:len(rest)-4]
	}
	req := &Request{ID: h.requestID, NoReply: flags&flagMoreToCome != 0, Exhaust: flags&flagExhaust != 0}
	for len(rest) > 0 {
		var err error
		if rest, err = req.parseSection(rest); err != nil {
			return nil, err
		}
	}
	if req.Body == nil {
		return nil, protocolError("no body section")
	}
	return req, nil
}

func (req *Request) parseSection(b []byte) (rest []byte, err error) {
	kind := b[0]
	b = b[1:]
	switch kind {
	case 0:
		if req.Body != nil {
			return nil, protocolError("more than one body section")
		}
		req.Body, b, err = takeDocument(b)
		return b, err
	case 1:
		return req.parseSequence(b)
	default:
		return nil, protocolError("section kind %d is unknown", kind)
	}
}

func (req *Request) parseSequence(b []byte) (rest []byte, err error) {
	if len(b) < 4 {
		return nil, protocolError("truncated document sequence")
	}
	size := int64(binary.LittleEndian.Uint32(b))
	if size < 5 || size > int64(len(b)) {
		return nil, protocolError("document sequence of %d bytes in a section of %d", size, len(b))
	}
	section, rest := b[4:size], b[size:]
	name, section, ok := takeCString(section)
	if !ok || name == "" {
		return nil, protocolError("document sequence without a name")
	}
	if len(req.Sequences) == maxSequences {
		return nil, protocolError("more than %d document sequences", maxSequences)
	}
	for i := range req.Sequences {
		if req.Sequences[i].Name == name {
			return nil, protocolError("document sequence %q occurs twice", name)
		}
	}
	seq := Sequence{Name: name}
	for len(section) > 0 {
		var doc bson.Raw
		if doc, section, err = takeDocument(section); err != nil {
			return nil, err
		}
		seq.Documents = append(seq.Documents, doc)
	}
	req.Sequences = append(req.Sequences, seq)
	return rest, nil
}

func parseQuery(h header, body []byte) (*Request, error) {
	if len(body) < 4 {
		return nil, protocolError("OP_QUERY of %d bytes is too short", h.length)
	}
	namespace, rest, ok := takeCString(body[4:])
	if !ok || len(rest) < 8 {
		return nil, protocolError("truncated OP_QUERY")
	}
	db, ok := strings.CutSuffix(namespace, ".$cmd")
	if !ok || db == "" {
		return nil, protocolError("OP_QUERY on something else than a database's $cmd")
	}
	doc, rest, err := takeDocument(rest[8:])
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 { // a projection, which means nothing for a command
		if _, rest, err = takeDocument(rest); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		return nil, protocolError("%d bytes after the end of OP_QUERY", len(rest))
	}
	return &Request{ID: h.requestID, Legacy: true, DB: db, Body: unwrapQuery(doc)}, nil
}

// unwrapQuery takes the command out of {$query: command, $readPreference: ...},
// the form that old drivers use as soon as there is a read preference.
func unwrapQuery(doc bson.Raw) bson.Raw {
	first, err := doc.IndexErr(0)
	if err != nil {
		return doc
	}
	if key := first.Key(); key == "$query" || key == "query" {
		if inner, ok := first.Value().DocumentOK(); ok {
			return inner
		}
	}
	return doc
}

func takeDocument(b []byte) (doc bson.Raw, rest []byte, err error) {
	if len(b) < 5 {
		return nil, nil, protocolError("truncated document")
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n < 5 || n > int64(len(b)) {
		return nil, nil, protocolError("document of %d bytes where %d are left", n, len(b))
	}
	doc = bson.Raw(b[:n:n])
	if err := Validate(doc); err != nil {
		return nil, nil, err
	}
	return doc, b[n:], nil
}

func takeCString(b []byte) (s string, rest []byte, ok bool) {
	for i, c := range b {
		if c == 0 {
			return string(b[:i]), b[i+1:], true
		}
	}
	return "", nil, false
}

// appendReply appends a whole reply message to dst. more announces a further
// reply to the same request.
func appendReply(dst []byte, legacy bool, requestID, responseTo int32, doc bson.Raw, more bool) []byte {
	start := len(dst)
	code := opMsg
	if legacy {
		code = opReply
	}
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(requestID))  //nolint:gosec // reinterpreted on purpose
	dst = binary.LittleEndian.AppendUint32(dst, uint32(responseTo)) //nolint:gosec // reinterpreted on purpose
	dst = binary.LittleEndian.AppendUint32(dst, uint32(code))
	if legacy {
		const awaitCapable = 8
		dst = binary.LittleEndian.AppendUint32(dst, awaitCapable)
		dst = append(dst, make([]byte, 12)...) // no cursor (8 bytes), first document is number 0
		dst = binary.LittleEndian.AppendUint32(dst, 1)
	} else {
		var flags uint32
		if more {
			flags = flagMoreToCome
		}
		dst = binary.LittleEndian.AppendUint32(dst, flags)
		dst = append(dst, 0)
	}
	dst = append(dst, doc...)
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start)) //nolint:gosec // bounded by the reply's size
	return dst
}
