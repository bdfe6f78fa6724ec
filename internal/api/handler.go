package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
)

// Config is what the API serves.
type Config struct {
	Tenant  *tenant.Service
	Access  *access.Service
	CMK     *cmk.Service
	Cluster *cluster.Service
	// Build names the program's version.
	Build  string
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	auth   *authenticator
	routes []route
}

// New makes the handler.
func New(cfg Config) *Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Handler{cfg: cfg, log: cfg.Logger, now: cfg.Now, auth: newAuthenticator(cfg.Tenant, cfg.Now), routes: routes()}
}

// call is one request on its way through the API.
type call struct {
	*Handler
	r       *http.Request
	vars    map[string]string
	prefix  string
	version string
	who     tenant.Principal
	// header of the answer, for the few that need one.
	header http.Header
}

func (c *call) ctx() context.Context         { return c.r.Context() }
func (c *call) project() keys.ProjectID      { return keys.ProjectID(c.vars["groupId"]) }
func (c *call) org() keys.OrgID              { return keys.OrgID(c.vars["orgId"]) }
func (c *call) query(name string) string     { return c.r.URL.Query().Get(name) }
func (c *call) queries(name string) []string { return c.r.URL.Query()[name] }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	byMethod, prefix, vars := match(h.routes, r.URL.EscapedPath())
	if len(byMethod) == 0 {
		h.unknown(w, r)
		return
	}
	rt := byMethod[r.Method]
	if rt == nil {
		if _, ok := h.identify(w, r); !ok {
			return
		}
		head.Set("Allow", allowed(byMethod))
		h.writeError(w, r, apierr.New(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "%s is not possible here; possible is %s.", r.Method, allowed(byMethod)))
		return
	}
	c := &call{Handler: h, r: r, vars: vars, prefix: prefix, header: head}
	if !rt.open {
		who, ok := h.identify(w, r)
		if !ok {
			return
		}
		c.who = who
	}
	h.run(w, c, rt)
}

func (h *Handler) run(w http.ResponseWriter, c *call, rt *route) {
	if rt.family.versioned && len(rt.versions) > 0 {
		v, err := chooseVersion(c.r, c.prefix, rt.versions)
		if err != nil {
			h.writeError(w, c.r, err)
			return
		}
		c.version = v
	}
	status, body, err := rt.handle(c)
	if err != nil {
		h.writeError(w, c.r, err)
		return
	}
	h.writeJSON(w, c.r, status, contentType(rt.family, c.prefix, c.version), body)
}

// unknown answers paths that are no call. Whoever has not shown who they are
// learns nothing about which paths exist.
func (h *Handler) unknown(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.identify(w, r); ok {
		h.writeError(w, r, apierr.NotFound("RESOURCE_NOT_FOUND", "Cannot find resource %s.", r.URL.EscapedPath()).With(r.URL.EscapedPath()))
	}
}

// identify authenticates, or writes the refusal.
func (h *Handler) identify(w http.ResponseWriter, r *http.Request) (tenant.Principal, bool) {
	who, result, err := h.auth.check(r)
	if err != nil {
		h.writeError(w, r, err)
		return who, false
	}
	if result == authOK {
		who.RemoteAddress, _, err = net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			who.RemoteAddress = r.RemoteAddr
		}
		return who, true
	}
	w.Header().Set("WWW-Authenticate", h.auth.challenge(result == authStale))
	h.writeError(w, r, apierr.New(http.StatusUnauthorized, "UNEXPECTED_ERROR", "You are not authorized for this resource."))
	return who, false
}

// noContent is the answer of a call that only does.
func noContent(err error) (int, any, error) { return http.StatusNoContent, nil, err }

// queryTime reads an optional time of a query.
func (c *call) queryTime(name string) (time.Time, error) {
	v := strings.ReplaceAll(c.query(name), " ", "+") // a "+" that the client did not escape
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return t, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter %s is %q; a time such as 2026-01-31T12:00:00Z is expected.", name, v).With(name).Because(err)
	}
	return t, nil
}
