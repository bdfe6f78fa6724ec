package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
)

const (
	// maxBody bounds a request's body, in bytes.
	maxBody = 1 << 20
	// maxDepth bounds how deep its objects and lists lie in each other.
	maxDepth = 32
)

// decode reads a request's body into v. Names that v does not have, and names that
// come twice, are refused with the field's path; nulls are as if they were not
// sent. Fields of v that are json.RawMessage are read-only ones that clients send
// back.
func decode(r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return apierr.New(http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", "The request's body is larger than %d bytes.", maxBody)
	case err != nil:
		return apierr.BadRequest("MALFORMED_JSON", "The request's body could not be read.").Because(err)
	}
	return decodeBytes(b, v)
}

func decodeBytes(b []byte, v any) error {
	if !json.Valid(b) {
		return apierr.BadRequest("MALFORMED_JSON", "Received JSON is malformed.")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	c := nameChecker{d: d, fields: map[reflect.Type]map[string]reflect.Type{}}
	if err := c.value(reflect.TypeOf(v), "", maxDepth); err != nil {
		return err
	}
	err := json.Unmarshal(b, v)
	var te *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te) && te.Field == "":
		return apierr.BadRequest("INVALID_JSON", "The request's body must be a JSON %s, not a %s.", kindName(te.Type), te.Value).Because(err)
	case errors.As(err, &te):
		return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: a %s is expected, not a %s.", te.Field, kindName(te.Type), te.Value).With(te.Field).Because(err)
	}
	// The JSON itself is well formed: what is left are values that a type refuses.
	return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute specified: a time such as 2026-01-31T12:00:00Z is expected where the body has something else.").Because(err)
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "list"
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Int:
		return "whole number"
	default:
		return "number"
	}
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

// nameChecker walks valid JSON beside the type that it will be decoded into. It
// refuses names that the type has no field for, spelled exactly (encoding/json
// would take any case), and names that come twice (it would take the last).
type nameChecker struct {
	d      *json.Decoder
	fields map[reflect.Type]map[string]reflect.Type
}

func malformed(err error) error {
	return apierr.BadRequest("MALFORMED_JSON", "Received JSON is malformed.").Because(err)
}

// value reads one value; t is nil where any names are allowed.
func (c *nameChecker) value(t reflect.Type, path string, depth int) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	tok, err := c.d.Token()
	if err != nil {
		return malformed(err)
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return apierr.BadRequest("INVALID_JSON", "The request's body has more than %d levels.", maxDepth)
	}
	if open == '[' {
		err = c.list(t, path, depth)
	} else {
		err = c.object(t, path, depth)
	}
	if err != nil {
		return err
	}
	if _, err := c.d.Token(); err != nil { // the closing delimiter
		return malformed(err)
	}
	return nil
}

func (c *nameChecker) list(t reflect.Type, path string, depth int) error {
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Slice && t != rawMessage {
		elem = t.Elem()
	}
	for c.d.More() {
		if err := c.value(elem, path, depth-1); err != nil {
			return err
		}
	}
	return nil
}

func (c *nameChecker) object(t reflect.Type, path string, depth int) error {
	var known map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = c.fieldsOf(t)
	}
	seen := map[string]bool{}
	for c.d.More() {
		tok, err := c.d.Token()
		if err != nil {
			return malformed(err)
		}
		name := fmt.Sprint(tok)
		shown := path + name[:min(len(name), 100)]
		var child reflect.Type
		switch {
		case seen[name]:
			return apierr.BadRequest("INVALID_JSON", "The attribute %s comes twice.", shown).With(shown)
		case known != nil:
			f, ok := known[name]
			if !ok {
				return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: there is no such field. It is spelled with upper and lower case as documented.", shown).With(shown)
			}
			child = f
		case t != nil && t.Kind() == reflect.Map:
			child = t.Elem()
		}
		seen[name] = true
		if err := c.value(child, shown+".", depth-1); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf maps the JSON names of a struct to their types, embedded ones included.
func (c *nameChecker) fieldsOf(t reflect.Type) map[string]reflect.Type {
	if out, ok := c.fields[t]; ok {
		return out
	}
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	c.fields[t] = out
	return out
}
