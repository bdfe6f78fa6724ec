package awskms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/keywright/keywright/internal/kms"
	"github.com/keywright/keywright/internal/kms/awskms"
	"github.com/keywright/keywright/internal/secret"
)

const (
	replayRole   = "arn:aws:iam::111122223333:role/keywright"
	replayCanary = "arn:aws:iam::999900001111:role/canary"
	replayKey    = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// answer is one recorded answer of AWS.
type answer struct {
	status int
	body   string
	html   bool // not from AWS
	hang   bool
}

// replay plays AWS back: it answers by script where there is one and as a healthy key
// otherwise.
type replay struct {
	*httptest.Server
	mu     sync.Mutex
	script map[string][]answer // by operation; the last answer repeats
	calls  map[string]int
	conns  map[string]bool
	fresh  []bool // for each AssumeRole: did it come over a new connection?
	forms  []url.Values
}

func newReplay(t *testing.T, script map[string][]answer) *replay {
	r := &replay{script: script, calls: map[string]int{}, conns: map[string]bool{}}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *replay) serve(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	op, isKMS := strings.CutPrefix(req.Header.Get("X-Amz-Target"), "TrentService.")
	var form url.Values
	if !isKMS {
		form, _ = url.ParseQuery(string(body))
		op = form.Get("Action")
		if form.Get("RoleArn") == replayCanary {
			op = "canary"
		}
	}
	r.mu.Lock()
	if op == "AssumeRole" {
		r.fresh = append(r.fresh, !r.conns[req.RemoteAddr])
	}
	r.conns[req.RemoteAddr] = true
	n := r.calls[op]
	r.calls[op]++
	if form != nil {
		r.forms = append(r.forms, form)
	}
	a, scripted := answer{}, false
	if s := r.script[op]; len(s) > 0 {
		a, scripted = s[min(n, len(s)-1)], true
	}
	r.mu.Unlock()
	w.Header().Set("x-amzn-RequestId", "8f2d1b7e-0000-4000-8000-000000000001")
	if scripted && (a.status != 0 || a.hang) {
		switch {
		case a.hang:
			<-req.Context().Done()
			return
		case a.html:
			w.Header().Set("Content-Type", "text/html")
		case isKMS:
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		default:
			w.Header().Set("Content-Type", "text/xml")
		}
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
		return
	}
	if isKMS {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = io.WriteString(w, healthyKMS(op, body))
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	_, _ = io.WriteString(w, healthySTS(n))
}

func healthySTS(n int) string {
	return fmt.Sprintf(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAEXAMPLE%d</AccessKeyId><SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey><SessionToken>token-%d</SessionToken><Expiration>%s</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:keywright</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/keywright/keywright</Arn></AssumedRoleUser></AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>`,
		n, n, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

// healthyKMS encrypts by putting a mark before the plaintext.
func healthyKMS(op string, body []byte) string {
	var in struct{ Plaintext, CiphertextBlob []byte }
	_ = json.Unmarshal(body, &in)
	switch op {
	case "DescribeKey":
		return describe("Enabled", "")
	case "Encrypt":
		return fmt.Sprintf(`{"CiphertextBlob":%q,"KeyId":%q,"EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}`, base64.StdEncoding.EncodeToString(append([]byte("blob:"), in.Plaintext...)), replayKey)
	default:
		return fmt.Sprintf(`{"Plaintext":%q,"KeyId":%q,"EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}`, base64.StdEncoding.EncodeToString(bytes.TrimPrefix(in.CiphertextBlob, []byte("blob:"))), replayKey)
	}
}

func describe(state, more string) string {
	return fmt.Sprintf(`{"KeyMetadata":{"AWSAccountId":"111122223333","KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","Arn":%q,"CreationDate":1.7E9,"Enabled":%v,"KeyState":%q,"KeyUsage":"ENCRYPT_DECRYPT","KeySpec":"SYMMETRIC_DEFAULT","KeyManager":"CUSTOMER","Origin":"AWS_KMS","MultiRegion":false%s}}`,
		replayKey, state == "Enabled", state, more)
}

func kmsError(code, message string) answer {
	return answer{status: 400, body: fmt.Sprintf(`{"__type":%q,"message":%q}`, code, message)}
}

func kmsError500(code, message string) answer {
	a := kmsError(code, message)
	a.status = 500
	return a
}

func stsError(status int, code, message string) answer {
	return answer{status: status, body: fmt.Sprintf(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>8f2d1b7e</RequestId></ErrorResponse>`, code, message)}
}

func (r *replay) config() aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String(r.URL),
		Credentials: credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", ""),
	}
}

func (r *replay) provider(t *testing.T, canary string) *awskms.Provider {
	return newProvider(t, r.config(), canary)
}

func newProvider(t *testing.T, cfg aws.Config, canary string) *awskms.Provider {
	t.Helper()
	p, err := awskms.New(t.Context(), awskms.Config{AWS: &cfg, CanaryRoleARN: canary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

var replayTarget = kms.Target{RoleARN: replayRole, ExternalID: "8f3b1c52-7d1e-4a63-9d0a-2f4c7f6f1a10", KeyID: replayKey, Region: "us-east-1"}

const (
	stsRefusal = "User: arn:aws:iam::999900001111:user/server is not authorized to perform: sts:AssumeRole on resource: " + replayRole
	kmsRefusal = "User: arn:aws:sts::111122223333:assumed-role/keywright/keywright is not authorized to perform: kms:Encrypt on resource: " + replayKey
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
			if !f.Explicit || f.Policy != "resource-based policy" {
				t.Errorf("%+v", f)
			}
		}},
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
			if f.MissingPermission != "kms:Encrypt" || f.Policy != "identity-based policy" || f.Explicit || !strings.Contains(f.Remedy, "kms:Encrypt") || f.RequestID == "" {
				t.Errorf("%+v", f)
			}
		}},
		{row: "19 explicit", op: "Decrypt", answer: kmsError("AccessDeniedException", strings.ReplaceAll(kmsRefusal, "Encrypt", "Decrypt")+" with an explicit deny in a resource-based policy"), outcome: kms.Revoked, reason: kms.KeyAccessDenied, check: func(t *testing.T, f *kms.Failure) {
			if f.MissingPermission != "kms:Decrypt" || f.Policy != "resource-based policy" || !f.Explicit {
				t.Errorf("%+v", f)
			}
		}},
		{row: "19 boundary of the customer's role", op: "Encrypt", answer: kmsError("AccessDeniedException", kmsRefusal+" because no permissions boundary allows the kms:Encrypt action"), outcome: kms.Revoked, reason: kms.KeyAccessDenied},
		{row: "19 other account", op: "DescribeKey", answer: kmsError("AccessDeniedException", "User: x is not authorized to perform: kms:DescribeKey on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"), outcome: kms.Revoked, reason: kms.KeyAccessDenied},
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

// TestCanary: rule 9 of key-plane section 1.
func TestCanary(t *testing.T) {
	for name, tt := range map[string]struct {
		canary answer
		role   string
		want   kms.Reason
		out    kms.Outcome
	}{
		"works":      {answer{}, replayCanary, kms.RoleNotAssumable, kms.Revoked},
		"refused":    {stsError(403, "AccessDenied", "not authorized"), replayCanary, kms.PlatformPermissions, kms.Unreachable},
		"fails":      {stsError(500, "InternalFailure", ""), replayCanary, kms.PlatformPermissions, kms.Unreachable},
		"is missing": {answer{}, "", kms.RoleNotAssumable, kms.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplay(t, map[string][]answer{"AssumeRole": {stsError(403, "AccessDenied", stsRefusal)}, "canary": {tt.canary}})
			p := r.provider(t, tt.role)
			_, err := p.Assume(t.Context(), replayTarget)
			if f := kms.AsFailure(err); f == nil || f.Reason != tt.want || f.Outcome != tt.out {
				t.Errorf("Assume: %v, want %s", err, tt.want)
			}
			if f := kms.AsFailure(p.TryAssume(t.Context(), replayRole, nil, "us-east-1")); f == nil || f.Reason != tt.want {
				t.Errorf("TryAssume: %v, want %s", f, tt.want)
			}
		})
	}
	t.Run("does not answer", func(t *testing.T) {
		r := newReplay(t, map[string][]answer{"AssumeRole": {stsError(403, "AccessDenied", stsRefusal)}, "canary": {{hang: true}}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.provider(t, replayCanary).Assume(ctx, replayTarget)
		if f := kms.AsFailure(err); f == nil || f.Reason != kms.PlatformPermissions {
			t.Errorf("got %v", err)
		}
	})
}

// TestNetworkRows: rows 1 to 4 and the missing credentials of row 8.
func TestNetworkRows(t *testing.T) {
	run := func(t *testing.T, change func(*aws.Config), d time.Duration) kms.Result {
		cfg := (&replay{Server: &httptest.Server{URL: "http://127.0.0.1:1"}}).config()
		change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return kms.Run(ctx, newProvider(t, cfg, ""), kms.RunInput{Target: replayTarget})
	}
	dial := func(err error) func(*aws.Config) {
		return func(c *aws.Config) {
			c.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}}
		}
	}
	silent := newReplay(t, map[string][]answer{"AssumeRole": {{hang: true}}})
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for name, tt := range map[string]struct {
		change func(*aws.Config)
		d      time.Duration
		want   kms.Reason
	}{
		"1 deadline":          {func(c *aws.Config) { c.BaseEndpoint = &silent.URL }, 300 * time.Millisecond, kms.Timeout},
		"1 timeout":           {dial(&net.OpError{Op: "dial", Err: timeoutError{}}), 10 * time.Second, kms.Timeout},
		"2 name":              {dial(&net.DNSError{Err: "no such host", Name: "kms.us-east-1.amazonaws.com", IsNotFound: true}), 10 * time.Second, kms.DNS},
		"3 refused":           {func(*aws.Config) {}, 10 * time.Second, kms.Connect},
		"4 unknown authority": {func(c *aws.Config) { c.BaseEndpoint = &secure.URL }, 10 * time.Second, kms.TLS},
		"4 no TLS at all":     {func(c *aws.Config) { c.BaseEndpoint = aws.String(strings.Replace(silent.URL, "http:", "https:", 1)) }, 10 * time.Second, kms.TLS},
		"8 no credentials":    {func(c *aws.Config) { c.Credentials = nil }, 10 * time.Second, kms.PlatformCredentials},
		"8 credentials failed": {func(c *aws.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{}, errors.New("no EC2 IMDS role found")
			})
		}, 10 * time.Second, kms.PlatformCredentials},
	} {
		t.Run(name, func(t *testing.T) {
			if res := run(t, tt.change, tt.d); res.Outcome != kms.Unreachable || res.Reason != tt.want {
				t.Errorf("%s (%s), want %s: %v, %v", res.Outcome, res.Reason, tt.want, res.Failure, errors.Unwrap(res.Failure))
			}
		})
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func (r *replay) count(op string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[op]
}

// TestRefusedSessionIsRenewedOnce: row 12.
func TestRefusedSessionIsRenewedOnce(t *testing.T) {
	r := newReplay(t, map[string][]answer{"Encrypt": {kmsError("ExpiredTokenException", "expired"), {}}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	if _, arn, err := s.Encrypt(t.Context(), secret.Random(32), nil); err != nil || arn != replayKey {
		t.Fatalf("encrypt: %s, %v", arn, err)
	}
	if n := r.count("AssumeRole"); n != 2 {
		t.Errorf("%d AssumeRole, want 2", n)
	}
}

func TestSessionsAreCachedAndRunsAreFresh(t *testing.T) {
	r := newReplay(t, nil)
	p := r.provider(t, "")
	for range 3 {
		s, err := p.Session(t.Context(), replayTarget)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count("AssumeRole"); n != 1 {
		t.Errorf("%d AssumeRole for three cached sessions", n)
	}
	p.Forget(replayTarget)
	if _, err := p.Session(t.Context(), replayTarget); err != nil || r.count("AssumeRole") != 2 {
		t.Errorf("%d AssumeRole after Forget, %v", r.count("AssumeRole"), err)
	}
	for range 2 {
		if res := kms.Run(t.Context(), p, kms.RunInput{Target: replayTarget}); res.Outcome != kms.OK {
			t.Fatal(res.Failure)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.fresh) != 4 || !r.fresh[2] || !r.fresh[3] {
		t.Errorf("each run has to assume the role anew over a new connection; AssumeRole came over new ones: %v", r.fresh)
	}
}

func TestDeniedCallDropsTheCachedSession(t *testing.T) {
	r := newReplay(t, map[string][]answer{"Decrypt": {kmsError("AccessDeniedException", "no"), {}}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Decrypt(t.Context(), []byte("blob:x"), nil); kms.AsFailure(err) == nil {
		t.Fatal("not denied")
	}
	if _, err := s.Decrypt(t.Context(), []byte("blob:x"), nil); err != nil || r.count("AssumeRole") != 2 {
		t.Errorf("%v, %d AssumeRole", err, r.count("AssumeRole"))
	}
}

func TestAssumeRoleCarriesASessionPolicy(t *testing.T) {
	r := newReplay(t, nil)
	p := r.provider(t, "")
	if _, err := p.Session(t.Context(), replayTarget); err != nil {
		t.Fatal(err)
	}
	bare := replayTarget
	bare.KeyID = "1234abcd-12ab-34cd-56ef-1234567890ab"
	if s, err := p.Assume(t.Context(), bare); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	none := replayTarget
	none.KeyID = ""
	if s, err := p.Assume(t.Context(), none); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.TryAssume(t.Context(), replayRole, nil, "us-east-1"); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	const allow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:DescribeKey","kms:Encrypt","kms:Decrypt"],"Resource":"` + replayKey + `"}]}`
	const deny = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`
	for i, want := range []struct{ policy, duration, external string }{
		{allow, "3600", replayTarget.ExternalID}, {allow, "900", replayTarget.ExternalID}, {deny, "900", replayTarget.ExternalID}, {deny, "900", ""},
	} {
		f := r.forms[i]
		if f.Get("Policy") != want.policy || f.Get("DurationSeconds") != want.duration || f.Get("ExternalId") != want.external || f.Has("ExternalId") != (want.external != "") {
			t.Errorf("call %d: %v", i, f)
		}
	}
}

// TestSignatureTextsLeakNothing: AWS quotes the request, session token included, when a
// signature is wrong.
func TestSignatureTextsLeakNothing(t *testing.T) {
	const token = "IQoJb3JpZ2luX2VjEXAMPLE"
	text := "The request signature we calculated does not match the signature you provided. The Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:" + token
	r := newReplay(t, map[string][]answer{"Encrypt": {kmsError("InvalidSignatureException", text)}, "Decrypt": {kmsError("InvalidSignatureException", strings.ReplaceAll(text, "\n", " "))}})
	s, err := r.provider(t, "").Session(t.Context(), replayTarget)
	if err != nil {
		t.Fatal(err)
	}
	_, _, encErr := s.Encrypt(t.Context(), secret.Random(8), nil)
	_, decErr := s.Decrypt(t.Context(), []byte("x"), nil)
	for _, err := range []error{encErr, decErr} {
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(fmt.Sprintf("%+v", e), token) {
				t.Errorf("%T shows the session token: %v", e, e)
			}
		}
		if f := kms.AsFailure(err); strings.Contains(f.Message+f.Detail(), token) {
			t.Errorf("message %q", f.Message)
		}
	}
}
