package awskms_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keywright/keywright/internal/kms"
)

// TestEveryRowOfTheTable has a line for each row of aws-kms 4.5 that AWS answers; each
// goes through the SDK and a whole run.
func TestEveryRowOfTheTable(t *testing.T) {
	stored := kms.Probe{Ciphertext: []byte("blob:old"), Digest: bytes.Repeat([]byte{1}, 32)}
	tests := []struct {
		row     string
		op      string
		answer  answer
		stored  bool
		outcome kms.Outcome
		reason  kms.Reason
		check   func(*testing.T, *kms.Failure)
	}{
		{row: "5 STS internal failure", op: "AssumeRole", answer: stsError(500, "InternalFailure", ""), outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 STS unavailable", op: "AssumeRole", answer: stsError(503, "ServiceUnavailable", ""), outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 KMS internal", op: "Encrypt", answer: kmsError500("KMSInternalException", ""), outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 dependency timeout", op: "Encrypt", answer: kmsError500("DependencyTimeoutException", ""), outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 a refusal with 500 is no refusal", op: "Encrypt", answer: kmsError500("AccessDeniedException", kmsRefusal), outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 a proxy's page instead of KMS", op: "DescribeKey", answer: answer{status: 403, html: true, body: "<html>blocked</html>"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 a proxy's page with 200 instead of KMS", op: "Encrypt", answer: answer{status: 200, html: true, body: "<html>sign in</html>"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 a proxy's page instead of STS", op: "AssumeRole", answer: answer{status: 403, html: true, body: "<html>blocked</html>"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 an empty answer of KMS", op: "Decrypt", answer: answer{status: 200, body: "{}"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 an empty description", op: "DescribeKey", answer: answer{status: 200, body: "{}"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "5 an empty answer of STS", op: "AssumeRole", answer: answer{status: 200, body: "<AssumeRoleResponse><AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>"}, outcome: kms.Unreachable, reason: kms.AWSInternal},
		{row: "6 KMS throttles", op: "Encrypt", answer: kmsError("ThrottlingException", "You have exceeded the rate at which you may call KMS."), outcome: kms.Unreachable, reason: kms.Throttled},
		{row: "6 STS throttles", op: "AssumeRole", answer: stsError(400, "Throttling", "Rate exceeded"), outcome: kms.Unreachable, reason: kms.Throttled},
		{row: "7 KMS: our clock", op: "DescribeKey", answer: kmsError("InvalidSignatureException", "Signature expired: 20260301T000000Z is now earlier than 20260301T010000Z"), outcome: kms.Unreachable, reason: kms.ClockSkew},
		{row: "7 STS: our clock", op: "AssumeRole", answer: stsError(403, "SignatureDoesNotMatch", "Signature not yet current: 20260301T000000Z is still later than ..."), outcome: kms.Unreachable, reason: kms.ClockSkew},
		{row: "7 request expired", op: "AssumeRole", answer: stsError(400, "RequestExpired", "Request has expired."), outcome: kms.Unreachable, reason: kms.ClockSkew},
		{row: "8 unknown access key", op: "AssumeRole", answer: stsError(403, "InvalidClientTokenId", "The security token included in the request is invalid."), outcome: kms.Unreachable, reason: kms.PlatformCredentials},
		{row: "8 wrong secret", op: "AssumeRole", answer: stsError(403, "SignatureDoesNotMatch", "The request signature we calculated does not match"), outcome: kms.Unreachable, reason: kms.PlatformCredentials},
		{row: "8 expired", op: "AssumeRole", answer: stsError(403, "ExpiredToken", "The security token included in the request is expired"), outcome: kms.Unreachable, reason: kms.PlatformCredentials},
		{row: "8 unsigned", op: "AssumeRole", answer: stsError(403, "MissingAuthenticationToken", "Request is missing Authentication Token"), outcome: kms.Unreachable, reason: kms.PlatformCredentials},
		{row: "9 region", op: "AssumeRole", answer: stsError(403, "RegionDisabledException", "STS is not activated in this region"), outcome: kms.Unreachable, reason: kms.STSRegionDisabled},
		{row: "10a identity policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no identity-based policy allows the sts:AssumeRole action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "10a boundary", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no permissions boundary allows the sts:AssumeRole action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "10a service control policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" with an explicit deny in a service control policy"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "10a session policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no session policy allows the sts:AssumeRole action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "10a endpoint policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no VPC endpoint policy allows the sts:AssumeRole action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "10b trust policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: func(t *testing.T, f *kms.Failure) {
			if f.MissingPermission != "sts:AssumeRole" || f.Explicit {
				t.Errorf("%+v", f)
			}
		}},
		{row: "10b trust policy denies", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" with an explicit deny in a resource-based policy"), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: func(t *testing.T, f *kms.Failure) {
			if !f.Explicit || f.Policy != kms.TrustPolicy {
				t.Errorf("%+v", f)
			}
		}},
		{row: "10b role trust policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no role trust policy allows the sts:AssumeRole action"), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: found("sts:AssumeRole", kms.TrustPolicy, false)},
		{row: "10b resource-based is the trust policy", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" because no resource-based policy allows the sts:AssumeRole action"), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: found("sts:AssumeRole", kms.TrustPolicy, false)},
		{row: "10b the customer's organization", op: "AssumeRole", answer: stsError(403, "AccessDenied", stsRefusal+" with an explicit deny in a resource control policy"), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: found("sts:AssumeRole", kms.ResourceControlPolicy, true)},
		{row: "10b a role with a telling name", op: "AssumeRole", answer: stsError(403, "AccessDenied", "User: arn:aws:iam::999900001111:user/server is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/session policy with explicit deny"), outcome: kms.Revoked, reason: kms.RoleNotAssumable, check: found("sts:AssumeRole", "", false)},
		{row: "11 ARN", op: "AssumeRole", answer: stsError(400, "ValidationError", "arn:aws:iam::1:role is invalid"), outcome: kms.Revoked, reason: kms.RoleARNInvalid},
		{row: "11 our duration", op: "AssumeRole", answer: stsError(400, "ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."), outcome: kms.Unreachable, reason: kms.Unknown},
		{row: "12 unknown session", op: "Encrypt", answer: kmsError("UnrecognizedClientException", "The security token included in the request is invalid."), outcome: kms.Unreachable, reason: kms.SessionRefused},
		{row: "12 expired session", op: "Decrypt", answer: kmsError("ExpiredTokenException", "The security token included in the request is expired"), outcome: kms.Unreachable, reason: kms.SessionRefused},
		{row: "12 signature", op: "DescribeKey", answer: kmsError("InvalidSignatureException", "The request signature we calculated does not match"), outcome: kms.Unreachable, reason: kms.SessionRefused},
		{row: "13 state", op: "DescribeKey", answer: answer{status: 200, body: describe("PendingDeletion", `,"DeletionDate":1.8E9`)}, outcome: kms.Revoked, reason: kms.KeyPendingDeletion, check: func(t *testing.T, f *kms.Failure) {
			if !strings.Contains(f.Remedy, "2027-01-15") {
				t.Errorf("the remedy does not name the date: %s", f.Remedy)
			}
		}},
		{row: "13 replica state", op: "DescribeKey", answer: answer{status: 200, body: describe("PendingReplicaDeletion", "")}, outcome: kms.Revoked, reason: kms.KeyPendingDeletion},
		{row: "13 invalid state", op: "Encrypt", answer: kmsError("KMSInvalidStateException", replayKey+" is pending deletion."), outcome: kms.Revoked, reason: kms.KeyPendingDeletion},
		{row: "13 disabled by deletion", op: "Encrypt", answer: kmsError("DisabledException", replayKey+" is pending deletion."), outcome: kms.Revoked, reason: kms.KeyPendingDeletion},
		{row: "14 state", op: "DescribeKey", answer: answer{status: 200, body: describe("Disabled", "")}, outcome: kms.Revoked, reason: kms.KeyDisabled},
		{row: "14 disabled", op: "Encrypt", answer: kmsError("DisabledException", replayKey+" is disabled."), outcome: kms.Revoked, reason: kms.KeyDisabled},
		{row: "15 state", op: "DescribeKey", answer: answer{status: 200, body: describe("PendingImport", "")}, outcome: kms.Revoked, reason: kms.KeyMaterialMissing},
		{row: "15 pending import", op: "Encrypt", answer: kmsError("KMSInvalidStateException", replayKey+" is pending import."), outcome: kms.Revoked, reason: kms.KeyMaterialMissing},
		{row: "16a state", op: "DescribeKey", answer: answer{status: 200, body: describe("Unavailable", "")}, outcome: kms.Revoked, reason: kms.KeyStoreDisconnected},
		{row: "16a unavailable", op: "Encrypt", answer: kmsError("KMSInvalidStateException", replayKey+" is unavailable."), outcome: kms.Revoked, reason: kms.KeyStoreDisconnected},
		{row: "16b key unavailable", op: "Encrypt", answer: kmsError500("KeyUnavailableException", ""), outcome: kms.Unreachable, reason: kms.KeyStoreFailing},
		{row: "16b other state text", op: "Encrypt", answer: kmsError("KMSInvalidStateException", "The external key store proxy did not respond in time."), outcome: kms.Unreachable, reason: kms.KeyStoreFailing},
		{row: "17 creating", op: "Encrypt", answer: kmsError("KMSInvalidStateException", replayKey+" is creating."), outcome: kms.Unreachable, reason: kms.KeyChanging},
		{row: "17 updating", op: "Encrypt", answer: kmsError("KMSInvalidStateException", replayKey+" is updating."), outcome: kms.Unreachable, reason: kms.KeyChanging},
		{row: "18 not found", op: "DescribeKey", answer: kmsError("NotFoundException", "Key '"+replayKey+"' does not exist"), outcome: kms.Revoked, reason: kms.KeyNotFound},
		{row: "18 another region", op: "DescribeKey", answer: kmsError("NotFoundException", "Invalid arn us-east-1"), outcome: kms.Revoked, reason: kms.KeyNotFound},
		{row: "19 missing", op: "Encrypt", answer: kmsError("AccessDeniedException", kmsRefusal+" because no identity-based policy allows the kms:Encrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: func(t *testing.T, f *kms.Failure) {
			if f.MissingPermission != "kms:Encrypt" || f.Policy != kms.IdentityPolicy || f.Explicit || !strings.Contains(f.Remedy, "kms:Encrypt") || f.RequestID == "" {
				t.Errorf("%+v", f)
			}
		}},
		{row: "19 explicit", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "Encrypt", "Decrypt")+" with an explicit deny in a resource-based policy"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: func(t *testing.T, f *kms.Failure) {
			if f.MissingPermission != "kms:Decrypt" || f.Policy != kms.KeyPolicy || !f.Explicit {
				t.Errorf("%+v", f)
			}
		}},
		{row: "19 boundary of the customer's role", op: "Encrypt", answer: kmsError("AccessDeniedException", kmsRefusal+" because no permissions boundary allows the kms:Encrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied},
		{row: "19 other account", op: "DescribeKey", answer: kmsError("AccessDeniedException", "User: x is not authorized to perform: kms:DescribeKey on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"), outcome: kms.Revoked, reason: kms.KeyAccessDenied},
		{row: "19 key's policy", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Decrypt")+" because no resource-based policy allows the kms:Decrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Decrypt", kms.KeyPolicy, false)},
		{row: "19 identity policy denies", op: "DescribeKey", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:DescribeKey")+" with an explicit deny in an identity-based policy"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:DescribeKey", kms.IdentityPolicy, true)},
		{row: "19 boundary", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Decrypt")+" because no permissions boundary allows the kms:Decrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Decrypt", kms.PermissionsBoundary, false)},
		{row: "19 boundary denies", op: "Encrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Encrypt")+" with an explicit deny in a permissions boundary"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Encrypt", kms.PermissionsBoundary, true)},
		{row: "19 service control policy", op: "Encrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Encrypt")+" because no service control policy allows the kms:Encrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Encrypt", kms.ServiceControlPolicy, false)},
		{row: "19 service control policy denies", op: "DescribeKey", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:DescribeKey")+" with an explicit deny in a service control policy: arn:aws:organizations::1:policy/o-1/service_control_policy/p-1"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:DescribeKey", kms.ServiceControlPolicy, true)},
		{row: "19 resource control policy denies", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Decrypt")+" with an explicit deny in a resource control policy"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Decrypt", kms.ResourceControlPolicy, true)},
		{row: "19 a role with the name of another policy", op: "Encrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "keywright", "sessionpolicy")+" because no identity-based policy allows the kms:Encrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Encrypt", kms.IdentityPolicy, false)},
		{row: "19 long names stand before the reason", op: "Encrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "keywright", strings.Repeat("n", 600))+" with an explicit deny in a resource-based policy"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Encrypt", kms.KeyPolicy, true)},
		{row: "19 a ciphertext of a key that may not be used", op: "Decrypt", answer: kmsError("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access."), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: found("kms:Decrypt", "", false)},
		{row: "19 endpoint policy denies", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "kms:Encrypt", "kms:Decrypt")+" with an explicit deny in a VPC endpoint policy"), outcome: kms.Unreachable, reason: kms.PlatformPermissions, check: found("kms:Decrypt", kms.EndpointPolicy, true)},
		{row: "19 with 403", op: "Encrypt", answer: answer{status: 403, body: `{"__type":"AccessDeniedException","Message":"` + kmsRefusal + `"}`}, outcome: kms.Revoked, reason: kms.KeyAccessDenied},
		{row: "19 endpoint policy", op: "Encrypt", answer: kmsError("AccessDeniedException", kmsRefusal+" because no VPC endpoint policy allows the kms:Encrypt action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "19 session policy", op: "Encrypt", answer: kmsError("AccessDeniedException", kmsRefusal+" because no session policy allows the kms:Encrypt action"), outcome: kms.Unreachable, reason: kms.PlatformPermissions},
		{row: "20 usage", op: "Encrypt", answer: kmsError("InvalidKeyUsageException", replayKey+" key usage is SIGN_VERIFY which is not valid for Encrypt."), outcome: kms.Revoked, reason: kms.KeyWrongType},
		{row: "20 operation", op: "Encrypt", answer: kmsError("UnsupportedOperationException", ""), outcome: kms.Revoked, reason: kms.KeyWrongType},
		{row: "20 spec in DescribeKey", op: "DescribeKey", answer: answer{status: 200, body: strings.ReplaceAll(describe("Enabled", ""), "SYMMETRIC_DEFAULT", "RSA_2048")}, outcome: kms.Revoked, reason: kms.KeyWrongType},
		{row: "20 manager in DescribeKey", op: "DescribeKey", answer: answer{status: 200, body: strings.ReplaceAll(describe("Enabled", ""), "CUSTOMER", "AWS")}, outcome: kms.Revoked, reason: kms.KeyWrongType},
		{row: "21 candidate", op: "DescribeKey", answer: kmsError("InvalidArnException", "Invalid arn"), outcome: kms.Revoked, reason: kms.KeyARNInvalid},
		{row: "21 accepted once", op: "DescribeKey", answer: kmsError("ValidationException", "1 validation error detected"), stored: true, outcome: kms.Unreachable, reason: kms.KeyARNInvalid},
		{row: "22 damaged", op: "Decrypt", answer: kmsError("InvalidCiphertextException", ""), outcome: kms.Unreachable, reason: kms.CiphertextMismatch},
		{row: "22 another key", op: "Decrypt", answer: kmsError("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."), outcome: kms.Unreachable, reason: kms.CiphertextMismatch},
		{row: "22 other material", op: "Decrypt", answer: kmsError("IncorrectKeyMaterialException", ""), outcome: kms.Unreachable, reason: kms.CiphertextMismatch},
		{row: "22 the stored probe opens to something else", stored: true, outcome: kms.Unreachable, reason: kms.CiphertextMismatch},
		{row: "23 limit", op: "Encrypt", answer: kmsError("LimitExceededException", ""), outcome: kms.Unreachable, reason: kms.Limit},
		{row: "23 conflict", op: "Encrypt", answer: kmsError("ConflictException", ""), outcome: kms.Unreachable, reason: kms.Limit},
		{row: "24 KMS", op: "Encrypt", answer: kmsError("SomethingNewException", "never seen"), outcome: kms.Unreachable, reason: kms.Unknown},
		{row: "24 STS", op: "AssumeRole", answer: stsError(400, "PackedPolicyTooLarge", ""), outcome: kms.Unreachable, reason: kms.Unknown},
		{row: "all is well", outcome: kms.OK},
	}
	for _, tt := range tests {
		t.Run(tt.row, func(t *testing.T) {
			t.Parallel()
			script := map[string][]answer{}
			if tt.op != "" {
				script[tt.op] = []answer{tt.answer}
			}
			r := newReplay(t, script)
			in := kms.RunInput{Target: replayTarget}
			if tt.stored {
				in.Stored = stored
			}
			res := kms.Run(t.Context(), r.provider(t, replayCanary), in)
			if res.Outcome != tt.outcome || res.Reason != tt.reason {
				t.Fatalf("%s (%s), want %s (%s): %v", res.Outcome, res.Reason, tt.outcome, tt.reason, res.Failure)
			}
			if tt.outcome == kms.OK {
				return
			}
			if tt.op != "" && string(res.Failure.Operation) != tt.op {
				t.Errorf("blames %s, want %s", res.Failure.Operation, tt.op)
			}
			if res.Failure.Remedy == "" {
				t.Error("no remedy")
			}
			if tt.check != nil {
				tt.check(t, res.Failure)
			}
		})
	}
}

// found checks which permission was refused, in which policy, and how.
func found(permission string, policy kms.PolicyKind, explicit bool) func(*testing.T, *kms.Failure) {
	return func(t *testing.T, f *kms.Failure) {
		t.Helper()
		got, ok := f.Finding()
		if want := (kms.Finding{Permission: permission, Policy: policy, Explicit: explicit}); !ok || got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
