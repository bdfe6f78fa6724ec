package api

import "net/http/httptest"

// RouteNames gives every line of the table as "METHOD prefix pattern".
func RouteNames() []string {
	var out []string
	for _, r := range routes() {
		for _, p := range r.family.prefixes {
			out = append(out, r.method+" "+p+r.pattern)
		}
	}
	return out
}

// RouteOf gives the line that a request is answered by, or "".
func RouteOf(method, target string) string {
	m, ok := match(routes(), httptest.NewRequest(method, target, nil).URL.EscapedPath())[method]
	if !ok {
		return ""
	}
	return method + " " + m.prefix + m.pattern
}
