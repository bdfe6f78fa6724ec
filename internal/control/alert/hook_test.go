package alert

import (
	"net/netip"
	"testing"
)

func TestAddressesOfWebhooks(t *testing.T) {
	for address, c := range map[string][3]bool{ // server for others, with private networks, server on loopback
		"93.184.216.34": {true, true, true}, "2606:2800:220:1::1": {true, true, true},
		"127.0.0.1": {false, false, true}, "::1": {false, false, true}, "::ffff:127.0.0.1": {false, false, true},
		"10.0.0.1": {false, true, true}, "192.168.1.1": {false, true, true}, "100.64.0.1": {false, true, true}, "fd00::1": {false, true, true},
		"169.254.169.254": {false, false, false}, "fe80::1": {false, false, false}, "0.0.0.0": {false, false, false}, "224.0.0.1": {false, false, false}, "255.255.255.255": {false, false, false},
	} {
		a := netip.MustParseAddr(address)
		if got := [3]bool{allowed(a, false, false), allowed(a, false, true), allowed(a, true, false)}; got != c {
			t.Errorf("%s: %v, want %v", address, got, c)
		}
	}
	for raw, ok := range map[string]bool{
		"https://example.com/x": true, "http://example.com/x": false, "http://127.0.0.1:1/x": true, "https://u@example.com": false, "ftp://example.com": false, "https://": false, "file:///etc/passwd": false,
	} {
		if _, err := checkURL(raw, true); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if _, err := checkURL("http://127.0.0.1/x", false); err == nil {
		t.Error("plain http on a server for others")
	}
}
