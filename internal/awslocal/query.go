package awslocal

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	stsVersion = "2011-06-15"
	iamVersion = "2010-05-08"
	maxParams  = 200
)

// params are the parameters of a query call, each given once.
type params map[string]string

// parseParams parses a form body or query string.
func parseParams(raw string) (params, error) {
	if strings.Count(raw, "&") > maxParams {
		return nil, fail(http.StatusBadRequest, "MalformedQueryString", "More than %d parameters", maxParams)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "MalformedQueryString", "The parameters cannot be parsed")
	}
	p := params{}
	for name, list := range values {
		if len(list) != 1 {
			return nil, fail(http.StatusBadRequest, "MalformedQueryString", "The parameter %.100q is given %d times", name, len(list))
		}
		p[name] = list[0]
	}
	return p, nil
}

// queryOperation is one operation of STS or IAM. It takes exactly the listed
// parameters: one that would change the meaning of a call must not be ignored.
type queryOperation struct {
	takes  []string
	writes bool
	run    func(*call, *state, params) ([]element, error)
}

func (s *Server) answerQuery(r *http.Request, c *call, body []byte) ([]byte, error) {
	raw := string(body)
	if r.Method == http.MethodGet {
		raw = r.URL.RawQuery
	}
	p, err := parseParams(raw)
	if err != nil {
		return nil, err
	}
	ops, version := s.sts, stsVersion
	if c.entry.Service == "iam" {
		ops, version = s.iam, iamVersion
	}
	action := p["Action"]
	if action == "" {
		return nil, fail(http.StatusBadRequest, "MissingAction", "The request has no Action")
	}
	if p["Version"] != version {
		return nil, fail(http.StatusBadRequest, "InvalidAction", "Could not find operation %.100s for version %.20s of %s: its version is %s", action, p["Version"], c.entry.Service, version)
	}
	op, ok := ops[action]
	if !ok {
		return nil, fail(http.StatusBadRequest, "InvalidAction", "The local AWS does not implement %s:%.100s; it implements %s", c.entry.Service, action, names(ops))
	}
	c.entry.Operation = action
	delete(p, "Action")
	delete(p, "Version")
	for name := range p {
		if !slices.Contains(op.takes, name) {
			return nil, fail(http.StatusBadRequest, "ValidationError", "The local AWS does not support the parameter %.100s of %s", name, action)
		}
	}
	var result []element
	do := s.store.view
	if op.writes {
		do = s.store.change
	}
	if err := do(func(st *state) (err error) {
		result, err = op.run(c, st, p)
		return err
	}); err != nil {
		return nil, err
	}
	return xmlAnswer(c.entry.Service, c.entry.RequestID, action, result), nil
}

// element is one XML element of an answer: text, or other elements.
type element struct {
	name string
	text string
	kids []element
}

func leaf(name, text string) element { return element{name: name, text: text} }

func group(name string, kids ...element) element { return element{name: name, kids: kids} }

func (e element) write(b *strings.Builder) {
	if e.text == "" && len(e.kids) == 0 {
		b.WriteString("<" + e.name + "/>")
		return
	}
	b.WriteString("<" + e.name + ">")
	if len(e.kids) == 0 {
		_ = xml.EscapeText(b, []byte(e.text)) // a strings.Builder never fails
	}
	for _, k := range e.kids {
		k.write(b)
	}
	name, _, _ := strings.Cut(e.name, " ")
	b.WriteString("</" + name + ">")
}

func namespace(service string) string {
	if service == "iam" {
		return ` xmlns="https://iam.amazonaws.com/doc/` + iamVersion + `/"`
	}
	return ` xmlns="https://sts.amazonaws.com/doc/` + stsVersion + `/"`
}

// xmlAnswer writes a successful answer; a nil result means that the operation
// has none.
func xmlAnswer(service, requestID, action string, result []element) []byte {
	root := group(action + "Response" + namespace(service))
	if result != nil {
		root.kids = append(root.kids, group(action+"Result", result...))
	}
	root.kids = append(root.kids, group("ResponseMetadata", leaf("RequestId", requestID)))
	var b strings.Builder
	root.write(&b)
	return []byte(b.String())
}

func xmlError(service, requestID string, e *apiError) []byte {
	kind := "Sender"
	if e.status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	root := group("ErrorResponse"+namespace(service),
		group("Error", leaf("Type", kind), leaf("Code", e.code), leaf("Message", e.text)),
		leaf("RequestId", requestID))
	var b strings.Builder
	root.write(&b)
	return []byte(b.String())
}

func xmlTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func (p params) number(name string, def int) (int, error) {
	if p[name] == "" {
		return def, nil
	}
	n, err := strconv.Atoi(p[name])
	if err != nil {
		return 0, fail(http.StatusBadRequest, "ValidationError", "%s must be a number", name)
	}
	return n, nil
}
