package api

import (
	"net/http"
	"net/url"
	"strings"
)

// route is one line of the API.
type route struct {
	method  string
	pattern string // below the family's prefix; {name} takes one segment, {name}:verb one that ends so
	family  family
	// versions are the dates that the call has, oldest first; the handler is told
	// which one was chosen. Empty for calls without versions.
	versions []string
	// open calls need no authentication.
	open   bool
	handle handler
}

// family is a group of calls with a common prefix.
type family struct {
	prefixes []string
	// versioned says that the media type chooses a version.
	versioned bool
}

var (
	// atlas calls are served as v2 with versions, and as v1.0, which is 2023-01-01.
	// Those that came later, with no such version, are atlasV2.
	atlas = family{prefixes: []string{"/api/atlas/v2", "/api/atlas/v1.0"}, versioned: true}
	// atlasV2 calls have no v1.0 form.
	atlasV2 = family{prefixes: []string{"/api/atlas/v2"}, versioned: true}
	// atlasV15 calls are advanced clusters as 2023-02-01.
	atlasV15 = family{prefixes: []string{"/api/atlas/v1.5"}, versioned: true}
	// own calls are what Atlas has no call for.
	own = family{prefixes: []string{"/api/keywright/v1"}}
)

// handler answers one call: a body for the status, or a refusal.
type handler func(*call) (status int, body any, err error)

// matched is a route with what its path says.
type matched struct {
	*route
	prefix string
	vars   map[string]string
}

// match finds the routes of an escaped path, by method. Of two that fit, the first
// in the table counts. Segments are unescaped only after matching, so that an
// escaped slash stays inside its segment.
func match(routes []route, escaped string) map[string]matched {
	byMethod := map[string]matched{}
	for i := range routes {
		r := &routes[i]
		if _, have := byMethod[r.method]; have {
			continue
		}
		for _, p := range r.family.prefixes {
			rest, ok := strings.CutPrefix(escaped, p)
			if !ok || rest != "" && rest[0] != '/' {
				continue
			}
			if v, ok := matchPattern(r.pattern, strings.TrimSuffix(rest, "/")); ok {
				byMethod[r.method] = matched{route: r, prefix: p, vars: v}
			}
		}
	}
	return byMethod
}

func matchPattern(pattern, path string) (map[string]string, bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	vars := map[string]string{}
	for i, w := range want {
		if !strings.HasPrefix(w, "{") {
			if w != have[i] {
				return nil, false
			}
			continue
		}
		name, verb, _ := strings.Cut(w[1:], "}") // a verb may follow, as in {clusterName}:rotate
		segment, ok := strings.CutSuffix(have[i], verb)
		if !ok {
			return nil, false
		}
		v, err := url.PathUnescape(segment)
		if err != nil || v == "" {
			return nil, false
		}
		vars[name] = v
	}
	return vars, true
}

// allowed lists the methods of a path for the Allow header.
func allowed(byMethod map[string]matched) string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, ok := byMethod[m]; ok {
			out = append(out, m)
		}
	}
	return strings.Join(out, ", ")
}
