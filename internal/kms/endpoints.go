package kms

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Endpoints are addresses that replace a service's own, by Region as AWS writes it. The
// one of "" is for every Region that has none of its own.
type Endpoints map[string]string

// For is the address for a Region, "" for the service's own.
func (e Endpoints) For(region string) string {
	if u, ok := e[region]; ok {
		return u
	}
	return e[""]
}

// Set adds what an operator wrote: REGION=URL, or URL for all Regions. It refuses what
// could lead calls astray: no https except on this machine, a path, credentials, a second
// address for the same Region.
func (e Endpoints) Set(text string) error {
	region, address := "", text
	if before, after, ok := strings.Cut(text, "="); ok && !strings.Contains(before, "/") {
		region, address = before, after
		if !regionForm.MatchString(region) {
			return fmt.Errorf("%q is not a Region as AWS writes it, such as us-east-1", region)
		}
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%q is not an address such as https://vpce-0a1b-2c3d.kms.us-east-1.vpce.amazonaws.com", address)
	case u.User != nil, strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return fmt.Errorf("%q has more than a scheme, a host and a port", u.Redacted())
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return fmt.Errorf("%q does not begin with https://; plain http is for addresses of this machine only", address)
	}
	if had, twice := e[region]; twice {
		return fmt.Errorf("%s already has the address %s", nameOf(region), had)
	}
	e[region] = u.Scheme + "://" + u.Host
	return nil
}

var regionForm = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`)

func nameOf(region string) string {
	if region == "" {
		return "every Region"
	}
	return "the Region " + region
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
