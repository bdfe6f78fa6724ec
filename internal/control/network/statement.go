package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/keywright/keywright/internal/policydoc"
)

// Statements are what a customer puts into policies so that exactly the given addresses
// can use the key.
type Statements struct {
	// RolePolicy denies the role's use of the key from elsewhere; it goes into the role's
	// own policy.
	RolePolicy json.RawMessage
	// KeyPolicy does the same in the key's policy.
	KeyPolicy json.RawMessage
	// TrustCondition is for the allowing statement of the role's trust policy, beside the
	// condition on sts:ExternalId.
	TrustCondition json.RawMessage
}

// statements builds them (aws-kms 5.4). Without addresses there is nothing to allow,
// hence nothing to say.
func statements(roleARN, keyARN string, addresses []string) (Statements, error) {
	if len(addresses) == 0 {
		return Statements{}, nil
	}
	blocks := make([]netip.Prefix, 0, len(addresses))
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			ip, err := netip.ParseAddr(a)
			if err != nil {
				return Statements{}, fmt.Errorf("read address: %w", err)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		blocks = append(blocks, p)
	}
	inRole := policydoc.DenyElsewhere(blocks)
	inKey := inRole
	inRole.Resource = policydoc.Values{keyARN}
	inKey.Resource, inKey.Principal = policydoc.Values{"*"}, &policydoc.Principal{AWS: roleARN}
	trust, err := json.Marshal(policydoc.AllowFromAddresses(blocks))
	if err != nil {
		return Statements{}, fmt.Errorf("encode condition: %w", err)
	}
	return Statements{RolePolicy: json.RawMessage(inRole.Compact()), KeyPolicy: json.RawMessage(inKey.Compact()), TrustCondition: trust}, nil
}

// union gives all addresses, sorted, each once.
func union(lists ...[]string) []string {
	out := []string{}
	for _, l := range lists {
		out = append(out, l...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
