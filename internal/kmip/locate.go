package kmip

import (
	"errors"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/keywright/keywright/internal/keys"
)

// locate finds the client's keys whose attributes equal those of the request.
func (c *call) locate(req *payloads.LocateRequestPayload) (kmip.OperationPayload, error) {
	name, rest, err := locateFilter(req.Attribute)
	if err != nil {
		return nil, err
	}
	var ids []keys.KeyID
	if mask := req.StorageStatusMask; mask == 0 || mask&kmip.StorageStatusOnlineStorage != 0 { // nothing is ever archived
		if ids, err = c.server.cfg.Keys.Locate(c.ctx, c.principal, name); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		if ids, err = c.matching(ids, rest); err != nil {
			return nil, err
		}
	}
	total := int32(len(ids)) //nolint:gosec // bounded by the limit on keys
	ids = ids[min(max(int(req.OffsetItems), 0), len(ids)):]
	if n := int(req.MaximumItems); n > 0 && n < len(ids) {
		ids = ids[:n]
	}
	out := &payloads.LocateResponsePayload{LocatedItems: &total} // encoded from 1.3 on only
	for _, id := range ids {
		out.UniqueIdentifier = append(out.UniqueIdentifier, string(id))
	}
	if len(ids) == 1 {
		c.placeholder = string(ids[0])
	}
	return out, nil
}

// locateFilter separates the name, by which Keys searches, from the rest.
func locateFilter(list []kmip.Attribute) (name string, rest []kmip.Attribute, err error) {
	for _, a := range list {
		switch v := a.AttributeValue.(type) {
		case kmip.Name:
			if v.NameValue == "" || name != "" && name != v.NameValue {
				return "", nil, invalid("a search takes one Name")
			}
			name = v.NameValue
		case ttlv.Value:
			text, ok := v.Value.(string)
			if !ok {
				return "", nil, invalid("a search by this attribute is not supported")
			}
			rest = append(rest, kmip.Attribute{AttributeName: a.AttributeName, AttributeValue: text})
		case string, kmip.ObjectType, kmip.State, kmip.CryptographicAlgorithm, kmip.CryptographicUsageMask, int32:
			rest = append(rest, a)
		default:
			return "", nil, invalid("a search by this attribute is not supported")
		}
	}
	return name, rest, nil
}

// matching keeps the keys whose attributes equal all of want. A usage mask
// matches if the key has all its bits.
func (c *call) matching(ids []keys.KeyID, want []kmip.Attribute) ([]keys.KeyID, error) {
	var out []keys.KeyID
	for _, id := range ids {
		_, all, err := c.attributes(string(id))
		if errors.Is(err, ErrNotFound) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, err
		}
		ok := true
		for _, w := range want {
			have, found := findAttribute(all, w.AttributeName)
			ok = ok && found && sameValue(have.AttributeValue, w.AttributeValue)
		}
		if ok {
			out = append(out, id)
		}
	}
	return out, nil
}

func sameValue(have, want any) bool {
	if w, ok := want.(kmip.CryptographicUsageMask); ok {
		h, ok := have.(kmip.CryptographicUsageMask)
		return ok && h&w == w
	}
	return have == want
}
