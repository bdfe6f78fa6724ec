package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/keywright/keywright/internal/apierr"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// decode reads a request's body into v. Names that v does not have are refused
// with the field's path; nulls are as if they were not sent. Fields of v that
// are json.RawMessage and named ignored are read-only ones that clients send back.
func decode(r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return apierr.New(http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", "The request's body is larger than %d bytes.", maxBody)
	case err != nil:
		return apierr.BadRequest("MALFORMED_JSON", "The request's body could not be read.").Because(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil || d.More() {
		return apierr.BadRequest("MALFORMED_JSON", "Received JSON is malformed.").Because(err)
	}
	if err := checkNames(tree, reflect.TypeOf(v), ""); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: a %s is expected, not a %s.", te.Field, kindName(te.Type), te.Value).With(te.Field).Because(err)
		}
		return apierr.BadRequest("MALFORMED_JSON", "Received JSON is malformed.").Because(err)
	}
	return nil
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
	default:
		return "number"
	}
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

// checkNames refuses names in tree that t has no field for: spelled exactly, as
// encoding/json would take any case.
func checkNames(tree any, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == rawMessage {
		return nil
	}
	switch node := tree.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil // a map takes any name, a type mismatch is reported by the decoder
		}
		fields := fieldsOf(t)
		for name, child := range node {
			f, ok := fields[name]
			if !ok {
				return apierr.BadRequest("INVALID_ATTRIBUTE", "Invalid attribute %s specified: there is no such field. It is spelled with upper and lower case as documented.", path+name).With(path + name)
			}
			if err := checkNames(child, f, path+name+"."); err != nil {
				return err
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for _, child := range node {
			if err := checkNames(child, t.Elem(), path); err != nil {
				return err
			}
		}
	}
	return nil
}

// fieldsOf maps the JSON names of a struct to their types, embedded ones included.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}
