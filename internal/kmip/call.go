package kmip

import (
	"context"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/secret"
)

// call is one request being executed.
type call struct {
	server    *Server
	ctx       context.Context // lives as long as the request
	principal Principal
	version   kmip.ProtocolVersion
	reply     *reply
	// placeholder is the ID Placeholder: the object that the last item made or
	// found (KMIP 1.4, section 4).
	placeholder string
}

// run executes one batch item.
func (c *call) run(it *kmip.RequestBatchItem) (payload kmip.OperationPayload, err error) {
	if ext := it.MessageExtension; ext != nil && ext.CriticalityIndicator {
		return nil, fail(reasonFeatureNotSupported, "the message extension is not supported")
	}
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if !c.server.rates.take(c.principal.Node, c.server.now()) {
		return nil, fail(reasonGeneralFailure, "too many requests")
	}
	err = c.server.guard(func() error {
		payload, err = c.dispatch(it)
		return err
	})
	if err != nil {
		return nil, err
	}
	return payload, nil
}

func (c *call) dispatch(it *kmip.RequestBatchItem) (kmip.OperationPayload, error) {
	switch it.Operation {
	case kmip.OperationRevoke, kmip.OperationDestroy, kmip.OperationReKey:
		return nil, fail(reasonPermissionDenied, "clients may not do this; it is an administrator's decision")
	}
	switch req := it.RequestPayload.(type) {
	case *payloads.CreateRequestPayload:
		return c.create(req)
	case *payloads.RegisterRequestPayload:
		return c.register(req)
	case *payloads.LocateRequestPayload:
		return c.locate(req)
	case *payloads.GetRequestPayload:
		return c.get(req)
	case *payloads.GetAttributesRequestPayload:
		return c.getAttributes(req)
	case *payloads.GetAttributeListRequestPayload:
		return c.getAttributeList(req)
	case *payloads.ActivateRequestPayload:
		return c.activate(req)
	case *payloads.QueryRequestPayload:
		return c.query(req), nil
	case *payloads.DiscoverVersionsRequestPayload:
		return discoverVersions(req), nil
	}
	return nil, fail(reasonOperationNotSupported, "the operation is not supported")
}

// operations are those that Query lists.
func operations() []kmip.Operation {
	return []kmip.Operation{
		kmip.OperationCreate, kmip.OperationRegister, kmip.OperationLocate, kmip.OperationGet,
		kmip.OperationGetAttributes, kmip.OperationGetAttributeList, kmip.OperationActivate,
		kmip.OperationQuery, kmip.OperationDiscoverVersions,
	}
}

func (c *call) create(req *payloads.CreateRequestPayload) (kmip.OperationPayload, error) {
	if req.ObjectType != kmip.ObjectTypeSymmetricKey {
		return nil, invalid("only symmetric keys can be created")
	}
	meta, err := metaOf(req.TemplateAttribute)
	if err != nil {
		return nil, err
	}
	meta.Type, meta.Format = TypeSymmetricKey, FormatRaw
	if meta.Algorithm != algorithmAES || meta.Length != 256 {
		return nil, invalid("a key to be created must have Cryptographic Algorithm AES and Cryptographic Length 256")
	}
	if !meta.hasMask {
		return nil, invalid("the Cryptographic Usage Mask is missing")
	}
	id, err := c.make(func() (keys.KeyID, error) { return c.server.cfg.Keys.Create(c.ctx, c.principal, meta.Meta) })
	if err != nil {
		return nil, err
	}
	return &payloads.CreateResponsePayload{ObjectType: req.ObjectType, UniqueIdentifier: string(id)}, nil
}

func (c *call) register(req *payloads.RegisterRequestPayload) (kmip.OperationPayload, error) {
	obj, err := objectOf(req)
	if err != nil {
		return nil, err
	}
	id, err := c.make(func() (keys.KeyID, error) { return c.server.cfg.Keys.Register(c.ctx, c.principal, obj) })
	if err != nil {
		return nil, err
	}
	return &payloads.RegisterResponsePayload{UniqueIdentifier: string(id)}, nil
}

// make makes one key of the node under the limit on its keys.
func (c *call) make(fn func() (keys.KeyID, error)) (keys.KeyID, error) {
	unlock, ok := c.server.creating.lock(c.principal.Node, c.ctx.Done())
	if !ok {
		return "", c.ctx.Err()
	}
	defer unlock()
	have, err := c.server.cfg.Keys.Locate(c.ctx, c.principal, "")
	if err != nil {
		return "", err
	}
	if len(have) >= c.server.limits.KeysPerNode {
		return "", fail(reasonPermissionDenied, "this client has as many keys as it may have")
	}
	id, err := fn()
	if err != nil {
		return "", err
	}
	c.placeholder = string(id)
	c.releases(id)
	return id, nil
}

// releases notes that the item being executed releases a key.
func (c *call) releases(id keys.KeyID) {
	c.reply.released = append(c.reply.released, release{item: len(c.reply.message.BatchItem), id: id})
}

