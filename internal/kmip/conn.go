package kmip

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// MaxRequest is the size of the largest request that is read, header included.
// The largest of a real client is 440 bytes.
const MaxRequest = 64 << 10

var errTooLarge = errors.New("request is larger than 64 KiB")

// serveConn serves one connection, which has its place among the strangers, to
// its end.
func (s *Server) serveConn(ctx context.Context, raw net.Conn, place *list.Element) {
	defer func() { _ = raw.Close() }()
	conn := tls.Server(raw, s.tls)
	hctx, cancel := context.WithTimeout(ctx, s.limits.HandshakeTimeout)
	err := conn.HandshakeContext(hctx)
	cancel()
	if err != nil {
		s.conns.leave(place)
		s.log.WarnContext(ctx, "kmip client refused", "remote", raw.RemoteAddr().String(), "error", err)
		return
	}
	cert := conn.ConnectionState().PeerCertificates[0]
	p, ok := s.admit(cert)
	if !ok || !s.conns.promote(place, raw, p.Node) {
		s.conns.leave(place)
		s.log.WarnContext(ctx, "kmip connection closed: not admitted or too many", "node", p.Node, "remote", raw.RemoteAddr().String())
		return
	}
	defer s.conns.dismiss(raw)
	defer func() {
		// close_notify is owed to clients that wait for it, but not for long.
		_ = raw.SetDeadline(time.Now().Add(s.limits.WriteTimeout))
		_ = conn.Close()
	}()
	for {
		if !s.conns.awaitRequest(raw, time.Now().Add(s.limits.IdleTimeout)) {
			return
		}
		request, err := readMessage(conn, func() bool {
			return s.conns.awaitRequest(raw, time.Now().Add(s.limits.ReadTimeout))
		})
		if err != nil {
			if errors.Is(err, errTooLarge) {
				s.log.WarnContext(ctx, "kmip request refused", "node", p.Node, "error", err)
				s.write(ctx, conn, p, refuse(header{}, s.now(), reasonInvalidMessage, "the request is too large").encode(0))
			}
			return
		}
		p, ok := s.admit(cert) // asked again: taking the fingerprint out is the revocation
		if !ok {
			clear(request)
			s.log.WarnContext(ctx, "kmip connection closed: no longer admitted", "remote", raw.RemoteAddr().String())
			return
		}
		answer, goOn := s.handle(ctx, p, request)
		clear(request)
		if !s.write(ctx, conn, p, answer) || !goOn {
			return
		}
	}
}

// readMessage reads one message: eight bytes of header, then as much as they
// say. begun is called once the header is there, to set a new deadline.
func readMessage(r io.Reader, begun func() bool) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return nil, err
	}
	if !begun() {
		return nil, net.ErrClosed
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[4:])
	if n > MaxRequest-8 {
		return nil, errTooLarge
	}
	message := make([]byte, 8+n)
	copy(message, head[:])
	if _, err := io.ReadFull(r, message[8:]); err != nil {
		clear(message)
		return nil, err
	}
	return message, nil
}

// write sends an answer and wipes it.
func (s *Server) write(ctx context.Context, conn net.Conn, p Principal, answer []byte) bool {
	defer clear(answer)
	if err := conn.SetWriteDeadline(time.Now().Add(s.limits.WriteTimeout)); err != nil {
		return false
	}
	if _, err := conn.Write(answer); err != nil {
		s.log.WarnContext(ctx, "kmip answer could not be sent", "node", p.Node, "error", err)
		return false
	}
	return true
}
