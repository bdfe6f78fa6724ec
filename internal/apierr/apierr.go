package apierr

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is one refusal. It is immutable once made; With... methods return copies.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the stable errorCode, in upper case with underscores.
	Code string
	// Detail says what was wrong and what to do, fit for the caller's eyes.
	Detail string
	// Params are the values used in the detail, in the order Atlas gives them.
	Params []string
	// Fields names single fields of a request that did not validate.
	Fields []Field
	// Err is the cause; it is logged, never shown.
	Err error
}

// Field is one finding about a request's field.
type Field struct{ Field, Description string }

// Error implements error.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
	}
	return e.Code + ": " + e.Detail
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes a refusal with a formatted detail.
func New(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// BadRequest is status 400 with the given code.
func BadRequest(code, format string, args ...any) *Error {
	return New(http.StatusBadRequest, code, format, args...)
}

// NotFound is status 404 with the given code.
func NotFound(code, format string, args ...any) *Error {
	return New(http.StatusNotFound, code, format, args...)
}

// Conflict is status 409 with the given code.
func Conflict(code, format string, args ...any) *Error {
	return New(http.StatusConflict, code, format, args...)
}

// With returns a copy that carries parameters.
func (e *Error) With(params ...string) *Error {
	c := *e
	c.Params = params
	return &c
}

// Because returns a copy that carries its cause.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// As finds the refusal in an error's chain.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Code gives the refusal's code, or "" if the error is none.
func Code(err error) string {
	if e, ok := As(err); ok {
		return e.Code
	}
	return ""
}
