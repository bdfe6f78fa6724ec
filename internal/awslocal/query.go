package awslocal

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"regexp"
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

var listForm = regexp.MustCompile(`^([A-Za-z]+\.member)\.[1-9][0-9]{0,2}(\.(Key|Value))?$`)

// accepts tells whether the operation takes a parameter. "Tags.member" in takes
// stands for all members of the list Tags.
func (q queryOperation) accepts(name string) bool {
	if m := listForm.FindStringSubmatch(name); m != nil {
		name = m[1]
	} else if strings.HasSuffix(name, ".member") {
		return false
	}
	return slices.Contains(q.takes, name)
}

// list gives the members of a list of texts, which are numbered from 1 without
// gaps.
func (p params) list(name string) ([]string, error) {
	var out []string
	for v, ok := p[name+".member.1"]; ok; v, ok = p[name+".member."+itoa(len(out)+1)] {
		out = append(out, v)
	}
	return out, p.checkCount(name, len(out))
}

// tags gives the members of the list Tags.
func (p params) tags() ([]tag, error) {
	var out []tag
	given := 0
	for {
		n := "Tags.member." + itoa(len(out)+1)
		k, ok := p[n+".Key"]
		if !ok {
			break
		}
		v, hasValue := p[n+".Value"]
		if given++; hasValue {
			given++
		}
		out = append(out, tag{Key: k, Value: v})
	}
	if err := p.checkCount("Tags", given); err != nil {
		return nil, err
	}
	return out, checkTags(out)
}

// checkCount refuses a list of which not all members were read.
func (p params) checkCount(name string, read int) error {
	n := 0
	for k := range p {
		if strings.HasPrefix(k, name+".member.") {
			n++
		}
	}
	if n != read {
		return validation("The members of the list %s are not numbered from 1 without gaps, or have the wrong form", name)
	}
	return nil
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
		if !op.accepts(name) {
			return nil, fail(http.StatusBadRequest, "ValidationError", "The local AWS does not support the parameter %.100s of %s", name, action)
		}
	}
	var result []element
	do, at := s.store.view, c.sees
	if op.writes {
		do, at = s.store.change, c.now
	}
	if err := do(at, func(st *state) (err error) {
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
