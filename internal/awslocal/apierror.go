package awslocal

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/keywright/keywright/internal/awslocal/policy"
	"github.com/keywright/keywright/internal/awslocal/sigv4"
)

// apiError is an error as AWS names it.
type apiError struct {
	status int
	code   string
	text   string
}

func (e *apiError) Error() string { return e.code + ": " + e.text }

func fail(status int, code, format string, args ...any) error {
	return &apiError{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

// kmsFail is an error of KMS: all but its own faults are status 400.
func kmsFail(code, format string, args ...any) error {
	return fail(http.StatusBadRequest, code, format, args...)
}

// asAPIError finds the API error in err; anything else is an internal failure
// whose text stays in the server's log.
func asAPIError(err error, json bool) *apiError {
	var api *apiError
	if errors.As(err, &api) {
		return api
	}
	var bad *policy.MalformedError
	if errors.As(err, &bad) {
		if json {
			return &apiError{http.StatusBadRequest, "MalformedPolicyDocumentException", bad.Text}
		}
		return &apiError{http.StatusBadRequest, "MalformedPolicyDocument", bad.Text}
	}
	var tags *tagError
	if errors.As(err, &tags) {
		if json {
			return &apiError{http.StatusBadRequest, "TagException", tags.text}
		}
		return &apiError{http.StatusBadRequest, "InvalidInput", tags.text}
	}
	return &apiError{http.StatusInternalServerError, internalFailure(json), "The local AWS failed; its log says why."}
}

func internalFailure(json bool) string {
	if json {
		return "KMSInternalException"
	}
	return "InternalFailure"
}

// tokenProblem is why the credentials of a call are no good.
type tokenProblem byte

const (
	tokenInvalid tokenProblem = iota + 1
	tokenExpired
	scopeWrong
)

// authError names a failed authentication in the words of the protocol.
func authError(json bool, err error) error {
	var sig *sigv4.Error
	if !errors.As(err, &sig) {
		return err
	}
	query := map[sigv4.Problem]*apiError{
		sigv4.Missing:    {http.StatusForbidden, "MissingAuthenticationToken", sig.Text},
		sigv4.Incomplete: {http.StatusBadRequest, "IncompleteSignature", sig.Text},
		sigv4.Mismatch:   {http.StatusForbidden, "SignatureDoesNotMatch", sig.Text},
		sigv4.Skewed:     {http.StatusForbidden, "SignatureDoesNotMatch", sig.Text},
	}
	kms := map[sigv4.Problem]string{
		sigv4.Missing: "MissingAuthenticationTokenException", sigv4.Incomplete: "IncompleteSignatureException",
		sigv4.Mismatch: "InvalidSignatureException", sigv4.Skewed: "InvalidSignatureException",
	}
	if json {
		return kmsFail(kms[sig.Problem], "%s", sig.Text)
	}
	return query[sig.Problem]
}

func tokenError(json bool, p tokenProblem, text string) error {
	names := map[tokenProblem][2]string{
		tokenInvalid: {"UnrecognizedClientException", "InvalidClientTokenId"},
		tokenExpired: {"ExpiredTokenException", "ExpiredToken"},
		scopeWrong:   {"InvalidSignatureException", "SignatureDoesNotMatch"},
	}[p]
	if json {
		return kmsFail(names[0], "%s", text)
	}
	return fail(http.StatusForbidden, names[1], "%s", text)
}
