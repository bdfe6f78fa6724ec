package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/apierr"
	"github.com/keywright/keywright/internal/keys"
)

// errorBody is Atlas's error document.
type errorBody struct {
	Detail     string      `json:"detail"`
	Error      int         `json:"error"`
	ErrorCode  string      `json:"errorCode"`
	Parameters []string    `json:"parameters"`
	Reason     string      `json:"reason"`
	BadRequest *badRequest `json:"badRequestDetail,omitempty"`
}

type badRequest struct {
	Fields []badField `json:"fields"`
}

type badField struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// writeError writes a refusal. What is not an apierr.Error shows a reference
// number and nothing else; the log has the rest.
func (h *Handler) writeError(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := apierr.As(err)
	if !ok {
		ref := keys.NewID(h.now())
		h.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.EscapedPath(), "reference", ref, "error", err)
		e = apierr.New(http.StatusInternalServerError, "UNEXPECTED_ERROR", "An unexpected error occurred. The server's log has it under reference %s.", ref).With(ref)
	} else if e.Err != nil && e.Status >= 500 {
		h.log.WarnContext(r.Context(), "request refused", "method", r.Method, "path", r.URL.EscapedPath(), "code", e.Code, "error", e.Err)
	}
	body := errorBody{Detail: e.Detail, Error: e.Status, ErrorCode: e.Code, Parameters: e.Params, Reason: http.StatusText(e.Status)}
	if body.Parameters == nil {
		body.Parameters = []string{}
	}
	for _, f := range e.Fields {
		if body.BadRequest == nil {
			body.BadRequest = &badRequest{}
		}
		body.BadRequest.Fields = append(body.BadRequest.Fields, badField(f))
	}
	w.Header().Set("X-Error-Code", e.Code)
	h.writeJSON(w, r, e.Status, "application/json", body)
}

// writeJSON writes a body with its status.
func (h *Handler) writeJSON(w http.ResponseWriter, r *http.Request, status int, contentType string, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if r.URL.Query().Get("pretty") == "true" {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(body); err != nil { // never an error's own body, which is text and numbers
		h.writeError(w, r, fmt.Errorf("encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	if _, err := w.Write(b.Bytes()); err != nil {
		h.log.DebugContext(r.Context(), "answer could not be written", slog.Any("error", err))
	}
}

// link is one entry of "links".
type link struct {
	Href string `json:"href"`
	Rel  string `json:"rel"`
}

// maxPage bounds page numbers, so that what is computed from them fits an int.
const maxPage = 1 << 20

// page is what a list call asked for.
type page struct {
	number, size int
	count        bool
}

func (c *call) page() (page, error) {
	p := page{number: 1, size: 100, count: c.r.URL.Query().Get("includeCount") != "false"}
	q := c.r.URL.Query()
	for name, into := range map[string]*int{"pageNum": &p.number, "itemsPerPage": &p.size} {
		v := q.Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > maxPage {
			return p, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter %s is %q; a number from 1 to %d is expected.", name, v[:min(len(v), 40)], maxPage).With(name)
		}
		*into = n
	}
	p.number = max(p.number, 1) // Terraform asks for page 0
	if p.size < 1 || p.size > 500 {
		return p, apierr.BadRequest("INVALID_QUERY_PARAMETER", "Query parameter itemsPerPage is %d; 1 to 500 are possible.", p.size).With("itemsPerPage")
	}
	return p, nil
}

// list is the envelope of lists.
type list[T any] struct {
	Links      []link `json:"links"`
	Results    []T    `json:"results"`
	TotalCount *int   `json:"totalCount,omitempty"`
}

// paged cuts a whole list into the page that was asked for.
func paged[T any](c *call, all []T) (int, any, error) {
	return pagedAs(c, all, func(v T) T { return v })
}

// pagedAs is paged for a list whose elements are shown in another form.
func pagedAs[T, B any](c *call, all []T, show func(T) B) (int, any, error) {
	p, err := c.page()
	if err != nil {
		return 0, nil, err
	}
	from := min((p.number-1)*p.size, len(all))
	to := min(from+p.size, len(all))
	out := make([]B, 0, to-from)
	for _, v := range all[from:to] {
		out = append(out, show(v))
	}
	return http.StatusOK, envelope(c, p, out, len(all)), nil
}

// envelope wraps one page.
func envelope[T any](c *call, p page, results []T, total int) list[T] {
	if results == nil {
		results = []T{}
	}
	out := list[T]{Results: results, Links: []link{{Rel: "self", Href: c.pageLink(p.number, p.size)}}}
	if p.number > 1 {
		out.Links = append(out.Links, link{Rel: "previous", Href: c.pageLink(p.number-1, p.size)})
	}
	if p.number*p.size < total {
		out.Links = append(out.Links, link{Rel: "next", Href: c.pageLink(p.number+1, p.size)})
	}
	if p.count {
		out.TotalCount = &total
	}
	return out
}

func (c *call) pageLink(number, size int) string {
	q := url.Values{}
	for k, v := range c.r.URL.Query() {
		q[k] = v
	}
	q.Set("pageNum", strconv.Itoa(number))
	q.Set("itemsPerPage", strconv.Itoa(size))
	return c.base() + c.r.URL.EscapedPath() + "?" + q.Encode()
}

// base is the address that the caller used.
func (c *call) base() string {
	scheme := "http"
	if c.r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + c.r.Host
}

// self is the links of a resource at a path below the family's prefix.
func (c *call) self(path ...string) []link {
	var b strings.Builder
	b.WriteString(c.base() + c.prefix)
	for _, p := range path {
		b.WriteString("/" + url.PathEscape(p))
	}
	return []link{{Rel: "self", Href: b.String()}}
}

// stamp is a time as the API writes it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// stampOrNull is a time, or null for none.
func stampOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := stamp(t)
	return &s
}
