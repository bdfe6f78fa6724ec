package awskms

import (
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/keywright/keywright/internal/kms"
)

// maxMessage bounds the service's text in a Failure.
const maxMessage = 600

// classify turns an error of the SDK into a Failure. op says which call was made; the
// service follows from it, since AssumeRole is never left to a KMS call.
func classify(err error, op kms.Operation) *kms.Failure {
	var f *kms.Failure
	if errors.As(err, &f) {
		return f
	}
	a := answerOf(err)
	f = &kms.Failure{Operation: op, Code: a.code, Message: bounded(a.message), RequestID: a.requestID, Err: err}
	if a.signature() {
		// Such texts quote the request with its session token.
		f.Err = errors.New("api error " + a.code)
	}
	f.Outcome, f.Reason = judge(a, op)
	if f.Reason == kms.KeyAccessDenied || f.Reason == kms.RoleNotAssumable || f.Reason == kms.PlatformPermissions {
		f.Policy, f.Explicit = a.policy(op), a.reason().has("explicitdeny")
	}
	if f.Reason == kms.KeyAccessDenied || f.Reason == kms.RoleNotAssumable {
		f.MissingPermission = op.Permission()
	}
	f.Remedy = kms.RemedyFor(f.Reason, op)
	return f
}

// withAccessKey judges what KMS says about the customer's own access key, which no session
// is between: row 12 of aws-kms 4.5 is not about us then. That the key is not known, or not
// active, is a statement about the customer's credentials, and only the customer can make
// it true. A signature that does not match says that what we hold is not what AWS gave.
func withAccessKey(f *kms.Failure) *kms.Failure {
	if f.Reason == kms.SessionRefused || f.Reason == kms.Unknown {
		switch f.Code {
		case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidClientTokenIdException":
			f.Outcome, f.Reason = kms.Revoked, kms.AccessKeyInvalid
		case "InvalidSignatureException", "SignatureDoesNotMatch":
			f.Outcome, f.Reason = kms.Unreachable, kms.AccessKeySecretWrong
		}
	}
	f.Remedy = kms.RemedyForAccessKey(f.Reason, f.Operation)
	return f
}

// empty is the failure of an answer that lacks what it must have.
func empty(op kms.Operation) *kms.Failure {
	return &kms.Failure{
		Outcome: kms.Unreachable, Reason: kms.AWSInternal, Operation: op,
		Message: "the answer is empty, so it does not come from AWS", Remedy: kms.RemedyFor(kms.AWSInternal, op),
	}
}

// answer is what came back, as far as anything did.
type answer struct {
	err       error
	code      string
	message   string
	requestID string
	status    int
}

func answerOf(err error) answer {
	a := answer{err: err}
	var api smithy.APIError
	if errors.As(err, &api) {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		a.requestID, a.status = resp.ServiceRequestID(), resp.HTTPStatusCode()
	}
	if a.signature() {
		a.message, _, _ = strings.Cut(a.message, "\n")
		a.message, _, _ = strings.Cut(a.message, "The Canonical String")
	}
	return a
}

