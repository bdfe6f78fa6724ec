package agentlink_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/keywright/keywright/internal/agentlink"
)

func TestAddressesHaveOneForm(t *testing.T) {
	for in, want := range map[string]string{
		" 192.0.2.7 ": "192.0.2.7", "192.0.2.7/32": "192.0.2.7", "198.51.100.77/24": "198.51.100.0/24", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:DB8::1": "2001:db8::1", "2001:db8::1/64": "2001:db8::/64", "127.0.0.3": "127.0.0.3", "10.1.0.0/16": "10.1.0.0/16",
	} {
		if got, err := agentlink.ParseAddress(in); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "db1", "192.0.2", "0.0.0.0", "0.0.0.0/0", "::/0", "10.0.0.0/8", "128.0.0.0/1", "2001::/16", "224.0.0.1", "fe80::1%eth0", "::ffff:0.0.0.0/96", "192.0.2.7\",\"0.0.0.0/0"} {
		if got, err := agentlink.ParseAddress(in); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
	got, bad := agentlink.NormalAddresses([]string{"192.0.2.9", "192.0.2.8", "x", "192.0.2.9/32"})
	if !slices.Equal(got, []string{"192.0.2.8", "192.0.2.9"}) || len(bad) != 1 {
		t.Errorf("%v %v", got, bad)
	}
}

// Whatever a host says, only addresses and bounded blocks go into a policy.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"192.0.2.7", "198.51.100.0/24", "::ffff:1.2.3.4", "2001:db8::/32", "0.0.0.0/0", "fe80::1%x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := agentlink.ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := agentlink.ParseAddress(out); err != nil || again != out {
			t.Errorf("%q is %q, and that %q, %v", s, out, again, err)
		}
		if p, err := netip.ParsePrefix(out); err == nil && p.Bits() < 16 {
			t.Errorf("%q is %q", s, out)
		}
	})
}
