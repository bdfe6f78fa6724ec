package kmip

import "context"

// Handle runs a request without a connection.
func (s *Server) Handle(ctx context.Context, p Principal, request []byte) ([]byte, bool) {
	return s.handle(ctx, p, request)
}

// Peek reads version and operation of a raw request.
func Peek(b []byte) (major, minor int32, op uint32) {
	h := peek(b)
	return h.version.ProtocolVersionMajor, h.version.ProtocolVersionMinor, uint32(h.op)
}
