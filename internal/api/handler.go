package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/alert"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/escrow"
	"github.com/keywright/keywright/internal/control/inventory"
	"github.com/keywright/keywright/internal/control/maintenance"
	"github.com/keywright/keywright/internal/control/network"
	"github.com/keywright/keywright/internal/control/rotation"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/keys"
	"github.com/keywright/keywright/internal/telemetry"
)

// Audit verifies the control plane's chain of events; the store is one.
type Audit interface {
	VerifyAudit(ctx context.Context, kept audit.Head) (audit.Head, error)
}

// Config is what the API serves.
type Config struct {
	Tenant  *tenant.Service
	Access  *access.Service
	CMK     *cmk.Service
	Cluster *cluster.Service
	// Network knows from where AWS is called.
	Network *network.Service
	// Rotation plans the rotation of master keys.
	Rotation *rotation.Service
	// Maintenance keeps the projects' maintenance windows.
	Maintenance *maintenance.Service
	// Export makes bundles of wrapped keys.
	Export *escrow.Service
	// Inventory answers which customer keys are needed.
	Inventory *inventory.Service
	// Alert keeps alert configurations and alerts.
	Alert *alert.Service
	// Metrics counts requests; nil counts nothing.
	Metrics *telemetry.Metrics
	// Audit verifies the chain of events.
	Audit Audit
	// Build names the program's version.
	Build string
	// Logger gets what callers must not see; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	auth *authenticator
	// failures slows down whoever tries keys.
	failures *failures
	origin   *http.CrossOriginProtection
	routes   []route
}

// New makes the handler.
func New(cfg Config) *Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Handler{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, auth: newAuthenticator(cfg.Tenant, cfg.Now),
		failures: newFailures(cfg.Now), origin: http.NewCrossOriginProtection(), routes: routes(),
	}
}

// call is one request on its way through the API.
type call struct {
	*Handler
	r       *http.Request
	vars    map[string]string
	prefix  string
	version string
	who     tenant.Principal
}

func (c *call) ctx() context.Context         { return c.r.Context() }
func (c *call) project() keys.ProjectID      { return keys.ProjectID(c.vars["groupId"]) }
func (c *call) org() keys.OrgID              { return keys.OrgID(c.vars["orgId"]) }
func (c *call) query(name string) string     { return c.r.URL.Query().Get(name) }
func (c *call) queries(name string) []string { return c.r.URL.Query()[name] }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &countedWriter{ResponseWriter: w}
	w = counted
	defer func() { h.cfg.Metrics.HTTP(r.Method, counted.route, counted.status) }()
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if r.TLS != nil {
		head.Set("Strict-Transport-Security", "max-age=31536000")
	}
	defer h.survive(w, r)
	if err := h.origin.Check(r); err != nil {
		// A browser that knows a key would answer for any page that asks it to.
		h.writeError(w, r, apierr.New(http.StatusForbidden, "CROSS_ORIGIN_REFUSED", "A page of another origin may not change anything here.").Because(err))
		return
	}
	byMethod := match(h.routes, r.URL.EscapedPath())
	if len(byMethod) == 0 {
		h.unknown(w, r)
		return
	}
	rt, ok := byMethod[r.Method]
	if !ok {
		if _, ok := h.identify(w, r); !ok {
			return
		}
		head.Set("Allow", allowed(byMethod))
		h.writeError(w, r, apierr.New(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "%s is not possible here; possible is %s.", r.Method, allowed(byMethod)))
		return
	}
	counted.route = rt.prefix + rt.pattern
	c := &call{Handler: h, r: r, vars: rt.vars, prefix: rt.prefix}
	if !rt.open {
		who, ok := h.identify(w, r)
		if !ok {
			return
		}
		c.who = who
	}
	h.run(w, c, rt.route)
}

// countedWriter remembers what a request was answered with, for the metrics.
type countedWriter struct {
	http.ResponseWriter
	route  string
	status int
}

// WriteHeader implements http.ResponseWriter.
func (c *countedWriter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap gives http.ResponseController what is below.
func (c *countedWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// survive answers for a handler that panicked; the log has where.
func (h *Handler) survive(w http.ResponseWriter, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is compared by identity, as net/http does
		panic(cause)
	}
	h.writeError(w, r, fmt.Errorf("handler panicked: %v\n%s", cause, debug.Stack()))
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
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	if wait := h.failures.wait(remote); wait > 0 && r.Header.Get("Authorization") != "" {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
		h.writeError(w, r, apierr.New(http.StatusTooManyRequests, "RATE_LIMITED", "Too many wrong credentials came from %s; try again in a minute.", remote).With(remote))
		return tenant.Principal{}, false
	}
	who, result, err := h.auth.check(r)
	if err != nil {
		h.writeError(w, r, err)
		return who, false
	}
	if result == authOK {
		who.RemoteAddress = remote
		return who, true
	}
	if result == authWrong {
		h.failures.add(remote)
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
