package kmip

import (
	"context"
	"errors"

	"github.com/ovh/kmip-go"
)

// The result reasons that are sent (KMIP 1.4, section 9.1.3.2.29).
const (
	reasonItemNotFound          = kmip.ResultReasonItemNotFound
	reasonResponseTooLarge      = kmip.ResultReasonResponseTooLarge
	reasonInvalidMessage        = kmip.ResultReasonInvalidMessage
	reasonOperationNotSupported = kmip.ResultReasonOperationNotSupported
	reasonInvalidField          = kmip.ResultReasonInvalidField
	reasonFeatureNotSupported   = kmip.ResultReasonFeatureNotSupported
	reasonIllegalOperation      = kmip.ResultReasonIllegalOperation
	reasonPermissionDenied      = kmip.ResultReasonPermissionDenied
	reasonFormatNotSupported    = kmip.ResultReasonKeyFormatTypeNotSupported
	reasonGeneralFailure        = kmip.ResultReasonGeneralFailure
)

// failure is what a client is told of an error: a reason and a message that is
// fit for an application's log. cause stays on this side.
type failure struct {
	reason  kmip.ResultReason
	message string
	cause   error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.cause }

func fail(reason kmip.ResultReason, message string) *failure {
	return &failure{reason: reason, message: message}
}

func invalid(message string) *failure { return fail(reasonInvalidField, message) }

// explain turns any error into what the client is told (kmip.md 6.3). Only
// texts of this file and of failures made here ever leave.
func explain(op kmip.Operation, err error) *failure {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, ErrNotFound):
		return &failure{reasonItemNotFound, "no object with this unique identifier", err}
	case errors.Is(err, ErrUnknown):
		return &failure{reasonGeneralFailure, "the object is not known here", err}
	case errors.Is(err, ErrForeign):
		return &failure{reasonPermissionDenied, "the object belongs to another client", err}
	case errors.Is(err, ErrIllegal) && op == kmip.OperationActivate:
		return &failure{reasonPermissionDenied, "the object is not in state Pre-Active", err}
	case errors.Is(err, ErrIllegal):
		return &failure{reasonIllegalOperation, "the state of the object does not allow this", err}
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &failure{reasonGeneralFailure, "the key is not available at the moment", err}
	}
	return &failure{reasonGeneralFailure, "internal error", err}
}
