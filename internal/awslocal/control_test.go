package awslocal_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/keywright/keywright/internal/awslocal"
)

// controlled is a world with the control path.
type controlled struct {
	*world
	control *awslocal.Control
}

func startControlled(t *testing.T) controlled {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), clock: &clock{}, control: true}
	w.run()
	t.Cleanup(func() { w.stop() })
	return controlled{w, openControl(t, w)}
}

func openControl(t *testing.T, w *world) *awslocal.Control {
	t.Helper()
	c, err := awslocal.OpenControl(w.dir, w.s.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w controlled) inject(f awslocal.Fault) string {
	w.t.Helper()
	id, err := w.control.Inject(w.t.Context(), f)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w controlled) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func controlRequest(t *testing.T, w *world, method, path, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.s.Endpoint()+awslocal.ControlPath+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(raw)
}

func TestControlIsOffUnlessAskedFor(t *testing.T) {
	w := startControlled(t)
	path := filepath.Join(w.dir, awslocal.ControlTokenFile)
	token, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	bearer := "Bearer " + strings.TrimSpace(string(token))
	w.restart()
	if again, err := os.ReadFile(path); err != nil || string(again) != string(token) {
		t.Errorf("the token changed over a restart: %v", err)
	}
	if status, body := controlRequest(t, w.world, "GET", "state", bearer, ""); status != 200 || !strings.Contains(body, `"version":1`) {
		t.Errorf("%d %s", status, body)
	}
	for _, bad := range []string{"", "Bearer ", "Bearer x", bearer + "x", bearer[:len(bearer)-1], strings.TrimPrefix(bearer, "Bearer ")} {
		if status, body := controlRequest(t, w.world, "POST", "time", bad, `{"version":1,"moveSeconds":9}`); status != 401 {
			t.Errorf("%q: %d %s", bad, status, body)
		}
	}
	w.world.control = false
	w.restart()
	if status, body := controlRequest(t, w.world, "GET", "state", bearer, ""); status != 404 {
		t.Errorf("without control: %d %s", status, body)
	}
	if raw, err := os.ReadFile(filepath.Join(w.dir, "calls.jsonl")); err != nil || strings.Contains(string(raw), strings.TrimSpace(string(token))) {
		t.Errorf("the call log holds the token, or %v", err)
	}
	fresh := start(t)
	if _, err := awslocal.OpenControl(fresh.dir, fresh.s.Endpoint()); err == nil {
		t.Error("a data directory without control has a token")
	}
	w.stop()
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := awslocal.Open(awslocal.Config{DataDir: w.dir, Listen: "127.0.0.1:0", Control: true}); err == nil || !strings.Contains(err.Error(), "control token") {
		t.Errorf("a damaged token file: %v", err)
		_ = s.Close()
	}
}

func TestControlRefusesWhatItDoesNotKnow(t *testing.T) {
	w := startControlled(t)
	token, err := os.ReadFile(filepath.Join(w.dir, awslocal.ControlTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + strings.TrimSpace(string(token))
	for _, c := range []struct{ call, body, says string }{
		{"POST time", `{"version":2,"moveSeconds":1}`, "version"},
		{"POST time", `{"moveSeconds":1}`, "version"},
		{"POST time", `{"version":1}`, "moveSeconds"},
		{"POST time", `{"version":1,"moveSeconds":1000000000000}`, "ten years"},
		{"POST time", `{"version":1,"moveSeconds":-400000000}`, "ten years"},
		{"POST time", `{"version":1,"moveSeconds":9223372036854775807}`, "ten years"},
		{"POST time", `{"version":1,"moveSecond":1}`, "moveSecond"},
		{"POST time", `{"version":1,"moveSeconds":1}{}`, "follows"},
		{"POST time", `rubbish`, "cannot be read"},
		{"POST time", strings.Repeat(" ", 70000), "65536"},
		{"POST delay", `{"version":1,"delay":{"millis":-1}}`, "millis"},
		{"POST delay", `{"version":1,"delay":{"millis":600001}}`, "millis"},
		{"POST faults", `{"version":1,"fault":{"kind":"fire"}}`, "kind"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","service":"s3"}}`, "service"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","operation":"a b"}}`, "operation"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","count":-1}}`, "count"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","id":"7"}}`, "given by"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","afterwards":true}}`, "afterwards"},
		{"POST faults", `{"version":1,"fault":{"kind":"slow"}}`, "delayMillis"},
		{"POST faults", `{"version":1,"fault":{"kind":"slow","delayMillis":300001}}`, "delayMillis"},
		{"POST faults", `{"version":1,"fault":{"kind":"skew","skewSeconds":90000}}`, "skewSeconds"},
		{"POST faults", `{"version":1,"fault":{"kind":"throttle","code":"X"}}`, "code"},
		{"POST faults", `{"version":1,"fault":{"kind":"error","status":200}}`, "status"},
		{"DELETE faults/7", ``, "no such fault"},
		{"GET rubbish", ``, "there are GET state"},
	} {
		method, path, _ := strings.Cut(c.call, " ")
		if status, body := controlRequest(t, w.world, method, path, bearer, c.body); status != 400 || !strings.Contains(body, c.says) {
			t.Errorf("%s %.80s: %d %s", c.call, c.body, status, body)
		}
	}
	for range 100 {
		w.inject(awslocal.Fault{Kind: awslocal.FaultThrottle, Service: "iam"})
	}
	if _, err := w.control.Inject(t.Context(), awslocal.Fault{Kind: awslocal.FaultThrottle}); err == nil {
		t.Error("101 faults")
	}
	state, err := w.control.State(t.Context())
	if err != nil || len(state.Faults) != 100 || state.ClockOffsetSeconds != 0 || state.Delay.Millis != 0 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestChangesAreSeenAfterADelay(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN := w.key(c, "")
	roleARN := w.role(c, "keywright", usePolicy(keyARN))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	w.do(w.control.SetDelay(t.Context(), awslocal.Delay{Millis: 600_000}))
	disable := func() {
		t.Helper()
		_, err := c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
		ok(t, err)
	}
	enable := func() {
		t.Helper()
		_, err := c.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
		ok(t, err)
	}
	disable()
	_, err := session.encrypt(keyARN)
	ok(t, err)
	if s := c.state(t, keyARN); s != types.KeyStateEnabled {
		t.Errorf("state %s at once", s)
	}
	w.do(w.control.MoveTime(t.Context(), 599*time.Second))
	_, err = c.iam.DeleteRolePolicy(t.Context(), &iam.DeleteRolePolicyInput{RoleName: aws.String("keywright"), PolicyName: aws.String("keywright")})
	ok(t, err)
	key := w.accessKey(c, "admin")
	w.do(w.control.MoveTime(t.Context(), 2*time.Second))
	// The first change is seen now, the second not yet.
	_, err = session.encrypt(keyARN)
	want(t, err, "DisabledException")
	_, err = w.as(key).sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	want(t, err, "InvalidClientTokenId")
	w.do(w.control.MoveTime(t.Context(), 600*time.Second))
	_, err = session.encrypt(keyARN)
	want(t, err, "AccessDeniedException")
	_, err = w.as(key).sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	ok(t, err)

	enable()
	if s := c.state(t, keyARN); s != types.KeyStateDisabled {
		t.Errorf("state %s at once", s)
	}
	w.do(w.control.SetDelay(t.Context(), awslocal.Delay{})) // without a delay all is seen
	if s := c.state(t, keyARN); s != types.KeyStateEnabled {
		t.Errorf("state %s without delay", s)
	}
	// Answers may flip while a change spreads.
	w.do(w.control.SetDelay(t.Context(), awslocal.Delay{Millis: 600_000, Alternate: true}))
	disable()
	seen := map[types.KeyState]int{}
	for range 4 {
		seen[c.state(t, keyARN)]++
	}
	if seen[types.KeyStateEnabled] != 2 || seen[types.KeyStateDisabled] != 2 {
		t.Errorf("seen %v", seen)
	}
	// What was not yet seen is not lost.
	w.restart()
	if s := w.customer().state(t, keyARN); s != types.KeyStateDisabled {
		t.Errorf("state %s after a restart", s)
	}
}

func TestManyChangesWithinTheDelay(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN := w.key(c, "")
	w.do(w.control.SetDelay(t.Context(), awslocal.Delay{Millis: 600_000}))
	for range 70 { // more than are remembered: the oldest are seen early
		_, err := c.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
		ok(t, err)
	}
	if s := c.state(t, keyARN); s != types.KeyStateDisabled {
		t.Errorf("state %s", s)
	}
}

func TestTimeCanBeMoved(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN, kept := w.key(c, ""), w.key(c, "")
	_, err := c.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &keyARN, PendingWindowInDays: aws.Int32(7)})
	ok(t, err)
	roleARN := w.role(c, "keywright", usePolicy(kept))
	session := w.assume(w.platform(), assumeInput(roleARN, externalID, ""))
	_, err = session.encrypt(kept)
	ok(t, err)
	w.do(w.control.MoveTime(t.Context(), 7*day))
	// Long-term credentials work on, with the clients' own time; sessions expire.
	_, err = c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	want(t, err, "NotFoundException")
	_, err = session.encrypt(kept)
	want(t, err, "ExpiredTokenException")
	w.restart()
	c = w.customer()
	_, err = c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	want(t, err, "NotFoundException")
	w.control = openControl(t, w.world)
	state, err := w.control.State(t.Context())
	if err != nil || state.ClockOffsetSeconds != int64(7*day/time.Second) || state.Now.Sub(w.clock.now()) < 7*day-time.Minute {
		t.Errorf("%+v, %v", state, err)
	}
	w.do(w.control.MoveTime(t.Context(), -7*day))
	_, err = c.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyARN})
	ok(t, err)
}

func TestInjectedFaults(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN := w.key(c, "")
	w.role(c, "keywright", usePolicy(keyARN))
	encrypt := func() error {
		_, err := c.encrypt(keyARN)
		return err
	}
	identity := func() error {
		_, err := c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		return err
	}
	w.inject(awslocal.Fault{Kind: awslocal.FaultThrottle, Service: "kms", Operation: "Encrypt", Count: 2})
	ok(t, identity())
	want(t, encrypt(), "ThrottlingException", "exceeded the rate")
	if e := w.lastCall(); e.Outcome != "ThrottlingException" || !strings.Contains(e.Reason, "injected fault 1 (throttle)") {
		t.Errorf("%+v", e)
	}
	if s := c.state(t, keyARN); s != types.KeyStateEnabled {
		t.Error("another operation was met")
	}
	want(t, encrypt(), "ThrottlingException")
	ok(t, encrypt())
	state, err := w.control.State(t.Context())
	if err != nil || len(state.Faults) != 1 || state.Faults[0].Hits != 2 {
		t.Errorf("%+v, %v", state, err)
	}

	id := w.inject(awslocal.Fault{Kind: awslocal.FaultThrottle, Service: "sts"})
	want(t, identity(), "Throttling", "Rate exceeded")
	w.do(w.control.Remove(t.Context(), id))
	ok(t, identity())

	w.inject(awslocal.Fault{Kind: awslocal.FaultError, Count: 2})
	want(t, encrypt(), "KMSInternalException")
	want(t, identity(), "InternalFailure")
	w.inject(awslocal.Fault{Kind: awslocal.FaultError, Count: 1, Code: "DependencyTimeoutException", Status: 500, Message: "try again"})
	want(t, encrypt(), "DependencyTimeoutException", "try again")
	w.inject(awslocal.Fault{Kind: awslocal.FaultError, Count: 1, Code: "AccessDenied", Status: 403, Operation: "GetCallerIdentity"})
	ok(t, encrypt())
	want(t, identity(), "AccessDenied")

	var api smithy.APIError
	w.inject(awslocal.Fault{Kind: awslocal.FaultGarbage, Count: 2})
	for _, err := range []error{encrypt(), identity()} {
		if err == nil || errors.As(err, &api) {
			t.Errorf("garbage was read as %v", err)
		}
	}
	if e := w.lastCall(); e.Outcome != "garbage" {
		t.Errorf("%+v", e)
	}
	w.inject(awslocal.Fault{Kind: awslocal.FaultReset, Count: 1})
	if err := encrypt(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset was read as %v", err)
	}
	if e := w.lastCall(); e.Outcome != "reset" {
		t.Errorf("%+v", e)
	}
	ok(t, encrypt())
	w.do(w.control.Clear(t.Context()))

	// Of one principal only: the role's sessions.
	session := w.assume(w.platform(), assumeInput("arn:aws:iam::111122223333:role/keywright", externalID, ""))
	w.inject(awslocal.Fault{Kind: awslocal.FaultThrottle, Principal: "arn:aws:iam::*:role/key*"})
	ok(t, encrypt())
	_, err = session.encrypt(keyARN)
	want(t, err, "ThrottlingException")
	w.do(w.control.Clear(t.Context()))
	w.inject(awslocal.Fault{Kind: awslocal.FaultThrottle, Principal: "arn:aws:sts::111122223333:assumed-role/keywright/other"})
	_, err = session.encrypt(keyARN)
	ok(t, err)
	// Faults end with the process.
	w.restart()
	if state, err := openControl(t, w.world).State(t.Context()); err != nil || len(state.Faults) != 0 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestFaultAfterwardsLosesTheAnswerOnly(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	for i, kind := range []awslocal.FaultKind{awslocal.FaultReset, awslocal.FaultError, awslocal.FaultGarbage} {
		w.inject(awslocal.Fault{Kind: kind, Operation: "CreateKey", Count: 1, Afterwards: true})
		if _, err := c.kms.CreateKey(t.Context(), &kms.CreateKeyInput{}); err == nil {
			t.Errorf("%s was answered", kind)
		}
		if n := len(keyIDs(t, c)); n != i+1 {
			t.Errorf("%s: %d keys", kind, n)
		}
	}
}

func TestSlowAnswers(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN := w.key(c, "")
	w.inject(awslocal.Fault{Kind: awslocal.FaultSlow, DelayMillis: 50, Operation: "Encrypt", Count: 1})
	_, err := c.encrypt(keyARN)
	ok(t, err)
	// A client that goes away is not waited for, and its call not carried out.
	w.inject(awslocal.Fault{Kind: awslocal.FaultSlow, DelayMillis: 300_000, Operation: "DisableKey", Count: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.kms.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &keyARN}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if s := c.state(t, keyARN); s != types.KeyStateEnabled {
		t.Errorf("state %s", s)
	}
	dropped := func() bool {
		for _, e := range w.calls() {
			if e.Operation == "DisableKey" && e.Outcome == "reset" {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(60 * time.Second); !dropped(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the call of a client that went away is not in the call log")
		}
	}
}

func TestSkewTeachesClientsTheTime(t *testing.T) {
	w := startControlled(t)
	c := w.customer()
	keyARN := w.key(c, "")
	w.inject(awslocal.Fault{Kind: awslocal.FaultSkew, SkewSeconds: 3600, Service: "kms"})
	_, err := w.customer().encrypt(keyARN)
	want(t, err, "InvalidSignatureException", "Signature expired")
	seed := w.s.Seed().Customer
	patient := kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(w.s.Endpoint()), Credentials: credentials.NewStaticCredentialsProvider(seed.AccessKeyID, seed.SecretAccessKey, ""),
	})
	// A client that retries corrects its clock by the header Date.
	_, err = patient.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keyARN, Plaintext: []byte("x")})
	ok(t, err)
	w.do(w.control.Clear(t.Context()))
	w.inject(awslocal.Fault{Kind: awslocal.FaultSkew, SkewSeconds: -3600, Service: "kms"})
	_, err = w.customer().encrypt(keyARN)
	want(t, err, "InvalidSignatureException", "Signature not yet current")
}
