package keysource

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

const (
	// maxResponse is the size of the largest answer that is read; it is
	// announced to the server.
	maxResponse = 8192
	masterKey   = 32
	maxMessage  = 200
)

// session is one connection.
type session struct{ conn net.Conn }

func (s *session) create() (keys.KeyID, error) {
	attribute := func(name kmip.AttributeName, value any) kmip.Attribute {
		return kmip.Attribute{AttributeName: name, AttributeValue: value}
	}
	req := &payloads.CreateRequestPayload{
		ObjectType: kmip.ObjectTypeSymmetricKey,
		TemplateAttribute: kmip.TemplateAttribute{Attribute: []kmip.Attribute{
			attribute(kmip.AttributeNameCryptographicAlgorithm, kmip.CryptographicAlgorithmAES),
			attribute(kmip.AttributeNameCryptographicLength, int32(8*masterKey)),
			attribute(kmip.AttributeNameCryptographicUsageMask, kmip.CryptographicUsageEncrypt|kmip.CryptographicUsageDecrypt),
		}},
	}
	res, err := exchange[*payloads.CreateResponsePayload](s, req)
	if err != nil {
		return "", err
	}
	// A server of another make has identifiers of another form; the node's
	// keyring has room for 40 bytes.
	if n := len(res.UniqueIdentifier); n == 0 || n > 40 {
		return "", fmt.Errorf("the server made a key with an identifier of %d bytes; 1 to 40 are usable", n)
	}
	return keys.KeyID(res.UniqueIdentifier), nil
}

func (s *session) activate(id keys.KeyID) error {
	res, err := exchange[*payloads.ActivateResponsePayload](s, &payloads.ActivateRequestPayload{UniqueIdentifier: string(id)})
	if err != nil {
		return err
	}
	return same(res.UniqueIdentifier, id)
}

func (s *session) state(id keys.KeyID) (keys.State, error) {
	req := &payloads.GetAttributesRequestPayload{UniqueIdentifier: string(id), AttributeName: []kmip.AttributeName{kmip.AttributeNameState}}
	res, err := exchange[*payloads.GetAttributesResponsePayload](s, req)
	if err != nil {
		return "", err
	}
	if err := same(res.UniqueIdentifier, id); err != nil {
		return "", err
	}
	for _, a := range res.Attribute {
		if state, ok := a.AttributeValue.(kmip.State); ok {
			return stateName(state)
		}
	}
	return "", errors.New("the answer holds no state")
}

func (s *session) get(id keys.KeyID) (secret.Bytes, error) {
	res, err := exchange[*payloads.GetResponsePayload](s, &payloads.GetRequestPayload{UniqueIdentifier: string(id)})
	if err != nil {
		return secret.Bytes{}, err
	}
	obj, ok := res.Object.(*kmip.SymmetricKey)
	if !ok {
		return secret.Bytes{}, errors.New("the object is not a symmetric key")
	}
	material, err := obj.KeyBlock.GetBytes()
	if err != nil {
		return secret.Bytes{}, errors.New("the answer holds no plain key material")
	}
	key := secret.New(material) // the decoder's own copy, now the caller's
	if err := same(res.UniqueIdentifier, id); err != nil {
		key.Wipe()
		return secret.Bytes{}, err
	}
	if obj.KeyBlock.KeyFormatType != kmip.KeyFormatTypeRaw || obj.KeyBlock.KeyWrappingData != nil || key.Len() != masterKey {
		key.Wipe()
		return secret.Bytes{}, errors.New("the key is not a raw one of 256 bits")
	}
	return key, nil
}

func same(got string, want keys.KeyID) error {
	if got != string(want) {
		return errors.New("the answer is about another key")
	}
	return nil
}

// exchange sends one request of KMIP 1.0, the version that every server and
// every mongod speaks, and gives the payload of its answer.
func exchange[P kmip.OperationPayload](s *session, req kmip.OperationPayload) (P, error) {
	var none P
	msg := kmip.NewRequestMessage(kmip.V1_0, req)
	msg.Header.MaximumResponseSize = maxResponse
	if _, err := s.conn.Write(ttlv.MarshalTTLV(&msg)); err != nil {
		return none, unavailable(err)
	}
	raw, err := readAnswer(s.conn)
	if err != nil {
		return none, err
	}
	defer clear(raw)
	answer, err := decodeAnswer(raw)
	if err != nil {
		return none, err
	}
	if len(answer.BatchItem) != 1 {
		return none, errors.New("the answer does not hold exactly one item")
	}
	it := &answer.BatchItem[0]
	if it.ResultStatus != kmip.ResultStatusSuccess {
		return none, explain(it)
	}
	payload, ok := it.ResponsePayload.(P)
	if !ok || it.Operation != req.Operation() {
		return none, errors.New("the answer is to another operation")
	}
	return payload, nil
}

func readAnswer(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, unavailable(err)
	}
	n := binary.BigEndian.Uint32(head[4:])
	if n > maxResponse-8 {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxResponse)
	}
	out := make([]byte, 8+n)
	copy(out, head[:])
	if _, err := io.ReadFull(r, out[8:]); err != nil {
		clear(out)
		return nil, unavailable(err)
	}
	return out, nil
}

// decodeAnswer runs the codec under recover, since it trusts declared lengths.
func decodeAnswer(raw []byte) (msg *kmip.ResponseMessage, err error) {
	defer func() {
		if r := recover(); r != nil {
			msg, err = nil, errors.New("the answer is malformed")
		}
	}()
	msg = new(kmip.ResponseMessage)
	if err := ttlv.UnmarshalTTLV(raw, msg); err != nil {
		// The decoder's text may quote the answer.
		return nil, errors.New("the answer cannot be decoded")
	}
	return msg, nil
}

// explain turns a failure into an error that says what the server said.
func explain(it *kmip.ResponseBatchItem) error {
	said := it.ResultMessage
	if len(said) > maxMessage {
		said = said[:maxMessage]
	}
	text := fmt.Sprintf("server answers %s: %q", ttlv.EnumStr(it.ResultReason), said)
	switch it.ResultReason {
	case kmip.ResultReasonItemNotFound:
		return fmt.Errorf("%w (%s)", ErrNotFound, text)
	case kmip.ResultReasonPermissionDenied:
		return fmt.Errorf("%w (%s)", ErrDenied, text)
	case kmip.ResultReasonGeneralFailure, 0:
		return fmt.Errorf("%w (%s)", ErrUnavailable, text)
	}
	return errors.New(text)
}

func stateName(s kmip.State) (keys.State, error) {
	switch s {
	case kmip.StatePreActive:
		return keys.StatePreActive, nil
	case kmip.StateActive:
		return keys.StateActive, nil
	case kmip.StateDeactivated:
		return keys.StateDeactivated, nil
	case kmip.StateCompromised:
		return keys.StateCompromised, nil
	case kmip.StateDestroyed:
		return keys.StateDestroyed, nil
	case kmip.StateDestroyedCompromised:
		return keys.StateDestroyedCompromised, nil
	}
	return "", fmt.Errorf("the server gives the unknown state %d", s)
}
