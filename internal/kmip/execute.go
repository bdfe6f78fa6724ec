package kmip

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/keywright/keywright/internal/keys"
)

// versions are those served, the highest first.
func versions() []kmip.ProtocolVersion {
	return []kmip.ProtocolVersion{kmip.V1_4, kmip.V1_3, kmip.V1_2, kmip.V1_1, kmip.V1_0}
}

func served(v kmip.ProtocolVersion) bool {
	return v.ProtocolVersionMajor == 1 && v.ProtocolVersionMinor >= 0 && v.ProtocolVersionMinor <= 4
}

// reply is an answer before it is encoded.
type reply struct {
	message kmip.ResponseMessage
	// released lists the keys whose material, or existence, the answer tells.
	released []release
	wipe     []func()
}

type release struct {
	item int
	id   keys.KeyID
}

// refuse answers a request that is not executed at all.
func refuse(h header, now time.Time, reason kmip.ResultReason, message string) *reply {
	r := &reply{message: kmip.ResponseMessage{Header: answerHeader(h.version, now)}}
	r.add(failed(h.op, nil, fail(reason, message)))
	return r
}

func answerHeader(v kmip.ProtocolVersion, now time.Time) kmip.ResponseHeader {
	if !served(v) {
		v = kmip.V1_0 // the form that every client can read
	}
	return kmip.ResponseHeader{ProtocolVersion: v, TimeStamp: now}
}

func (r *reply) add(it kmip.ResponseBatchItem) {
	r.message.BatchItem = append(r.message.BatchItem, it)
	r.message.Header.BatchCount++
}

// failAll turns every item into a failure; what they held is wiped.
func (r *reply) failAll(reason kmip.ResultReason, message string) {
	for i := range r.message.BatchItem {
		it := &r.message.BatchItem[i]
		*it = failed(it.Operation, it.UniqueBatchItemID, fail(reason, message))
	}
}

// encode gives the answer's bytes and wipes the key material behind them. An
// answer of more than limit bytes (0: no limit) becomes Response Too Large.
func (r *reply) encode(limit int) []byte {
	defer func() {
		for _, wipe := range r.wipe {
			wipe()
		}
	}()
	out := ttlv.MarshalTTLV(&r.message)
	if limit <= 0 || len(out) <= limit {
		return out
	}
	clear(out)
	r.failAll(reasonResponseTooLarge, "the answer is larger than the maximum response size")
	if out = ttlv.MarshalTTLV(&r.message); len(out) > limit {
		r.failAll(reasonResponseTooLarge, "") // the least that says what happened
		out = ttlv.MarshalTTLV(&r.message)
	}
	return out
}

func failed(op kmip.Operation, id []byte, f *failure) kmip.ResponseBatchItem {
	return kmip.ResponseBatchItem{
		Operation:         op,
		UniqueBatchItemID: id,
		ResultStatus:      kmip.ResultStatusOperationFailed,
		ResultReason:      f.reason,
		ResultMessage:     f.message,
	}
}

// handle turns the bytes of a request into the bytes of its answer. goOn tells
// whether the connection may be used further.
func (s *Server) handle(ctx context.Context, p Principal, request []byte) (answer []byte, goOn bool) {
	if err := CheckMessage(request, kmip.TagRequestMessage); err != nil {
		s.log.WarnContext(ctx, "kmip request refused", "node", p.Node, "error", err)
		return refuse(header{}, s.now(), reasonInvalidMessage, "the request is malformed").encode(0), false
	}
	h := peek(request)
	if !served(h.version) {
		return refuse(h, s.now(), reasonInvalidMessage, "the protocol version is not supported, KMIP 1.0 to 1.4 are").encode(0), false
	}
	msg, err := decode(request)
	if err != nil {
		s.log.WarnContext(ctx, "kmip request refused", "node", p.Node, "operation", h.op, "error", err)
		return refuse(h, s.now(), reasonInvalidMessage, "the request cannot be decoded").encode(0), false
	}
	defer wipeRequest(msg)
	limit := int(msg.Header.MaximumResponseSize)
	if f := s.checkHeader(msg); f != nil {
		return refuse(h, s.now(), f.reason, f.message).encode(limit), f.reason != reasonInvalidMessage
	}
	ctx, cancel := context.WithTimeout(ctx, s.limits.RequestTimeout)
	defer cancel()
	r := s.execute(ctx, p, msg)
	s.releaseOrFail(ctx, p, r)
	s.observe(r)
	return r.encode(limit), true
}

// observe tells of what a request has come to.
func (s *Server) observe(r *reply) {
	if s.cfg.Observe == nil {
		return
	}
	for _, it := range r.message.BatchItem {
		result := "success"
		if it.ResultStatus != kmip.ResultStatusSuccess {
			result = "failure"
		}
		s.cfg.Observe(operationName(it.Operation), result)
	}
}