// identifier resolves the unique identifier of a request: the ID Placeholder
// where it is left out. One that is not of our form is not found, without
// asking anybody.
func (c *call) identifier(id string) (keys.KeyID, error) {
	if id == "" {
		id = c.placeholder
	}
	if id == "" {
		return "", invalid("the Unique Identifier is missing")
	}
	if k := keys.KeyID(id); k.Valid() {
		return k, nil
	}
	return "", ErrNotFound
}

func (c *call) activate(req *payloads.ActivateRequestPayload) (kmip.OperationPayload, error) {
	id, err := c.identifier(req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if err := c.server.cfg.Keys.Activate(c.ctx, c.principal, id); err != nil {
		return nil, err
	}
	return &payloads.ActivateResponsePayload{UniqueIdentifier: string(id)}, nil
}

func (c *call) get(req *payloads.GetRequestPayload) (kmip.OperationPayload, error) {
	switch {
	case req.KeyWrappingSpecification != nil || req.KeyWrapType != 0:
		return nil, fail(reasonFeatureNotSupported, "wrapping of keys is not supported")
	case req.KeyCompressionType != 0:
		return nil, fail(kmip.ResultReasonKeyCompressionTypeNotSupported, "key compression is not supported")
	}
	id, err := c.identifier(req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	obj, err := c.server.cfg.Keys.Get(c.ctx, c.principal, id)
	if err != nil {
		return nil, err
	}
	c.reply.wipe = append(c.reply.wipe, obj.Material.Wipe)
	answer, err := managedObject(obj)
	if err != nil {
		return nil, err
	}
	if f := req.KeyFormatType; f != 0 && f != formatCode(obj.Format) {
		return nil, fail(reasonFormatNotSupported, "the object can be had only in the format in which it was registered")
	}
	c.releases(id)
	return &payloads.GetResponsePayload{ObjectType: answer.ObjectType(), UniqueIdentifier: string(id), Object: answer}, nil
}

func (c *call) attributes(id string) (keys.KeyID, []kmip.Attribute, error) {
	key, err := c.identifier(id)
	if err != nil {
		return "", nil, err
	}
	a, err := c.server.cfg.Keys.Attributes(c.ctx, c.principal, key)
	if err != nil {
		return "", nil, err
	}
	list, err := attributeList(key, a)
	return key, list, err
}

// getAttributes answers what was asked for and is known, in the order asked;
// everything if nothing was named. An answer without any attribute would crash
// Percona Server's client, so that State stands in.
func (c *call) getAttributes(req *payloads.GetAttributesRequestPayload) (kmip.OperationPayload, error) {
	id, all, err := c.attributes(req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	if len(req.AttributeName) == 0 {
		return &payloads.GetAttributesResponsePayload{UniqueIdentifier: string(id), Attribute: all}, nil
	}
	var out []kmip.Attribute
	seen := map[kmip.AttributeName]bool{}
	for _, name := range req.AttributeName {
		if a, ok := findAttribute(all, name); ok && !seen[name] {
			seen[name] = true
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		state, _ := findAttribute(all, kmip.AttributeNameState)
		out = append(out, state)
	}
	return &payloads.GetAttributesResponsePayload{UniqueIdentifier: string(id), Attribute: out}, nil
}

func (c *call) getAttributeList(req *payloads.GetAttributeListRequestPayload) (kmip.OperationPayload, error) {
	id, all, err := c.attributes(req.UniqueIdentifier)
	if err != nil {
		return nil, err
	}
	out := &payloads.GetAttributeListResponsePayload{UniqueIdentifier: string(id)}
	for _, a := range all {
		out.AttributeName = append(out.AttributeName, a.AttributeName)
	}
	return out, nil
}

func (c *call) query(req *payloads.QueryRequestPayload) kmip.OperationPayload {
	out := &payloads.QueryResponsePayload{}
	for _, f := range req.QueryFunction {
		switch f {
		case kmip.QueryFunctionOperations:
			out.Operations = operations()
		case kmip.QueryFunctionObjects:
			out.ObjectType = []kmip.ObjectType{kmip.ObjectTypeSymmetricKey, kmip.ObjectTypeSecretData}
		case kmip.QueryFunctionServerInformation:
			out.VendorIdentification = "Keywright"
			out.ServerInformation = &ttlv.Value{Tag: kmip.TagServerInformation, Value: ttlv.Struct{}}
		}
	}
	return out
}

// discoverVersions lists what both sides speak, the highest first: clients
// take the first offer.
func discoverVersions(req *payloads.DiscoverVersionsRequestPayload) kmip.OperationPayload {
	out := &payloads.DiscoverVersionsResponsePayload{}
	for _, v := range versions() {
		wanted := len(req.ProtocolVersion) == 0
		for _, w := range req.ProtocolVersion {
			wanted = wanted || w == v
		}
		if wanted {
			out.ProtocolVersion = append(out.ProtocolVersion, v)
		}
	}
	return out
}

func wipePayload(p kmip.OperationPayload) {
	reg, ok := p.(*payloads.RegisterRequestPayload)
	if !ok {
		return
	}
	if kb := keyBlock(reg.Object); kb != nil {
		if b, err := kb.GetBytes(); err == nil {
			wiped := secret.New(b)
			wiped.Wipe()
		}
	}
}
