package kms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// Outcome is what one run, or one call, says about the customer's key.
type Outcome string

// The outcomes.
const (
	// OK: the key could be used.
	OK Outcome = "OK"
	// Revoked: the service itself said that the key, the role or a permission is
	// not there (any more).
	Revoked Outcome = "REVOKED"
	// Unreachable: nothing can be said about the key.
	Unreachable Outcome = "UNREACHABLE"
)

// Reason says why an Outcome is not OK. The strings are stored, sent and shown:
// they never change.
type Reason string

// The reasons of Outcome Unreachable.
const (
	Timeout             Reason = "TIMEOUT"
	DNS                 Reason = "DNS"
	Connect             Reason = "CONNECT"
	TLS                 Reason = "TLS"
	AWSInternal         Reason = "AWS_INTERNAL"
	Throttled           Reason = "THROTTLED"
	ClockSkew           Reason = "CLOCK_SKEW"
	PlatformCredentials Reason = "PLATFORM_CREDENTIALS" //nolint:gosec // the name of a reason, not a credential
	STSRegionDisabled   Reason = "STS_REGION_DISABLED"
	PlatformPermissions Reason = "PLATFORM_PERMISSIONS"
	SessionRefused      Reason = "SESSION"
	KeyStoreFailing     Reason = "KEY_STORE_FAILING"
	KeyChanging         Reason = "KEY_CHANGING"
	Limit               Reason = "LIMIT"
	Unknown             Reason = "UNKNOWN"
	// CiphertextMismatch: this key did not make this ciphertext, or not with this
	// encryption context, or it is damaged. It is no verdict on the key, hence
	// Unreachable: it stops the node concerned and raises an alarm.
	CiphertextMismatch Reason = "CIPHERTEXT_MISMATCH"
	// KeyARNInvalid: the service could not read the key's name. In the run of a
	// candidate it is Revoked (the request is refused); on a configuration that
	// was accepted once it can only be our own mistake.
	KeyARNInvalid Reason = "KEY_ARN_INVALID"
	// AccessKeySecretWrong: the signature does not match. AWS keeps the secret of an
	// access key as long as the key lives, so on a configuration that was accepted once
	// something else is at fault (a damaged file, a proxy that alters requests): nothing
	// was taken back. In the run of a candidate it is Revoked.
	AccessKeySecretWrong Reason = "ACCESS_KEY_SECRET_WRONG" //nolint:gosec // the name of a reason, not a credential
)

// The reasons of Outcome Revoked.
const (
	RoleNotAssumable     Reason = "ROLE_NOT_ASSUMABLE"
	RoleARNInvalid       Reason = "ROLE_ARN_INVALID"
	KeyPendingDeletion   Reason = "KEY_PENDING_DELETION"
	KeyDisabled          Reason = "KEY_DISABLED"
	KeyMaterialMissing   Reason = "KEY_MATERIAL_MISSING"
	KeyStoreDisconnected Reason = "KEY_STORE_DISCONNECTED"
	KeyNotFound          Reason = "KEY_NOT_FOUND"
	KeyAccessDenied      Reason = "KEY_ACCESS_DENIED"
	KeyWrongType         Reason = "KEY_WRONG_TYPE"
	// AccessKeyInvalid: AWS does not know the customer's access key, or not as an active
	// one. Nobody but the customer deactivates or deletes it, so it is the withdrawal of
	// the key, as the end of a role's trust is.
	AccessKeyInvalid Reason = "ACCESS_KEY_INVALID"
)

// Local tells whether the reason can hold for one host only (an address condition,
// a host's own principal). All other reasons hold for everybody.
func (r Reason) Local() bool { return r == KeyAccessDenied || r == RoleNotAssumable }

// Operation names a call to the service.
type Operation string

// The operations.
const (
	OpAssumeRole        Operation = "AssumeRole"
	OpGetCallerIdentity Operation = "GetCallerIdentity"
	OpDescribeKey       Operation = "DescribeKey"
	OpEncrypt           Operation = "Encrypt"
	OpDecrypt           Operation = "Decrypt"
)

// Permission is the IAM action that the operation needs, or "" if it needs none.
func (o Operation) Permission() string {
	switch o {
	case OpAssumeRole:
		return "sts:AssumeRole"
	case OpDescribeKey, OpEncrypt, OpDecrypt:
		return "kms:" + string(o)
	default:
		return ""
	}
}

// Failure is the classified error of every call. It holds no secret: Message is
// the service's text (it names the ARNs of key and caller, so it is for the
// project's owner), bounded, and left out where such texts can quote a request.
type Failure struct {
	Outcome   Outcome
	Reason    Reason
	Operation Operation
	// Code is the service's name of the error, "" when no answer came.
	Code      string
	Message   string
	RequestID string
	// Remedy is one or two sentences for the person who can mend it.
	Remedy string
	// MissingPermission is the IAM action that was refused, for KeyAccessDenied
	// and RoleNotAssumable.
	MissingPermission string
	// Policy is the kind of policy that the service blames, "" when it did not say.
	Policy PolicyKind
	// Explicit tells that a deny statement refused, not a missing allow.
	Explicit bool
	// Err is the cause.
	Err error
}

// Error names operation, outcome, reason and code. It leaves the service's text
// out, since that names the customer's ARNs.
func (f *Failure) Error() string {
	var b strings.Builder
	if f.Operation != "" {
		b.WriteString(string(f.Operation) + ": ")
	}
	fmt.Fprintf(&b, "%s (%s", f.Outcome, f.Reason)
	if f.Code != "" {
		b.WriteString(", " + f.Code)
	}
	if f.RequestID != "" {
		b.WriteString(", request " + f.RequestID)
	}
	b.WriteString(")")
	return b.String()
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Detail is one sentence for the project's owner: what was refused, and in the
// service's own words.
func (f *Failure) Detail() string {
	if f.Message == "" {
		return f.Error()
	}
	return f.Error() + ": " + f.Message
}

// Is makes two failures equal for errors.Is when they have the same reason, so
// that errors.Is(err, &Failure{Reason: KeyDisabled}) reads naturally.
func (f *Failure) Is(target error) bool {
	t, ok := target.(*Failure)
	return ok && t.Reason == f.Reason && (t.Outcome == "" || t.Outcome == f.Outcome)
}

// AsFailure classifies any error. It gives nil for nil, the *Failure inside when
// there is one, the network's reasons (deadline, DNS, connection, TLS) for errors
// of the standard library, and Unreachable with Unknown for all else.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Outcome: Unreachable, Reason: networkReason(err), Err: err}
	f.Remedy = RemedyFor(f.Reason, "")
	return f
}

// networkReason classifies what the standard library reports when no answer came.
func networkReason(err error) Reason {
	var (
		dns      *net.DNSError
		timeout  net.Error
		op       *net.OpError
		cert     *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		authErr  x509.UnknownAuthorityError
		hostErr  x509.HostnameError
		certInvl x509.CertificateInvalidError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Unknown
	case errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	case errors.As(err, &dns):
		return DNS
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert), errors.As(err, &authErr),
		errors.As(err, &hostErr), errors.As(err, &certInvl), errors.Is(err, http.ErrSchemeMismatch):
		return TLS
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Connect
	default:
		return Unknown
	}
}