// operationName names an operation; those that no node sends are one.
func operationName(op kmip.Operation) string {
	switch op {
	case kmip.OperationCreate, kmip.OperationRegister, kmip.OperationGet, kmip.OperationGetAttributes, kmip.OperationActivate,
		kmip.OperationLocate, kmip.OperationQuery, kmip.OperationDiscoverVersions, kmip.OperationRevoke, kmip.OperationDestroy,
		kmip.OperationGetAttributeList, kmip.OperationReKey:
		return ttlv.EnumStr(op)
	}
	return "other"
}

// decode runs the codec under recover. CheckMessage keeps it from nearly every
// panic; one that is left is a transparent key whose big integer is absent. No
// request may end the process.
func decode(request []byte) (msg *kmip.RequestMessage, err error) {
	defer func() {
		if r := recover(); r != nil {
			msg, err = nil, fmt.Errorf("decoder panicked: %v", r)
		}
	}()
	msg = new(kmip.RequestMessage)
	if err := ttlv.UnmarshalTTLV(request, msg); err != nil {
		return nil, err
	}
	return msg, nil
}

func (s *Server) checkHeader(msg *kmip.RequestMessage) *failure {
	h := msg.Header
	switch {
	case len(msg.BatchItem) == 0 || int(h.BatchCount) != len(msg.BatchItem):
		return fail(reasonInvalidMessage, "the batch count does not agree with the batch items")
	case len(msg.BatchItem) > s.limits.BatchItems:
		return fail(reasonInvalidMessage, "the batch has too many items")
	case h.AsynchronousIndicator != nil && *h.AsynchronousIndicator:
		return fail(reasonFeatureNotSupported, "asynchronous operations are not supported")
	case h.BatchErrorContinuationOption == kmip.BatchErrorContinuationOptionUndo:
		return fail(reasonFeatureNotSupported, "undoing a batch is not supported")
	}
	return nil
}

// execute runs the items one after the other. After a failure it stops, unless
// the request says Continue.
func (s *Server) execute(ctx context.Context, p Principal, msg *kmip.RequestMessage) *reply {
	r := &reply{message: kmip.ResponseMessage{Header: answerHeader(msg.Header.ProtocolVersion, s.now())}}
	r.message.Header.ClientCorrelationValue = msg.Header.ClientCorrelationValue // encoded from 1.4 on only
	call := &call{server: s, ctx: ctx, principal: p, version: msg.Header.ProtocolVersion, reply: r}
	for i := range msg.BatchItem {
		it := &msg.BatchItem[i]
		payload, err := call.run(it)
		if err == nil && ctx.Err() != nil {
			err = ctx.Err() // too late for the client, and the verdict may be old
		}
		if err != nil {
			f := explain(it.Operation, err)
			s.report(ctx, p, it.Operation, f)
			r.add(failed(it.Operation, it.UniqueBatchItemID, f))
			if msg.Header.BatchErrorContinuationOption != kmip.BatchErrorContinuationOptionContinue {
				break
			}
			continue
		}
		r.add(kmip.ResponseBatchItem{Operation: it.Operation, UniqueBatchItemID: it.UniqueBatchItemID, ResponsePayload: payload})
	}
	return r
}

// releaseOrFail asks once more for every key that the answer releases, just
// before it leaves (key-plane rule 30): the verdict may have changed since, and
// a batch holds material while later items run.
func (s *Server) releaseOrFail(ctx context.Context, p Principal, r *reply) {
	for _, rel := range r.released {
		it := &r.message.BatchItem[rel.item]
		if it.ResultStatus != kmip.ResultStatusSuccess {
			continue
		}
		if err := s.guard(func() error { return s.cfg.Keys.Release(ctx, p, rel.id) }); err != nil {
			f := explain(it.Operation, err)
			s.report(ctx, p, it.Operation, f)
			*it = failed(it.Operation, it.UniqueBatchItemID, f)
		}
	}
}

// report logs what the operator should see of a failure; the cause stays here.
func (s *Server) report(ctx context.Context, p Principal, op kmip.Operation, f *failure) {
	args := []any{"node", p.Node, "operation", ttlv.EnumStr(op), "reason", ttlv.EnumStr(f.reason), "message", f.message, "error", f.cause}
	switch {
	case errors.Is(f.cause, ErrUnknown), errors.Is(f.cause, ErrForeign), f.message == "internal error":
		s.log.ErrorContext(ctx, "kmip request failed", args...)
	default:
		s.log.WarnContext(ctx, "kmip request failed", args...)
	}
}

// guard turns a panic into an error, so that one request cannot end the agent.
func (s *Server) guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return fn()
}

// wipeRequest overwrites key material that a Register brought.
func wipeRequest(msg *kmip.RequestMessage) {
	for i := range msg.BatchItem {
		wipePayload(msg.BatchItem[i].RequestPayload)
	}
}
