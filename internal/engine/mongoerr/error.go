package mongoerr

import (
	"errors"
	"fmt"
)

// Error is a failure as a MongoDB client sees it. It is immutable after it was
// handed out and safe for concurrent use.
type Error struct {
	// Code is MongoDB's number; clients branch on it.
	Code int32
	// Name is the codeName of the reply.
	Name string
	// Message is the errmsg of the reply: what was wrong and what to do.
	Message string
	// Labels are the errorLabels of the reply, mostly none.
	Labels []string
}

// Error gives the message with the code's name, for logs.
func (e *Error) Error() string { return fmt.Sprintf("%s (%d): %s", e.Name, e.Code, e.Message) }

// New makes an error of a code and its name; format and args as in fmt.Sprintf.
func New(code int32, name, format string, args ...any) *Error {
	return &Error{Code: code, Name: name, Message: fmt.Sprintf(format, args...)}
}

// Of makes an error of a code, with the name that MongoDB gives it (NameOf).
func Of(code int32, format string, args ...any) *Error {
	return New(code, NameOf(code), format, args...)
}

// WithLabels returns a copy of e that carries labels as well.
func (e *Error) WithLabels(labels ...string) *Error {
	c := *e
	c.Labels = append(append([]string(nil), e.Labels...), labels...)
	return &c
}

// From finds the Error in err's chain. Any other error becomes InternalError
// with a message that tells nothing of its inside.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Of(InternalError, "internal error; see the node's log")
}

// HasCode tells whether err's chain holds an Error with this code.
func HasCode(err error, code int32) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
