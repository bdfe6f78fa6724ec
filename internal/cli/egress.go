package cli

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"
)

// egressFlags are the flags about the addresses from which a process calls AWS.
func egressFlags(f *pflag.FlagSet, addresses *[]string, source *string) {
	f.StringSliceVar(addresses, "egress-address", nil, "address or block (CIDR) from which this machine calls AWS, as seen from outside; may be repeated;\n"+
		"needed behind an address translation or a proxy (default: the local address of its connections to AWS)")
	f.StringVar(source, "source-address", "", "local address that AWS is called from, for a machine with several")
}

func sourceAddress(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, usageError{fmt.Errorf("--source-address %q: an address of this machine is needed, such as 192.0.2.7", text)}
	}
	return a, nil
}
