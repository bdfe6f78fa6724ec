package agentlink

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The bounds of what one machine may name as its addresses: customers put these into
// policies, so nobody may open a policy to half the world by them.
const (
	maxAddresses = 32
	minBits4     = 16
	minBits6     = 32
)

// ParseAddress reads an address or a block of addresses (CIDR) from which AWS is called
// and gives its canonical form: a block of one is the address itself.
func ParseAddress(s string) (string, error) {
	text := strings.TrimSpace(s)
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return "", fmt.Errorf("%q is neither an IP address nor a block such as 198.51.100.0/24", text[:min(len(text), 64)])
		}
		p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
	}
	least := minBits6
	if p.Addr().Is4() {
		least = minBits4
	}
	switch {
	case p.Addr().Is4In6():
		return "", fmt.Errorf("%s: write IPv4 addresses as such", p)
	case p.Bits() < least:
		return "", fmt.Errorf("%s: a policy that allows so many addresses protects nothing; at least /%d is needed", p, least)
	case p.Addr().IsUnspecified(), p.Addr().IsMulticast():
		return "", fmt.Errorf("%s: nobody calls from there", p)
	case p.IsSingleIP():
		return p.Addr().String(), nil
	}
	return p.Masked().String(), nil
}

// NormalAddresses reads a list of addresses and blocks: sorted, in canonical form, each
// once, at most 32. bad are those that cannot be used, in words.
func NormalAddresses(in []string) (out, bad []string) {
	for _, s := range in[:min(len(in), maxAddresses)] {
		a, err := ParseAddress(s)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case !slices.Contains(out, a):
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return out, bad
}

// AddressTexts gives the forms of single addresses, as NormalAddresses has them.
func AddressTexts(in []netip.Addr) []string {
	var texts []string
	for _, a := range in {
		texts = append(texts, a.WithZone("").String())
	}
	out, _ := NormalAddresses(texts)
	return out
}
