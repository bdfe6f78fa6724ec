package awskms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
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
	scopes map[string]string // of the newest signature, by operation
}

func newReplay(t *testing.T, script map[string][]answer) *replay {
	r := &replay{script: script, calls: map[string]int{}, conns: map[string]bool{}, scopes: map[string]string{}}
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
	_, scope, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	r.scopes[op], _, _ = strings.Cut(scope, ",")
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

func healthySTS(n int) string { return session(n, time.Hour) }

// session is an answer of AssumeRole whose credentials end after d.
func session(n int, d time.Duration) string {
	return fmt.Sprintf(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAEXAMPLE%d</AccessKeyId><SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey><SessionToken>token-%d</SessionToken><Expiration>%s</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:keywright</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/keywright/keywright</Arn></AssumedRoleUser></AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>`,
		n, n, time.Now().Add(d).UTC().Format(time.RFC3339))
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