// bounded is the text for a Failure. What it says is judged by the whole of it: long
// ARNs stand before the reason.
func bounded(text string) string {
	if len(text) > maxMessage {
		return strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}

func (a answer) signature() bool { return strings.Contains(a.code, "Signature") }

// has looks for words in the text without regard to case and blanks.
func (a answer) has(words ...string) bool {
	text := strings.ToLower(strings.ReplaceAll(a.message, " ", ""))
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// policyKinds are the words with which AWS names the policy that refused. The last
// one is the role's trust policy or the key's policy, after the call.
var policyKinds = [...]struct {
	words string
	kind  kms.PolicyKind
}{
	{"vpcendpointpolic", kms.EndpointPolicy},
	{"sessionpolic", kms.SessionPolicy},
	{"servicecontrolpolic", kms.ServiceControlPolicy},
	{"resourcecontrolpolic", kms.ResourceControlPolicy},
	{"permissionsboundar", kms.PermissionsBoundary},
	{"identity-basedpolic", kms.IdentityPolicy},
	{"trustpolic", kms.TrustPolicy},
	{"resource-basedpolic", kms.KeyPolicy},
}

// policy is the kind of policy that the text blames. The names of the caller and of
// the resource stand before the reason and are not looked at: customers choose them.
func (a answer) policy(op kms.Operation) kms.PolicyKind {
	for _, k := range policyKinds {
		if !a.reason().has(k.words) {
			continue
		}
		if k.kind == kms.KeyPolicy && op == kms.OpAssumeRole {
			return kms.TrustPolicy
		}
		return k.kind
	}
	return ""
}

// reason is the answer with the part of its text that says why.
func (a answer) reason() answer {
	for _, word := range []string{" because ", " with an explicit deny"} {
		if i := strings.LastIndex(a.message, word); i >= 0 {
			a.message = a.message[i:]
			return a
		}
	}
	a.message = ""
	return a
}

// judge is the table of aws-kms 4.5; the numbers are its rows.
func judge(a answer, op kms.Operation) (kms.Outcome, kms.Reason) {
	unreachable := func(r kms.Reason) (kms.Outcome, kms.Reason) { return kms.Unreachable, r }
	_, throttle := retry.DefaultThrottleErrorCodes[a.code]
	var bad *smithy.DeserializationError
	switch {
	case a.code == "" || a.code == "UnknownError": // 1 to 5
		if r := kms.AsFailure(a.err).Reason; r != kms.Unknown {
			return unreachable(r)
		}
		if a.code != "" || a.status >= 300 || errors.As(a.err, &bad) {
			return unreachable(kms.AWSInternal)
		}
		return unreachable(kms.Unknown)
	case a.code == "RequestTimeout" || a.code == "RequestTimeoutException":
		return unreachable(kms.Timeout)
	case a.code == "KeyUnavailableException": // 16b, which is a 500 as well
		return unreachable(kms.KeyStoreFailing)
	case throttle && a.code != "LimitExceededException", a.status == 429: // 6, some of them come as 5xx
		return unreachable(kms.Throttled)
	case a.status >= 500, a.code == "KMSInternalException", a.code == "DependencyTimeoutException",
		a.code == "InternalFailure", a.code == "ServiceUnavailable": // 5
		return unreachable(kms.AWSInternal)
	case a.code == "RequestExpired", a.code == "RequestTimeTooSkewed", a.has("signatureexpired", "notyetcurrent"): // 7
		return unreachable(kms.ClockSkew)
	case op == kms.OpAssumeRole || op == kms.OpGetCallerIdentity:
		return judgeSTS(a)
	default:
		return judgeKMS(a, op)
	}
}

func judgeSTS(a answer) (kms.Outcome, kms.Reason) {
	switch a.code {
	case "InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidSignatureException", "ExpiredToken", "ExpiredTokenException",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "UnrecognizedClientException", "IncompleteSignature": // 8
		return kms.Unreachable, kms.PlatformCredentials
	case "RegionDisabledException": // 9
		return kms.Unreachable, kms.STSRegionDisabled
	case "AccessDenied", "AccessDeniedException":
		switch a.policy(kms.OpAssumeRole) {
		case kms.IdentityPolicy, kms.PermissionsBoundary, kms.SessionPolicy, kms.ServiceControlPolicy, kms.EndpointPolicy: // 10a
			return kms.Unreachable, kms.PlatformPermissions
		}
		return kms.Revoked, kms.RoleNotAssumable // 10b
	case "ValidationError": // 11
		if a.has("durationseconds", "rolesessionname", "externalid", "'policy'", "sessionlimit") {
			return kms.Unreachable, kms.Unknown // our own parameters
		}
		return kms.Revoked, kms.RoleARNInvalid
	default: // 24
		return kms.Unreachable, kms.Unknown
	}
}

func judgeKMS(a answer, op kms.Operation) (kms.Outcome, kms.Reason) {
	switch a.code {
	case "UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException": // 12
		return kms.Unreachable, kms.SessionRefused
	case "DisabledException":
		if a.has("pendingdeletion", "pendingreplicadeletion") { // 13
			return kms.Revoked, kms.KeyPendingDeletion
		}
		return kms.Revoked, kms.KeyDisabled // 14
	case "KMSInvalidStateException":
		switch {
		case a.has("pendingdeletion", "pendingreplicadeletion"): // 13
			return kms.Revoked, kms.KeyPendingDeletion
		case a.has("pendingimport"): // 15
			return kms.Revoked, kms.KeyMaterialMissing
		case a.has("isunavailable"): // 16a
			return kms.Revoked, kms.KeyStoreDisconnected
		case a.has("creating", "updating"): // 17
			return kms.Unreachable, kms.KeyChanging
		}
		return kms.Unreachable, kms.KeyStoreFailing // 16b
	case "NotFoundException": // 18
		return kms.Revoked, kms.KeyNotFound
	case "AccessDeniedException", "AccessDenied": // 19
		if p := a.policy(op); p == kms.EndpointPolicy || p == kms.SessionPolicy {
			return kms.Unreachable, kms.PlatformPermissions
		}
		return kms.Revoked, kms.KeyAccessDenied
	case "InvalidKeyUsageException", "UnsupportedOperationException": // 20
		return kms.Revoked, kms.KeyWrongType
	case "InvalidArnException", "ValidationException": // 21
		return kms.Unreachable, kms.KeyARNInvalid
	case "InvalidCiphertextException", "IncorrectKeyException", "IncorrectKeyMaterialException": // 22
		if op == kms.OpDecrypt {
			return kms.Unreachable, kms.CiphertextMismatch
		}
	case "LimitExceededException", "ConflictException": // 23
		return kms.Unreachable, kms.Limit
	}
	return kms.Unreachable, kms.Unknown // 24
}
