package console

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/audit"
	"github.com/keywright/keywright/internal/control/access"
	"github.com/keywright/keywright/internal/control/cluster"
	"github.com/keywright/keywright/internal/control/cmk"
	"github.com/keywright/keywright/internal/control/tenant"
	"github.com/keywright/keywright/internal/secret"
)

// Audit verifies the control plane's chain of events; the store is one.
type Audit interface {
	VerifyAudit(ctx context.Context, kept audit.Head) (audit.Head, error)
}

// Config is what the console shows and changes.
type Config struct {
	Tenant  *tenant.Service
	Access  *access.Service
	CMK     *cmk.Service
	Cluster *cluster.Service
	Audit   Audit
	// LocalAWS tells that keys come from the local AWS; every page says so.
	LocalAWS bool
	// Logger gets what people must not see; nil discards it.
	Logger *slog.Logger
	// Now is the clock of what is shown; nil: time.Now.
	Now func() time.Time
}

// Handler serves the console. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	assets assets
	origin *http.CrossOriginProtection
	mux    *http.ServeMux
}

// New makes the handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, log: cfg.Logger, now: cfg.Now, assets: loadAssets(), origin: http.NewCrossOriginProtection(), mux: http.NewServeMux()}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	for _, rt := range routes() {
		h.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) { h.run(w, r, rt) })
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.run(w, r, route{page: func(*visit) error { return apierr.NotFound("RESOURCE_NOT_FOUND", "There is no such page.") }})
	})
	return h
}

const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// maxForm bounds a form, in bytes.
const maxForm = 64 << 10

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "same-origin")
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	head.Set("Cache-Control", "no-store")
	if r.TLS != nil {
		head.Set("Strict-Transport-Security", "max-age=31536000")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := h.origin.Check(r); err != nil {
		h.fail(&visit{Handler: h, w: w, r: r}, apierr.New(http.StatusForbidden, "CROSS_ORIGIN_REFUSED", "A page of another origin may not change anything here.").Because(err))
		return
	}
	h.mux.ServeHTTP(w, r)
}

// visit is one request on its way through the console.
type visit struct {
	*Handler
	w       http.ResponseWriter
	r       *http.Request
	session tenant.Session
	who     tenant.Principal
}

func (v *visit) ctx() context.Context           { return v.r.Context() }
func (v *visit) query(name string) string       { return strings.TrimSpace(v.r.URL.Query().Get(name)) }
func (v *visit) render(c templ.Component) error { return v.renderStatus(http.StatusOK, c) }

func (v *visit) renderStatus(status int, c templ.Component) error {
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if v.r.Method == http.MethodHead {
		return nil
	}
	if err := c.Render(v.ctx(), v.w); err != nil && v.ctx().Err() == nil {
		v.log.ErrorContext(v.ctx(), "page was not written whole", "path", v.r.URL.Path, "error", err)
	}
	return nil
}

// redirect ends a form: a reload then repeats nothing.
func (v *visit) redirect(to string) error {
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// run finds out who asks, and runs the page.
func (h *Handler) run(w http.ResponseWriter, r *http.Request, rt route) {
	v := &visit{Handler: h, w: w, r: r}
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if cause == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is compared by identity, as net/http does
			panic(cause)
		}
		h.fail(v, fmt.Errorf("page panicked: %v\n%s", cause, debug.Stack()))
	}()
	if !rt.open {
		ok, err := v.identify()
		if err != nil {
			h.fail(v, err)
			return
		}
		if !ok {
			return
		}
	}
	if err := rt.page(v); err != nil {
		h.fail(v, err)
	}
}

// remote is the address that a request comes from.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// cookieName is the session's. With TLS the prefix binds it to this host.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-keywright"
	}
	return "keywright"
}

func (v *visit) setCookie(name, value string, age time.Duration) {
	http.SetCookie(v.w, &http.Cookie{ //nolint:gosec // Secure is set with TLS; without it the listener is on loopback
		Name: name, Value: value, Path: "/", HttpOnly: true, Secure: v.r.TLS != nil, SameSite: http.SameSiteStrictMode, MaxAge: int(age / time.Second),
	})
}

// identify finds the session, or leads to the sign-in page.
func (v *visit) identify() (bool, error) {
	expired := false
	if c, err := v.r.Cookie(cookieName(v.r)); err == nil {
		var found bool
		v.session, found, expired, err = v.cfg.Tenant.Session(v.ctx(), secret.FromString(c.Value), remote(v.r))
		if err != nil {
			return false, err
		}
		if found {
			v.who = v.session.Who
			return true, nil
		}
	}
	to := url.Values{}
	if expired {
		to.Set("ended", "1")
	}
	if v.r.Method == http.MethodGet && v.r.URL.Path != "/" {
		to.Set("next", v.r.URL.RequestURI())
	}
	return false, v.redirect("/sign-in?" + to.Encode())
}

// localPath gives a path of this console, "/" for everything else: a link may not lead
// away after the sign-in.
func localPath(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(to, "\\\r\n") || strings.HasPrefix(to, "//") {
		return "/"
	}
	return u.RequestURI()
}

// fail shows why a page cannot be shown. What is not a refusal goes into the log, with
// the id that the page shows.
func (h *Handler) fail(v *visit, err error) {
	id := rand.Text()[:10]
	f := failure{Code: "UNEXPECTED_ERROR", ID: id, Status: http.StatusInternalServerError, Text: "Keywright could not make this page. The log of the server has the reason under this id."}
	if e, ok := apierr.As(err); ok {
		f.Code, f.Text, f.Status = e.Code, e.Detail, e.Status
		if e.Code == "USER_UNAUTHORIZED" {
			f.Status = http.StatusForbidden
		}
	} else {
		h.log.ErrorContext(v.ctx(), "page failed", "path", v.r.URL.Path, "request_id", id, "error", err)
	}
	_ = v.renderStatus(f.Status, failurePage(v.bare(f.title()), f))
}

type failure struct {
	Code, ID, Text string
	Status         int
}

func (f failure) title() string {
	switch f.Status {
	case http.StatusNotFound:
		return "Not found"
	case http.StatusForbidden:
		return "Not allowed"
	case http.StatusInternalServerError:
		return "Something went wrong here"
	}
	return "That did not work"
}
